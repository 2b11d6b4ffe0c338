//! Events: who is called when a port is raised.
//!
//! Xen has two ABIs for what is raised (`xen/include/public/event_channel.h`). One has a queue for each
//! vCPU and priority ([`fifo`]): it is used where it can be had, unless the command line says
//! `events=2level`. The other has a bit for each port ([`two_level`]), which is what every domain begins
//! with, what the rules judge, and what stands in for Xen has ([`pc::ports`](crate::pc::ports)). Both have a pending byte in
//! `vcpu_info`. An upcall clears it *before* it looks for what is raised, so that an event that comes
//! while it looks raises another upcall instead of being lost.
//!
//! An upcall is a callback from Xen under PV, and an interrupt in hardware virtualisation. Without
//! Xen, interrupts of devices become events of the same form.
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
mod error;
mod fifo;
mod told;
mod two_level;
mod vector;

pub(crate) use self::entry::entry;
pub(crate) use self::error::BindError;
pub(crate) use self::fifo::NotReady;
pub(crate) use self::told::{Told, abi, tell};
pub(crate) use self::vector::share_anew;

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Waker;

use hypercall::event::Port;
use hypercall::queue::Access;
use hypercall::{Hypervisor, XenError};
use marks::init;

use crate::capability::{HYPERCALLS, is_here};
use crate::init::initcall;
use crate::lock::Lock;
use crate::mm::Current;
use crate::options::{Abi, Options};
use crate::rank;
use crate::refused::Refused;
use crate::selection::Selection;
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
    /// Calls ever.
    total: u64,
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
            total: 0,
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

static TABLE: Lock<Table, rank::Events> = Lock::new(Table {
    entries: Vec::new(),
});

/// Whether a port is held back.
static HELD: AtomicBool = AtomicBool::new(false);

/// Called at the start of every upcall, if anybody asks for it.
static OBSERVER: Lock<Option<fn()>, rank::Events> = Lock::new(None);

/// Has upcalls seen by `observer`, or by nobody.
pub(crate) fn observe(observer: Option<fn()>) {
    *OBSERVER.lock() = observer;
}

/// Masks every port, stops the periodic timer that every vCPU starts with, and opens upcalls. How
/// they come was arranged before, in each way of running's own call.
#[init]
fn init(options: &Options<'_>) -> Result<(), Refused> {
    mask_all();
    FIFO.store(wants_fifo(options), Ordering::Relaxed);
    change_over();
    hypercall::time::stop_periodic(&HV, 0)?;
    HV.restore_upcalls(false);
    Ok(())
}

/// Whether the FIFO ABI is to be used where it can be had. Rules are about the other.
#[init]
fn wants_fifo(options: &Options<'_>) -> bool {
    let rules = options.rules != Selection::None || options.differential.is_some();
    is_here(&HYPERCALLS) && !rules && options.events == Abi::Fifo
}

/// Whether the FIFO ABI is to be used where it can be had.
static FIFO: AtomicBool = AtomicBool::new(false);

/// Changes over to the ABI that is to be used, from two levels.
fn change_over() {
    if FIFO.load(Ordering::Relaxed)
        && let Err(e) = fifo::begin()
    {
        log::info!(target: "event", "two levels, as Xen's queues cannot be had: {e}");
    }
}

/// Readies events for a vCPU that Xen knows nothing of yet, before a port is bound there.
///
/// # Errors
/// No memory, or Xen's refusal.
pub(crate) fn prepare(area: &cpu::Area) -> Result<(), NotReady> {
    fifo::prepare(area)
}

/// How ports are served that nobody is to wait behind: 0 is the first, and 7 what a port has by itself.
const URGENT: u32 = 1;

/// Has a port, which has no handler yet, served before others, where the ABI has that; whether it has.
///
/// # Errors
/// Xen's refusal.
pub(crate) fn make_urgent(port: Port) -> Result<bool, XenError> {
    if fifo::is_used() {
        fifo::prefer(port, URGENT)?;
    }
    Ok(fifo::is_used())
}
initcall!("events", Service, after [], needs EVERYWHERE, init);

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

