//! Times at which somebody is to be woken, those of each vCPU in their order, and its timer set to the
//! first.
//!
//! What is kept here is a waker. It may be woken before its time, as when its vCPU goes down: who waits
//! for a time looks at the clock. It also limits how long a thread runs while others wait ([`SLICE`]).

extern crate alloc;

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::Waker;

use super::vcpu::{self, Vcpu};
use crate::lock::Lock;
use crate::rank;
use crate::xen::HV;
use crate::{event, time};

/// How long a thread runs in user mode while others wait for its vCPU, in nanoseconds.
const SLICE: u64 = 10_000_000;
/// How long it is until an upcall that is to come soon: longer than a port is held back, in nanoseconds.
const SOON: u64 = 2_000_000;
/// A time that never comes.
const NEVER: u64 = u64::MAX;
/// Wakers that an upcall wakes; for more the timer comes again at once.
const MOST: u32 = 32;

/// A waker with its time.
struct Entry {
    at: u64,
    number: u64,
    waker: Waker,
}

/// The times of a vCPU.
struct Times {
    /// The first comes last.
    entries: Vec<Entry>,
    /// The number of the next.
    next: u64,
    /// What the vCPU's timer is set to.
    set: u64,
}

/// The timer of a vCPU.
pub(super) struct Timers {
    times: Lock<Times, rank::Timers>,
    /// When the thread that runs has had its time, if others wait.
    limit: AtomicU64,
    /// When the vCPU is to take an upcall, whatever else it does.
    look: AtomicU64,
    /// Whether somebody else uses the timer, or there is none.
    lent: AtomicBool,
}

/// A time that somebody waits for; dropped, he does so no more.
#[must_use = "dropped, nobody is woken"]
pub(crate) struct Timer {
    vcpu: &'static Vcpu,
    at: u64,
    number: u64,
}

/// Has `waker` woken when [`time::monotonic`] reaches `at`, in nanoseconds, or before.
///
/// # Errors
/// The heap has no room for it.
pub(crate) fn wake_at(at: u64, waker: Waker) -> Result<Timer, TryReserveError> {
    let vcpu = vcpu::here();
    let mut times = vcpu.timers.times.lock();
    times.entries.try_reserve(1)?;
    let number = times.next;
    times.next += 1;
    let place = times.place(at, number);
    times.entries.insert(place, Entry { at, number, waker });
    vcpu.timers.set(&mut times);
    Ok(Timer { vcpu, at, number })
}

impl Drop for Timer {
    fn drop(&mut self) {
        // The vCPU's timer stays as it is: should it come for nobody, it is set again.
        let taken = {
            let mut times = self.vcpu.timers.times.lock();
            let place = times.place(self.at, self.number);
            let is_it = |entry: &Entry| entry.number == self.number;
            let found = place
                .checked_sub(1)
                .filter(|place| is_it(&times.entries[*place]));
            found.map(|place| times.entries.remove(place))
        };
        // What a waker does when it is dropped is not done under the lock.
        drop(taken);
    }
}

impl Times {
    /// Behind which entries a time belongs, of which those with the same number are the last.
    fn place(&self, at: u64, number: u64) -> usize {
        self.entries
            .partition_point(|entry| (entry.at, entry.number) >= (at, number))
    }

    /// The first time.
    fn first(&self) -> u64 {
        self.entries.last().map_or(NEVER, |entry| entry.at)
    }
}

impl Timers {
    pub(super) const fn new() -> Timers {
        Timers {
            times: Lock::new(Times {
                entries: Vec::new(),
                next: 0,
                set: NEVER,
            }),
            limit: AtomicU64::new(NEVER),
            look: AtomicU64::new(NEVER),
            lent: AtomicBool::new(true),
        }
    }

    /// Sets the timer of this vCPU, which calls, if it would come too late.
    fn set(&self, times: &mut Times) {
        let wanted = times.first().min(self.limit.load(Ordering::Relaxed));
        let wanted = wanted.min(self.look.load(Ordering::Relaxed));
        if wanted < times.set && !self.lent.load(Ordering::Relaxed) {
            times.set = wanted;
            // At 0 it would be stopped.
            let deadline = time::in_xen(wanted).max(1);
            if let Err(e) = hypercall::time::set_timer(&HV, deadline) {
                times.set = NEVER;
                log::warn!(target: "task", "the timer of a vCPU: {e}");
            }
        }
    }

    /// Whether it is limited how long the thread that runs on the vCPU may go on.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.load(Ordering::Relaxed) != NEVER
    }

    /// Limits how long the thread that runs on the vCPU, which calls, may go on, if that is not so yet.
    pub(super) fn limit(&self) {
        if self.is_limited() {
            return;
        }
        if let Some(now) = time::monotonic() {
            self.limit.store(now + SLICE, Ordering::Relaxed);
            self.set(&mut self.times.lock());
        }
    }

    /// Has the vCPU, which calls, take an upcall a while later.
    pub(super) fn look_soon(&self) {
        if let Some(now) = time::monotonic() {
            self.look.store(now + SOON, Ordering::Relaxed);
            self.set(&mut self.times.lock());
        }
    }

    /// Another thread runs, or is about to.
    pub(super) fn forget_limit(&self) {
        self.limit.store(NEVER, Ordering::Relaxed);
    }

    /// Takes one whose time has come.
    fn take_due(&self, now: u64) -> Option<Waker> {
        let mut times = self.times.lock();
        let due = times.first() <= now;
        if due { times.entries.pop() } else { None }.map(|entry| entry.waker)
    }

    /// Wakes whose time has come, up to [`MOST`] of them, and sets the timer again.
    pub(super) fn serve(&self, vcpu: &Vcpu) {
        // Without a clock nothing is waited for.
        let now = time::monotonic().unwrap_or(NEVER);
        if self.limit.load(Ordering::Relaxed) <= now {
            self.forget_limit();
            vcpu.overdue.store(true, Ordering::Relaxed);
        }
        if self.look.load(Ordering::Relaxed) <= now {
            // In one upcall with what had a port held back it is too early.
            let again = if event::holds_back() {
                now.saturating_add(SOON)
            } else {
                NEVER
            };
            self.look.store(again, Ordering::Relaxed);
        }
        for _ in 0..MOST {
            let Some(waker) = self.take_due(now) else {
                break;
            };
            waker.wake();
        }
        self.set_anew();
    }

    /// Sets the timer whatever it was set to: it has come, or the vCPU was away.
    pub(super) fn set_anew(&self) {
        let mut times = self.times.lock();
        times.set = NEVER;
        self.set(&mut times);
    }

    /// Wakes all, before their time: the vCPU goes down.
    pub(super) fn wake_all(&self) {
        while let Some(waker) = self.take_due(NEVER) {
            waker.wake();
        }
    }

    /// Whether the vCPU's timer is not to be used: somebody else does, or there is none.
    pub(super) fn is_lent(&self) -> bool {
        self.lent.load(Ordering::Relaxed)
    }

    /// Notes whether it is.
    pub(super) fn set_lent(&self, lent: bool) {
        self.lent.store(lent, Ordering::Relaxed);
    }

    /// Whether somebody waits for a time.
    pub(super) fn is_waited_for(&self) -> bool {
        self.times.lock().first() != NEVER
    }
}
