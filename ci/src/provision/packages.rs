//! Which Debian packages make up what a stack needs, and how they become a directory tree.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::{Apt, Depth, Package};
use super::cache::Cache;
use super::host::Host;
use super::index::Index;
use super::lock::{Lock, Locked};
use super::locked::install;
use super::mirror::Mirror;
use super::origin::{From, Origin};
use super::qemu;
use super::space::{Space, unpacked};
use crate::exit::{Failure, Result};
use crate::process;
use crate::ui;

/// A Xen release that Debian packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct XenRelease {
    /// As in the package names.
    pub(crate) version: &'static str,
    /// The Debian release that carries it.
    pub(crate) suite: &'static str,
}

/// Every Xen that can be asked for by version; the first is the default.
pub(crate) const XEN_RELEASES: &[XenRelease] = &[
    XenRelease {
        version: "4.17",
        suite: "bookworm",
    },
    XenRelease {
        version: "4.20",
        suite: "trixie",
    },
];

impl XenRelease {
    /// Looks a version up.
    pub(crate) fn find(version: &str) -> Option<Self> {
        XEN_RELEASES
            .iter()
            .copied()
            .find(|release| release.version == version)
    }

    /// The one that is taken where none is asked for: the first, or on a host whose own archive does not
    /// have that the first that it has. What is wrong with the archive is said when packages are fetched.
    pub(crate) fn usual(cache: &Cache, origin: &Origin) -> Self {
        let first = XEN_RELEASES[0];
        // The lock file has Debian's.
        let (Origin::Host(_), Ok(From::Own)) = (origin, origin.check()) else {
            return first;
        };
        let in_cache = |xen: &&Self| {
            let bundles = [Bundle::Hypervisor(**xen), Bundle::Dom0(**xen)];
            (bundles.iter()).any(|bundle| cache.current(&bundle.name()).is_some())
        };
        let releases = XEN_RELEASES.iter();
        if let Some(xen) = releases.clone().find(in_cache) {
            return *xen;
        }
        let index = || {
            let _guard = cache.lock()?;
            Apt::open_own(&cache.root().join("apt"), origin.host(), false)?.index()
        };
        match cache.is_dry() {
            true => first,
            false => index().map_or(first, |index| Self::offered(&index).unwrap_or(first)),
        }
    }

    /// The first that an archive has.
    fn offered(index: &Index) -> Option<Self> {
        let mut releases = XEN_RELEASES.iter().copied();
        releases.find(|xen| index.hypervisor(*xen).is_some())
    }
}

/// A set of packages unpacked into one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bundle {
    /// The hypervisor and nothing else.
    Hypervisor(XenRelease),
    /// All of a Linux dom0: kernel, modules, xl and its daemons, the shim, their libraries.
    Dom0(XenRelease),
    /// QEMU with all its libraries, newer than the release's own where backports has it.
    Qemu,
    /// Xen's public headers.
    Headers(XenRelease),
}

