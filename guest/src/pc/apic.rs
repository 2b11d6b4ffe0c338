//! The local APIC of each processor: interrupts from one processor to another, and a timer (SDM volume 3,
//! chapter 11).
//!
//! Its registers are model-specific ones where it has the x2APIC mode, and memory elsewhere, which is
//! mapped at one place for all: each processor finds its own there. It is used where there are several
//! processors. The lines of the 8259 controllers still come to the boot processor, through its LINT0.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hypercall::Mfn;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags, Msr};

use super::interrupts;
use crate::mm::layout::Fixed;
use crate::mm::{self, Flags, MmError};
use crate::time;

/// Registers, by their offset in memory.
const ID: u16 = 0x20;
const EOI: u16 = 0xb0;
const SPURIOUS: u16 = 0xf0;
const ICR: u16 = 0x300;
const ICR_HIGH: u16 = 0x310;
const LVT_TIMER: u16 = 0x320;
const LVT_LINT0: u16 = 0x350;
const LVT_LINT1: u16 = 0x360;
const TIMER_INITIAL: u16 = 0x380;
const TIMER_CURRENT: u16 = 0x390;
const TIMER_DIVIDE: u16 = 0x3e0;

/// The model-specific register of the offset 0, in x2APIC mode; the next are 16 bytes apart.
const X2APIC: u32 = 0x800;

/// Of the spurious vector's register: the APIC is on.
const ON: u32 = 1 << 8;
/// Of a local vector: nothing comes of it.
const MASKED: u32 = 1 << 16;
/// The 8259 controllers are asked for the vector.
const EXTERNAL: u32 = 7 << 8;
const NMI: u32 = 4 << 8;
/// Of the command register: the last command was not taken yet.
const BUSY: u32 = 1 << 12;
/// The level that all commands but one have.
const ASSERT: u32 = 1 << 14;
/// The timer counts every sixteenth tick.
const BY_16: u32 = 3;
/// How long the timer is measured, in nanoseconds.
const MEASURED: u64 = 2_000_000;

/// Whether it is used.
static USED: AtomicBool = AtomicBool::new(false);
/// Whether it is in x2APIC mode.
static BY_MSR: AtomicBool = AtomicBool::new(false);
/// Ticks of the timer in a second; 0 while unknown.
static TIMER_HZ: AtomicU64 = AtomicU64::new(0);

/// What one processor sends another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// An interrupt.
    Vector(u8),
    /// One that cannot be masked.
    Nmi,
    /// Begin anew, and wait for the next.
    Init,
    /// Begin in real mode, at the start of a page below 1 MiB.
    Start(u8),
}

impl Command {
    const fn bits(self) -> u32 {
        match self {
            Command::Vector(vector) => ASSERT | vector as u32,
            Command::Nmi => ASSERT | NMI,
            Command::Init => ASSERT | 5 << 8,
            Command::Start(page) => ASSERT | 6 << 8 | page as u32,
        }
    }
}

/// Whether processors have one (SDM volume 2, CPUID).
pub(super) fn is_there() -> bool {
    core::arch::x86_64::__cpuid(1).edx >> 9 & 1 == 1
}

/// Whether it is used.
pub(super) fn is_used() -> bool {
    USED.load(Ordering::Relaxed)
}

/// Begins to use it, on the boot processor, and says by which number that is known.
pub(super) fn begin() -> Result<u32, MmError> {
    let has_x2apic = core::arch::x86_64::__cpuid(1).ecx >> 21 & 1 == 1;
    BY_MSR.store(has_x2apic, Ordering::Relaxed);
    if !has_x2apic {
        let frame = ApicBase::read().0.start_address().as_u64() / 4096;
        let place = Fixed::Apic.address();
        let flags = Flags::DATA | Flags::UNCACHED;
        // SAFETY: the registers of the processor's APIC, as it says itself, at a place for just that.
        mm::with(|tables| unsafe { tables.map_machine(place, Mfn::truncate(frame), flags) })?;
    }
    USED.store(true, Ordering::Relaxed);
    begin_here();
    write(LVT_LINT0, EXTERNAL);
    write(LVT_LINT1, NMI);
    TIMER_HZ.store(measure().unwrap_or(0), Ordering::Relaxed);
    Ok(id())
}

