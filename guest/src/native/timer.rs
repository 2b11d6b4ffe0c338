//! The PC's interval timer as the one clock that interrupts: channel 0, one shot at a time (Intel
//! 8254 data sheet, mode 0: the output, which is interrupt line 0, rises when the count is over).
//!
//! It counts some 55 ms at most, and not quite as the time-stamp counter does. So it is set to come
//! no later than the next time that somebody waits for, and set again until that time has come.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::port::Port;

use super::clock;

/// Counts a second.
pub(super) const HZ: u64 = 1_193_182;
/// The longest count.
const LONGEST: u64 = 0xffff;
/// Channel 0, low byte and then high byte, mode 0.
const ONE_SHOT: u8 = 0x30;

/// A time that is never waited for.
const NEVER: u64 = u64::MAX;
/// When the timer's event is due.
static EVENT: AtomicU64 = AtomicU64::new(NEVER);
/// When a sleep is over.
static SLEEP: AtomicU64 = AtomicU64::new(NEVER);

/// Times are given as Xen takes them: 0 is never.
fn store(which: &AtomicU64, deadline: u64) {
    let deadline = if deadline == 0 { NEVER } else { deadline };
    // The device takes a count in two parts: not with an interrupt between them.
    without_interrupts(|| {
        which.store(deadline, Ordering::Relaxed);
        start();
    });
}

/// Has the event come when the clock reaches `deadline`; replaces an earlier time.
pub(super) fn set_event(deadline: u64) {
    store(&EVENT, deadline);
}

/// Has some interrupt come no later than soon after `deadline`.
pub(super) fn set_sleep(deadline: u64) {
    store(&SLEEP, deadline);
}

/// The time. Without a clock every time has come.
pub(super) fn now() -> u64 {
    clock::monotonic().unwrap_or(NEVER)
}

/// Stops what the firmware left running.
pub(super) fn init() {
    store(&EVENT, 0);
}

/// The interrupt came. Says whether the event is due.
pub(super) fn fired() -> bool {
    let event = EVENT.load(Ordering::Relaxed);
    let due = event != NEVER && event <= now();
    if due {
        EVENT.store(NEVER, Ordering::Relaxed);
    }
    start();
    due
}

/// Counts towards the next time that is waited for. Interrupts are off.
fn start() {
    let next = EVENT
        .load(Ordering::Relaxed)
        .min(SLEEP.load(Ordering::Relaxed));
    let (mut command, mut channel) = (Port::<u8>::new(0x43), Port::<u8>::new(0x40));
    // SAFETY: the timer's ports, which nothing else uses for this channel.
    unsafe {
        // Until a count follows, the output stays low.
        command.write(ONE_SHOT);
        if next == NEVER {
            return;
        }
        let nanoseconds = next.saturating_sub(now()).min(LONGEST * 1_000_000_000 / HZ);
        let count = (nanoseconds * HZ / 1_000_000_000 + 1).min(LONGEST) as u16;
        channel.write(count as u8);
        channel.write((count >> 8) as u8);
    }
}