/// Has a port, which has a handler, raised on another vCPU from now on. An event that is on its way
/// reaches the one or the other, and is served on the new one.
///
/// # Errors
/// Xen's refusal, as of a port that is a vCPU's by its kind: it stays where it was.
#[cfg_attr(
    not(feature = "check"),
    allow(dead_code, reason = "self-tests show what becomes of events then")
)]
pub(crate) fn move_to(vcpu: u32, port: Port) -> Result<(), XenError> {
    // Raised meanwhile, it is announced where it is opened again.
    mask(port);
    let moved = hypercall::event::bind_vcpu(&HV, port, vcpu);
    if moved.is_ok()
        && let Some(entry) = TABLE.lock().entry(port)
    {
        entry.vcpu = vcpu;
    }
    hypercall::event::unmask(&HV, port).and(moved)
}

/// Enters what a port does, and opens it.
fn open(vcpu: u32, port: Port, called: Called) -> Result<(), BindError> {
    reach(port)?;
    TABLE.lock().insert(port, vcpu, called)?;
    if let Err(e) = hypercall::event::unmask(&HV, port) {
        forget(port);
        return Err(BindError::Refused(e));
    }
    Ok(())
}

/// Sees that the ABI in use knows a port.
fn reach(port: Port) -> Result<(), BindError> {
    let used = fifo::is_used();
    let has = if used {
        fifo::has(port)
    } else {
        two_level::has(port)
    };
    if !has {
        return Err(BindError::NoSuchPort);
    }
    if used && let Err(e) = fifo::reach(port) {
        return Err(BindError::NoWord(e));
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

fn come_again() {
    if let Some(come_again) = COME_AGAIN.get() {
        come_again();
    }
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
    change_over();
    hypercall::time::stop_periodic(&HV, 0)
}

/// Whether `port`, which stays masked, was raised since the last call: for those who poll.
pub(crate) fn take(port: Port) -> bool {
    match fifo::is_used() {
        true => fifo::take(port),
        false => two_level::take(port),
    }
}

/// Has all events wait.
fn mask_all() {
    two_level::mask_all();
}

/// Has events of `port` wait.
fn mask(port: Port) {
    match fifo::is_used() {
        true => fifo::mask(port),
        false => two_level::mask(port),
    }
}

/// Whether `port` is raised.
pub(crate) fn is_raised(port: Port) -> bool {
    match fifo::is_used() {
        true => fifo::is_raised(port),
        false => two_level::is_raised(port),
    }
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
    let Some((pending, selector)) = shared::upcall() else {
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
    if !fifo::is_used() {
        two_level::each_raised(pending, selector, serve);
    } else if !fifo::each_raised(pending, serve) {
        come_again();
    }
    let _ = Current.with(|mmu| mmu.leave_irq());
}

/// Calls the handler of a port that is raised.
fn serve(port: Port) {
    if let Some(handler) = admit(port) {
        take(port);
        handler.raised(port);
    }
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
        drop(table);
        // With two levels that vCPU was told of it as well. A queue is one vCPU's: the port was moved
        // while it was there. Xen raises it anew where it is now; refused, it is a port that is gone.
        if fifo::is_used() {
            mask(port);
            let _ = hypercall::event::unmask(&HV, port);
        }
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
        entry.total += 1;
        return Some(handler);
    }
    mask(port);
    HELD.store(true, Ordering::Relaxed);
    entry.held = Some(time::monotonic().unwrap_or(0));
    let said = core::mem::replace(&mut entry.said, true);
    drop(table);
    come_again();
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

/// Pages that Xen has for what it says.
#[cfg_attr(
    not(feature = "check"),
    allow(dead_code, reason = "self-tests account for all memory")
)]
pub(crate) fn pages() -> u64 {
    fifo::pages()
}
