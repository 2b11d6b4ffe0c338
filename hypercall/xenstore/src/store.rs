//! Requests that wait for their reply.
//!
//! How to wait is the [`Host`]'s: a kernel sleeps in Xen until the event channel is raised. Every
//! request has a time limit, so that a server that does not answer is an error and never a hang.

use core::fmt;

use crate::client::{Answer, Broken, Busy, Client, Fault, Step};
use crate::event::Listener;
use crate::path::Path;
use crate::permission::Permission;
use crate::refusal::{Errno, Refusal};
use crate::reply::{Malformed, Part, Permissions, Reply, Transaction};
use crate::request::{Request, RequestError};
use crate::ring::{Connection, Page};

/// How often a transaction is tried that somebody else's changes undo.
pub const TRIES: u32 = 100;

/// Where this runs: who wakes the other side, and how to sleep until it wakes this one.
pub trait Host {
    /// A request begins: its time runs from now.
    fn begin(&mut self);

    /// The rings will be looked at. An event that comes from now on ends the next [`Host::wait`].
    fn look(&mut self);

    /// Raises the event channel.
    fn notify(&mut self);

    /// Whether the request has had its time.
    fn is_over(&mut self) -> bool;

    /// Sleeps until an event comes that is younger than the last [`Host::look`], or until the time is
    /// over.
    fn wait(&mut self);
}

/// Why a request came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// It cannot be sent.
    Request(RequestError),
    /// xenstored refused.
    Refused(Refusal),
    /// xenstored answered something that is no answer.
    Fault(Fault),
    /// The connection cannot be used.
    Broken(Broken),
    /// No answer came in time.
    Silent,
    /// A transaction was undone every time by what others changed.
    Contended,
    /// The server does not begin a connection anew.
    Stays,
}

impl CallError {
    /// Whether xenstored refused for this reason.
    #[must_use]
    pub fn is(&self, errno: Errno) -> bool {
        *self == CallError::Refused(Refusal::Known(errno))
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Request(e) => e.fmt(f),
            CallError::Refused(refusal) => write!(f, "xenstored refuses with {refusal}"),
            CallError::Fault(fault) => write!(f, "xenstored answers wrongly: {fault}"),
            CallError::Broken(broken) => write!(f, "the connection is broken: {broken}"),
            CallError::Silent => f.write_str("xenstored does not answer"),
            CallError::Stays => f.write_str("this xenstored does not begin a connection anew"),
            CallError::Contended => write!(
                f,
                "others changed the same each of the {TRIES} times that it was tried"
            ),
        }
    }
}

impl core::error::Error for CallError {}

impl From<Broken> for CallError {
    fn from(broken: Broken) -> CallError {
        CallError::Broken(broken)
    }
}

/// A connection: the shared page, and this domain's end of it.
#[derive(Debug)]
pub struct Store<'p> {
    page: &'p Page,
    client: Client,
}

impl<'p> Store<'p> {
    /// A connection over this page, on which nothing was sent yet.
    #[must_use]
    pub const fn new(page: &'p Page) -> Store<'p> {
        Store {
            page,
            client: Client::new(),
        }
    }

    /// Begins anew over the same page, with a server that knows nothing of this domain: that of another
    /// host, after a restore. What the one before had sent is passed over, and no watch stands.
    pub fn begin_anew(&mut self) {
        let mut bytes = [0; 64];
        // Impossible indices are passed over as well.
        while self.page.take(&mut bytes).is_ok_and(|taken| taken > 0) {}
        self.client.reset();
    }

    /// Why the connection cannot be used, if it cannot.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        self.client.broken()
    }
}

/// The requests of a connection, as long as host and listener are there, in a transaction or not.
#[derive(Debug)]
pub struct Session<'a, 'p, H, L> {
    store: &'a mut Store<'p>,
    host: H,
    listener: L,
    transaction: Option<Transaction>,
}

/// The answer that was expected, or what came instead.
macro_rules! expect {
    ($reply:expr, $kind:path => $value:expr) => {
        match $reply {
            $kind => Ok($value),
            _ => Err(unexpected()),
        }
    };
    ($reply:expr, $kind:path) => {
        match $reply {
            $kind(value) => Ok(value),
            _ => Err(unexpected()),
        }
    };
}

/// Kinds of replies follow from kinds of requests: this is never made.
fn unexpected() -> CallError {
    CallError::Fault(Fault::Malformed(Malformed {
        kind: None,
        what: "a reply of another request",
    }))
}

