//! What a file is ready for, and who wants to know.
//!
//! Whoever waits registers a waker and looks again; whoever changes something wakes all. Wake-ups
//! may come for nothing, so each waiter loops; none is ever lost, since it is registered before the
//! last look.

use alloc::vec::Vec;
use core::task::{Poll, Waker};

use bitflags::bitflags;
use linux_raw_sys::general as linux;

use crate::errno::{Errno, Result};
use crate::host::Call;
use crate::lock::Mutex;

bitflags! {
    /// What a file can be ready for, by the bits of `poll` (those of epoll are the same).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Ready: u32 {
        /// A read would not wait.
        const IN = linux::POLLIN;
        /// Something urgent.
        const PRI = linux::POLLPRI;
        /// A write would not wait.
        const OUT = linux::POLLOUT;
        /// Nobody will ever read what is written.
        const ERR = linux::POLLERR;
        /// The other side is gone.
        const HUP = linux::POLLHUP;
        /// No such descriptor.
        const NVAL = linux::POLLNVAL;
        /// As [`Ready::IN`], under another name.
        const RDNORM = linux::POLLRDNORM;
        /// As [`Ready::OUT`], under another name.
        const WRNORM = linux::POLLWRNORM;
        /// The other side will not write any more.
        const RDHUP = linux::POLLRDHUP;
    }
}

impl Ready {
    /// Readable, under both names.
    pub const READ: Self = Self::IN.union(Self::RDNORM);
    /// Writable, under both names.
    pub const WRITE: Self = Self::OUT.union(Self::WRNORM);
    /// What is told whether it was asked for or not.
    pub const ALWAYS: Self = Self::ERR.union(Self::HUP).union(Self::NVAL);
}

/// Looks for something, and if it is not there registers who waits and looks once more: what came
/// between the first look and the registration woke nobody.
pub(crate) fn look_twice<T>(
    register: impl FnOnce(),
    mut look: impl FnMut() -> Option<T>,
) -> Poll<T> {
    if let Some(found) = look() {
        return Poll::Ready(found);
    }
    register();
    look().map_or(Poll::Pending, Poll::Ready)
}

/// The same for a call on a file, which may not want to wait.
pub(crate) fn attempt<T>(
    call: &Call<'_>,
    register: impl FnOnce(),
    mut attempt: impl FnMut() -> Option<Result<T>>,
) -> Poll<Result<T>> {
    look_twice(register, || {
        attempt().or_else(|| call.nonblock.then_some(Err(Errno::EAGAIN)))
    })
}

/// Those who want to be woken when a file changes.
#[derive(Default)]
pub struct Watchers(Mutex<List>);

#[derive(Default)]
struct List {
    wakers: Vec<Waker>,
    /// At this length all are woken: who went away without a word is forgotten so, and who still
    /// waits registers again.
    most: usize,
}

/// The first such length.
const FEW: usize = 32;

impl Watchers {
    /// Nobody.
    pub const fn new() -> Self {
        Self(Mutex::new(List {
            wakers: Vec::new(),
            most: FEW,
        }))
    }

    /// Has `waker` woken at the next change. Look at the file again after this: what changed
    /// before it wakes nobody.
    pub fn register(&self, waker: &Waker) {
        let mut list = self.0.lock();
        if list.wakers.iter().any(|known| known.will_wake(waker)) {
            return;
        }
        let mut all = Vec::new();
        let full = list.wakers.len() >= list.most.max(FEW);
        if full || list.wakers.try_reserve(1).is_err() {
            // Twice as many may come until then: however many wait, they come to rest.
            list.most = list.most.max(FEW).saturating_mul(2);
            all = core::mem::take(&mut list.wakers);
            if list.wakers.try_reserve(1).is_err() {
                // No memory to wait with: it looks again at once instead of never.
                all.push(waker.clone());
            } else {
                list.wakers.push(waker.clone());
            }
        } else {
            list.wakers.push(waker.clone());
        }
        drop(list);
        all.into_iter().for_each(Waker::wake);
    }

    /// Wakes everyone who registered since the last time.
    pub fn wake(&self) {
        let mut list = self.0.lock();
        list.most = FEW.max(list.wakers.len().saturating_mul(2));
        // Without the lock: a waker may do anything, look at this very file too. One alone leaves its room
        // to the next that waits.
        match list.wakers.len() {
            0 => {}
            1 => {
                let one = list.wakers.pop();
                drop(list);
                one.into_iter().for_each(Waker::wake);
            }
            _ => {
                let all = core::mem::take(&mut list.wakers);
                drop(list);
                all.into_iter().for_each(Waker::wake);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The other side comes in the worst moment: after the look, before anyone waits.
    #[test]
    fn what_comes_between_looking_and_registering_is_found() {
        let watchers = Watchers::new();
        let mut there = false;
        let mut looks = 0;
        let found = look_twice(
            || watchers.register(Waker::noop()),
            || {
                looks += 1;
                let found = there.then_some(looks);
                there = true;
                watchers.wake();
                found
            },
        );
        assert_eq!(found, Poll::Ready(2));
    }

    #[test]
    fn nothing_is_looked_for_twice_that_is_there() {
        let found = look_twice(|| panic!("registers"), || Some(1));
        assert_eq!(found, Poll::Ready(1));
        assert!(look_twice(|| {}, || None::<()>).is_pending());
    }
}
