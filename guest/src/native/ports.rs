//! Events without Xen: the event channels of a PC's devices, and of the kernel itself.
//!
//! What is above waits for events by the same hypercalls as under Xen, answered here, and finds
//! them in a page laid out as `shared_info`, so that nothing above knows the difference. The timer
//! and the console's input are raised by interrupts; a port of the kernel's own by a hypercall,
//! which raises the interrupt that brings events if it may come.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hypercall::abi::event as channels;
use hypercall::abi::sched::{self, sched_poll};
use hypercall::abi::{vcpu, xen};
use hypercall::event::Port;
use hypercall::{Errno, Op};
use marks::{init, native};
use x86_64::instructions::interrupts::{are_enabled, disable, enable, enable_and_hlt};

use super::{clock, devices, interrupts, timer};
use crate::boot::cmdline::Options;
use crate::init::initcall;
use crate::mm::machine::Machine;
use crate::mm::{self, MmError};
use crate::refused::Refused;
use crate::{event, shared};

/// The ports of the timer and of the console's input. 0 is never bound.
const TIMER: u32 = 1;
const INPUT: u32 = 2;
/// The first of those that the kernel raises itself, and the first that is none.
const OWN: u32 = 3;
const END: u32 = 64;
/// Ports that can be polled at once, as under Xen.
const MOST_POLLED: u32 = 128;

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
    if !clock::is_known() {
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
fn has_timer() -> bool {
    timer::is_present() && interrupts::is_present()
}

/// Whether what is typed can raise events.
fn has_input() -> bool {
    devices::has_serial() && interrupts::is_present()
}

/// Refuses what this machine has no device for.
fn need(is_there: bool) -> Result<(), Errno> {
    is_there.then_some(()).ok_or(Errno::ENODEV)
}
initcall!("devices", Core, after [], needs PC, install);

/// Answers hypercalls that are about events and waiting for them; `None` for others.
///
/// # Safety
/// As [`hypercall::Hypervisor::call`].
#[native]
#[inline(never)]
pub(crate) unsafe fn call(op: Op, args: [u64; 5]) -> Option<i64> {
    let [command, argument, ..] = args;
    let result = match (op, command as u32) {
        // SAFETY: the caller's promise.
        (Op::EventChannelOp, command) => unsafe { channel(command, argument) },
        // SAFETY: the caller names the structure, and the ports in it.
        (Op::SchedOp, sched::SCHEDOP_poll) => unsafe { poll(argument_of(argument)) },
        (Op::SetTimerOp, _) => need(has_timer()).map(|()| timer::set_event(command)),
        // The timer was never periodic.
        (Op::VcpuOp, vcpu::VCPUOP_stop_periodic_timer) => Ok(()),
        _ => return None,
    };
    Some(result.map_or_else(Errno::to_return, |()| 0))
}

/// # Safety
/// A `T` is there, nobody else's for the time of the call.
unsafe fn argument_of<'a, T>(address: u64) -> &'a mut T {
    // SAFETY: the caller's promise.
    unsafe { &mut *core::ptr::with_exposed_provenance_mut(address as usize) }
}

/// `event_channel_op`.
///
/// # Safety
/// `argument` is what the command takes.
#[native]
unsafe fn channel(command: u32, argument: u64) -> Result<(), Errno> {
    // SAFETY: the caller pairs command and structure.
    unsafe {
        match command {
            channels::EVTCHNOP_bind_virq => {
                let asked: &mut channels::evtchn_bind_virq = argument_of(argument);
                asked.port = match asked.virq {
                    xen::VIRQ_TIMER => {
                        need(has_timer())?;
                        bind(TIMER..TIMER + 1, Errno::EEXIST)?
                    }
                    xen::VIRQ_CONSOLE => {
                        need(has_input())?;
                        let port = bind(INPUT..INPUT + 1, Errno::EEXIST)?;
                        devices::interrupt_on_input(true);
                        port
                    }
                    _ => return Err(Errno::EINVAL),
                };
            }
            channels::EVTCHNOP_bind_ipi => {
                let asked: &mut channels::evtchn_bind_ipi = argument_of(argument);
                asked.port = bind(OWN..END, Errno::ENOSPC)?;
            }
            channels::EVTCHNOP_send => {
                let port = bound(argument_of::<channels::evtchn_send>(argument).port)?;
                if port < OWN {
                    return Err(Errno::EINVAL);
                }
                raise(port);
                deliver();
            }
            channels::EVTCHNOP_unmask => {
                unmask(bound(
                    argument_of::<channels::evtchn_unmask>(argument).port,
                )?);
                deliver();
            }
            channels::EVTCHNOP_close => {
                let port = bound(argument_of::<channels::evtchn_close>(argument).port)?;
                match port {
                    TIMER => timer::set_event(0),
                    INPUT => devices::interrupt_on_input(false),
                    _ => {}
                }
                BOUND.fetch_and(!(1 << port), Ordering::Relaxed);
            }
            _ => return Err(Errno::ENOSYS),
        }
    }
    Ok(())
}

/// Binds the first free of these ports.
fn bind(ports: core::ops::Range<u32>, none: Errno) -> Result<u32, Errno> {
    let free = |port: &u32| BOUND.fetch_or(1 << port, Ordering::Relaxed) >> port & 1 == 0;
    ports.into_iter().find(free).ok_or(none)
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

/// Unmasks a port, which may be raised already.
fn unmask(port: u32) {
    let Some(ports) = shared::ports() else { return };
    ports.mask[0].fetch_and(!(1 << port), Ordering::AcqRel);
    if ports.pending[0].load(Ordering::Acquire) >> port & 1 == 1 {
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
        unsafe { core::arch::asm!("int {vector}", vector = const interrupts::EVENT) };
    }
}

/// `SCHEDOP_poll`: sleeps until one of the ports is raised or the time has come, whether or not
/// upcalls are masked; where they are open, also until one came.
///
/// # Safety
/// The ports are there.
#[native]
unsafe fn poll(asked: &sched_poll) -> Result<(), Errno> {
    if asked.nr_ports > MOST_POLLED {
        return Err(Errno::EINVAL);
    }
    let ports = match asked.nr_ports {
        0 => &[],
        // SAFETY: the caller's promise.
        count => unsafe { core::slice::from_raw_parts(asked.ports, count as usize) },
    };
    let raised = || ports.iter().any(|&port| event::is_raised(Port(port)));
    let is_over = || asked.timeout != 0 && asked.timeout <= timer::now();
    let open = are_enabled();
    // From here on nothing can come unseen between a look and the sleep.
    disable();
    let before = BROUGHT.load(Ordering::Relaxed);
    HELD.store(!open, Ordering::Relaxed);
    timer::set_sleep(asked.timeout);
    while !raised() && !is_over() && BROUGHT.load(Ordering::Relaxed) == before {
        // Without a timer nothing would end the sleep at its time.
        if asked.timeout == 0 || has_timer() {
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