impl<'a, 'p, H: Host, L: Listener> Session<'a, 'p, H, L> {
    /// Requests over `store`; `listener` is told of events that come meanwhile.
    pub fn new(store: &'a mut Store<'p>, host: H, listener: L) -> Self {
        Session {
            store,
            host,
            listener,
            transaction: None,
        }
    }

    /// Moves bytes once.
    #[inline(never)]
    fn exchange(&mut self) -> Result<Step, Broken> {
        self.host.look();
        let Store { page, client } = &mut *self.store;
        let step = client.exchange(page, &mut self.listener)?;
        if step.notify {
            self.host.notify();
        }
        Ok(step)
    }

    /// Makes a request and waits for the answer.
    ///
    /// # Errors
    /// See [`CallError`]. After [`CallError::Silent`] the next request can be made.
    // Every request goes through here; copies of it in each caller would be most of the code.
    #[inline(never)]
    pub fn call(&mut self, request: &Request<'_>) -> Result<Reply<'_>, CallError> {
        self.host.begin();
        let mut made = false;
        loop {
            // What was given up before goes first.
            if !made && self.store.client.is_idle() {
                match self.store.client.request(request, self.transaction) {
                    Ok(()) => made = true,
                    Err(Busy::UnderWay) => {}
                    Err(Busy::Request(e)) => return Err(CallError::Request(e)),
                    Err(Busy::Broken(broken)) => return Err(CallError::Broken(broken)),
                }
            }
            let step = match self.exchange() {
                Ok(step) => step,
                Err(broken) => {
                    self.store.client.give_up();
                    return Err(CallError::Broken(broken));
                }
            };
            if self.store.client.is_answered() {
                break;
            }
            if self.host.is_over() {
                self.store.client.give_up();
                return Err(CallError::Silent);
            }
            let can_begin = !made && self.store.client.is_idle();
            if !step.more && !can_begin {
                self.host.wait();
            }
        }
        let answer: Option<Answer<'_>> = self.store.client.take_answer();
        match answer {
            Some(Ok(Ok(reply))) => Ok(reply),
            Some(Ok(Err(refusal))) => Err(CallError::Refused(refusal)),
            Some(Err(fault)) => Err(CallError::Fault(fault)),
            None => Err(CallError::Silent),
        }
    }

    /// Takes what came without being asked for; does not wait.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn serve(&mut self) -> Result<(), Broken> {
        self.host.begin();
        while self.exchange()?.more && !self.host.is_over() {}
        Ok(())
    }

    /// The names of a node's children, in pieces of a message: `each` gets them one after the other,
    /// and is told by `None` that the node changed meanwhile and all begins again.
    ///
    /// # Errors
    /// [`CallError::Contended`] for a node that changed each time, and what any request can fail with.
    pub fn list(
        &mut self,
        path: Path<'_>,
        mut each: impl FnMut(Option<&[u8]>),
    ) -> Result<(), CallError> {
        match self.call(&Request::Directory(path)) {
            Err(e) if e.is(Errno::E2BIG) => {}
            reply => {
                expect!(reply?, Reply::Names)?.for_each(|name| each(Some(name)));
                return Ok(());
            }
        }
        for _ in 0..TRIES {
            if self.list_parts(path, &mut each)? {
                return Ok(());
            }
            each(None);
        }
        Err(CallError::Contended)
    }

    /// One pass over a long list; false if it changed meanwhile.
    fn list_parts(
        &mut self,
        path: Path<'_>,
        each: &mut impl FnMut(Option<&[u8]>),
    ) -> Result<bool, CallError> {
        // A generation is a number of 64 bits, in at most twenty digits; a longer one is told by its
        // first bytes and its length.
        let mut first = None;
        let mut offset = 0_u32;
        loop {
            let reply = self.call(&Request::DirectoryPart(path, offset))?;
            let part: Part<'_> = expect!(reply, Reply::Part)?;
            let mut generation = [0; 20];
            for (to, digit) in generation.iter_mut().zip(part.generation) {
                *to = *digit;
            }
            let generation = (generation, part.generation.len());
            if *first.get_or_insert(generation) != generation {
                return Ok(false);
            }
            part.names.for_each(|name| each(Some(name)));
            if part.is_last {
                return Ok(true);
            }
            offset = offset.saturating_add(part.length());
        }
    }

