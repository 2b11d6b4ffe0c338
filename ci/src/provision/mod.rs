//! Everything a run needs and a bare machine lacks: the Rust target, QEMU, Xen, a Linux dom0.
//! Fetched as Debian packages when first needed, kept in the user's cache, never installed.
//!
//! Where they come from depends on the host: from the archives of its apt, if it is Debian
//! or descends from it; on any other from a mirror that is named, by exact version and hash.

pub(crate) mod apt;
pub(crate) mod cache;
mod deb;
pub(crate) mod gather;
pub(crate) mod host;
mod index;
pub(crate) mod lock;
mod locked;
pub(crate) mod mirror;
pub(crate) mod origin;
pub(crate) mod packages;
pub(crate) mod qemu;
pub(crate) mod rust;
mod sources;
pub(crate) mod space;

use std::path::{Path, PathBuf};

use crate::exit::{Failure, Result};
use cache::Cache;
use origin::Origin;
use packages::{Bundle, XEN_RELEASES, XenRelease};

pub(crate) use deb::zstandard;

/// Where things come from: the flags of this run, then the cache, then the archive.
pub(crate) struct Provision {
    /// What was fetched before.
    pub(crate) cache: Cache,
    /// `--qemu`.
    pub(crate) qemu: Option<PathBuf>,
    /// `--xen`.
    pub(crate) xen: Xen,
    /// `--dom0-root`.
    pub(crate) dom0_root: Option<PathBuf>,
    /// Where packages come from.
    pub(crate) origin: Origin,
    /// Whether to look for newer packages although the cache has some.
    pub(crate) update: bool,
}

/// What `--xen` asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Xen {
    /// A version that Debian packages.
    Release(XenRelease),
    /// A hypervisor built by the caller; tools are those of the default release.
    File(PathBuf),
}

impl Xen {
    /// Reads the argument of `--xen`.
    pub(crate) fn parse(argument: &str) -> Result<Self> {
        if let Some(release) = XenRelease::find(argument) {
            return Ok(Self::Release(release));
        }
        let path = PathBuf::from(argument);
        if path.is_file() {
            return Ok(Self::File(path));
        }
        let known: Vec<_> = XEN_RELEASES.iter().map(|release| release.version).collect();
        Err(Failure::Usage(format!(
            "--xen {argument}: neither a file nor one of the versions {}",
            known.join(", ")
        )))
    }

    /// The release whose tools go with it.
    pub(crate) fn release(&self) -> XenRelease {
        match self {
            Self::Release(release) => *release,
            Self::File(_) => XEN_RELEASES[0],
        }
    }
}

impl Provision {
    /// The hypervisor as an ELF file, which QEMU's multiboot loader takes.
    pub(crate) fn hypervisor(&self) -> Result<PathBuf> {
        let packed = match &self.xen {
            Xen::File(path) => path.clone(),
            Xen::Release(release) => {
                let tree =
                    Bundle::Hypervisor(*release).ensure(&self.cache, &self.origin, self.update)?;
                hypervisor_in(&tree, *release)
            }
        };
        if let Some(packed) = self.cache.expected(&packed) {
            return Ok(packed);
        }
        let bytes = std::fs::read(&packed).map_err(Failure::file("read", &packed))?;
        if bytes.starts_with(b"\x7fELF") {
            if !is_multiboot(&bytes) {
                return Err(Failure::Usage(format!(
                    "--xen {}: an ELF file, but no hypervisor: it has no multiboot header",
                    packed.display()
                )));
            }
            return packed
                .canonicalize()
                .map_err(Failure::file("find", &packed));
        }
        let mut sum = flate2::Crc::new();
        sum.update(&bytes);
        self.cache.derived(
            &format!("xen_{:08x}_{}.elf", sum.sum(), sum.amount()),
            |draft| gunzip(&packed, &bytes, draft),
        )
    }

    /// The tree that a Linux dom0 is made from.
    pub(crate) fn dom0(&self) -> Result<PathBuf> {
        match &self.dom0_root {
            Some(root) => root
                .canonicalize()
                .map_err(Failure::file("open --dom0-root", root)),
            None => Bundle::Dom0(self.xen.release()).ensure(&self.cache, &self.origin, self.update),
        }
    }