impl Bundle {
    /// The name in the cache.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Hypervisor(xen) => format!("xen-{}", xen.version),
            Self::Dom0(xen) => format!("dom0-{}", xen.version),
            Self::Qemu => "qemu".into(),
            Self::Headers(xen) => format!("headers-{}", xen.version),
        }
    }

    /// Every one.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let releases = XEN_RELEASES.iter().flat_map(|xen| {
            [
                Self::Hypervisor(*xen),
                Self::Dom0(*xen),
                Self::Headers(*xen),
            ]
        });
        releases.chain([Self::Qemu])
    }

    /// What to ask apt for in Debian.
    fn packages(self) -> (Vec<String>, Depth) {
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        match self {
            Self::Hypervisor(xen) => (
                vec![format!("xen-hypervisor-{}-amd64", xen.version)],
                Depth::Alone,
            ),
            Self::Dom0(xen) => {
                let mut list: Vec<String> =
                    names(&["xenstore-utils", "busybox-static", "libgcc-s1"]);
                list.insert(0, format!("xen-utils-{}", xen.version));
                (list, Depth::Closure)
            }
            Self::Qemu => (
                names(&["qemu-system-x86", "seabios", "ipxe-qemu"]),
                Depth::Closure,
            ),
            Self::Headers(_) => (names(&["libxen-dev"]), Depth::Alone),
        }
    }

    /// The same in the archive of a host that descends from Debian, where names may differ.
    fn packages_in(self, index: &Index, host: &Host) -> Result<(Vec<String>, Depth)> {
        let (names, depth) = self.packages();
        let found = names.iter().map(|name| match self {
            Self::Hypervisor(xen) => index.hypervisor(xen).ok_or(name),
            _ => index.one_of(&[name]).ok_or(name),
        });
        let found: std::result::Result<Vec<_>, _> = found.collect();
        found.map(|found| (found, depth)).map_err(|name| {
            let mut lacks = format!("the archive of {host} has no package {name}");
            if let Self::Hypervisor(_) | Self::Dom0(_) = self {
                let xens = index.xens();
                let xens = if xens.is_empty() {
                    "none".into()
                } else {
                    xens.join(", ")
                };
                lacks = format!("{lacks}; its versions of Xen: {xens}");
            }
            super::nowhere(&lacks)
        })
    }

    /// The Debian release it is taken from by a host that runs `own`.
    fn suite(self, own: &str) -> &str {
        match self {
            Self::Hypervisor(xen) | Self::Dom0(xen) | Self::Headers(xen) => xen.suite,
            Self::Qemu => own,
        }
    }

    /// The Debian release that the lock file has it of.
    pub(super) fn lock_suite(self) -> &'static str {
        match self {
            Self::Hypervisor(xen) | Self::Dom0(xen) | Self::Headers(xen) => xen.suite,
            // It runs with libraries of its own, so that the newest that is good may be taken.
            Self::Qemu => XEN_RELEASES[XEN_RELEASES.len() - 1].suite,
        }
    }

    /// The tree of this bundle, from the cache or else from where this host gets packages.
    pub(crate) fn ensure(self, cache: &Cache, origin: &Origin, update: bool) -> Result<PathBuf> {
        let name = self.name();
        if let Origin::Mirror(mirror, host) = origin {
            return self.locked(cache, mirror, host);
        }
        if let (Some(tree), false) = (cache.current(&name), update) {
            return Ok(tree);
        }
        let from = origin.check()?;
        let what = match from {
            From::Debian(own) => format!("Debian's {}", self.suite(own)),
            From::Own => format!("the archive of {}", origin.host()),
        };
        let what = format!("fetch from {what} ({})", self.packages().0.join(", "));
        if let Some(tree) = cache.lacks(&what, &format!("current/{name}")) {
            return Ok(tree);
        }
        let guard = cache.lock()?;
        cache.sweep(&guard);
        // Another run may have fetched it while this one waited.
        if let (Some(tree), false) = (cache.current(&name), update) {
            return Ok(tree);
        }
        let parts = self.parts(cache, origin.host(), from, update)?;
        let main = parts.1[0].wanted[0].clone();
        let (apt, parts) = parts;
        let found: Vec<_> = parts.iter().flat_map(|part| part.found.clone()).collect();
        let key = key(&name, &main, &found);
        cache.install(&name, &key, |tree| {
            let size = found.iter().map(|package| package.size).sum();
            Space::of(cache.root()).check(&name, unpacked(size))?;
            let downloads = cache.temporary()?;
            for part in &parts {
                part.download(&apt, &name, downloads.path())?;
            }
            unpack(&name, downloads.path(), tree)
        })
    }

    /// What apt would fetch, and that apt. The caller holds the lock of the cache.
    fn parts(
        self,
        cache: &Cache,
        host: &Host,
        from: From<'_>,
        update: bool,
    ) -> Result<(Apt, Vec<Part>)> {
        let root = cache.root().join("apt");
        let apt = match from {
            From::Debian(own) => Apt::open(&root, host, own, self.suite(own), update)?,
            From::Own => Apt::open_own(&root, host, update)?,
        };
        let index = || apt.index();
        let (packages, depth) = match from {
            From::Debian(_) => self.packages(),
            From::Own => self.packages_in(&index()?, host)?,
        };
        let mut parts = vec![self.choose(&apt, packages, depth)?];
        if let Self::Dom0(_) = self {
            // Its dependencies would be the tools that install a kernel, of no use here.
            let linux = index()?.linux();
            if linux.is_empty() {
                return Err(super::nowhere(&format!(
                    "the package lists that {host} has name no linux-image"
                )));
            }
            parts.push(Part::resolve(&apt, linux, Depth::Alone, false)?);
        }
        Ok((apt, parts))
    }

    /// The tree of the packages in the lock file.
    fn locked(self, cache: &Cache, mirror: &Mirror, host: &Host) -> Result<PathBuf> {
        let name = self.name();
        let lock = Lock::own().map_err(Failure::Guest)?;
        let packages = lock.bundle(&name).unwrap_or_default();
        let main = self.packages().0.swap_remove(0);
        install(cache, mirror, host, (&name, &main), packages)
    }

    /// What a lock file says of this bundle, by the archive of a Debian host.
    ///
    /// # Errors
    /// As for [`Bundle::ensure`]; the lists do not say of a package what there is to be locked.
    pub(super) fn lock(self, cache: &Cache, host: &Host, refresh: bool) -> Result<Vec<Locked>> {
        // QEMU runs with libraries of its own, so that the newest that is good may be taken.
        let newest = XEN_RELEASES
            .last()
            .map_or(host.codename(), |newest| newest.suite);
        let root = cache.root().join("apt");
        let suite = self.suite(newest);
        let apt = Apt::open(&root, host, host.codename(), suite, refresh)?;
        let index = apt.index()?;
        let (packages, depth) = self.packages();
        let mut found = self.choose(&apt, packages, depth)?.found;
        if let Self::Dom0(_) = self {
            found.extend(Part::resolve(&apt, index.linux(), Depth::Alone, false)?.found);
        }
        let locked = found.iter().map(|package| {
            let record = index.exact(package.name(), &package.version());
            let record = record.filter(|record| !record.sha256.is_empty());
            record
                .map(|record| Locked {
                    sha256: record.sha256.clone(),
                    size: record.size,
                    path: record.path.clone(),
                })
                .ok_or_else(|| {
                    Failure::host(
                        format!("the lists of {suite} have no hash of {}", package.file),
                        "run `cargo xtask lock` again",
                    )
                })
        });
        locked.collect()
    }

    fn choose(self, apt: &Apt, packages: Vec<String>, depth: Depth) -> Result<Part> {
        let release = Part::resolve(apt, packages.clone(), depth, false);
        if self != Self::Qemu || release.as_ref().is_ok_and(Part::good_qemu) {
            return release;
        }
        match Part::resolve(apt, packages, depth, true) {
            Ok(backport) if backport.good_qemu() => Ok(backport),
            _ => release,
        }
    }
}

