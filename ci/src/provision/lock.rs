//! The packages by exact version and hash, for hosts that have no apt: `ci/packages.lock`, written by
//! `cargo xtask lock` on a Debian host.
//!
//! A section of the file is a bundle, a line of it a package: the SHA-256 of its file, its size, and
//! where Debian's archive has it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::cache::Cache;
use super::host::{Family, Host};
use super::packages::Bundle;
use crate::exit::{Failure, Result};
use crate::ui;

/// The file as it was when this was compiled.
const TEXT: &str = include_str!("../../packages.lock");

/// What stands at its beginning.
const HEAD: &str = "\
# Debian packages by SHA-256, size and place in the archive, for hosts without apt.
# Written by `cargo xtask lock`; not for editing.
";

/// A package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Locked {
    /// Of its file, in lower-case hexadecimal.
    pub(crate) sha256: String,
    /// Of its file, in bytes.
    pub(crate) size: u64,
    /// Below the archive's root.
    pub(crate) path: String,
}

impl Locked {
    /// The name of its file.
    pub(crate) fn file(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// All of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lock(BTreeMap<String, Vec<Locked>>);

impl Lock {
    /// Those of this program.
    ///
    /// # Errors
    /// Which line is none.
    pub(crate) fn own() -> std::result::Result<Self, String> {
        Self::parse(TEXT)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// Which line is none.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut bundles: BTreeMap<String, Vec<Locked>> = BTreeMap::new();
        let mut last = None;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let name = line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            if let Some(name) = name {
                last = Some(bundles.entry(name.to_owned()).or_default());
                continue;
            }
            let locked = package(line).filter(|_| last.is_some());
            let wrong = || format!("packages.lock, line {}: no package: {line}", number + 1);
            let locked = locked.ok_or_else(wrong)?;
            last.iter_mut()
                .for_each(|bundle| bundle.push(locked.clone()));
        }
        Ok(Self(bundles))
    }

    /// The packages of a bundle.
    pub(crate) fn bundle(&self, name: &str) -> Option<&[Locked]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// All packages, those of several bundles several times.
    pub(crate) fn packages(&self) -> impl Iterator<Item = &Locked> {
        self.0.values().flatten()
    }

    /// Adds a bundle, in the order of the paths.
    pub(crate) fn add(&mut self, name: &str, mut packages: Vec<Locked>) {
        packages.sort_by(|a, b| a.path.cmp(&b.path));
        packages.dedup();
        self.0.insert(name.to_owned(), packages);
    }

    /// The file's text.
    pub(crate) fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for (name, packages) in &self.0 {
            // A String takes it.
            let _ = writeln!(text, "\n[{name}]");
            for Locked { sha256, size, path } in packages {
                let _ = writeln!(text, "{sha256} {size:>9} {path}");
            }
        }
        text
    }
}

/// Writes the file anew in the repository at `root`, by what the archive of this Debian host has now.
///
/// # Errors
/// The host is not Debian, apt fails, or the file cannot be written.
pub(crate) fn renew(root: &Path) -> Result<()> {
    let host = Host::this();
    if host.family() != Family::Debian {
        return Err(Failure::host(
            format!("{host} is not Debian with apt, whose archive the lock file is written by"),
            "run it on Debian, or in a container of it",
        ));
    }
    let cache = Cache::open()?;
    let guard = cache.lock()?;
    cache.sweep(&guard);
    let mut lock = Lock::default();
    let mut fresh = Vec::new();
    for bundle in Bundle::all() {
        let suite = bundle.lock_suite();
        let packages = bundle.lock(&cache, &host, !fresh.contains(&suite))?;
        fresh.push(suite);
        lock.add(&bundle.name(), packages);
    }
    let path = root.join("ci/packages.lock");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let before = Lock::parse(&before).unwrap_or_default();
    std::fs::write(&path, lock.text()).map_err(Failure::file("write", &path))?;
    let changed = lock
        .packages()
        .filter(|package| !before.packages().any(|old| old == *package));
    let (all, changed) = (lock.packages().count(), changed.count());
    ui::say(format!(
        "{}: {all} packages, {changed} of them new",
        path.display()
    ));
    Ok(())
}

fn package(line: &str) -> Option<Locked> {
    let mut words = line.split_whitespace();
    let (sha256, size, path) = (words.next()?, words.next()?, words.next()?);
    let hexadecimal = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let good = sha256.len() == 64 && sha256.chars().all(hexadecimal) && words.next().is_none();
    // What is asked of a mirror is below its root.
    let inside = !path.starts_with('/') && path.split('/').all(|part| part != "..");
    (good && inside).then_some(Locked {
        sha256: sha256.to_owned(),
        size: size.parse().ok()?,
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(path: &str) -> Locked {
        Locked {
            sha256: "0123456789abcdef".repeat(4),
            size: 7,
            path: path.into(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut lock = Lock::default();
        lock.add(
            "qemu",
            vec![locked("pool/b"), locked("pool/a"), locked("pool/b")],
        );
        lock.add("empty", vec![]);
        let text = lock.text();
        assert_eq!(Lock::parse(&text), Ok(lock));
        let lock = Lock::parse(&text).unwrap();
        let paths: Vec<_> = lock
            .bundle("qemu")
            .unwrap()
            .iter()
            .map(Locked::file)
            .collect();
        assert_eq!(paths, ["a", "b"]);
        assert_eq!(lock.bundle("nothing"), None);
    }

    #[test]
    fn a_line_that_is_no_package_is_named() {
        let sum = "0123456789abcdef".repeat(4);
        for line in [
            "[x]\nzz 7 pool/a".to_owned(),
            format!("[x]\n{sum} many pool/a"),
            format!("[x]\n{sum} 7"),
            format!("[x]\n{sum} 7 pool/a more"),
            format!("[x]\n{sum} 7 ../../etc/shadow"),
            format!("[x]\n{sum} 7 /etc/shadow"),
            format!("\n{sum} 7 pool/a"),
        ] {
            let why = Lock::parse(&line).unwrap_err();
            assert!(why.starts_with("packages.lock, line 2: "), "{why}");
        }
    }

    #[test]
    fn every_bundle_is_locked() {
        let lock = Lock::own().unwrap();
        for bundle in Bundle::all() {
            let packages = lock.bundle(&bundle.name()).unwrap_or_default();
            assert!(!packages.is_empty(), "{}", bundle.name());
        }
    }
}