    /// Directory with Xen's public headers.
    pub(crate) fn headers(&self) -> Result<PathBuf> {
        let tree =
            Bundle::Headers(self.xen.release()).ensure(&self.cache, &self.origin, self.update)?;
        Ok(tree.join("usr/include"))
    }
}

/// What is said where there is nothing to fetch packages from.
fn nowhere(missing: &str) -> Failure {
    let file = mirror::configuration();
    let file = file.map_or_else(String::new, |file| format!(", or in {}", file.display()));
    Failure::host(
        format!("{missing}, so Xen, its tools and QEMU cannot be fetched by it"),
        format!(
            "name a mirror of Debian's archive, or a directory with packages, by {} URL|DIR, by the \
             variable {}{file}: the versions of ci/packages.lock are fetched from there; or pass what \
             you have: --qemu PATH and --xen PATH for dom0, and besides them --dom0-root DIR for xl \
             and shim",
            mirror::FLAG,
            mirror::VARIABLE
        ),
    )
}

/// The hypervisor in a tree of packages: as Debian calls it, or else what looks like one.
fn hypervisor_in(tree: &Path, release: XenRelease) -> PathBuf {
    let boot = tree.join("boot");
    let usual = boot.join(format!("xen-{}-amd64.gz", release.version));
    if usual.is_file() {
        return usual;
    }
    let files = std::fs::read_dir(&boot).into_iter().flatten().flatten();
    let found = files.filter(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with("xen") && name.ends_with(".gz") && file.path().is_file()
    });
    found.map(|file| file.path()).max().unwrap_or(usual)
}

/// Whether a boot loader of Xen's kind takes this file: it looks for an aligned word in the first
/// 8 KiB.
fn is_multiboot(bytes: &[u8]) -> bool {
    const MAGIC: [u8; 4] = 0x1bad_b002_u32.to_le_bytes();
    let (words, _) = bytes[..bytes.len().min(8192)].as_chunks::<4>();
    words.contains(&MAGIC)
}

fn gunzip(packed: &Path, bytes: &[u8], draft: &Path) -> Result<()> {
    let mut output = std::fs::File::create(draft).map_err(Failure::file("create", draft))?;
    match std::io::copy(&mut flate2::read::MultiGzDecoder::new(bytes), &mut output) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::Usage(format!(
            "{} is neither an ELF file nor gzip: {error}",
            packed.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_elf_file_that_is_no_hypervisor_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::env::current_exe().unwrap();
        let provision = |xen: PathBuf| Provision {
            cache: Cache::at(dir.path().join("cache")).unwrap(),
            qemu: None,
            xen: Xen::File(xen),
            dom0_root: None,
            origin: Origin::Host(host::Host::this()),
            update: false,
        };
        let failure = provision(own).hypervisor().unwrap_err();
        assert_eq!(failure.status(), 2);
        assert!(
            failure.to_string().contains("no multiboot header"),
            "{failure}"
        );
        let mut xen = b"\x7fELF".to_vec();
        xen.extend([0; 4092]);
        xen.extend(0x1bad_b002_u32.to_le_bytes());
        let file = dir.path().join("xen");
        std::fs::write(&file, xen).unwrap();
        assert!(provision(file).hypervisor().is_ok());
    }

    #[test]
    fn a_hypervisor_is_found_whatever_its_archive_calls_it() {
        let dir = tempfile::tempdir().unwrap();
        let boot = dir.path().join("boot");
        std::fs::create_dir(&boot).unwrap();
        let found = || hypervisor_in(dir.path(), XEN_RELEASES[0]);
        assert_eq!(found(), boot.join("xen-4.17-amd64.gz"));
        for name in ["xen-4.17.2-x.gz", "xen-4.17.2-x.config", "vmlinuz.gz"] {
            std::fs::write(boot.join(name), "").unwrap();
        }
        assert_eq!(found(), boot.join("xen-4.17.2-x.gz"));
        std::fs::write(boot.join("xen-4.17-amd64.gz"), "").unwrap();
        assert_eq!(found(), boot.join("xen-4.17-amd64.gz"));
    }

    #[test]
    fn xen_is_a_version_or_a_file() {
        assert_eq!(Xen::parse("4.20").unwrap().release().suite, "trixie");
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(Xen::parse(path).unwrap(), Xen::File(path.into()));
        assert_eq!(Xen::parse("4.99").unwrap_err().status(), 2);
    }
}
