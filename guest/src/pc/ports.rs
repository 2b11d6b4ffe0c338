//! Events without Xen: the event channels of a PC's devices, and of the kernel itself.
//!
//! What is above waits for events as under Xen ([`back_end`](super::back_end)), and finds them in a
//! page laid out as `shared_info`, so that nothing above knows the difference. The timer
//! and the console's input are raised by interrupts; a port of the kernel's own by a hypercall,
//! which raises the interrupt that brings events if it may come.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hypercall::Errno;
use hypercall::abi::xen;
use hypercall::event::Port;
use marks::init;
use x86_64::instructions::interrupts::{are_enabled, disable, enable, enable_and_hlt};

use super::{devices, interrupts, timer};
use crate::init::initcall;
use crate::mm::machine::Machine;
use crate::mm::{self, MmError};
use crate::options::Options;
use crate::refused::Refused;
use crate::{event, shared, time};

/// The ports of the timer and of the console's input. 0 is never bound.
const TIMER: u32 = 1;
const INPUT: u32 = 2;
/// The first of those that the kernel raises itself, and the first that is none.
const OWN: u32 = 3;
const END: u32 = 64;
/// Ports that can be polled at once, as under Xen.
const MOST_POLLED: usize = 128;

/// Ports that are bound, one bit each.
static BOUND: AtomicU64 = AtomicU64::new(0);
/// Upcalls are masked, though interrupts are on so that they end a sleep.
static HELD: AtomicBool = AtomicBool::new(false);
/// Interrupts that brought events.
static BROUGHT: AtomicU32 = AtomicU32::new(0);

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
    timer::init();
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

/// Whether a timer can raise events: it takes an interrupt controller as well.
pub(super) fn has_timer() -> bool {
    timer::is_present() && interrupts::is_present()
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

/// The port of a virtual interrupt.
pub(super) fn bind_virq(virq: u32) -> Result<Port, Errno> {
    match virq {
        xen::VIRQ_TIMER => {
            need(has_timer())?;
            bind(TIMER..TIMER + 1, Errno::EEXIST)
        }
        xen::VIRQ_CONSOLE => {
            need(has_input())?;
            let port = bind(INPUT..INPUT + 1, Errno::EEXIST)?;
            devices::interrupt_on_input(true);
            Ok(port)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// A port that the kernel raises itself.
pub(super) fn bind_ipi() -> Result<Port, Errno> {
    bind(OWN..END, Errno::ENOSPC)
}

/// Raises a port of the kernel's own.
pub(super) fn send(port: Port) -> Result<(), Errno> {
    let port = bound(port.0)?;
    if port < OWN {
        return Err(Errno::EINVAL);
    }
    raise(port);
    deliver();
    Ok(())
}

/// Unmasks a port, which may be raised already.
pub(super) fn unmask(port: Port) -> Result<(), Errno> {
    let port = bound(port.0)?;
    if let Some(ports) = shared::ports() {
        ports.mask[0].fetch_and(!(1 << port), Ordering::AcqRel);
        if ports.pending[0].load(Ordering::Acquire) >> port & 1 == 1 {
            announce();
        }
    }
    deliver();
    Ok(())
}

/// Gives a port back.
pub(super) fn close(port: Port) -> Result<(), Errno> {
    let port = bound(port.0)?;
    match port {
        TIMER => timer::set_event(0),
        INPUT => devices::interrupt_on_input(false),
        _ => {}
    }
    BOUND.fetch_and(!(1 << port), Ordering::Relaxed);
    Ok(())
}

/// Binds the first free of these ports.
fn bind(ports: core::ops::Range<u32>, none: Errno) -> Result<Port, Errno> {
    let free = |port: &u32| BOUND.fetch_or(1 << port, Ordering::Relaxed) >> port & 1 == 0;
    ports.into_iter().find(free).map(Port).ok_or(none)
}

/// The port, if it is bound.
fn bound(port: u32) -> Result<u32, Errno> {
    let is_bound = port < END && BOUND.load(Ordering::Relaxed) >> port & 1 == 1;
    is_bound.then_some(port).ok_or(Errno::EINVAL)
}

/// The timer's time has come.
pub(super) fn timer() {
    if bound(TIMER).is_ok() {
        raise(TIMER);
    }
}

/// Something was typed.
pub(super) fn input() {
    if bound(INPUT).is_ok() {
        raise(INPUT);
    }
}

/// Sets the bits of a port as Xen does (`evtchn_2l_set_pending`, `xen/common/event_2l.c`).
fn raise(port: u32) {
    let Some(ports) = shared::ports() else { return };
    ports.pending[0].fetch_or(1 << port, Ordering::AcqRel);
    if ports.mask[0].load(Ordering::Acquire) >> port & 1 == 0 {
        announce();
    }
}

/// Says that there is something for the kernel in the first word, the only one with ports.
fn announce() {
    if let Some((pending, selector)) = shared::upcall() {
        selector.fetch_or(1, Ordering::AcqRel);
        pending.store(1, Ordering::Release);
    }
}

/// Brings the events that wait, at the end of an interrupt, unless they are held back.
pub(super) fn bring() {
    if !HELD.load(Ordering::Relaxed) && event::is_announced() {
        BROUGHT.fetch_add(1, Ordering::Relaxed);
        event::interrupted();
    }
}

/// Raises the interrupt that brings events, if any wait and it may come.
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
    let is_over = || deadline != 0 && deadline <= timer::now();
    let open = are_enabled();
    // From here on nothing can come unseen between a look and the sleep.
    disable();
    let before = BROUGHT.load(Ordering::Relaxed);
    HELD.store(!open, Ordering::Relaxed);
    timer::set_sleep(deadline);
    while !raised() && !is_over() && BROUGHT.load(Ordering::Relaxed) == before {
        // Without a timer nothing would end the sleep at its time.
        if deadline == 0 || has_timer() {
            enable_and_hlt();
        } else {
            enable();
            core::hint::spin_loop();
        }
        disable();
    }
    timer::set_sleep(0);
    HELD.store(false, Ordering::Relaxed);
    if open {
        enable();
    }
    Ok(())
}
