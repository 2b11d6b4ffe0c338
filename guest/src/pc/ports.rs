//! Events without Xen: the event channels of a PC's devices, and of the kernel itself.
//!
//! What is above waits for events as under Xen ([`back_end`](super::back_end)), and finds them in a
//! page laid out as `shared_info`, so that nothing above knows the difference. The timers
//! and the console's input are raised by interrupts; a port of the kernel's own by a hypercall. A port is
//! one processor's: it is told in its `vcpu_info`, and an interrupt raised there brings events if it may
//! come.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use hypercall::Errno;
use hypercall::abi::xen;
use hypercall::event::Port;
use marks::init;
use x86_64::instructions::interrupts::{are_enabled, disable, enable};

use super::apic::{self, Command};
use super::deadlines;
use super::processors::{self, Processor};
use super::{devices, interrupts, timer};
use crate::init::initcall;
use crate::mm::machine::Machine;
use crate::mm::{self, MmError};
use crate::options::Options;
use crate::refused::Refused;
use crate::{event, shared, time};

/// The first number that is no port's: enough for two ports of each processor, and as many others.
const END: u32 = 1024;
/// Ports that can be polled at once, as under Xen.
const MOST_POLLED: usize = 128;

/// What a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Kind {
    /// Raised by the kernel itself.
    Own = 1 << 14,
    /// A processor's timer.
    Timer = 2 << 14,
    /// The console's input.
    Input = 3 << 14,
}

/// Of what is kept of a port: the number of the processor.
const NUMBER: u16 = (1 << 14) - 1;

/// What each port is and whose, 0 if it is not bound.
static BOUND: [AtomicU16; END as usize] = [const { AtomicU16::new(0) }; END as usize];
/// The port of the console's input; 0 for none.
static INPUT: AtomicU32 = AtomicU32::new(0);
/// Processors that wait for ports to be raised.
static POLLERS: AtomicU32 = AtomicU32::new(0);

/// Makes the page, and readies what raises events.
#[init]
fn install(_: &Options<'_>) -> Result<(), Refused> {
    let page = mm::with(|tables| -> Result<_, MmError> {
        // The kernel's for good.
        let pfn = tables.alloc_frame()?.pfn();
        let page = NonNull::new(tables.machine().memory(pfn));
        page.ok_or(MmError::NoMemory { pfn: pfn.as_u64() })
    })?;
    // SAFETY: the frame was handed out just now, and the direct map has it for good; zeros are a
    // value of what it becomes.
    unsafe {
        page.write_bytes(0, 1);
        shared::publish(page.cast());
    }
    deadlines::set_event(0);
    interrupts::init();
    if time::counted().is_none() {
        log::warn!(
            target: "pc",
            "nobody knows how fast the time-stamp counter runs: there is no clock"
        );
    }
    if !timer::is_present() {
        log::warn!(target: "pc", "no interval timer answers at port 0x40: no timer events");
    }
    if !interrupts::is_present() {
        log::warn!(
            target: "pc",
            "no interrupt controllers answer at ports 0x20 and 0xa0: no events of devices"
        );
    }
    Ok(())
}

/// Whether what is typed can raise events.
fn has_input() -> bool {
    devices::has_serial() && interrupts::is_present()
}

/// Refuses what this machine has no device for.
pub(super) fn need(is_there: bool) -> Result<(), Errno> {
    is_there.then_some(()).ok_or(Errno::ENODEV)
}
initcall!("devices", Core, after [], needs PC, install);

