//! Which QEMU runs everything: the host's if it is new enough to emulate what Xen needs, else
//! Debian's newer build, run from the cache with its own C library so that nothing is installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Provision;
use super::packages::Bundle;
use crate::exit::{Failure, Result};

/// The program's name, on the host and in the package.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// From here on TCG delivers `int n` and SMAP faults rightly.
pub(crate) const GOOD: Version = Version(10, 0);

/// Major and minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A QEMU that can be started.
#[derive(Debug, Clone)]
pub(crate) struct Qemu {
    program: PathBuf,
    prefix: Vec<String>,
    /// Where it finds its own loadable parts, if not where it was built for.
    modules: Option<PathBuf>,
    /// What it says it is.
    pub(crate) version: Version,
}

impl Qemu {
    /// Chooses by flag, then by the host, then from the archive.
    pub(crate) fn choose(provision: &Provision) -> Result<Self> {
        if let Some(path) = &provision.qemu {
            return Self::at(path.clone(), vec![], None).ok_or_else(|| {
                Failure::Usage(format!(
                    "--qemu {}: that does not run as a QEMU",
                    path.display()
                ))
            });
        }
        let host = Self::at(PROGRAM.into(), vec![], None);
        if let Some(qemu) = host.clone().filter(|qemu| qemu.version >= GOOD) {
            return Ok(qemu);
        }
        match (
            Bundle::Qemu.ensure(&provision.cache, &provision.origin, provision.update),
            host,
        ) {
            (Ok(tree), _) => {
                let program = tree.join("usr/bin").join(PROGRAM);
                match provision.cache.expected(&program) {
                    Some(program) => Ok(Self::expected(program)),
                    None => Self::unpacked(&tree),
                }
            }
            (Err(Failure::Interrupted), _) => Err(Failure::Interrupted),
            // Too old to judge every rule, but good enough to boot.
            (Err(_), Some(host)) => Ok(host),
            (Err(failure), None) => Err(failure),
        }
    }

    /// The version of the QEMU at a path, if it is one.
    pub(crate) fn version_at(program: &Path) -> Option<Version> {
        Some(Self::at(program.to_path_buf(), vec![], None)?.version)
    }

    /// One that was not fetched, for a cache that is dry.
    fn expected(program: PathBuf) -> Self {
        Self {
            program,
            prefix: vec![],
            modules: None,
            version: GOOD,
        }
    }

    /// The QEMU of a tree of unpacked packages.
    fn unpacked(tree: &Path) -> Result<Self> {
        let (loader, libraries) = loader(tree)?;
        let mut prefix = vec!["--library-path".to_owned(), libraries];
        prefix.push(tree.join("usr/bin").join(PROGRAM).display().to_string());
        for data in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            prefix.push("-L".into());
            prefix.push(tree.join(data).display().to_string());
        }
        let modules = tree.join("usr/lib/x86_64-linux-gnu/qemu");
        Self::at(loader, prefix, Some(modules)).ok_or_else(|| {
            Failure::host(
                format!("the QEMU in {} does not run", tree.display()),
                "run `cargo xtask clean --cache`, or pass --qemu PATH",
            )
        })
    }

    fn at(program: PathBuf, prefix: Vec<String>, modules: Option<PathBuf>) -> Option<Self> {
        let mut qemu = Self {
            program,
            prefix,
            modules,
            version: Version(0, 0),
        };
        let output = qemu.command().arg("--version").output().ok()?;
        qemu.version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(qemu)
    }

    /// The start of a command line.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.prefix);
        if let Some(modules) = &self.modules {
            command.env("QEMU_MODULE_DIR", modules);
        }
        command
    }
}

/// The dynamic loader of an unpacked tree, and the directories its libraries are in.
pub(crate) fn loader(tree: &Path) -> Result<(PathBuf, String)> {
    let dirs: Vec<_> = [
        "lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu",
        "lib64",
        "usr/lib64",
    ]
    .into_iter()
    .map(|dir| tree.join(dir))
    .filter(|dir| dir.is_dir())
    .collect();
    let loader = dirs
        .iter()
        .map(|dir| dir.join("ld-linux-x86-64.so.2"))
        .find(|path| path.is_file() && path.starts_with(tree))
        .ok_or_else(|| {
            Failure::host(
                format!("{} has no dynamic loader", tree.display()),
                "run `cargo xtask clean --cache` and try again",
            )
        })?;
    let mut names: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    names.push(
        tree.join("usr/lib/x86_64-linux-gnu/pulseaudio")
            .display()
            .to_string(),
    );
    Ok((loader, names.join(":")))
}

impl Version {
    /// Of a Debian package: `1:10.0.2+ds-2`.
    pub(crate) fn of_package(text: &str) -> Option<Self> {
        let upstream = text.split_once(':').map_or(text, |(_epoch, rest)| rest);
        Self::leading(upstream)
    }

    fn leading(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        Some(Self(
            numbers.next()?.parse().ok()?,
            numbers.next()?.parse().ok()?,
        ))
    }
}

/// Parses `QEMU emulator version 10.0.2 (…)`.
fn parse_version(text: &str) -> Option<Version> {
    Version::leading(text.split_once("QEMU emulator version ")?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\n";
        assert_eq!(parse_version(debian), Some(Version(10, 0)));
        let old = parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2)").unwrap();
        assert!(old < GOOD);
        assert_eq!(parse_version("not QEMU"), None);
    }

    #[test]
    fn a_tree_without_loader_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(loader(dir.path()).unwrap_err().status(), 3);
    }
}
