//! The PC's interval timer: channel 0, one shot at a time (Intel 8254 data sheet, mode 0: the output, which
//! is interrupt line 0, rises when the count is over). It counts some 55 ms at most.

use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::port::Port;

use crate::time::tsc;

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

/// Why nothing was measured.
enum Missed {
    /// The count was over before it was looked at: on a host that does something else meanwhile.
    Over,
    /// The timer does not count.
    Stands,
}

/// What was measured: ticks a millisecond, and how many of as many parts in [`PARTS`] are in doubt.
struct Measured {
    khz: u64,
    doubt: u64,
}

/// Parts in which doubt is said.
const PARTS: u64 = 1024;
/// So many of them are nothing to worry about.
const SURE: u64 = PARTS / 64;

/// How fast the time-stamp counter runs, in ticks a millisecond, by this timer: both are read while 10
/// ms are counted. Where a host does something else between a look at the one and at the other, the two
/// belong together no more; so each look says how long it took, and it is measured again until that is
/// next to nothing, or so often, of which the surest counts. `None` if there is no timer, or it does not count.
pub(super) fn measure() -> Option<u64> {
    const TRIES: u32 = 32;
    if !is_present() {
        return None;
    }
    let mut surest: Option<Measured> = None;
    for _ in 0..TRIES {
        match without_interrupts(measure_once) {
            Ok(new) if surest.as_ref().is_none_or(|old| new.doubt < old.doubt) => {
                surest = Some(new)
            }
            Ok(_) | Err(Missed::Over) => {}
            Err(Missed::Stands) => break,
        }
        if surest
            .as_ref()
            .is_some_and(|measured| measured.doubt <= SURE)
        {
            break;
        }
    }
    // SAFETY: the channel is this timer's alone: it stands still until it is set.
    unsafe { ports().0.write(ONE_SHOT) };
    surest.map(|measured| measured.khz).filter(|khz| *khz != 0)
}

fn measure_once() -> Result<Measured, Missed> {
    const LEAST: u64 = HZ / 100;
    /// Far longer than 10 ms, whatever a port access takes.
    const PATIENCE: u32 = 10_000_000;
    let (mut command, mut channel) = ports();
    // SAFETY: the ports are the timer's, which nobody else sets; the count's two bytes follow the
    // command that asks for them.
    unsafe {
        command.write(ONE_SHOT);
        channel.write(LONGEST as u8);
        channel.write((LONGEST >> 8) as u8);
    }
    let mut first = None;
    for _ in 0..PATIENCE {
        // The count is taken by the command, between the two looks at the counter.
        let before = tsc();
        // SAFETY: as in `probe`.
        unsafe { command.write(STATUS_AND_COUNT) };
        let took = tsc() - before;
        // SAFETY: as in `probe`. Each status is followed by the two bytes of its count.
        let (status, left) = unsafe {
            let status = channel.read();
            let left = u64::from(channel.read()) | u64::from(channel.read()) << 8;
            (status, left)
        };
        if status & OVER != 0 {
            return Err(Missed::Over);
        }
        if status & NOT_LOADED != 0 {
            continue;
        }
        let (begin, began, took_first) = *first.get_or_insert((left, before, took));
        let counted = u64::saturating_sub(begin, left);
        if counted >= LEAST {
            let ticks = (before - began).max(1);
            return Ok(Measured {
                khz: ticks * HZ / counted / 1000,
                doubt: (took_first + took).saturating_mul(PARTS) / ticks,
            });
        }
    }
    Err(Missed::Stands)
}

/// Counts so many nanoseconds, or as many as it can; `None` stops it. Interrupts are off.
pub(super) fn start(nanoseconds: Option<u64>) {
    if !is_present() {
        return;
    }
    let (mut command, mut channel) = ports();
    // SAFETY: the timer's ports, which nothing else uses for this channel.
    unsafe {
        // Until a count follows, the output stays low.
        command.write(ONE_SHOT);
        let Some(nanoseconds) = nanoseconds else {
            return;
        };
        let nanoseconds = nanoseconds.min(LONGEST * 1_000_000_000 / HZ);
        let count = (nanoseconds * HZ / 1_000_000_000 + 1).min(LONGEST) as u16;
        channel.write(count as u8);
        channel.write((count >> 8) as u8);
    }
}