/// Turns that of this processor on. Its timer stands still, and its pins are masked.
pub(super) fn begin_here() {
    let (frame, mut flags) = ApicBase::read();
    flags |= ApicBaseFlags::LAPIC_ENABLE;
    if BY_MSR.load(Ordering::Relaxed) {
        flags |= ApicBaseFlags::X2APIC_ENABLE;
    }
    // SAFETY: on, in the mode that is used, and where it was.
    unsafe { ApicBase::write(frame, flags) };
    write(SPURIOUS, ON | u32::from(interrupts::APIC_SPURIOUS));
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, MASKED);
    write(TIMER_DIVIDE, BY_16);
    write(LVT_TIMER, u32::from(interrupts::APIC_TIMER));
    write(TIMER_INITIAL, 0);
}

/// The number of this processor.
pub(super) fn id() -> u32 {
    let id = read(ID);
    if BY_MSR.load(Ordering::Relaxed) {
        id
    } else {
        id >> 24
    }
}

/// Says that an interrupt was taken that came by it.
pub(super) fn acknowledge() {
    write(EOI, 0);
}

/// Sends something to a processor.
pub(super) fn send(to: u32, command: Command) {
    if BY_MSR.load(Ordering::Relaxed) {
        let value = u64::from(to) << 32 | u64::from(command.bits());
        // SAFETY: the fences have what was written before be seen before the command is, which writes of
        // this register do not by themselves (SDM volume 3, 11.12.3). Whoever sends a processor on its way
        // has made what it finds there.
        unsafe {
            core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags));
            Msr::new(register(ICR)).write(value);
        }
        return;
    }
    without_interrupts(|| {
        write(ICR_HIGH, to << 24);
        write(ICR, command.bits());
        while read(ICR) & BUSY != 0 {
            core::hint::spin_loop();
        }
    });
}

/// Whether there is a timer that runs at a known rate.
pub(super) fn has_timer() -> bool {
    is_used() && TIMER_HZ.load(Ordering::Relaxed) != 0
}

/// Has the timer of this processor interrupt in so many nanoseconds, or as late as it can; `None` stops
/// it.
pub(super) fn start_timer(nanoseconds: Option<u64>) {
    let hz = TIMER_HZ.load(Ordering::Relaxed);
    let count = nanoseconds.map_or(0, |nanoseconds| {
        let count = u128::from(nanoseconds) * u128::from(hz) / 1_000_000_000 + 1;
        count.min(u32::MAX.into()) as u32
    });
    write(TIMER_INITIAL, count);
}

/// How fast the timer ticks, by the clock, if there is one: tried until nothing came between a look at the
/// one and at the other.
fn measure() -> Option<u64> {
    const TRIES: u32 = 32;
    let once = || -> Option<(u64, u64)> {
        let before = time::counted()?;
        write(TIMER_INITIAL, u32::MAX);
        let began = time::counted()?;
        while time::counted()?.saturating_sub(began) < MEASURED {
            core::hint::spin_loop();
        }
        let ended = time::counted()?;
        let ticks = u32::MAX - read(TIMER_CURRENT);
        let after = time::counted()?;
        let passed = ended - began;
        let hz = u64::from(ticks) * 1_000_000_000 / passed;
        Some((hz, after - before - passed))
    };
    without_interrupts(|| {
        write(LVT_TIMER, MASKED);
        let looks = core::iter::repeat_with(once).take(TRIES as usize);
        let sure = looks.flatten().find(|(_, lost)| *lost < MEASURED / 16);
        write(TIMER_INITIAL, 0);
        write(LVT_TIMER, u32::from(interrupts::APIC_TIMER));
        sure.map(|(hz, _)| hz)
    })
}

fn register(offset: u16) -> u32 {
    X2APIC + u32::from(offset / 16)
}

fn place(offset: u16) -> *mut u32 {
    let page = Fixed::Apic.address() as usize;
    core::ptr::with_exposed_provenance_mut(page + usize::from(offset))
}

fn read(offset: u16) -> u32 {
    if BY_MSR.load(Ordering::Relaxed) {
        // SAFETY: a register that reads as it is.
        return unsafe { Msr::new(register(offset)).read() } as u32;
    }
    // SAFETY: the registers are mapped since `begin`.
    unsafe { place(offset).read_volatile() }
}

fn write(offset: u16, value: u32) {
    if BY_MSR.load(Ordering::Relaxed) {
        // SAFETY: the values above are those that the registers have.
        unsafe { Msr::new(register(offset)).write(value.into()) };
        return;
    }
    // SAFETY: the registers are mapped since `begin`.
    unsafe { place(offset).write_volatile(value) };
}
