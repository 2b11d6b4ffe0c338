//! What one processor has another do at once, whatever that does: forget its translations, or stop for
//! good.
//!
//! It comes by an interrupt that cannot be masked (NMI), so that whoever waits with interrupts off, be it
//! for a lock that the other holds, does what it is asked for all the same: no two wait for each other.
//! One processor asks at a time, and asks again only when it was answered. The entry is in `trap::native`;
//! it uses nothing but the stack that it comes to and the words here.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hypercall::Errno;
use x86_64::instructions::interrupts::without_interrupts;

use super::apic::{self, Command};
use super::processors::{self, Processor};
use crate::lock::Lock;
use crate::rank;

/// To forget all translations; taken back when that was done. It also ends a sleep.
pub(crate) const FLUSH: u32 = 1 << 0;
/// To stop for good.
pub(crate) const STOP: u32 = 1 << 1;
/// That it did.
pub(crate) const STOPPED: u32 = 1 << 2;

/// How often it is looked whether a processor has stopped: for seconds.
const LOOKS: u32 = 100_000_000;

/// What a processor is asked for.
#[repr(C)]
pub(crate) struct Summons {
    /// By bits, at 0.
    asked: AtomicU32,
    /// The GS base by which the kernel finds the processor's area, at 8.
    area: AtomicU64,
    /// The GS base of what was interrupted, while an interrupt is reported that nobody here has sent.
    was: AtomicU64,
}

/// Where the GS base lies.
pub(crate) const AREA: usize = core::mem::offset_of!(Summons, area);
/// Where that of what was interrupted lies.
pub(crate) const WAS: usize = core::mem::offset_of!(Summons, was);

const _: () = assert!(core::mem::offset_of!(Summons, asked) == 0);

/// Held by the one that asks.
static ASKS: Lock<(), rank::Summons> = Lock::new(());
/// Whether processors are stopped, so that nobody may answer any more.
static ENDS: AtomicBool = AtomicBool::new(false);

impl Summons {
    pub(super) const fn new() -> Summons {
        Summons {
            asked: AtomicU32::new(0),
            area: AtomicU64::new(0),
            was: AtomicU64::new(0),
        }
    }

    /// Says what the processor's GS base is.
    pub(super) fn set_area(&self, base: u64) {
        self.area.store(base, Ordering::Relaxed);
    }

    fn is_asked(&self, what: u32) -> bool {
        self.asked.load(Ordering::SeqCst) & what != 0
    }
}

fn summon(processor: &Processor, what: u32) {
    processor.summons.asked.fetch_or(what, Ordering::SeqCst);
    apic::send(processor.apic(), Command::Nmi);
}

/// Has all other processors forget all translations.
pub(super) fn flush_others() {
    without_interrupts(|| {
        let _asks = ASKS.lock();
        if ENDS.load(Ordering::SeqCst) {
            return;
        }
        let others = || processors::all().filter(|other| !other.is_here());
        others()
            .filter(|other| other.may_be_stale())
            .for_each(|other| summon(other, FLUSH));
        others().for_each(wait_for_flush);
    });
}

/// Waits until a processor has forgotten its translations, if it was asked to.
fn wait_for_flush(other: &Processor) {
    while other.summons.is_asked(FLUSH) && !ENDS.load(Ordering::SeqCst) {
        core::hint::spin_loop();
    }
}

/// Has another processor look up from its sleep, and returns when it has.
pub(super) fn rouse(other: &Processor) {
    without_interrupts(|| {
        let _asks = ASKS.lock();
        summon(other, FLUSH);
        wait_for_flush(other);
    });
}

/// Stops another processor for good, and returns when it has. Nobody asks for anything else from here on.
pub(super) fn stop(other: &Processor) -> Result<(), Errno> {
    ENDS.store(true, Ordering::SeqCst);
    summon(other, STOP);
    for _ in 0..LOOKS {
        if other.summons.is_asked(STOPPED) {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    Err(Errno::ETIMEDOUT)
}

/// Whether a processor has stopped.
pub(super) fn has_stopped(processor: &Processor) -> bool {
    processor.summons.is_asked(STOPPED)
}
