//! Events: who is called when a port is raised.
//!
//! The 2-level ABI (`xen/include/public/event_channel.h`): one bit a port in `shared_info`, a word
//! of selectors and a pending byte in `vcpu_info`. An upcall clears the pending byte *before* it
//! looks for bits, so that an event that comes while it looks raises another upcall instead of
//! being lost.
//!
//! An upcall is a callback from Xen under PV, and an interrupt in hardware virtualisation. Without
//! Xen, interrupts of devices become events of the same form (`pc::ports`).
//!
//! A handler runs with upcalls masked and as interrupt context: the lazy MMU mode of what it
//! interrupted does not apply to it. It may use the page tables, print and allocate: what it
//! interrupted holds no lock, for every [`Lock`] masks upcalls.
//!
//! # Storms
//! An upcall serves every port that is raised once before it serves one of them again, until none is
//! raised. A port that is raised again and again meanwhile, be it by its own handler, would hold the
//! interrupted context for ever. So an upcall calls a handler [`MOST`] times and then masks its port:
//! the log says so, once, and the others are served as before. The port is opened again by the next
//! upcall that comes a while later, or when the kernel has nothing to do ([`idle`]).

mod entry;
mod vector;

use core::sync::atomic::{AtomicBool, Ordering};

use heapless::Vec;
use hypercall::event::Port;
use hypercall::queue::Access;
use hypercall::{Hypervisor, XenError};
use marks::init;

use crate::init::initcall;
use crate::lock::Lock;
use crate::mm::Current;
use crate::options::Options;
use crate::refused::Refused;
use crate::xen::{self, XEN};
use crate::{shared, time};

/// The vector by which upcalls come where they are interrupts: behind the exceptions' 32 and the 16 of
/// the lines that a machine's controllers have.
pub(crate) const VECTOR: u8 = 0x30;

/// Ports that can have a handler at once.
const HANDLERS: usize = 16;

/// What is called when a port is raised.
pub(crate) type Handler = fn();

/// How often an upcall calls a handler.
pub(crate) const MOST: u32 = 64;

/// How long a port that storms is held back at least, in nanoseconds.
const HOLD: u64 = 1_000_000;

/// A port with its handler.
struct Open {
    port: Port,
    handler: Handler,
    /// Calls by the present upcall, or by the last one.
    calls: u32,
    /// When it was held back, if it is; 0 without a clock.
    held: Option<u64>,
    /// Whether the log has said so.
    said: bool,
}

static TABLE: Lock<Vec<Open, HANDLERS>> = Lock::new(Vec::new());

/// Whether a port is held back.
static HELD: AtomicBool = AtomicBool::new(false);

/// Called at the start of every upcall, if anybody asks for it.
static OBSERVER: Lock<Option<Handler>> = Lock::new(None);

/// Has upcalls seen by `observer`, or by nobody.
pub(crate) fn observe(observer: Option<Handler>) {
    *OBSERVER.lock() = observer;
}

/// Masks every port, stops the periodic timer that every vCPU starts with, and opens upcalls. How
/// they come was arranged before, in each way of running's own call.
#[init]
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
    let open = Open {
        port,
        handler,
        calls: 0,
        held: None,
        said: false,
    };
    let room = TABLE.lock().push(open).is_ok();
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
    {
        let mut table = TABLE.lock();
        table.retain(|open| open.port != port);
        mask(port);
    }
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

/// Has events of `port` wait.
fn mask(port: Port) {
    if let Some((ports, word, bit)) = place(port) {
        ports.mask[word].fetch_or(bit, Ordering::Relaxed);
    }
}

/// Whether `port` is raised.
pub(crate) fn is_raised(port: Port) -> bool {
    place(port)
        .is_some_and(|(ports, word, bit)| ports.pending[word].load(Ordering::Acquire) & bit != 0)
}

/// Whether an upcall is waiting to be delivered, or what will be one.
pub(crate) fn is_pending() -> bool {
    is_announced() || xen::is_requested()
}

/// Whether the byte says that there are events to look for.
pub(crate) fn is_announced() -> bool {
    shared::upcall().is_some_and(|(pending, _)| pending.load(Ordering::Relaxed) != 0)
}

/// Takes the upcall that came as an interrupt, if events wait. Whoever raised the interrupt looks at the
/// pending byte again when this is over. Interrupts are off.
pub(crate) fn interrupted() {
    if is_announced() {
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
    let now = time::monotonic().unwrap_or(u64::MAX);
    reopen(|held| now.saturating_sub(held) >= HOLD);
    TABLE.lock().iter_mut().for_each(|open| open.calls = 0);
    loop {
        pending.store(0, Ordering::SeqCst);
        // What is raised from here on sets its word's bit again.
        let words = selector.swap(0, Ordering::SeqCst);
        if words == 0 {
            break;
        }
        each_bit(words, |word| serve(&ports, word as usize));
    }
    let _ = Current.with(|mmu| mmu.leave_irq());
}

/// Calls `f` with the number of each bit that is set.
fn each_bit(mut bits: u64, mut f: impl FnMut(u32)) {
    while bits != 0 {
        f(bits.trailing_zeros());
        bits &= bits - 1;
    }
}

/// Calls the handlers of the ports of a word that are raised, each once.
fn serve(ports: &shared::Ports, word: usize) {
    let open = !ports.mask[word].load(Ordering::Relaxed);
    let raised = ports.pending[word].load(Ordering::Acquire) & open;
    each_bit(raised, |bit| {
        if let Some(handler) = admit(Port(word as u32 * 64 + bit)) {
            ports.pending[word].fetch_and(!(1 << bit), Ordering::AcqRel);
            handler();
        }
    });
}

/// The handler of a port that is raised, unless the port is held back from here on. One that has no
/// handler is masked as well: nobody waits for it.
fn admit(port: Port) -> Option<Handler> {
    let mut table = TABLE.lock();
    let Some(open) = table.iter_mut().find(|open| open.port == port) else {
        mask(port);
        return None;
    };
    if open.calls < MOST {
        open.calls += 1;
        return Some(open.handler);
    }
    mask(port);
    HELD.store(true, Ordering::Relaxed);
    open.held = Some(time::monotonic().unwrap_or(0));
    let said = core::mem::replace(&mut open.said, true);
    drop(table);
    if !said {
        log::warn!(
            target: "event",
            "port {port} is raised faster than it is served: after {MOST} calls of its handler in one \
             upcall it waits for the next event, or until the kernel is idle"
        );
    }
    None
}

/// Opens the ports that were held back at a time of which `is_over` says that it is long enough ago.
fn reopen(is_over: impl Fn(u64) -> bool) {
    if !HELD.load(Ordering::Relaxed) {
        return;
    }
    let mut ports = Vec::<Port, HANDLERS>::new();
    let mut still = false;
    for open in TABLE.lock().iter_mut() {
        match open.held {
            Some(held) if is_over(held) => {
                open.held = None;
                // There is room for all.
                let _ = ports.push(open.port);
            }
            Some(_) => still = true,
            None => {}
        }
    }
    HELD.store(still, Ordering::Relaxed);
    for port in ports {
        // Refused, it is a port that Xen no longer knows.
        let _ = hypercall::event::unmask(&XEN, port);
    }
}

/// Opens every port that was held back: the kernel has nothing to do that they could keep it from.
pub(crate) fn idle() {
    reopen(|_| true);
}