/// The port of a virtual interrupt of a processor.
pub(super) fn bind_virq(virq: u32, number: u32) -> Result<Port, Errno> {
    let processor = processors::find(number)?;
    match virq {
        xen::VIRQ_TIMER => {
            need(deadlines::has_timer_on(number))?;
            bind_once(Kind::Timer, processor, &processor.timer)
        }
        // What is not a processor's is the boot processor's, as under Xen.
        xen::VIRQ_CONSOLE if number == 0 => {
            need(has_input())?;
            let port = bind_once(Kind::Input, processor, &INPUT)?;
            devices::interrupt_on_input(true);
            Ok(port)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// A port of a processor that the kernel raises itself.
pub(super) fn bind_ipi(number: u32) -> Result<Port, Errno> {
    bind(Kind::Own, processors::find(number)?)
}

/// Raises a port of the kernel's own.
pub(super) fn send(port: Port) -> Result<(), Errno> {
    let (kind, processor) = bound(port)?;
    if kind != Kind::Own {
        return Err(Errno::EINVAL);
    }
    raise(port, processor);
    deliver();
    Ok(())
}

/// Unmasks a port, which may be raised already.
pub(super) fn unmask(port: Port) -> Result<(), Errno> {
    let (_, processor) = bound(port)?;
    if let Some(ports) = shared::ports() {
        let (word, bit) = place(port);
        ports.mask[word].fetch_and(!bit, Ordering::SeqCst);
        if ports.pending[word].load(Ordering::SeqCst) & bit != 0 {
            announce(processor, word);
        }
    }
    deliver();
    Ok(())
}

/// Gives a port back.
pub(super) fn close(port: Port) -> Result<(), Errno> {
    let (kind, processor) = bound(port)?;
    match kind {
        Kind::Timer => {
            processor.timer.store(0, Ordering::Relaxed);
            if processor.is_here() {
                deadlines::set_event(0);
            }
        }
        Kind::Input => {
            devices::interrupt_on_input(false);
            INPUT.store(0, Ordering::Relaxed);
        }
        Kind::Own => {}
    }
    BOUND[port.0 as usize].store(0, Ordering::Release);
    Ok(())
}

/// Binds the first free port.
fn bind(kind: Kind, processor: &Processor) -> Result<Port, Errno> {
    // There are fewer processors than numbers.
    let value = kind as u16 | processor.number() as u16;
    let is_taken = |port: &u32| {
        let bound = &BOUND[*port as usize];
        let taken = bound.compare_exchange(0, value, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok()
    };
    // 0 is never bound.
    let port = (1..END).find(is_taken);
    port.map(Port).ok_or(Errno::ENOSPC)
}

/// The same, noted in a place that must be free.
fn bind_once(kind: Kind, processor: &Processor, place: &AtomicU32) -> Result<Port, Errno> {
    if place.load(Ordering::Relaxed) != 0 {
        return Err(Errno::EEXIST);
    }
    let port = bind(kind, processor)?;
    place.store(port.0, Ordering::Relaxed);
    Ok(port)
}

/// What a port is and whose, if it is bound.
fn bound(port: Port) -> Result<(Kind, &'static Processor), Errno> {
    let bound = BOUND.get(port.0 as usize).ok_or(Errno::EINVAL)?;
    let value = bound.load(Ordering::Acquire);
    let kind = [Kind::Own, Kind::Timer, Kind::Input]
        .into_iter()
        .find(|kind| *kind as u16 == value & !NUMBER)
        .ok_or(Errno::EINVAL)?;
    Ok((kind, processors::find((value & NUMBER).into())?))
}

/// The word and the bit of a port.
fn place(port: Port) -> (usize, u64) {
    (port.0 as usize / 64, 1 << (port.0 % 64))
}

/// The time of this processor's timer has come.
pub(super) fn timer() {
    let here = processors::here();
    let port = here.timer.load(Ordering::Relaxed);
    if port != 0 {
        raise(Port(port), here);
    }
}

/// Something was typed.
pub(super) fn input() {
    let port = INPUT.load(Ordering::Relaxed);
    if port != 0 {
        raise(Port(port), processors::boot());
    }
}

/// Sets the bits of a port as Xen does (`evtchn_2l_set_pending`, `xen/common/event_2l.c`).
fn raise(port: Port, processor: &'static Processor) {
    let Some(ports) = shared::ports() else { return };
    let (word, bit) = place(port);
    ports.pending[word].fetch_or(bit, Ordering::SeqCst);
    if ports.mask[word].load(Ordering::SeqCst) & bit == 0 {
        announce(processor, word);
    }
    if POLLERS.load(Ordering::SeqCst) != 0 {
        let others = processors::all().filter(|other| !other.is_here());
        others
            .filter(|other| other.polls.load(Ordering::SeqCst))
            .for_each(interrupt);
    }
}

/// Says that there is something for a processor in a word, and has it look, unless it is this one.
fn announce(processor: &'static Processor, word: usize) {
    if let Some((pending, selector)) = shared::upcall_of(processor.area()) {
        selector.fetch_or(1 << word, Ordering::SeqCst);
        pending.store(1, Ordering::SeqCst);
    }
    if !processor.is_here() {
        interrupt(processor);
    }
}

/// Has another processor look for events.
fn interrupt(other: &Processor) {
    apic::send(other.apic(), Command::Vector(interrupts::APIC_EVENTS));
}

/// Brings the events that wait, at the end of an interrupt, unless they are held back.
pub(super) fn bring() {
    if !event::is_announced() {
        return;
    }
    let here = processors::here();
    if !here.held.load(Ordering::Relaxed) {
        here.brought.fetch_add(1, Ordering::Relaxed);
        event::interrupted();
    }
}

/// Raises the interrupt that brings events, if any wait here and it may come.
pub(super) fn deliver() {
    if are_enabled() && event::is_announced() {
        // SAFETY: the gate's stub saves all registers. Handlers use memory, hence no options.
        unsafe { core::arch::asm!("int {vector}", vector = const event::VECTOR) };
    }
}

/// Sleeps until one of the ports is raised or the time has come, whether or not upcalls are masked;
/// where they are open, also until one came.
pub(super) fn poll(ports: &[u32], deadline: u64) -> Result<(), Errno> {
    if ports.len() > MOST_POLLED {
        return Err(Errno::EINVAL);
    }
    let raised = || ports.iter().any(|&port| event::is_raised(Port(port)));
    let is_over = || deadline != 0 && deadline <= deadlines::now();
    let open = are_enabled();
    // From here on nothing can come unseen between a look and the sleep.
    disable();
    let here = processors::here();
    let before = here.brought.load(Ordering::Relaxed);
    here.held.store(!open, Ordering::Relaxed);
    here.polls.store(true, Ordering::SeqCst);
    POLLERS.fetch_add(1, Ordering::SeqCst);
    deadlines::set_sleep(deadline);
    while !raised() && !is_over() && here.brought.load(Ordering::Relaxed) == before {
        // Without a timer nothing would end the sleep at its time.
        if deadline == 0 || deadlines::has_timer() {
            interrupts::sleep();
        } else {
            enable();
            core::hint::spin_loop();
        }
        disable();
    }
    deadlines::set_sleep(0);
    POLLERS.fetch_sub(1, Ordering::SeqCst);
    here.polls.store(false, Ordering::SeqCst);
    here.held.store(false, Ordering::Relaxed);
    if open {
        enable();
    }
    Ok(())
}
