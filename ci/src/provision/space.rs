//! Whether there is room for what is about to be fetched. apt's own answer to a full disk is to wait
//! for ever, so it is never started on one, and given up when the disk fills meanwhile.

use std::path::{Path, PathBuf};

use crate::exit::{Failure, Result};
use crate::ui;

const MIB: u64 = 1 << 20;

/// Package lists of a release, and apt's index of them.
pub(super) const LISTS: u64 = 128 * MIB;

/// What must be left while something is fetched.
const RESERVE: u64 = 8 * MIB;

/// A place to keep something, and how much room there is.
pub(super) struct Space {
    place: PathBuf,
    free: fn(&Path) -> std::io::Result<u64>,
}

impl Space {
    /// The room in an existing directory.
    pub(super) fn of(place: &Path) -> Self {
        Self {
            place: place.to_path_buf(),
            free,
        }
    }

    /// Refuses if there is no room for so many bytes of `what`.
    pub(super) fn check(&self, what: &str, needed: u64) -> Result<()> {
        let free = self.free()?;
        if free >= needed.saturating_add(RESERVE) {
            return Ok(());
        }
        Err(self.full(format!(
            "{what} takes {} in {}, where {} are free",
            ui::size(needed),
            self.place.display(),
            ui::size(free)
        )))
    }

    /// Fails once there is next to nothing left.
    pub(super) fn still(&self, what: &str) -> Result<()> {
        let free = self.free()?;
        if free >= RESERVE / 2 {
            return Ok(());
        }
        Err(self.full(format!(
            "{} became full while it took {what}: {} are free",
            self.place.display(),
            ui::size(free)
        )))
    }

    fn free(&self) -> Result<u64> {
        (self.free)(&self.place).map_err(Failure::file("ask for free space in", &self.place))
    }

    fn full(&self, missing: String) -> Failure {
        Failure::host(
            missing,
            "free some, or have XDG_CACHE_HOME name a directory elsewhere",
        )
    }
}

/// Bytes that the caller could write to the file system of `place`.
pub(crate) fn free(place: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statvfs(place)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// What packages of so many bytes take in all: themselves, and unpacked.
pub(super) fn unpacked(packed: u64) -> u64 {
    // xz packs what Debian builds four to five times smaller.
    packed.saturating_mul(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(free: fn(&Path) -> std::io::Result<u64>) -> Space {
        Space {
            place: "/cache".into(),
            free,
        }
    }

    #[test]
    fn what_does_not_fit_is_said_with_place_need_and_room() {
        let small = with(|_| Ok(100 * MIB));
        assert!(small.check("QEMU", 90 * MIB).is_ok());
        let failure = small.check("QEMU", 200 * MIB).unwrap_err();
        assert_eq!(failure.status(), 3);
        let text = failure.to_string();
        for part in [
            "QEMU",
            "200.00 MiB",
            "/cache",
            "100.00 MiB",
            "XDG_CACHE_HOME",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        assert!(small.check("all", u64::MAX).is_err());
    }

    #[test]
    fn a_disk_that_fills_meanwhile_is_noticed() {
        assert!(with(|_| Ok(RESERVE)).still("lists").is_ok());
        let failure = with(|_| Ok(0)).still("lists").unwrap_err();
        assert!(
            failure.to_string().contains("/cache became full"),
            "{failure}"
        );
    }

    #[test]
    fn the_file_system_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free(dir.path()).unwrap() > 0);
        assert_eq!(
            Space::of(&dir.path().join("nothing"))
                .check("x", 1)
                .unwrap_err()
                .status(),
            3
        );
    }
}
