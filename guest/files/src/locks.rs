//! Locks of whole files by `flock(2)`.
//!
//! A lock belongs to an open file, so all descriptors of it share it and the last one to be closed
//! gives it back.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::task::{Poll, Waker};

use crate::errno::{Errno, Result};
use crate::lock::Mutex;
use crate::ready::Watchers;

/// The locks of all files, by file system and inode.
#[derive(Default)]
pub(crate) struct FileLocks {
    held: Mutex<BTreeMap<(u64, u64), Holders>>,
    waiting: Watchers,
}

#[derive(Default, Clone, Copy)]
struct Holders {
    shared: u32,
    exclusive: bool,
}

/// The lock that an open file holds.
#[derive(Default)]
pub(crate) struct FileLock(Mutex<Option<Held>>);

struct Held {
    all: Arc<FileLocks>,
    inode: (u64, u64),
    exclusive: bool,
}

impl FileLock {
    /// Takes the lock, or changes its kind, as `flock(2)` does: not at once, it is given back
    /// before.
    pub(crate) fn take(
        &self,
        all: &Arc<FileLocks>,
        inode: (u64, u64),
        exclusive: bool,
        waker: Option<&Waker>,
    ) -> Poll<Result<()>> {
        let mine = self.0.lock();
        let is_held = |held: &Held| held.exclusive == exclusive;
        if mine.as_ref().is_some_and(is_held) {
            return Poll::Ready(Ok(()));
        }
        drop(mine);
        self.release();
        if let Some(waker) = waker {
            all.waiting.register(waker);
        }
        let mut holders = all.held.lock();
        let now = holders.get(&inode).copied().unwrap_or_default();
        if now.exclusive || (exclusive && now.shared > 0) {
            return match waker {
                Some(_) => Poll::Pending,
                None => Poll::Ready(Err(Errno::EAGAIN)),
            };
        }
        let entry = holders.entry(inode).or_default();
        entry.exclusive = exclusive;
        entry.shared += u32::from(!exclusive);
        drop(holders);
        let held = Held {
            all: all.clone(),
            inode,
            exclusive,
        };
        // Another thread may have taken one by the same open file meanwhile: the last one stays.
        let _before = self.0.lock().replace(held);
        Poll::Ready(Ok(()))
    }

    /// Gives the lock back.
    pub(crate) fn release(&self) {
        let held = self.0.lock().take();
        // Without the lock: it wakes those who wait.
        drop(held);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holders = self.all.held.lock();
        if let Some(entry) = holders.get_mut(&self.inode) {
            if self.exclusive {
                entry.exclusive = false;
            } else {
                entry.shared -= 1;
            }
            if entry.shared == 0 && !entry.exclusive {
                holders.remove(&self.inode);
            }
        }
        drop(holders);
        self.all.waiting.wake();
    }
}
