//! The locks of this crate, and turns: a lock that is waited for by a waker.
//!
//! A [`Mutex`] spins and is held for a moment, over no call into the kernel but the copying of
//! bytes that are there. What must stay whole for longer, such as a write of many pages, takes a
//! [`Turn`].

use core::task::{Poll, Waker};

pub(crate) use spin::mutex::SpinMutex as Mutex;

use crate::ready::{Watchers, look_twice};

/// Whose turn it is with what may take a while: at most one holds it, the others wait.
#[derive(Default)]
pub(crate) struct Turn {
    taken: Mutex<bool>,
    waiting: Watchers,
}

impl Turn {
    /// Takes the turn, or has `waker` woken when it may be free.
    pub(crate) fn take(&self, waker: &Waker) -> Poll<Taken<'_>> {
        look_twice(|| self.waiting.register(waker), || self.try_take())
    }

    fn try_take(&self) -> Option<Taken<'_>> {
        let mut taken = self.taken.lock();
        if *taken {
            return None;
        }
        *taken = true;
        Some(Taken(self))
    }
}

/// A turn that is held; dropping it gives it back.
#[must_use]
pub(crate) struct Taken<'a>(&'a Turn);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock() = false;
        self.0.waiting.wake();
    }
}
