//! `cargo xtask lock --into DIR`: the locked packages as files, got by Debian's apt. The directory is a
//! mirror as `--mirror` takes it, for a host without apt or without network.

use std::path::Path;

use super::apt::{Apt, Depth, Package};
use super::cache::Cache;
use super::host::{Family, Host};
use super::index::Index;
use super::lock::{Lock, Locked};
use super::mirror;
use super::packages::Bundle;
use super::space::Space;
use crate::exit::{Failure, Result};
use crate::ui;

/// Puts the packages of bundles into a directory, but for those that are there.
///
/// # Errors
/// The host is not Debian, its archive does not have a locked version any more, or the directory cannot
/// be written.
pub(crate) fn gather(bundles: &[Bundle], into: &Path) -> Result<()> {
    let host = Host::this();
    if host.family() != Family::Debian {
        let why = format!("{host} is not Debian with apt, which the packages are got by");
        return Err(Failure::host(
            why,
            "run it on Debian, or in a container of it",
        ));
    }
    std::fs::create_dir_all(into).map_err(Failure::file("create", into))?;
    let into = into.canonicalize().map_err(Failure::file("find", into))?;
    let lock = Lock::own().map_err(Failure::Guest)?;
    let cache = Cache::open()?;
    let guard = cache.lock()?;
    cache.sweep(&guard);
    for bundle in bundles {
        let locked = lock.bundle(&bundle.name()).unwrap_or_default();
        let missing = locked.iter().filter(|locked| !is_there(locked, &into));
        let missing: Vec<_> = missing.collect();
        if !missing.is_empty() {
            fetch(*bundle, &missing, &cache, &host, &into)?;
        }
    }
    ui::say(format!("complete for --mirror: {}", into.display()));
    Ok(())
}

fn is_there(locked: &Locked, dir: &Path) -> bool {
    let read = std::fs::read(dir.join(locked.file()));
    read.is_ok_and(|bytes| mirror::check(locked, &bytes).is_ok())
}

fn fetch(
    bundle: Bundle,
    missing: &[&Locked],
    cache: &Cache,
    host: &Host,
    into: &Path,
) -> Result<()> {
    let root = cache.root().join("apt");
    let open = |refresh| Apt::open(&root, host, host.codename(), bundle.lock_suite(), refresh);
    let mut apt = open(false)?;
    let wanted = match wanted(missing, &apt.index()?) {
        Ok(wanted) => wanted,
        Err(_) => {
            apt = open(true)?;
            let still = wanted(missing, &apt.index()?);
            still.map_err(|gone| {
                let why = format!("the archive does not have {} any more", gone.path);
                Failure::host(why, "renew ci/packages.lock by `cargo xtask lock`")
            })?
        }
    };
    let downloads = tempfile::tempdir_in(into).map_err(Failure::file("create in", into))?;
    let names: Vec<_> = wanted.iter().map(|(name, _)| name.clone()).collect();
    let expected: Vec<_> = wanted.into_iter().map(|(_, package)| package).collect();
    let size = expected.iter().map(|package| package.size).sum();
    Space::of(into).check(&bundle.name(), size)?;
    let title = format!("download {}", bundle.name());
    apt.download(
        &title,
        &names,
        Depth::Alone,
        false,
        &expected,
        downloads.path(),
    )?;
    for (locked, package) in missing.iter().zip(expected) {
        let from = downloads.path().join(&package.file);
        let bytes = std::fs::read(&from).map_err(Failure::file("read", &from))?;
        mirror::check(locked, &bytes).map_err(|why| {
            let why = format!("{}: {why}", package.file);
            Failure::host(why, "renew ci/packages.lock by `cargo xtask lock`")
        })?;
        let to = into.join(locked.file());
        std::fs::rename(&from, &to).map_err(Failure::file("write", &to))?;
    }
    Ok(())
}

/// What to ask apt for, and what it makes of it, in the order of the packages; or the first that its
/// lists do not have.
fn wanted<'a>(
    missing: &[&'a Locked],
    index: &Index,
) -> std::result::Result<Vec<(String, Package)>, &'a Locked> {
    let wanted = missing.iter().map(|locked| {
        let record = index.at(&locked.path).ok_or(*locked)?;
        let end = locked.file().rsplit('_').next().unwrap_or_default();
        // As apt names what it downloads: with the epoch that the archive leaves out.
        let version = record.version.replace(':', "%3a");
        Ok((
            format!("{}={}", record.name, record.version),
            Package {
                file: format!("{}_{version}_{end}", record.name),
                size: locked.size,
            },
        ))
    });
    wanted.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_file_is_asked_for_by_its_version() {
        let index = Index::parse(
            "Package: qemu\nVersion: 1:10.0-2\nFilename: pool/q/qemu_10.0-2_amd64.deb\n",
        );
        let locked = |path: &str| mirror::tests::locked(path, b"x");
        let (there, gone) = (
            locked("pool/q/qemu_10.0-2_amd64.deb"),
            locked("pool/q/x_1_all.deb"),
        );
        let found = wanted(&[&there], &index).unwrap();
        assert_eq!(found[0].0, "qemu=1:10.0-2");
        assert_eq!(found[0].1.file, "qemu_1%3a10.0-2_amd64.deb");
        assert_eq!(wanted(&[&there, &gone], &index), Err(&gone));
    }

    #[test]
    fn only_the_locked_file_itself_is_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.deb"), "content").unwrap();
        assert!(is_there(
            &mirror::tests::locked("pool/a.deb", b"content"),
            dir.path()
        ));
        assert!(!is_there(
            &mirror::tests::locked("pool/a.deb", b"c0ntent"),
            dir.path()
        ));
        assert!(!is_there(
            &mirror::tests::locked("pool/b.deb", b"content"),
            dir.path()
        ));
    }
}
