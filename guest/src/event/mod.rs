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
//! # Handlers
//! A handler is a value with its own context, bound to a port by [`bind`]: what comes back owns the
//! port and closes it when dropped. Handlers are kept by port, on the heap, up to the highest port
//! that ever had one. Xen gives the lowest port that is free, so the list is no longer than the ports
//! are many; every port that the ABI has can be bound, and an event finds its handler by one look.
//!
//! # Storms
//! An upcall serves every port that is raised once before it serves one of them again, until none is
//! raised. A port that is raised again and again meanwhile, be it by its own handler, would hold the
//! interrupted context for ever. So an upcall calls a handler [`MOST`] times and then masks its port:
//! the log says so, once, and the others are served as before. The port is opened again by the next
//! upcall that comes a while later, for which a timer sees where there is one, or when the vCPU has
//! nothing to do ([`idle`]).

mod entry;
mod vector;

pub(crate) use self::entry::entry;

extern crate alloc;

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Waker;

use hypercall::event::Port;
use hypercall::queue::Access;
use hypercall::{Hypervisor, XenError};
use marks::init;

use crate::init::initcall;
use crate::lock::Lock;
use crate::mm::Current;
use crate::options::Options;
use crate::refused::Refused;
use crate::xen::{self, HV};
use crate::{cpu, shared, time};

/// The vector by which upcalls come where they are interrupts: behind the exceptions' 32 and the 16 of
/// the lines that a machine's controllers have.
pub(crate) const VECTOR: u8 = 0x30;

/// What is called when a port is raised. It carries its own context.
pub(crate) trait Handler: Sync {
    /// Called with upcalls masked, as interrupt context, after the event was taken.
    fn raised(&self, port: Port);
}

/// A function without a context.
impl<F: Fn() + Sync> Handler for F {
    fn raised(&self, _: Port) {
        self();
    }
}

/// How often an upcall calls a handler.
pub(crate) const MOST: u32 = 64;

/// How long a port that storms is held back at least, in nanoseconds.
const HOLD: u64 = 1_000_000;

/// What is done when a port is raised.
enum Called {
    /// The event is taken, and this is called.
    Handler(&'static dyn Handler),
    /// The port is masked, and stays raised for the one that this wakes.
    Waker(Waker),
}

/// The handler of a port.
struct Entry {
    called: Called,
    /// Where the port is raised. Another vCPU that comes by leaves it.
    vcpu: u32,
    /// The last upcall that called it.
    upcall: u64,
    /// Calls by that upcall.
    calls: u32,
    /// When the port was held back, if it is; 0 without a clock.
    held: Option<u64>,
    /// Whether the log has said so.
    said: bool,
}

/// The handlers.
struct Table {
    /// By port.
    entries: Vec<Option<Entry>>,
}

impl Table {
    /// The entry of a port that has a handler.
    fn entry(&mut self, port: Port) -> Option<&mut Entry> {
        self.entries.get_mut(port.0 as usize)?.as_mut()
    }

    /// Enters a handler, growing the list up to its port.
    fn insert(&mut self, port: Port, vcpu: u32, called: Called) -> Result<(), BindError> {
        let index = port.0 as usize;
        let more = (index + 1).saturating_sub(self.entries.len());
        if self.entries.try_reserve(more).is_err() {
            return Err(BindError::NoMemory);
        }
        if more > 0 {
            self.entries.resize_with(index + 1, || None);
        }
        let entry = &mut self.entries[index];
        if entry.is_some() {
            return Err(BindError::Taken);
        }
        *entry = Some(Entry {
            called,
            vcpu,
            upcall: 0,
            calls: 0,
            held: None,
            said: false,
        });
        Ok(())
    }