/// What one call of apt brings.
struct Part {
    wanted: Vec<String>,
    depth: Depth,
    backports: bool,
    found: Vec<Package>,
}

impl Part {
    fn resolve(apt: &Apt, wanted: Vec<String>, depth: Depth, backports: bool) -> Result<Self> {
        let found = apt.resolve(&wanted, depth, backports)?;
        Ok(Self {
            wanted,
            depth,
            backports,
            found,
        })
    }

    /// Whether this brings a QEMU that emulates all that Xen needs.
    fn good_qemu(&self) -> bool {
        self.found
            .iter()
            .find(|package| package.name() == "qemu-system-x86")
            .and_then(|package| qemu::Version::of_package(&package.version()))
            .is_some_and(|version| version >= qemu::GOOD)
    }

    fn download(&self, apt: &Apt, name: &str, into: &Path) -> Result<()> {
        let title = match self.wanted.first() {
            Some(first) if self.depth == Depth::Alone => format!("download {first}"),
            _ => format!("download {name}"),
        };
        apt.download(
            &title,
            &self.wanted,
            self.depth,
            self.backports,
            &self.found,
            into,
        )
    }
}

/// A directory name that changes whenever any package of the bundle does.
pub(super) fn key(name: &str, main: &str, found: &[Package]) -> String {
    let mut sum = flate2::Crc::new();
    let mut files: Vec<_> = found.iter().map(|package| package.file.as_str()).collect();
    files.sort_unstable();
    for file in files {
        sum.update(file.as_bytes());
    }
    let version = found
        .iter()
        .find(|package| package.name() == main)
        .map(Package::version)
        .unwrap_or_default();
    format!("{name}_{}_{:08x}", version.replace(':', "%"), sum.sum())
}

