//! Interrupts where the processor delivers them to the kernel itself.
//!
//! Their gates are interrupt gates: a handler runs with RFLAGS.IF clear, on the stack of what it
//! interrupted, and is not interrupted itself. The flag is what masks upcalls here; it is clear
//! until events are opened.
//!
//! Under Xen there is one, by which events come. A PC has two 8259 controllers besides, whose lines
//! become events ([`ports`]), and where there are several processors their APICs: one vector by which
//! another says that there are events, and that of the timer.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pic8259::ChainedPics;
use x86_64::instructions::interrupts::{are_enabled, disable, enable, without_interrupts};
use x86_64::instructions::port::Port;

use super::{apic, deadlines, ports, processors};
use crate::event;

/// The first vector of an interrupt: those below are exceptions' (SDM volume 3, 6.2). The lines of
/// the controllers begin here, eight for each.
pub(crate) const FIRST: u8 = 0x20;
/// Another processor has raised events for this one.
pub(super) const APIC_EVENTS: u8 = event::VECTOR + 1;
/// The timer of the processor's APIC came.
pub(super) const APIC_TIMER: u8 = event::VECTOR + 2;
/// Nothing was behind the interrupt when the APIC was asked for its vector; nobody is to acknowledge it.
pub(super) const APIC_SPURIOUS: u8 = event::VECTOR + 3;
/// The last one that has a gate.
pub(crate) const LAST: u8 = APIC_SPURIOUS;

const _: () = assert!(event::VECTOR >= FIRST + 2 * LINES);

/// Lines of a controller.
const LINES: u8 = 8;
/// The interval timer's line.
const TIMER: u8 = 0;
/// The first serial port's line.
const SERIAL: u8 = 4;

/// What a command port gives when it is read next (8259A data sheet, OCW3): the lines raised, or
/// the lines whose interrupt was taken and not acknowledged yet.
const READ_REQUESTED: u8 = 0x0a;
const READ_IN_SERVICE: u8 = 0x0b;
/// The command port of each controller.
const COMMAND: [u16; 2] = [0x20, 0xa0];

/// The mask register of each controller.
const MASK: [u16; 2] = [0x21, 0xa1];

/// Whether there are controllers.
static PRESENT: AtomicBool = AtomicBool::new(false);

/// Interrupts that no line was behind.
static SPURIOUS: AtomicU32 = AtomicU32::new(0);

/// Turns interrupts off and says whether they were off before.
pub(crate) fn mask() -> bool {
    let was = !are_enabled();
    disable();
    was
}

/// Turns interrupts on. What waits is delivered before this returns: the flag takes effect one
/// instruction later, which is part of it, and events that the kernel raised itself meanwhile are
/// raised as an interrupt now.
pub(crate) fn unmask() {
    enable();
    ports::deliver();
}

/// Turns interrupts on and sleeps until one came. What the kernel raised itself is delivered instead: no
/// interrupt would come of it.
pub(crate) fn block() {
    disable();
    if event::is_announced() {
        unmask();
    } else if apic::is_used() {
        processors::here().doze(|| sleep());
    } else {
        sleep();
    }
}

/// Turns interrupts on and sleeps until one came. A summons that comes right before the processor sleeps
/// has it sleep no more, as what came between may have been what ends the sleep.
#[unsafe(naked)]
pub(super) extern "C" fn sleep() {
    naked_asm!("sti", "native_sleeps:", "hlt", "ret")
}

/// Sleeps, with interrupts off, until a summons came.
pub(super) fn halt() {
    x86_64::instructions::hlt();
}

/// Takes an interrupt; false if it is of no known source.
pub(crate) fn take(vector: u64) -> bool {
    if apic::is_used() {
        processors::here().wake();
    }
    let line = vector.checked_sub(FIRST.into());
    let known = match line {
        _ if vector == u64::from(event::VECTOR) => true,
        _ if apic::is_used() && vector > u64::from(event::VECTOR) => take_from_apic(vector),
        Some(line @ 0..16) if is_present() => take_line(line as u8),
        _ => false,
    };
    if known {
        ports::bring();
    }
    known
}

