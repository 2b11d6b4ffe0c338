//! Events: who is called when a port is raised.
//!
//! The 2-level ABI (`xen/include/public/event_channel.h`): one bit a port in `shared_info`, a word
//! of selectors and a pending byte in `vcpu_info`. An upcall clears the pending byte *before* it
//! looks for bits, so that an event that comes while it looks raises another upcall instead of
//! being lost.
//!
//! An upcall is a callback from Xen under PV, and an interrupt in hardware virtualisation. Without
//! Xen, interrupts of devices become events of the same form (`native::ports`).
//!
//! A handler runs with upcalls masked and as interrupt context: the lazy MMU mode of what it
//! interrupted does not apply to it. It may use the page tables, which are never borrowed by the
//! context it interrupted (`mm::with` masks upcalls), and must not print, for the console's lock
//! may be held.

mod entry;
mod vector;

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use heapless::Vec;
use hypercall::event::Port;
use hypercall::queue::Access;
use hypercall::{Hypervisor, XenError};
use spin::Mutex;

use crate::boot::cmdline::Options;
use crate::init::initcall;
use crate::mm::Current;
use crate::native::interrupts;
use crate::refused::Refused;
use crate::shared;
use crate::subarch::{self, Subarch};
use crate::xen::XEN;

/// Ports that can have a handler at once.
const HANDLERS: usize = 16;

/// What is called when a port is raised.
pub(crate) type Handler = fn();

static TABLE: Mutex<Vec<(Port, Handler), HANDLERS>> = Mutex::new(Vec::new());

/// Called at the start of every upcall, if anybody asks for it.
static OBSERVER: Mutex<Option<Handler>> = Mutex::new(None);

/// Has upcalls seen by `observer`, or by nobody.
pub(crate) fn observe(observer: Option<Handler>) {
    let was = XEN.mask_upcalls();
    *OBSERVER.lock() = observer;
    XEN.restore_upcalls(was);
}

/// Masks every port, stops the periodic timer that every vCPU starts with, and opens upcalls. How
/// they come was arranged before, in each way of running's own call.
fn init(_: &Options<'_>) -> Result<(), Refused> {
    for word in shared::ports().into_iter().flat_map(|ports| ports.mask) {
        word.store(!0, Ordering::Relaxed);
    }
    hypercall::time::stop_periodic(&XEN, 0)?;
    XEN.restore_upcalls(false);
    Ok(())
}
initcall!("events", Service, after [], needs EVERYWHERE, init);

/// Has `handler` called whenever `port` is raised, from now on. False if there are too many.
pub(crate) fn open(port: Port, handler: Handler) -> Result<bool, XenError> {
    let was = XEN.mask_upcalls();
    let room = TABLE.lock().push((port, handler)).is_ok();
    XEN.restore_upcalls(was);
    if room {
        hypercall::event::unmask(&XEN, port)?;
    }
    Ok(room)
}

/// Closes a port and forgets its handler. It is masked again, as whoever gets its number next
/// expects.
///
/// # Errors
/// Xen's refusal.
pub(crate) fn close(port: Port) -> Result<(), XenError> {
    let was = XEN.mask_upcalls();
    TABLE.lock().retain(|(open, _)| *open != port);
    if let Some((ports, word, bit)) = place(port) {
        ports.mask[word].fetch_or(bit, Ordering::Relaxed);
    }
    XEN.restore_upcalls(was);
    hypercall::event::close(&XEN, port)?;
    // A bit that was set before must not raise the next owner of the number.
    take(port);
    Ok(())
}

/// Whether `port`, which stays masked, was raised since the last call: for those who poll.
pub(crate) fn take(port: Port) -> bool {
    place(port).is_some_and(|(ports, word, bit)| {
        ports.pending[word].fetch_and(!bit, Ordering::AcqRel) & bit != 0
    })
}

/// Where the bits of a port are: word and bit, if there is such a port.
fn place(port: Port) -> Option<(shared::Ports, usize, u64)> {
    let ports = shared::ports()?;
    let word = port.0 as usize / 64;
    (word < ports.mask.len()).then_some((ports, word, 1 << (port.0 % 64)))
}

/// Whether `port` is raised.
pub(crate) fn is_raised(port: Port) -> bool {
    place(port)
        .is_some_and(|(ports, word, bit)| ports.pending[word].load(Ordering::Acquire) & bit != 0)
}

/// Whether an upcall is waiting to be delivered, or what will be one.
pub(crate) fn is_pending() -> bool {
    let bare = subarch::current() == Subarch::Bare;
    is_announced() || bare && interrupts::is_requested()
}

/// Whether the byte says that there are events to look for.
pub(crate) fn is_announced() -> bool {
    shared::upcall().is_some_and(|(pending, _)| pending.load(Ordering::Relaxed) != 0)
}

/// Takes the upcalls that came as an interrupt: all that wait, as whoever raised the interrupt looks
/// at the pending byte, not at how often it was set. Interrupts are off.
pub(crate) fn interrupted() {
    while is_announced() {
        upcall();
    }
}

/// Finds what was raised and calls the handlers. Upcalls are masked.
fn upcall() {
    let (Some(ports), Some((pending, selector))) = (shared::ports(), shared::upcall()) else {
        return;
    };
    let observer = *OBSERVER.lock();
    if let Some(observe) = observer {
        observe();
    }
    // Nesting deeper than can be counted does not happen: handlers are not interrupted.
    let _ = Current.with(|mmu| mmu.enter_irq());
    scan(&ports, pending, selector);
    let _ = Current.with(|mmu| mmu.leave_irq());
}

fn scan(ports: &shared::Ports, pending: &AtomicU8, selector: &AtomicU64) {
    pending.store(0, Ordering::SeqCst);
    let mut words = selector.swap(0, Ordering::SeqCst);
    while words != 0 {
        let word = words.trailing_zeros() as usize;
        words &= words - 1;
        loop {
            let open = !ports.mask[word].load(Ordering::Relaxed);
            let raised = ports.pending[word].load(Ordering::Acquire) & open;
            if raised == 0 {
                break;
            }
            let bit = raised.trailing_zeros();
            ports.pending[word].fetch_and(!(1 << bit), Ordering::AcqRel);
            deliver(Port(word as u32 * 64 + bit));
        }
    }
}

fn deliver(port: Port) {
    let handler = TABLE.lock().iter().find(|(open, _)| *open == port).copied();
    if let Some((_, handler)) = handler {
        handler();
    }
}
