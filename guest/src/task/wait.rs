//! How a thread waits: it parks, and whoever has its waker has it go on.
//!
//! [`core::task::Waker`] is the one kind of wake-up, so that what is waited for knows nothing of
//! threads: it keeps wakers, and wakes them when something has come. A thread may go on without having
//! been woken; who waits looks again ([`wait_until`]).

extern crate alloc;

use alloc::collections::TryReserveError;
use core::task::Waker;

use super::{run, thread, timer};
use crate::time;

/// The waker of the thread that calls.
pub(crate) fn waker() -> Waker {
    Waker::from(thread::current())
}

/// Waits until the thread is woken; at once if it was woken since it parked last.
///
/// # Panics
/// A lock is held, or this is a handler.
#[track_caller]
pub(crate) fn park() {
    run::leave(super::state::State::park);
}

/// As [`park`], but no longer than until a time of [`time::monotonic`] in nanoseconds. Without a clock it
/// does not end by itself.
#[track_caller]
pub(crate) fn park_until(deadline: u64) {
    let timer = timer::wake_at(deadline, waker());
    match timer {
        Ok(timer) => {
            park();
            drop(timer);
        }
        // Others run meanwhile, and the caller looks again.
        Err(TryReserveError { .. }) => run::yield_now(),
    }
}

/// Waits until `poll` has something. It is given the waker of the thread, to be kept by what it waits
/// for when it has nothing.
#[track_caller]
pub(crate) fn wait_until<T>(mut poll: impl FnMut(&Waker) -> Option<T>) -> T {
    let waker = waker();
    loop {
        if let Some(value) = poll(&waker) {
            return value;
        }
        park();
    }
}

/// As [`wait_until`], but no longer than until a time of [`time::monotonic`]; `None` if that came first.
#[track_caller]
pub(crate) fn wait_until_time<T>(
    deadline: u64,
    mut poll: impl FnMut(&Waker) -> Option<T>,
) -> Option<T> {
    let waker = waker();
    loop {
        let value = poll(&waker);
        if value.is_some() || is_over(deadline) {
            return value;
        }
        park_until(deadline);
    }
}

/// Sleeps until a time of [`time::monotonic`], in nanoseconds. Without a clock that has come.
#[track_caller]
pub(crate) fn sleep_until(deadline: u64) {
    while !is_over(deadline) {
        park_until(deadline);
    }
}

fn is_over(deadline: u64) -> bool {
    time::monotonic().is_none_or(|now| now >= deadline)
}
