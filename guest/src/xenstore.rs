//! This domain's end of xenstore: requests that wait for xenstored, asleep in Xen, and not for ever.
//!
//! The way in finds the ring and its event channel ([`found`]): in `start_info` under PV, among the
//! parameters of the virtual platform under PVH. dom0 has neither, nor has anything without Xen: that
//! is said once, at boot, and every request fails with [`Failed::None`].
//!
//! The port stays masked and has no handler: who waits for a reply polls it. So requests need no
//! upcalls; they must not be made by handlers, whose interrupted context may be in one.

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use hypercall::event::Port;
use marks::init;
use spin::Once;
use xenstore_wire::{CallError, Host, Page, Popped, Queue, Session, Store};

use crate::init::initcall;
use crate::lock::Lock;
use crate::options::Options;
use crate::rank;
use crate::refused::Refused;
use crate::xen::HV;
use crate::{event, time};

/// How long a request waits for its reply, in nanoseconds. xenstored answers within a millisecond; on
/// a host under load, within some hundred.
const LIMIT: u64 = 5_000_000_000;

/// Bytes for events that wait: room for the largest that there can be, and some hundred usual ones.
const EVENTS: usize = 8192;

/// The ring, from the way in.
static FOUND: Once<&'static Page> = Once::new();

/// Its port.
static PORT: AtomicU32 = AtomicU32::new(0);

/// The connection; taken out by whoever uses it.
static CONNECTION: Lock<Option<&'static mut Connection>, rank::Tools> = Lock::new(None);

/// What there is once for the domain.
struct Connection {
    store: Store<'static>,
    events: Queue<'static>,
}

/// A session of requests.
pub(crate) type Requests<'a> = Session<'a, 'static, Patient, &'a mut Queue<'static>>;

/// Says where the ring is mapped, for good, and the port that belongs to it.
#[init]
pub(crate) fn found(page: &'static Page, port: Port) {
    PORT.store(port.0, Ordering::Relaxed);
    FOUND.call_once(|| page);
}

/// Makes the connection, or says that there is none.
#[init]
fn init(_: &Options<'_>) -> Result<(), Refused> {
    let Some(&page) = FOUND.get() else {
        log::info!("Xen's tools gave this domain no xenstore");
        return Ok(());
    };
    let mut memory = Vec::new();
    if memory.try_reserve_exact(EVENTS).is_err() {
        log::warn!("no memory for events: there will be no xenstore");
        return Ok(());
    }
    memory.resize(EVENTS, 0);
    let connection = Box::leak(Box::new(Connection {
        store: Store::new(page),
        events: Queue::new(memory.leak()),
    }));
    *CONNECTION.lock() = Some(connection);
    Ok(())
}
initcall!("xenstore", Service, after ["events"], needs HYPERCALLS, init);

/// Why a request came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// This domain has no xenstore.
    None,
    /// Another request is under way.
    InUse,
    /// What became of the request.
    Call(CallError),
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Failed {
        Failed::Call(error)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::None => f.write_str("this domain has no xenstore"),
            Failed::InUse => f.write_str("a request is under way"),
            Failed::Call(CallError::Silent) => write!(
                f,
                "xenstored does not answer: nothing came in {} s",
                LIMIT / 1_000_000_000
            ),
            Failed::Call(e) => e.fmt(f),
        }
    }
}

/// How this kernel waits: in Xen, for the port or the end of the time that a request has.
pub(crate) struct Patient {
    port: Port,
    /// By [`time::monotonic`].
    deadline: u64,
}

impl Host for Patient {
    fn begin(&mut self) {
        // Without a clock the time is over at once; where there is a Xen there is one.
        self.deadline = time::monotonic().map_or(0, |now| now + LIMIT);
    }

    fn look(&mut self) {
        event::take(self.port);
    }

    fn notify(&mut self) {
        // A refusal means that nobody is at the other end, which waiting finds out.
        let _ = hypercall::event::send(&HV, self.port);
    }

    fn is_over(&mut self) -> bool {
        time::monotonic().is_none_or(|now| now >= self.deadline)
    }

    fn wait(&mut self) {
        event::wait(&[self.port], self.deadline);
    }
}

/// The connection, for as long as somebody uses it.
struct Taken(Option<&'static mut Connection>);

impl Taken {
    fn take() -> Result<Taken, Failed> {
        match CONNECTION.lock().take() {
            Some(connection) => Ok(Taken(Some(connection))),
            None if FOUND.get().is_some() => Err(Failed::InUse),
            None => Err(Failed::None),
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        *CONNECTION.lock() = self.0.take();
    }
}

/// Makes requests.
///
/// # Errors
/// See [`Failed`]; what `requests` fails with.
pub(crate) fn with<T>(
    requests: impl FnOnce(&mut Requests<'_>) -> Result<T, CallError>,
) -> Result<T, Failed> {
    let mut requests = Some(requests);
    let mut result = None;
    with_each(&mut |session| {
        result = requests.take().map(|requests| requests(session));
    })?;
    match result {
        Some(result) => result.map_err(Failed::Call),
        None => Err(Failed::InUse),
    }
}

/// The part of [`with`] that is the same for all requests.
fn with_each(requests: &mut dyn FnMut(&mut Requests<'_>)) -> Result<(), Failed> {
    let mut taken = Taken::take()?;
    let Some(Connection { store, events }) = taken.0.as_deref_mut() else {
        return Err(Failed::InUse);
    };
    let host = Patient {
        port: port().ok_or(Failed::None)?,
        deadline: 0,
    };
    requests(&mut Session::new(store, host, &mut *events));
    if let Some((fault, count)) = events.take_faults() {
        log::warn!("xenstored says what it should not, {count} times; first: {fault}");
    }
    Ok(())
}

/// Gives `each` the events that came, without waiting for more.
///
/// # Errors
/// See [`Failed`].
pub(crate) fn events(mut each: impl FnMut(Popped<'_>)) -> Result<(), Failed> {
    let served = with(|session| session.serve().map_err(CallError::Broken));
    let mut taken = Taken::take()?;
    while let Some(event) = taken.0.as_deref_mut().and_then(|all| all.events.pop()) {
        each(event);
    }
    served
}

/// The port that is raised when events come, where there is a xenstore.
pub(crate) fn port() -> Option<Port> {
    let port = || Port(PORT.load(Ordering::Relaxed));
    FOUND.get().map(|_| port())
}

/// Begins anew by another port, on the same page: in a restored domain, of which xenstored knows nothing
/// yet, no watch that was set before.
///
/// # Errors
/// [`Failed::None`], or [`Failed::InUse`].
pub(crate) fn begin_anew(port: Port) -> Result<(), Failed> {
    let mut taken = Taken::take()?;
    PORT.store(port.0, Ordering::Relaxed);
    if let Some(connection) = taken.0.as_deref_mut() {
        connection.store.begin_anew();
    }
    Ok(())
}
