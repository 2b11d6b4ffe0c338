//! The two times that a processor waits for, and its timer set to the first: that of the kernel's event,
//! and that at which a sleep ends.
//!
//! The boot processor's timer is the PC's interval timer, others have that of their APIC. Both count for
//! a limited time only, and not quite as the time-stamp counter does. So they are set to come no later
//! than the next time, and set again until that time has come.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::interrupts::without_interrupts;

use super::{apic, interrupts, processors, timer};
use crate::time;

/// A time that is never waited for.
const NEVER: u64 = u64::MAX;

/// The times of a processor.
pub(super) struct Deadlines {
    event: AtomicU64,
    sleep: AtomicU64,
}

/// The time. Without a clock every time has come.
pub(super) fn now() -> u64 {
    time::counted().unwrap_or(NEVER)
}

/// Whether this processor has a timer that interrupts.
pub(super) fn has_timer() -> bool {
    has_timer_on(processors::here().number())
}

/// Whether a processor has one. The interval timer takes an interrupt controller as well.
pub(super) fn has_timer_on(number: u32) -> bool {
    match number {
        0 => timer::is_present() && interrupts::is_present(),
        _ => apic::has_timer(),
    }
}

/// Has the event of this processor come when the clock reaches `deadline`; never for 0. It replaces an
/// earlier time.
pub(super) fn set_event(deadline: u64) {
    let deadlines = &processors::here().deadlines;
    deadlines.store(&deadlines.event, deadline);
}

/// Has some interrupt come to this processor no later than soon after `deadline`; 0 for none.
pub(super) fn set_sleep(deadline: u64) {
    let deadlines = &processors::here().deadlines;
    deadlines.store(&deadlines.sleep, deadline);
}

/// The timer of this processor came. Says whether the event is due.
pub(super) fn fired() -> bool {
    let deadlines = &processors::here().deadlines;
    let event = deadlines.event.load(Ordering::Relaxed);
    let due = event != NEVER && event <= now();
    if due {
        deadlines.event.store(NEVER, Ordering::Relaxed);
    }
    deadlines.start();
    due
}

impl Deadlines {
    pub(super) const fn new() -> Deadlines {
        Deadlines {
            event: AtomicU64::new(NEVER),
            sleep: AtomicU64::new(NEVER),
        }
    }

    fn store(&self, which: &AtomicU64, deadline: u64) {
        let deadline = if deadline == 0 { NEVER } else { deadline };
        // Devices take a count in several parts: not with an interrupt between them.
        without_interrupts(|| {
            which.store(deadline, Ordering::Relaxed);
            self.start();
        });
    }

    /// Sets the timer to the next time. Interrupts are off.
    fn start(&self) {
        let event = self.event.load(Ordering::Relaxed);
        let next = event.min(self.sleep.load(Ordering::Relaxed));
        let left = (next != NEVER).then(|| next.saturating_sub(now()));
        if processors::here().number() == 0 {
            timer::start(left);
        } else if apic::has_timer() {
            apic::start_timer(left);
        }
    }
}
