//! Why a system call fails: the numbers of the files' crate, and one that no program sees.

extern crate alloc;

use alloc::vec::Vec;

use linux_raw_sys::errno as numbers;

pub(crate) use guest_files::{Errno, Result};

#[cfg(feature = "check")]
use crate::refusals;

/// What is no program.
pub(crate) const ENOEXEC: Errno = known(numbers::ENOEXEC);
/// There is no child to wait for.
pub(crate) const ECHILD: Errno = known(numbers::ECHILD);
/// A signal came: the call is made again, or fails with `EINTR` (Linux' `ERESTARTSYS`).
pub(crate) const RESTART: Errno = known(512);

/// An error by its number.
const fn known(number: u32) -> Errno {
    match Errno::from_number(number as i32) {
        Some(errno) => errno,
        None => panic!("no error has that number"),
    }
}

/// What grows for a program, or refuses to.
pub(crate) trait Room {
    /// Makes room for so many elements more.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn room(&mut self, more: usize) -> Result<()>;
}

impl<T> Room for Vec<T> {
    fn room(&mut self, more: usize) -> Result<()> {
        #[cfg(feature = "check")]
        if refusals::HEAP.is_due() {
            return Err(Errno::ENOMEM);
        }
        self.try_reserve(more).map_err(|_| Errno::ENOMEM)
    }
}
