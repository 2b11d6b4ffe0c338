//! Counters as files (`eventfd`) and timers as files (`timerfd`).

use alloc::sync::Arc;
use core::task::{Poll, Waker};

use linux_raw_sys::general as linux;

use crate::errno::{Errno, Result};
use crate::file::File;
use crate::host::{Call, Host};
use crate::inode::Where;
use crate::lock::Mutex;
use crate::ready::{Ready, Watchers, attempt};
use crate::transfer::{Sink, Source};

/// Bytes of the number that is read and written.
const NUMBER: usize = size_of::<u64>();

/// Puts a number, of which nothing is lost if it cannot be put.
fn put(number: u64, to: &mut dyn Sink) -> Result<usize> {
    match to.put(&number.to_ne_bytes()) {
        NUMBER => Ok(NUMBER),
        _ => Err(Errno::EFAULT),
    }
}

/// A counter.
pub(crate) struct EventCounter {
    count: Mutex<u64>,
    /// Reads take one, not all.
    is_semaphore: bool,
    watchers: Watchers,
}

impl EventCounter {
    pub(crate) fn new(count: u64, is_semaphore: bool) -> Self {
        Self {
            count: Mutex::new(count),
            is_semaphore,
            watchers: Watchers::new(),
        }
    }
}

/// What a counter never comes to.
const FULL: u64 = u64::MAX;

impl File for EventCounter {
    fn read(&self, call: &Call<'_>, _at: u64, to: &mut dyn Sink) -> Poll<Result<usize>> {
        if to.room() < NUMBER {
            return Poll::Ready(Err(Errno::EINVAL));
        }
        let done = attempt(
            call,
            || self.watchers.register(call.waker),
            || {
                let mut count = self.count.lock();
                let taken = match *count {
                    0 => return None,
                    _ if self.is_semaphore => 1,
                    all => all,
                };
                Some(put(taken, to).inspect(|_| *count -= taken))
            },
        );
        if done.is_ready() {
            self.watchers.wake();
        }
        done
    }

    fn write(
        &self,
        call: &Call<'_>,
        _at: Where,
        from: &mut dyn Source,
    ) -> Poll<Result<(u64, usize)>> {
        if from.left() < NUMBER {
            return Poll::Ready(Err(Errno::EINVAL));
        }
        let done = attempt(
            call,
            || self.watchers.register(call.waker),
            || {
                let mut bytes = [0; NUMBER];
                let taken = from.take(&mut bytes);
                if taken < NUMBER {
                    from.give_back(taken);
                    return Some(Err(Errno::EFAULT));
                }
                let number = u64::from_ne_bytes(bytes);
                let mut count = self.count.lock();
                if number == FULL {
                    from.give_back(NUMBER);
                    return Some(Err(Errno::EINVAL));
                }
                if FULL - *count <= number {
                    from.give_back(NUMBER);
                    return None;
                }
                *count += number;
                Some(Ok((0, NUMBER)))
            },
        );
        if done.is_ready() {
            self.watchers.wake();
        }
        done
    }

    fn writes_once(&self) -> bool {
        true
    }

    fn ready(&self, waker: Option<&Waker>) -> Ready {
        if let Some(waker) = waker {
            self.watchers.register(waker);
        }
        let count = *self.count.lock();
        let mut ready = Ready::empty();
        ready.set(Ready::IN, count > 0);
        ready.set(Ready::OUT, count < FULL - 1);
        ready
    }
}

/// A timer.
pub(crate) struct Timer {
    host: Arc<dyn Host>,
    /// It follows the time of day, not the time since the boot.
    is_wall: bool,
    state: Mutex<TimerState>,
    watchers: Watchers,
}

#[derive(Clone, Copy, Default)]
struct TimerState {
    /// When it expires next, in nanoseconds since the boot.
    next: Option<u64>,
    /// Nanoseconds after which it expires again; 0 for once.
    interval: u64,
}

impl TimerState {
    /// How often it has expired, and what comes after that.
    fn expired(&self, now: u64) -> (u64, Option<u64>) {
        match self.next {
            Some(next) if next <= now => match (now - next).checked_div(self.interval) {
                Some(more) => {
                    let times = more + 1;
                    let passed = times.saturating_mul(self.interval);
                    (times, Some(next.saturating_add(passed)))
                }
                None => (1, None),
            },
            next => (0, next),
        }
    }
}

impl Timer {
    pub(crate) fn new(host: Arc<dyn Host>, is_wall: bool) -> Self {
        Self {
            host,
            is_wall,
            state: Mutex::default(),
            watchers: Watchers::new(),
        }
    }

    /// What the clock of this timer shows, in nanoseconds.
    fn clock(&self, since_boot: u64) -> u64 {
        match self.is_wall {
            true => {
                let now = self.host.now();
                let seconds = u64::try_from(now.seconds).unwrap_or(0);
                let whole = seconds.saturating_mul(1_000_000_000);
                whole.saturating_add(u64::from(now.nanos))
            }
            false => since_boot,
        }
    }

    /// Nanoseconds until it expires, 0 if it is off, and its interval.
    pub(crate) fn get(&self) -> (u64, u64) {
        let now = self.host.since_boot();
        let state = *self.state.lock();
        let left = match state.expired(now).1 {
            Some(next) => (next - now).max(1),
            None => 0,
        };
        (left, state.interval)
    }

    /// Has it expire after `value` nanoseconds, or when its clock shows that; 0 turns it off.
    pub(crate) fn set(&self, value: u64, interval: u64, is_absolute: bool) {
        let now = self.host.since_boot();
        let next = match (value, is_absolute) {
            (0, _) => None,
            (value, false) => Some(now.saturating_add(value)),
            (value, true) => Some(now.saturating_add(value.saturating_sub(self.clock(now)))),
        };
        *self.state.lock() = TimerState { next, interval };
        self.watchers.wake();
    }

    fn register(&self, waker: &Waker) {
        self.watchers.register(waker);
        if let Some(next) = self.state.lock().next {
            self.host.wake_at(next, waker);
        }
    }
}

impl File for Timer {
    fn read(&self, call: &Call<'_>, _at: u64, to: &mut dyn Sink) -> Poll<Result<usize>> {
        if to.room() < NUMBER {
            return Poll::Ready(Err(Errno::EINVAL));
        }
        attempt(
            call,
            || self.register(call.waker),
            || {
                let now = self.host.since_boot();
                let mut state = self.state.lock();
                match state.expired(now) {
                    (0, _) => None,
                    (times, next) => Some(put(times, to).inspect(|_| state.next = next)),
                }
            },
        )
    }

    fn ready(&self, waker: Option<&Waker>) -> Ready {
        if let Some(waker) = waker {
            self.register(waker);
        }
        let times = self.state.lock().expired(self.host.since_boot()).0;
        match times {
            0 => Ready::empty(),
            _ => Ready::IN,
        }
    }
}

/// A clock that timers can follow; whether it is the time of day.
///
/// # Errors
/// `EINVAL` for another.
pub(crate) fn clock_is_wall(clock: u32) -> Result<bool> {
    match clock {
        linux::CLOCK_REALTIME => Ok(true),
        linux::CLOCK_MONOTONIC | linux::CLOCK_BOOTTIME => Ok(false),
        _ => Err(Errno::EINVAL),
    }
}