fn unpack(name: &str, downloads: &Path, tree: &Path) -> Result<()> {
    let mut files: Vec<_> = std::fs::read_dir(downloads)
        .map_err(Failure::file("read", downloads))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    files.sort();
    let step = ui::progress(format!("unpack {name}"), files.len() as u64, false);
    for (index, file) in files.iter().enumerate() {
        step.set(index as u64);
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.arg("-x").arg(file).arg(tree);
        let output = process::output(&mut dpkg, |error| {
            Failure::host(
                format!("dpkg-deb cannot be run: {error}"),
                "install the package `dpkg`, or pass paths by --qemu, --xen, --dom0-root",
            )
        })?;
        if !output.status.success() {
            return Err(Failure::host(
                format!(
                    "{} cannot be unpacked: {}",
                    file.display(),
                    ui::summed(&String::from_utf8_lossy(&output.stderr))
                ),
                "free some disk space, then run `cargo xtask setup` again",
            ));
        }
    }
    step.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::host;
    use super::*;

    fn package(file: &str) -> Package {
        Package {
            file: file.into(),
            size: 1,
        }
    }

    #[test]
    fn versions_are_found_and_unknown_ones_are_not() {
        assert_eq!(XenRelease::find("4.17").unwrap().suite, "bookworm");
        assert_eq!(XenRelease::find("4.20").unwrap().suite, "trixie");
        assert_eq!(XenRelease::find("4.1"), None);
    }

    #[test]
    fn a_derivative_s_packages_are_those_of_its_archive() {
        let dir = tempfile::tempdir().unwrap();
        let release = "ID=ubuntu\nID_LIKE=debian\nPRETTY_NAME=\"Ubuntu 24.04\"\n";
        let host = host::tests::host(dir.path(), release, &["apt-get"]);
        assert_eq!(Origin::Host(host.clone()).check().unwrap(), From::Own);
        let index = Index::parse(
            "Package: xen-hypervisor-4.17-amd64\n\nPackage: xen-utils-4.17\n\n\
             Package: xenstore-tools\nProvides: xenstore-utils\n\n\
             Package: busybox-static\n\nPackage: libgcc-s1\n",
        );
        let [old, new] = [XEN_RELEASES[0], XEN_RELEASES[1]];
        let (names, depth) = Bundle::Dom0(old).packages_in(&index, &host).unwrap();
        assert_eq!(
            names,
            [
                "xen-utils-4.17",
                "xenstore-tools",
                "busybox-static",
                "libgcc-s1"
            ]
        );
        assert_eq!(depth, Depth::Closure);
        let failure = Bundle::Hypervisor(new)
            .packages_in(&index, &host)
            .unwrap_err();
        let text = failure.to_string();
        for says in [
            "Ubuntu 24.04",
            "xen-hypervisor-4.20-amd64",
            "its versions of Xen: 4.17",
        ] {
            assert!(text.contains(says), "{says} is not in: {text}");
        }
    }

    #[test]
    fn the_hypervisor_comes_alone_and_the_tools_with_their_libraries() {
        let xen = XEN_RELEASES[0];
        assert_eq!(
            Bundle::Hypervisor(xen).packages(),
            (vec!["xen-hypervisor-4.17-amd64".to_owned()], Depth::Alone)
        );
        let (packages, depth) = Bundle::Dom0(xen).packages();
        assert_eq!(packages[0], "xen-utils-4.17");
        assert_eq!(depth, Depth::Closure);
    }

    #[test]
    fn the_usual_xen_is_one_that_the_archive_has() {
        let index = |versions: &[&str]| {
            let record = |version| format!("Package: xen-hypervisor-{version}-amd64\n\n");
            Index::parse(&versions.iter().map(record).collect::<String>())
        };
        let usual = |versions: &[&str]| {
            XenRelease::offered(&index(versions)).map(|release| release.version)
        };
        assert_eq!(usual(&["4.17", "4.20"]), Some("4.17"));
        assert_eq!(usual(&["4.16", "4.20"]), Some("4.20"));
        assert_eq!(usual(&["4.16"]), None);
    }

    #[test]
    fn the_backport_is_for_releases_with_an_old_qemu() {
        let part = |version: &str| Part {
            wanted: vec![],
            depth: Depth::Closure,
            backports: false,
            found: vec![
                package("libc6_2.36-9_amd64.deb"),
                package(&format!("qemu-system-x86_{version}_amd64.deb")),
            ],
        };
        assert!(!part("1%3a7.2+dfsg-7+deb12u18").good_qemu());
        assert!(part("1%3a10.0.2+ds-2+deb13u1~bpo12+1").good_qemu());
        assert!(part("11.0.0-1").good_qemu());
    }

    #[test]
    fn the_key_names_the_version_and_follows_every_package() {
        let found = [
            package("xen_4.17.7-0_amd64.deb"),
            package("libc6_2.36-9_amd64.deb"),
        ];
        let first = key("xen-4.17", "xen", &found);
        assert!(first.starts_with("xen-4.17_4.17.7-0_"), "{first}");
        let newer = [found[0].clone(), package("libc6_2.36-10_amd64.deb")];
        assert_ne!(first, key("xen-4.17", "xen", &newer));
        let swapped = [found[1].clone(), found[0].clone()];
        assert_eq!(first, key("xen-4.17", "xen", &swapped));
    }
}