    /// The value of a node.
    ///
    /// # Errors
    /// ENOENT if it is not there, EACCES if this domain may not read it.
    pub fn read(&mut self, path: Path<'_>) -> Result<&[u8], CallError> {
        expect!(self.call(&Request::Read(path))?, Reply::Value)
    }

    /// Gives a node a value.
    ///
    /// # Errors
    /// EACCES if this domain may not, ENOSPC or E2BIG beyond its quota.
    pub fn write(&mut self, path: Path<'_>, value: &[u8]) -> Result<(), CallError> {
        self.done(&Request::Write(path, value))
    }

    /// Makes a node if it is not there.
    ///
    /// # Errors
    /// As [`Session::write`].
    pub fn make(&mut self, path: Path<'_>) -> Result<(), CallError> {
        self.done(&Request::Mkdir(path))
    }

    /// Removes a node and what is below.
    ///
    /// # Errors
    /// EACCES if this domain may not, ENOENT if not even the node above it is there.
    pub fn remove(&mut self, path: Path<'_>) -> Result<(), CallError> {
        self.done(&Request::Rm(path))
    }

    /// Who may do what with a node, the owner first.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn permissions(&mut self, path: Path<'_>) -> Result<Permissions<'_>, CallError> {
        expect!(
            self.call(&Request::GetPermissions(path))?,
            Reply::Permissions
        )
    }

    /// Says who may do what with a node; the first is the owner's.
    ///
    /// # Errors
    /// As [`Session::write`].
    pub fn set_permissions(
        &mut self,
        path: Path<'_>,
        permissions: &[Permission],
    ) -> Result<(), CallError> {
        self.done(&Request::SetPermissions(path, permissions))
    }

    /// Has the listener told when a node or what is below changes, and at once.
    ///
    /// # Errors
    /// EEXIST if this watch is set, ENOSPC beyond the quota.
    pub fn watch(&mut self, path: Path<'_>, token: &[u8]) -> Result<(), CallError> {
        self.done(&Request::Watch(path, token))
    }

    /// Has the listener told no more.
    ///
    /// # Errors
    /// ENOENT if there is no such watch.
    pub fn unwatch(&mut self, path: Path<'_>, token: &[u8]) -> Result<(), CallError> {
        self.done(&Request::Unwatch(path, token))
    }

    /// Where the nodes of a domain are.
    ///
    /// # Errors
    /// What any request can fail with.
    pub fn domain_path(&mut self, domain: u16) -> Result<&[u8], CallError> {
        expect!(self.call(&Request::GetDomainPath(domain))?, Reply::Path)
    }

    /// Does `work` in a transaction: others see all of it or nothing, and it saw nothing change. If
    /// others did change what it looked at, it is done again, up to 100 times.
    ///
    /// # Errors
    /// What `work` fails with, upon which nothing has happened; [`CallError::Contended`].
    pub fn transaction<T>(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        for _ in 0..TRIES {
            let begun = expect!(self.call(&Request::TransactionStart)?, Reply::Transaction)?;
            self.transaction = Some(begun);
            let result = work(self);
            let commit = result.is_ok();
            let ended = self.done(&Request::TransactionEnd { commit });
            self.transaction = None;
            match (result, ended) {
                (Ok(_), Err(e)) if e.is(Errno::EAGAIN) => {}
                (Ok(value), Ok(())) => return Ok(value),
                (Ok(_), Err(e)) | (Err(e), _) => return Err(e),
            }
        }
        Err(CallError::Contended)
    }

    #[inline(never)]
    fn done(&mut self, request: &Request<'_>) -> Result<(), CallError> {
        expect!(self.call(request)?, Reply::Done => ())
    }

    /// Begins anew, if the server can: every watch and every transaction is gone.
    ///
    /// # Errors
    /// [`CallError::Stays`] where the server cannot; [`CallError::Silent`].
    pub fn reconnect(&mut self) -> Result<(), CallError> {
        if !self.store.page.ask_to_reconnect() {
            return Err(CallError::Stays);
        }
        self.transaction = None;
        self.host.begin();
        self.host.notify();
        loop {
            self.host.look();
            if self.store.page.connection() != Connection::Waiting {
                self.store.client.reset();
                return Ok(());
            }
            if self.host.is_over() {
                return Err(CallError::Silent);
            }
            self.host.wait();
        }
    }
}