/// Takes an interrupt of this processor's APIC; false if it is of no known source.
fn take_from_apic(vector: u64) -> bool {
    const EVENTS: u64 = APIC_EVENTS as u64;
    const TIMER: u64 = APIC_TIMER as u64;
    const SPURIOUS: u64 = APIC_SPURIOUS as u64;
    match vector {
        EVENTS => apic::acknowledge(),
        TIMER => {
            apic::acknowledge();
            if deadlines::fired() {
                ports::timer();
            }
        }
        SPURIOUS => note_spurious(),
        _ => return false,
    }
    true
}

/// Takes the interrupt of a controller's line; false if nobody asked for it.
fn take_line(line: u8) -> bool {
    match line {
        TIMER => {
            if deadlines::fired() {
                ports::timer();
            }
        }
        SERIAL => ports::input(),
        7 | 15 => return take_last(line),
        _ => return false,
    }
    acknowledge(line);
    true
}

/// A request that is gone when the processor asks for its vector gets that of the controller's last
/// line, whose request was never there: nothing is acknowledged then, but by the first controller
/// the line of the second (8259A data sheet, "edge and level triggered modes").
fn take_last(line: u8) -> bool {
    let controller = usize::from(line / LINES);
    if read(controller, READ_IN_SERVICE) >> (LINES - 1) & 1 == 1 {
        return false;
    }
    if controller == 1 {
        acknowledge(2);
    }
    note_spurious();
    true
}

fn note_spurious() {
    SPURIOUS.fetch_add(1, Ordering::Relaxed);
}

/// Spurious interrupts so far.
pub(crate) fn spurious() -> u32 {
    SPURIOUS.load(Ordering::Relaxed)
}

/// Whether a line waits for interrupts of this processor to be on.
pub(super) fn is_requested() -> bool {
    let has_lines = processors::here().number() == 0 && is_present();
    has_lines && read(0, READ_REQUESTED) & !unused() != 0
}

/// The first controller's lines that nobody here takes: all but two.
const fn unused() -> u8 {
    !(1 << TIMER | 1 << SERIAL)
}

/// The controllers. A handle is made for each use: it has no state.
fn controllers() -> ChainedPics {
    // SAFETY: the vectors are nobody else's, and the controllers are where PCs have them.
    unsafe { ChainedPics::new(FIRST, FIRST + LINES) }
}

fn acknowledge(line: u8) {
    // SAFETY: the line's interrupt was taken, by the stub that led here.
    unsafe { controllers().notify_end_of_interrupt(FIRST + line) };
}

fn read(controller: usize, register: u8) -> u8 {
    let mut command = Port::<u8>::new(COMMAND[controller]);
    without_interrupts(|| {
        // SAFETY: says what the port is to give, and reads it.
        unsafe {
            command.write(register);
            command.read()
        }
    })
}

/// Looks for the controllers: they keep the masks that they are given. All lines stay masked.
pub(crate) fn probe() {
    let keeps = |port: u16, value: u8| {
        let mut port = Port::<u8>::new(port);
        // SAFETY: a controller's mask; interrupts are off, and no line is used yet.
        unsafe {
            port.write(value);
            port.read() == value
        }
    };
    let answers = |port| [0xfb, 0xff].into_iter().all(|value| keeps(port, value));
    PRESENT.store(MASK.into_iter().all(answers), Ordering::Relaxed);
}

/// Whether there are controllers.
pub(crate) fn is_present() -> bool {
    PRESENT.load(Ordering::Relaxed)
}

/// Moves the lines away from the exceptions' vectors and opens those that are used.
pub(super) fn init() {
    if !is_present() {
        return;
    }
    let mut controllers = controllers();
    // SAFETY: interrupts are off, and every line has a gate by now.
    unsafe {
        controllers.initialize();
        controllers.write_masks(unused(), !0);
    }
}
