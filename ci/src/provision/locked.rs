//! Packages of the lock file become a tree in the cache: fetched from a mirror, checked, unpacked.

use std::path::PathBuf;

use super::apt::Package;
use super::cache::Cache;
use super::deb;
use super::host::Host;
use super::lock::Locked;
use super::mirror::Mirror;
use super::packages::key;
use super::space::{Space, unpacked};
use crate::exit::{Failure, Result};
use crate::interrupt;
use crate::ui;

/// Where packages are kept until all of a bundle are there.
const FETCHED: &str = "fetched";

/// Has a name stand for packages of a mirror, which are fetched if they are not there. They are called
/// by the version of `main`.
pub(super) fn install(
    cache: &Cache,
    mirror: &Mirror,
    host: &Host,
    (name, main): (&str, &str),
    packages: &[Locked],
) -> Result<PathBuf> {
    let found: Vec<_> = packages
        .iter()
        .map(|locked| Package {
            file: locked.file().to_owned(),
            size: locked.size,
        })
        .collect();
    let key = key(name, main, &found);
    let current = cache.current(name);
    if let Some(tree) = current.filter(|tree| tree.ends_with(&key)) {
        return Ok(tree);
    }
    let size: u64 = packages.iter().map(|locked| locked.size).sum();
    let count = packages.len();
    let what = format!(
        "fetch from the mirror named by {} ({count} packages, {})",
        mirror.by(),
        ui::size(size)
    );
    if let Some(tree) = cache.lacks(&what, &format!("bundles/{key}")) {
        return Ok(tree);
    }
    let guard = cache.lock()?;
    cache.sweep(&guard);
    cache.install(name, &key, |tree| {
        Space::of(cache.root()).check(name, unpacked(size))?;
        let scratch = cache.root().join(FETCHED);
        std::fs::create_dir_all(&scratch).map_err(Failure::file("create", &scratch))?;
        let title = format!(
            "fetch and unpack {name}: {count} packages, {}",
            ui::size(size)
        );
        let step = ui::progress(title, size, true);
        let mut done = 0;
        for locked in packages {
            if interrupt::requested() {
                return Err(Failure::Interrupted);
            }
            step.set(done);
            let bytes = mirror.get(locked, host, &scratch)?;
            deb::unpack(&bytes, tree).map_err(|error| {
                Failure::host(
                    format!("{} cannot be unpacked: {error}", locked.file()),
                    "free some disk space if there is none; else the package itself is bad",
                )
            })?;
            done += locked.size;
        }
        step.done();
        // What is unpacked need not be kept; what is left of other bundles is for a later run.
        for locked in packages {
            let _ = std::fs::remove_file(scratch.join(locked.file()));
        }
        let _ = std::fs::remove_dir(&scratch);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{host, mirror};
    use super::*;

    /// Two packages in a directory, a cache, and a host without apt and dpkg.
    fn without_apt(dir: &Path) -> (Cache, Mirror, Host, Vec<Locked>) {
        let items = [
            ("pool/a_1_amd64.deb", "./boot/xen", "one"),
            ("pool/b_2_amd64.deb", "./usr/bin/xl", "two"),
        ];
        std::fs::create_dir_all(dir.join("mirror/pool")).unwrap();
        let locked = items.map(|(path, file, content)| {
            let package = deb::tests::deb(&[deb::tests::Item::File(file, content)]);
            std::fs::write(dir.join("mirror").join(path), &package).unwrap();
            mirror::tests::locked(path, &package)
        });
        (
            Cache::at(dir.join("cache")).unwrap(),
            mirror::tests::at(&dir.join("mirror")),
            host::tests::host(dir, host::tests::FEDORA, &[]),
            locked.to_vec(),
        )
    }

    #[test]
    fn locked_packages_are_fetched_once_and_then_there() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, mirror, host, locked) = without_apt(dir.path());
        let install = |locked: &[Locked]| install(&cache, &mirror, &host, ("x", "b"), locked);
        let tree = install(&locked).unwrap();
        let key = tree.file_name().unwrap().to_str().unwrap();
        assert!(key.starts_with("x_2_"), "{key}");
        assert_eq!(
            std::fs::read_to_string(tree.join("boot/xen")).unwrap(),
            "one"
        );
        assert_eq!(
            std::fs::read_to_string(tree.join("usr/bin/xl")).unwrap(),
            "two"
        );
        std::fs::remove_dir_all(dir.path().join("mirror")).unwrap();
        let again = install(&locked).unwrap();
        assert_eq!(again, tree.canonicalize().unwrap());
        // Another version in the lock file is another bundle, which the cache does not have.
        let mut newer = locked;
        newer[0].path = "pool/a_2_amd64.deb".into();
        let failure = install(&newer).unwrap_err();
        assert!(
            failure.to_string().contains("a_2_amd64.deb is nowhere"),
            "{failure}"
        );
    }

    #[test]
    fn a_package_that_is_bad_leaves_no_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, mirror, host, locked) = without_apt(dir.path());
        let outside = deb::tests::deb(&[deb::tests::Item::File("../../escaped", "x")]);
        for bytes in [b"no package".as_slice(), &outside] {
            let mut bad = locked.clone();
            std::fs::write(dir.path().join("mirror/pool/c_1_amd64.deb"), bytes).unwrap();
            bad.push(mirror::tests::locked("pool/c_1_amd64.deb", bytes));
            let failure = install(&cache, &mirror, &host, ("x", "b"), &bad).unwrap_err();
            assert_eq!(failure.status(), 3);
            assert!(
                failure
                    .to_string()
                    .contains("c_1_amd64.deb cannot be unpacked"),
                "{failure}"
            );
            assert_eq!(cache.current("x"), None);
        }
        let left = std::fs::read_dir(cache.root()).unwrap().flatten();
        let mut left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, [FETCHED, "lock"]);
    }
}
