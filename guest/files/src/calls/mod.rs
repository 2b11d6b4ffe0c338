//! Linux' system calls on files: what a kernel calls once it has decoded the registers.

mod anonymous;
mod attributes;
mod control;
mod directories;
mod names;
mod open;
mod readiness;
mod transfer;

use crate::descriptors::Descriptors;
use crate::errno::{Errno, Result};
use crate::host::{Call, Caller, Identity};
use crate::inode::{Inode, Kind};
use crate::mount::Place;
use crate::system::{System, View};
use crate::walk::{EXECUTE, Rules, Walk, may};
use alloc::sync::Arc;
use core::cell::Cell;
use core::task::Waker;
use linux_raw_sys::general as linux;

pub use attributes::SetTime;
pub use open::Opening;
pub use readiness::Sets;

/// The calls of a thread. Each method is the system call of its name. One that gives `Poll` may
/// wait: after `Poll::Pending`, sleep until [`Calls::waker`] is woken, then call it again with the
/// same arguments, or give it up with `EINTR` (see [`crate::Source::taken`] for writes).
#[derive(Clone, Copy)]
pub struct Calls<'a> {
    /// All files.
    pub system: &'a System,
    /// The process' root, current directory and mask.
    pub view: &'a View,
    /// The process' descriptors.
    pub descriptors: &'a Descriptors,
    /// Who it is to files.
    pub who: &'a Identity,
    /// The thread.
    pub caller: &'a dyn Caller,
    /// Woken when waiting may be over. It may be kept after the call was given up, until what was
    /// waited for happens: let it hold no more than waking takes.
    pub waker: &'a Waker,
    /// When the call was first made, if that matters to it. `Cell::new(None)` for each call of a
    /// program; kept while it is made again.
    pub began: &'a Cell<Option<u64>>,
}

impl Calls<'_> {
    fn call(&self) -> Call<'_> {
        Call {
            caller: self.caller,
            who: self.who,
            waker: self.waker,
            nonblock: false,
            began: self.began,
        }
    }

    /// Where a relative path begins.
    fn start(&self, directory: i32, path: &[u8]) -> Result<Place> {
        if directory == linux::AT_FDCWD {
            return Ok(self.view.current());
        }
        let place = self.descriptors.get(directory)?.place.clone();
        match place.inode.kind() {
            Kind::Directory => Ok(place),
            _ if path.is_empty() => Ok(place),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// What a path leads to. `flags` are those of the `*at` calls: `AT_EMPTY_PATH`.
    pub(crate) fn resolve(
        &self,
        directory: i32,
        path: &[u8],
        follow: bool,
        flags: u32,
    ) -> Result<Place> {
        if path.is_empty() && flags & linux::AT_EMPTY_PATH != 0 {
            return match directory {
                linux::AT_FDCWD => Ok(self.view.current()),
                _ => Ok(self.descriptors.get(directory)?.place.clone()),
            };
        }
        self.with_walk(directory, path, |walk| walk.walk_to_end(follow))
    }

    /// Begins to walk a path.
    fn with_walk<T>(
        &self,
        directory: i32,
        path: &[u8],
        act: impl FnOnce(Walk<'_>) -> Result<T>,
    ) -> Result<T> {
        let root = self.view.root();
        let call = self.call();
        let rules = Rules {
            mounts: &self.system.mounts,
            root: &root,
            who: self.who,
            call: &call,
        };
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let start = match path.first() {
            Some(b'/') => root.clone(),
            _ => self.start(directory, path)?,
        };
        act(Walk::new(rules, start, path)?)
    }

    /// Whether the caller may do something with an inode.
    fn check(&self, inode: &Arc<dyn Inode>, what: u32) -> Result<()> {
        // Whatever its attributes are.
        if self.who.is_root() && what & EXECUTE == 0 {
            return Ok(());
        }
        may(self.who, &inode.attributes(), what)
    }

    /// Whether something may be changed at all where it is mounted.
    fn check_writable(place: &Place) -> Result<()> {
        match place.mount.read_only {
            true => Err(Errno::EROFS),
            false => Ok(()),
        }
    }
}