    /// Forgets the handler of a port.
    fn remove(&mut self, port: Port) -> Option<Entry> {
        self.entries.get_mut(port.0 as usize)?.take()
    }
}

static TABLE: Lock<Table> = Lock::new(Table {
    entries: Vec::new(),
});

/// Whether a port is held back.
static HELD: AtomicBool = AtomicBool::new(false);

/// Called at the start of every upcall, if anybody asks for it.
static OBSERVER: Lock<Option<fn()>> = Lock::new(None);

/// Has upcalls seen by `observer`, or by nobody.
pub(crate) fn observe(observer: Option<fn()>) {
    *OBSERVER.lock() = observer;
}

/// Masks every port, stops the periodic timer that every vCPU starts with, and opens upcalls. How
/// they come was arranged before, in each way of running's own call.
#[init]
fn init(_: &Options<'_>) -> Result<(), Refused> {
    mask_all();
    hypercall::time::stop_periodic(&HV, 0)?;
    HV.restore_upcalls(false);
    Ok(())
}
initcall!("events", Service, after [], needs EVERYWHERE, init);

/// Why a port did not get a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BindError {
    /// The heap has no room for the entry.
    NoMemory,
    /// The ABI has no such port.
    NoSuchPort,
    /// The port has a handler.
    Taken,
    /// Xen refused to unmask it.
    Refused(XenError),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::NoMemory => f.write_str("no memory for the handler of a port"),
            BindError::NoSuchPort => f.write_str("there is no such port"),
            BindError::Taken => f.write_str("the port has a handler"),
            BindError::Refused(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for BindError {}

/// A port with its handler: dropped, the port is masked and closed, and the handler is forgotten.
#[derive(Debug)]
#[must_use = "dropped, it closes the port"]
pub(crate) struct Bound(Port);

impl Drop for Bound {
    fn drop(&mut self) {
        // A port that Xen does not close stays masked, and nothing handles it any more.
        let _ = close(self.0);
    }
}

/// Has `handler` called whenever `port` is raised, on the boot vCPU, for as long as what is returned
/// lives.
///
/// # Errors
/// See [`BindError`]. The port is then masked, without this handler, and still the caller's.
pub(crate) fn bind(port: Port, handler: &'static dyn Handler) -> Result<Bound, BindError> {
    bind_on(0, port, handler)
}

/// As [`bind`], for a port that is raised on another vCPU.
///
/// # Errors
/// As [`bind`].
pub(crate) fn bind_on(
    vcpu: u32,
    port: Port,
    handler: &'static dyn Handler,
) -> Result<Bound, BindError> {
    open(vcpu, port, Called::Handler(handler))?;
    Ok(Bound(port))
}

/// Enters what a port does, and opens it.
fn open(vcpu: u32, port: Port, called: Called) -> Result<(), BindError> {
    if place(port).is_none() {
        return Err(BindError::NoSuchPort);
    }
    TABLE.lock().insert(port, vcpu, called)?;
    if let Err(e) = hypercall::event::unmask(&HV, port) {
        forget(port);
        return Err(BindError::Refused(e));
    }
    Ok(())
}

/// Has a port do nothing any more, and masks it.
fn forget(port: Port) {
    let mut table = TABLE.lock();
    // What it did is dropped when the lock is free.
    let entry = table.remove(port);
    mask(port);
    drop(table);
    drop(entry);
}

/// A port that somebody waits for; dropped, he does so no more.
#[must_use = "dropped, nobody is woken"]
pub(crate) struct Watch(Port);

impl Drop for Watch {
    fn drop(&mut self) {
        forget(self.0);
    }
}

/// Has `waker` woken when `port` is raised, which has no handler and is polled otherwise ([`take`]); at
/// once if it is raised already. The port is raised on the boot vCPU, and stays so.
///
/// # Errors
/// See [`BindError`].
pub(crate) fn watch(port: Port, waker: &Waker) -> Result<Watch, BindError> {
    open(0, port, Called::Waker(waker.clone()))?;
    Ok(Watch(port))
}

/// Has this vCPU take an upcall a while later.
static COME_AGAIN: spin::Once<fn()> = spin::Once::new();

/// Says how a vCPU takes an upcall a while later, which opens the ports that were held back by then.
pub(crate) fn come_again_by(later: fn()) {
    COME_AGAIN.call_once(|| later);
}

/// How a thread waits for ports until a time of [`time::monotonic`] (0: for ever); false where it cannot.
pub(crate) type Wait = fn(&[Port], u64) -> bool;

/// How threads wait, where there are any.
static WAIT: spin::Once<Wait> = spin::Once::new();

/// Says how threads wait.
pub(crate) fn wait_by(wait: Wait) {
    WAIT.call_once(|| wait);
}

/// Waits until one of the ports, which have no handlers, is raised, or a time of [`time::monotonic`] has
/// come; it may end before. Others run meanwhile, be it threads or other vCPUs. At most 128 ports.
pub(crate) fn wait(ports: &[Port], deadline: u64) {
    if WAIT.get().is_some_and(|wait| wait(ports, deadline)) {
        return;
    }
    let mut numbers = heapless::Vec::<_, 128>::new();
    numbers.extend(ports.iter().map(|port| port.0));
    // Refused, it is a busier wait.
    let _ = hypercall::sched::poll(&HV, &numbers, time::in_xen(deadline));
}

/// Closes a port, which [`Bound`] does by itself, and forgets its handler. It is masked again, as whoever gets its number next
/// expects.
///
/// # Errors
/// Xen's refusal.
pub(crate) fn close(port: Port) -> Result<(), XenError> {
    forget(port);
    hypercall::event::close(&HV, port)?;
    // A bit that was set before must not raise the next owner of the number.
    take(port);
    Ok(())
}

/// Forgets every port and masks all, as if none had ever been bound: in a restored domain none is.
/// Whoever had one binds another.
///
/// # Errors
/// Xen's refusal to stop the timer that every vCPU starts with.
pub(crate) fn begin_anew() -> Result<(), XenError> {
    TABLE.lock().entries.clear();
    HELD.store(false, Ordering::Relaxed);
    mask_all();
    hypercall::time::stop_periodic(&HV, 0)
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

/// Has all events wait.
fn mask_all() {
    for word in shared::ports().into_iter().flat_map(|ports| ports.mask) {
        word.store(!0, Ordering::Relaxed);
    }
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
    cpu::here().upcalls.fetch_add(1, Ordering::Relaxed);
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
        let port = Port(word as u32 * 64 + bit);
        if let Some(handler) = admit(port) {
            ports.pending[word].fetch_and(!(1 << bit), Ordering::AcqRel);
            handler.raised(port);
        }
    });
}

/// The handler of a port that is raised, unless the port is held back from here on. One that has no
/// handler is masked as well: nobody waits for it.
fn admit(port: Port) -> Option<&'static dyn Handler> {
    let mut table = TABLE.lock();
    // A port is raised on one vCPU, whose upcalls are counted.
    let upcall = cpu::here().upcalls.load(Ordering::Relaxed);
    let Some(entry) = table.entry(port) else {
        mask(port);
        return None;
    };
    if entry.vcpu != cpu::here().number() {
        // That vCPU was told of it as well.
        return None;
    }
    let handler = match &entry.called {
        Called::Handler(handler) => *handler,
        Called::Waker(waker) => {
            mask(port);
            let waker = waker.clone();
            drop(table);
            waker.wake();
            return None;
        }
    };
    if entry.upcall != upcall {
        entry.upcall = upcall;
        entry.calls = 0;
    }
    if entry.calls < MOST {
        entry.calls += 1;
        return Some(handler);
    }
    mask(port);
    HELD.store(true, Ordering::Relaxed);
    entry.held = Some(time::monotonic().unwrap_or(0));
    let said = core::mem::replace(&mut entry.said, true);
    drop(table);
    if let Some(come_again) = COME_AGAIN.get() {
        come_again();
    }
    if !said {
        log::warn!(
            target: "event",
            "port {port} is raised faster than it is served: after {MOST} calls of its handler in one \
             upcall it waits for a while, or until the vCPU is idle"
        );
    }
    None
}

/// Opens the ports of this vCPU that were held back at a time of which `is_over` says that it is long
/// enough ago, each once: one that storms again meanwhile is held back again.
fn reopen(is_over: impl Fn(u64) -> bool) {
    if !HELD.swap(false, Ordering::Relaxed) {
        return;
    }
    let count = TABLE.lock().entries.len();
    for port in (0..count as u32).map(Port) {
        let over = {
            let mut table = TABLE.lock();
            let Some(entry) = table.entry(port) else {
                continue;
            };
            let here = entry.vcpu == cpu::here().number();
            match entry.held {
                Some(held) if here && is_over(held) => {
                    entry.held = None;
                    true
                }
                Some(_) => {
                    HELD.store(true, Ordering::Relaxed);
                    false
                }
                None => false,
            }
        };
        if over {
            // The lock is free: an upcall may come at once. Refused, it is a port that Xen no longer
            // knows.
            let _ = hypercall::event::unmask(&HV, port);
        }
    }
}

/// Whether some port is held back.
pub(crate) fn holds_back() -> bool {
    HELD.load(Ordering::Relaxed)
}

/// Opens every port of this vCPU that was held back: it has nothing to do that they could keep it from.
pub(crate) fn idle() {
    reopen(|_| true);
}
