//! Which Debian packages make up what a stack needs, and how they become a directory tree.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::{self, Apt, Depth, Package};
use super::cache::Cache;
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

    /// What to ask apt for.
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

    /// The Debian release it is taken from.
    fn suite(self) -> Result<String> {
        match self {
            Self::Hypervisor(xen) | Self::Dom0(xen) | Self::Headers(xen) => Ok(xen.suite.into()),
            Self::Qemu => apt::host_release(),
        }
    }

    /// The tree of this bundle, from the cache or else from the archive.
    pub(crate) fn ensure(self, cache: &Cache, update: bool) -> Result<PathBuf> {
        let name = self.name();
        if let (Some(tree), false) = (cache.current(&name), update) {
            return Ok(tree);
        }
        let what = format!(
            "fetch from Debian's {} ({})",
            self.suite()?,
            self.packages().0.join(", ")
        );
        if let Some(tree) = cache.lacks(&what, &format!("current/{name}")) {
            // What a real run would stop at.
            apt::host_release()?;
            return Ok(tree);
        }
        let guard = cache.lock()?;
        cache.sweep(&guard);
        // Another run may have fetched it while this one waited.
        if let (Some(tree), false) = (cache.current(&name), update) {
            return Ok(tree);
        }
        let apt = Apt::open(&cache.root().join("apt"), &self.suite()?, update)?;
        let (packages, depth) = self.packages();
        let mut parts = vec![self.choose(&apt, packages, depth)?];
        if let Self::Dom0(_) = self {
            // Its dependencies would be the tools that install a kernel, of no use here.
            let image = vec![apt.linux_image()?];
            parts.push(Part::resolve(&apt, image, Depth::Alone, false)?);
        }
        let main = parts[0].wanted[0].clone();
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
fn key(name: &str, main: &str, found: &[Package]) -> String {
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
                    String::from_utf8_lossy(&output.stderr).trim_end()
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
