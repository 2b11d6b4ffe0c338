//! The PC's interval timer as the one clock that interrupts: channel 0, one shot at a time (Intel
//! 8254 data sheet, mode 0: the output, which is interrupt line 0, rises when the count is over).
//!
//! It counts some 55 ms at most, and not quite as the time-stamp counter does. So it is set to come
//! no later than the next time that somebody waits for, and set again until that time has come.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::port::Port;

use crate::time::{self, tsc};

/// Counts a second.
const HZ: u64 = 1_193_182;
/// The longest count.
const LONGEST: u64 = 0xffff;
/// Channel 0, low byte and then high byte, mode 0.
const ONE_SHOT: u8 = 0x30;

/// Channel 0, low byte and then high byte, mode 2.
const PERIODIC: u8 = 0x34;
/// Has the data port of channel 0 give its status next, and with it or not its count.
const STATUS: u8 = 0xe2;
const STATUS_AND_COUNT: u8 = 0xc2;
/// Of the status: the mode that was set; that the count is over, that it was not taken over yet.
const MODE: u8 = 0x3f;
const OVER: u8 = 1 << 7;
const NOT_LOADED: u8 = 1 << 6;

/// Whether there is such a timer.
static PRESENT: AtomicBool = AtomicBool::new(false);

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
    time::counted().unwrap_or(NEVER)
}

/// Looks for the timer: it says itself which mode it is in. A bus where nobody answers does not, be it
/// that it reads as all ones or as what was written last. What the firmware left running stops.
pub(crate) fn probe() {
    let (mut command, mut channel) = ports();
    let answers = [PERIODIC, ONE_SHOT].into_iter().all(|mode| {
        // SAFETY: the timer's ports, which nothing else uses for this channel.
        unsafe {
            command.write(mode);
            command.write(STATUS);
            channel.read() & MODE == mode
        }
    });
    PRESENT.store(answers, Ordering::Relaxed);
}

/// Whether there is such a timer.
pub(super) fn is_present() -> bool {
    PRESENT.load(Ordering::Relaxed)
}

/// The command port, and the data port of channel 0.
fn ports() -> (Port<u8>, Port<u8>) {
    (Port::new(0x43), Port::new(0x40))
}

/// How fast the time-stamp counter runs, in ticks a millisecond, by this timer: both are read while 10
/// ms are counted. `None` if there is no timer, or it does not count.
pub(super) fn measure() -> Option<u64> {
    const LEAST: u64 = HZ / 100;
    /// Far longer than 10 ms, whatever a port access takes.
    const PATIENCE: u32 = 10_000_000;
    if !is_present() {
        return None;
    }
    let (mut command, mut channel) = ports();
    // SAFETY: as in `probe`. Each status is followed by the two bytes of its count.
    let mut look = || unsafe {
        command.write(STATUS_AND_COUNT);
        let (status, ticks) = (channel.read(), tsc());
        let left = u64::from(channel.read()) | u64::from(channel.read()) << 8;
        (status & (OVER | NOT_LOADED) == 0).then_some((left, ticks))
    };
    let measured = without_interrupts(|| {
        // SAFETY: the ports are the timer's, which nobody else sets; the count's two bytes follow the
        // command that asks for them.
        unsafe {
            let (mut command, mut channel) = ports();
            command.write(ONE_SHOT);
            channel.write(LONGEST as u8);
            channel.write((LONGEST >> 8) as u8);
        }
        let (first, before) = (0..PATIENCE).find_map(|_| look())?;
        (0..PATIENCE).find_map(|_| {
            // A count that is over says nothing: too much time went by between two looks.
            let (left, ticks) = look()?;
            let counted = first.checked_sub(left)?;
            (counted >= LEAST).then(|| (ticks - before) * HZ / counted / 1000)
        })
    });
    // SAFETY: the channel is this timer's alone: it stands still until it is set.
    unsafe { ports().0.write(ONE_SHOT) };
    measured.filter(|khz| *khz != 0)
}

/// Stops what was left running.
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
    if !is_present() {
        return;
    }
    let (mut command, mut channel) = ports();
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
