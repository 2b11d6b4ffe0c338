//! Which bytes are which message: a state machine that is handed bytes and hands bytes out.
//!
//! One request is under way at a time. A request that is given up leaves the connection in order: the
//! rest of it is still sent, and its reply, should it come, is known for what it is. What cannot be
//! put in order again is [`Broken`]: a message whose end cannot be known, an index that cannot be.
//! Then only a fresh start of the connection helps ([`Client::reset`]).

use core::fmt;

use crate::abi::{self, XENSTORE_PAYLOAD_MAX};
use crate::event::{Event, Listener};
use crate::header::{self, Header, Kind};
use crate::refusal::Refusal;
use crate::reply::{Malformed, Reply, Transaction};
use crate::request::{Request, RequestError};
use crate::ring::{Connection, CorruptIndex, Page};

/// xenstored said something that it should not have. Messages are still told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A reply that nobody waits for.
    Stray {
        /// The number of its kind.
        kind: u32,
        /// Which request it claims to answer.
        id: u32,
    },
    /// The reply to a request that was given up: it came too late.
    Late {
        /// Which request.
        id: u32,
    },
    /// A reply to the request, but of another kind than the request.
    Kind {
        /// What was asked.
        asked: Kind,
        /// The number of the reply's kind.
        got: u32,
    },
    /// A reply to the request, but as part of another transaction.
    Transaction {
        /// The request's, 0 for none.
        asked: u32,
        /// The reply's.
        got: u32,
    },
    /// A reply, or an event, that is not as such ones are.
    Malformed(Malformed),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Stray { kind, id } => {
                write!(
                    f,
                    "a message of kind {kind} for request {id}, which nobody waits for"
                )
            }
            Fault::Late { id } => write!(f, "the reply to request {id} came too late"),
            Fault::Kind { asked, got } => {
                write!(
                    f,
                    "a reply of kind {got} to {asked}, which is {}",
                    *asked as u32
                )
            }
            Fault::Transaction { asked, got } => {
                write!(
                    f,
                    "a reply in transaction {got} to a request in transaction {asked}"
                )
            }
            Fault::Malformed(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for Fault {}

/// The connection cannot be used any more, unless it begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A message that claims more bytes than any may have.
    Length {
        /// The number of its kind.
        kind: u32,
        /// What it claims.
        length: u32,
    },
    /// An index that cannot be.
    Index(CorruptIndex),
    /// The server has stopped, and says why, by a number.
    Stopped(u32),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Length { kind, length } => write!(
                f,
                "a message of kind {kind} claims {length} bytes, more than {XENSTORE_PAYLOAD_MAX}"
            ),
            Broken::Index(e) => e.fmt(f),
            Broken::Stopped(error) => {
                let words = match *error {
                    abi::XENSTORE_ERROR_COMM => "its event channel does not work",
                    abi::XENSTORE_ERROR_RINGIDX => "an index of the ring cannot be",
                    abi::XENSTORE_ERROR_PROTO => "a request is too long",
                    _ => "a reason that is not known here",
                };
                write!(f, "xenstored has stopped with error {error}: {words}")
            }
        }
    }
}

impl core::error::Error for Broken {}

/// Why a request cannot be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// One is under way, or is still being sent.
    UnderWay,
    /// It cannot be sent as it is.
    Request(RequestError),
    /// The connection is broken.
    Broken(Broken),
}

/// How the answer to a request came out.
pub type Answer<'a> = Result<Result<Reply<'a>, Refusal>, Fault>;

/// What an exchange came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes went or were taken: the other side must be notified.
    pub notify: bool,
    /// There may be more to take at once: the next exchange need not wait for an event.
    pub more: bool,
}

/// A request whose reply is not there yet.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: u32,
    kind: Kind,
    transaction: u32,
}

/// What the bytes that come next are.
#[derive(Clone, Copy, Debug)]
enum Receiving {
    /// So many bytes of a header are there.
    Header(usize),
    /// A header is, and so many of the bytes behind it.
    Payload(Header, usize),
    /// A reply is whole, and waits to be taken.
    Answer(Header, Waiting),
}

/// Replies to requests that were given up, which may still come.
#[derive(Clone, Copy, Debug)]
struct Late {
    /// The first of the requests.
    from: u32,
    /// How many.
    count: u32,
}

/// A domain's end of a connection. Its size is that of two messages.
#[derive(Debug)]
pub struct Client {
    out: [u8; header::LENGTH + XENSTORE_PAYLOAD_MAX],
    out_length: usize,
    out_sent: usize,
    last_id: u32,
    waiting: Option<Waiting>,
    late: Late,
    header: [u8; header::LENGTH],
    payload: [u8; XENSTORE_PAYLOAD_MAX],
    receiving: Receiving,
    broken: Option<Broken>,
}

impl Default for Client {
    fn default() -> Client {
        Client::new()
    }
}

impl Client {
    /// One that has asked nothing yet.
    #[must_use]
    pub const fn new() -> Client {
        Client {
            out: [0; header::LENGTH + XENSTORE_PAYLOAD_MAX],
            out_length: 0,
            out_sent: 0,
            last_id: 0,
            waiting: None,
            late: Late { from: 0, count: 0 },
            header: [0; header::LENGTH],
            payload: [0; XENSTORE_PAYLOAD_MAX],
            receiving: Receiving::Header(0),
            broken: None,
        }
    }

    /// Begins anew with a server that does: nothing is under way, nothing is broken.
    pub fn reset(&mut self) {
        (self.out_length, self.out_sent) = (0, 0);
        self.waiting = None;
        self.late.count = 0;
        self.receiving = Receiving::Header(0);
        self.broken = None;
    }

    /// Why the connection cannot be used, if it cannot.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Makes a request, outside of transactions or in one. It is in the memory of the client: nothing
    /// that it refers to is needed any longer.
    ///
    /// # Errors
    /// It cannot be made, or not now.
    pub fn request(
        &mut self,
        request: &Request<'_>,
        transaction: Option<Transaction>,
    ) -> Result<(), Busy> {
        if let Some(broken) = self.broken {
            return Err(Busy::Broken(broken));
        }
        if !self.is_idle() {
            return Err(Busy::UnderWay);
        }
        let payload = self.out.split_first_chunk_mut::<{ header::LENGTH }>();
        let Some((head, payload)) = payload.and_then(|(head, rest)| {
            rest.first_chunk_mut::<XENSTORE_PAYLOAD_MAX>()
                .map(|rest| (head, rest))
        }) else {
            return Err(Busy::Request(RequestError::Long));
        };
        let length = request.encode(payload).map_err(Busy::Request)?;
        // 0 is the number of events.
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        let waiting = Waiting {
            id: self.last_id,
            kind: request.kind(),
            transaction: transaction.map_or(0, |Transaction(id)| id.get()),
        };
        *head = Header {
            kind: waiting.kind as u32,
            id: waiting.id,
            transaction: waiting.transaction,
            length: length as u32,
        }
        .to_bytes();
        (self.out_length, self.out_sent) = (header::LENGTH + length, 0);
        self.waiting = Some(waiting);
        Ok(())
    }

    /// Whether a request can be made.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let answered = matches!(self.receiving, Receiving::Answer(..));
        self.waiting.is_none() && !answered && self.output().is_empty()
    }

    /// Whether an answer waits to be taken.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        matches!(self.receiving, Receiving::Answer(..))
    }

    /// Waits for the reply no longer. What is not sent of the request still will be.
    pub fn give_up(&mut self) {
        if let Receiving::Answer(..) = self.receiving {
            self.receiving = Receiving::Header(0);
        }
        if let Some(waiting) = self.waiting.take() {
            if self.late.count == 0 {
                self.late.from = waiting.id;
            }
            self.late.count = self.late.count.saturating_add(1);
        }
    }

    /// The bytes that are to go to the other side.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.out
            .get(self.out_sent..self.out_length)
            .unwrap_or_default()
    }

    /// So many of the bytes of [`Client::output`] went.
    pub fn sent(&mut self, count: usize) {
        self.out_sent = self.out_length.min(self.out_sent.saturating_add(count));
    }

    /// Where the next bytes from the other side go. Empty while an answer waits to be taken, and when
    /// the connection is broken.
    pub fn input(&mut self) -> &mut [u8] {
        if self.broken.is_some() {
            return &mut [];
        }
        match self.receiving {
            Receiving::Header(got) => self.header.get_mut(got..),
            Receiving::Payload(header, got) => self.payload.get_mut(got..header.length as usize),
            Receiving::Answer(..) => None,
        }
        .unwrap_or_default()
    }

    /// So many bytes were put where [`Client::input`] said. `listener` is told of events.
    ///
    /// # Errors
    /// Where the next message begins cannot be known any more.
    pub fn received(&mut self, count: usize, listener: &mut impl Listener) -> Result<(), Broken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let count = count.min(self.input().len());
        self.receiving = match self.receiving {
            Receiving::Header(got) if got + count < header::LENGTH => {
                Receiving::Header(got + count)
            }
            Receiving::Header(_) => {
                let header = Header::from_bytes(self.header);
                if header.length as usize > XENSTORE_PAYLOAD_MAX {
                    return Err(self.break_down(Broken::Length {
                        kind: header.kind,
                        length: header.length,
                    }));
                }
                Receiving::Payload(header, 0)
            }
            Receiving::Payload(header, got) => Receiving::Payload(header, got + count),
            answer @ Receiving::Answer(..) => answer,
        };
        if let Receiving::Payload(header, got) = self.receiving
            && got == header.length as usize
        {
            self.receiving = self.complete(header, listener);
        }
        Ok(())
    }

    /// A message is whole: an event, the reply, or what should not be.
    fn complete(&mut self, header: Header, listener: &mut impl Listener) -> Receiving {
        if header.kind == abi::XS_WATCH_EVENT {
            match Event::parse(&self.payload[..header.length as usize]) {
                Ok(event) => listener.event(event),
                Err(e) => listener.fault(Fault::Malformed(e)),
            }
            return Receiving::Header(0);
        }
        match self.waiting {
            Some(waiting) if waiting.id == header.id => {
                self.waiting = None;
                return Receiving::Answer(header, waiting);
            }
            _ => {}
        }
        let id = header.id;
        let age = self.last_id.wrapping_sub(id);
        listener.fault(
            if self.late.count > 0 && age <= self.last_id.wrapping_sub(self.late.from) {
                self.late.count -= 1;
                Fault::Late { id }
            } else {
                Fault::Stray {
                    kind: header.kind,
                    id,
                }
            },
        );
        Receiving::Header(0)
    }

    /// Takes the answer, if it is there.
    pub fn take_answer(&mut self) -> Option<Answer<'_>> {
        let Receiving::Answer(header, waiting) = self.receiving else {
            return None;
        };
        self.receiving = Receiving::Header(0);
        let payload = &self.payload[..header.length as usize];
        if header.transaction != waiting.transaction {
            return Some(Err(Fault::Transaction {
                asked: waiting.transaction,
                got: header.transaction,
            }));
        }
        if header.kind == abi::XS_ERROR {
            return Some(match payload {
                [name @ .., 0] if !name.is_empty() => Ok(Err(Refusal::from_name(name))),
                _ => Err(Fault::Malformed(Malformed {
                    kind: Some(waiting.kind),
                    what: "an error without a name",
                })),
            });
        }
        if header.kind != waiting.kind as u32 {
            return Some(Err(Fault::Kind {
                asked: waiting.kind,
                got: header.kind,
            }));
        }
        let reply = Reply::parse(waiting.kind, payload);
        Some(reply.map(Ok).map_err(Fault::Malformed))
    }

    /// Moves bytes both ways, as many as there are and have room; takes at most what a ring holds, so
    /// that it ends however fast the other side writes.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn exchange(&mut self, page: &Page, listener: &mut impl Listener) -> Result<Step, Broken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let mut step = Step {
            notify: false,
            more: false,
        };
        match page.connection() {
            Connection::Connected => {}
            Connection::Waiting => return Ok(step),
            Connection::Stopped(error) => return Err(self.break_down(Broken::Stopped(error))),
        }
        if !self.output().is_empty() {
            let count = page
                .put(self.output())
                .map_err(|e| self.break_down(Broken::Index(e)))?;
            self.sent(count);
            step.notify = count > 0;
        }
        let mut left = page
            .waiting()
            .map_err(|e| self.break_down(Broken::Index(e)))?;
        while left > 0 {
            let input = self.input();
            let room = input.len().min(left);
            let count = match page.take(&mut input[..room]) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) => return Err(self.break_down(Broken::Index(e))),
            };
            left -= count;
            (step.notify, step.more) = (true, true);
            self.received(count, listener)?;
        }
        Ok(step)
    }

    fn break_down(&mut self, broken: Broken) -> Broken {
        *self.broken.get_or_insert(broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Popped;
    use crate::event::Queue;
    use crate::path::Path;
    use crate::ring::{Features, Index};
    use core::num::NonZeroU32;

    fn read() -> Request<'static> {
        Request::Read(Path::new(b"name").unwrap())
    }

    fn message(kind: u32, id: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32;
        let header = Header {
            kind,
            id,
            transaction,
            length,
        };
        [&header.to_bytes()[..], payload].concat()
    }

    /// Hands bytes over in pieces of `size`.
    fn feed(client: &mut Client, queue: &mut Queue<'_>, mut bytes: &[u8], size: usize) {
        while !bytes.is_empty() {
            let input = client.input();
            let count = input.len().min(bytes.len()).min(size);
            assert!(count > 0, "an answer waits");
            input[..count].copy_from_slice(&bytes[..count]);
            client.received(count, queue).unwrap();
            bytes = &bytes[count..];
        }
    }

    #[test]
    fn a_reply_is_found_among_events_whatever_the_pieces() {
        for size in 1..64 {
            let mut memory = [0; 256];
            let mut queue = Queue::new(&mut memory);
            let mut client = Client::new();
            client.request(&read(), None).unwrap();
            let sent = client.output().to_vec();
            assert_eq!(sent, message(abi::XS_READ, 1, 0, b"name\0"));
            client.sent(sent.len());
            let bytes = [
                message(abi::XS_WATCH_EVENT, 0, 0, b"a\0t\0"),
                message(abi::XS_READ, 1, 0, b"guest"),
            ];
            feed(&mut client, &mut queue, &bytes.concat(), size);
            assert_eq!(client.take_answer(), Some(Ok(Ok(Reply::Value(b"guest")))));
            assert_eq!(client.take_answer(), None);
            let event = Event {
                path: b"a",
                token: b"t",
            };
            assert_eq!(queue.pop(), Some(Popped::Event(event)));
            assert!(client.is_idle());
        }
    }

    #[test]
    fn an_empty_value_is_a_value() {
        let mut queue = Queue::new(&mut []);
        let mut client = Client::new();
        client.request(&read(), None).unwrap();
        feed(
            &mut client,
            &mut queue,
            &message(abi::XS_READ, 1, 0, b""),
            16,
        );
        assert_eq!(client.take_answer(), Some(Ok(Ok(Reply::Value(b"")))));
    }

    #[test]
    fn wrong_replies_are_typed() {
        let answer = |bytes: &[u8]| {
            let mut queue = Queue::new(&mut []);
            let mut client = Client::new();
            let transaction = NonZeroU32::new(9).map(Transaction);
            client.request(&read(), transaction).unwrap();
            feed(&mut client, &mut queue, bytes, 4096);
            let answer = client.take_answer().map(|answer| match answer {
                Ok(Ok(Reply::Value(value))) => Ok(Ok(value.to_vec())),
                Ok(Ok(other)) => panic!("{other:?}"),
                Ok(Err(refusal)) => Ok(Err(refusal)),
                Err(fault) => Err(fault),
            });
            (answer, queue.take_faults().map(|(fault, _)| fault))
        };
        assert_eq!(
            answer(&message(abi::XS_READ, 1, 9, b"x")),
            (Some(Ok(Ok(b"x".to_vec()))), None)
        );
        let kind = Fault::Kind {
            asked: Kind::Read,
            got: abi::XS_WRITE,
        };
        assert_eq!(
            answer(&message(abi::XS_WRITE, 1, 9, b"OK\0")),
            (Some(Err(kind)), None)
        );
        let transaction = Fault::Transaction { asked: 9, got: 8 };
        assert_eq!(
            answer(&message(abi::XS_READ, 1, 8, b"x")),
            (Some(Err(transaction)), None)
        );
        let stray = Fault::Stray { kind: 2, id: 7 };
        assert_eq!(
            answer(&message(abi::XS_READ, 7, 9, b"x")),
            (None, Some(stray))
        );
        let refusal = Refusal::Known(crate::Errno::EAGAIN);
        assert_eq!(
            answer(&message(abi::XS_ERROR, 1, 9, b"EAGAIN\0")),
            (Some(Ok(Err(refusal))), None)
        );
        for payload in [&b""[..], b"\0", b"EAGAIN"] {
            let (answer, _) = answer(&message(abi::XS_ERROR, 1, 9, payload));
            assert!(
                matches!(answer, Some(Err(Fault::Malformed(_)))),
                "{answer:?}"
            );
        }
        let (_, fault) = answer(&message(abi::XS_WATCH_EVENT, 0, 0, b"a\0"));
        assert!(matches!(
            fault,
            Some(Fault::Malformed(Malformed { kind: None, .. }))
        ));
    }

    #[test]
    fn a_message_that_is_too_long_breaks_the_connection() {
        let mut queue = Queue::new(&mut []);
        let mut client = Client::new();
        let header = Header {
            kind: 2,
            id: 1,
            transaction: 0,
            length: 4097,
        };
        client.input().copy_from_slice(&header.to_bytes());
        let broken = Broken::Length {
            kind: 2,
            length: 4097,
        };
        assert_eq!(client.received(16, &mut queue), Err(broken));
        assert!(client.input().is_empty());
        assert_eq!(client.received(16, &mut queue), Err(broken));
        assert_eq!(client.request(&read(), None), Err(Busy::Broken(broken)));
        client.reset();
        assert_eq!(client.request(&read(), None), Ok(()));
        // The longest that there may be is none of it.
        let payload = [b'x'; 4096];
        feed(
            &mut client,
            &mut queue,
            &message(abi::XS_READ, 1, 0, &payload),
            1000,
        );
        assert_eq!(client.take_answer(), Some(Ok(Ok(Reply::Value(&payload)))));
    }

    #[test]
    fn a_request_that_is_given_up_leaves_order() {
        let mut queue = Queue::new(&mut []);
        let mut client = Client::new();
        client.request(&read(), None).unwrap();
        client.sent(3);
        assert_eq!(client.request(&read(), None), Err(Busy::UnderWay));
        client.give_up();
        assert_eq!(
            client.request(&read(), None),
            Err(Busy::UnderWay),
            "not all of it is sent"
        );
        client.sent(client.output().len());
        client.request(&read(), None).unwrap();
        feed(
            &mut client,
            &mut queue,
            &message(abi::XS_READ, 1, 0, b"old"),
            16,
        );
        assert!(!client.is_answered());
        assert_eq!(queue.take_faults(), Some((Fault::Late { id: 1 }, 1)));
        feed(
            &mut client,
            &mut queue,
            &message(abi::XS_READ, 1, 0, b"old"),
            16,
        );
        assert_eq!(
            queue.take_faults(),
            Some((Fault::Stray { kind: 2, id: 1 }, 1))
        );
        feed(
            &mut client,
            &mut queue,
            &message(abi::XS_READ, 2, 0, b"new"),
            16,
        );
        assert_eq!(client.take_answer(), Some(Ok(Ok(Reply::Value(b"new")))));
    }

    #[test]
    fn every_fault_is_told_apart() {
        let wrong = Malformed {
            kind: None,
            what: "no token",
        };
        let asked = Kind::Read;
        let faults = [
            (
                Fault::Stray { kind: 2, id: 7 },
                "a message of kind 2 for request 7, which nobody waits for",
            ),
            (
                Fault::Late { id: 7 },
                "the reply to request 7 came too late",
            ),
            (
                Fault::Kind { asked, got: 11 },
                "a reply of kind 11 to READ, which is 2",
            ),
            (
                Fault::Transaction { asked: 9, got: 8 },
                "a reply in transaction 8 to a request in transaction 9",
            ),
            (
                Fault::Malformed(wrong),
                "the event of a watch is none: no token",
            ),
        ];
        for (fault, words) in faults {
            assert_eq!(fault.to_string(), words);
        }
    }

    #[test]
    fn late_replies_are_those_of_requests_given_up() {
        let mut queue = Queue::new(&mut []);
        let mut client = Client::new();
        client.request(&read(), None).unwrap();
        client.sent(21);
        feed(
            &mut client,
            &mut queue,
            &message(abi::XS_READ, 1, 0, b"x"),
            16,
        );
        assert!(client.take_answer().is_some());
        for _ in 2..=3 {
            client.request(&read(), None).unwrap();
            client.sent(21);
            client.give_up();
        }
        for (id, fault) in [
            (1, Fault::Stray { kind: 2, id: 1 }),
            (3, Fault::Late { id: 3 }),
            (4, Fault::Stray { kind: 2, id: 4 }),
            (2, Fault::Late { id: 2 }),
            (2, Fault::Stray { kind: 2, id: 2 }),
        ] {
            feed(
                &mut client,
                &mut queue,
                &message(abi::XS_READ, id, 0, b"x"),
                16,
            );
            assert_eq!(queue.take_faults(), Some((fault, 1)));
        }
    }

    #[test]
    fn numbers_of_requests_wrap_past_0() {
        let mut client = Client::new();
        client.last_id = u32::MAX;
        client.request(&read(), None).unwrap();
        assert_eq!(client.output()[4..8], [1, 0, 0, 0]);
    }

    #[test]
    fn an_exchange_says_whom_to_wake() {
        let page = Page::new();
        let mut queue = Queue::new(&mut []);
        let mut client = Client::new();
        let quiet = Step {
            notify: false,
            more: false,
        };
        assert_eq!(client.exchange(&page, &mut queue), Ok(quiet));
        client.request(&read(), None).unwrap();
        let step = client.exchange(&page, &mut queue).unwrap();
        assert!(step.notify && !step.more);
        page.server_put(&message(abi::XS_READ, 1, 0, b"guest"))
            .unwrap();
        let step = client.exchange(&page, &mut queue).unwrap();
        assert!(step.notify && step.more && client.is_answered());
        // While an answer waits, nothing behind it is taken.
        page.server_put(&message(abi::XS_WATCH_EVENT, 0, 0, b"a\0t\0"))
            .unwrap();
        assert!(!client.exchange(&page, &mut queue).unwrap().notify);
        assert!(client.take_answer().is_some());
        client.exchange(&page, &mut queue).unwrap();
        assert_eq!(queue.pop(), Some(Popped::Lost(1)));
    }

    #[test]
    fn a_full_ring_is_nothing_to_notify_of() {
        let page = Page::new();
        page.put(&[0; 1024]).unwrap();
        let mut client = Client::new();
        client.request(&read(), None).unwrap();
        let step = client.exchange(&page, &mut Queue::new(&mut [])).unwrap();
        assert!(!step.notify && !step.more);
    }

    #[test]
    fn an_exchange_ends_however_fast_the_other_side_writes() {
        /// Says the same again for each event that is taken, and so on, for quite a while.
        struct Endless<'p>(&'p Page, usize);
        impl Endless<'_> {
            fn say(&self) {
                let event = message(abi::XS_WATCH_EVENT, 0, 0, b"a\0t\0");
                self.0.server_put(&event).unwrap();
            }
        }
        impl Listener for Endless<'_> {
            fn event(&mut self, _: Event<'_>) {
                self.1 += 1;
                if self.1 < 10_000 {
                    self.say();
                }
            }
            fn fault(&mut self, fault: Fault) {
                panic!("{fault}");
            }
        }
        let page = Page::new();
        let mut endless = Endless(&page, 0);
        (0..5).for_each(|_| endless.say());
        let step = Client::new().exchange(&page, &mut endless).unwrap();
        assert!(step.more && step.notify);
        assert_eq!(endless.1, 5);
    }

    #[test]
    fn what_breaks_a_connection_is_said() {
        let broken = |spoil: fn(&Page)| {
            let page = Page::new();
            spoil(&page);
            let mut client = Client::new();
            client.request(&read(), None).unwrap();
            let broken = client
                .exchange(&page, &mut Queue::new(&mut []))
                .unwrap_err();
            assert_eq!(client.broken(), Some(broken));
            broken.to_string()
        };
        assert!(broken(|page| page.set_index(Index::ReqCons, 1)).starts_with("req_cons is 0x1"));
        assert!(
            broken(|page| page.set_index(Index::RspProd, 1025)).starts_with("rsp_prod is 0x401")
        );
        for (error, reason) in [
            (1, "its event channel does not work"),
            (2, "an index of the ring cannot be"),
            (3, "a request is too long"),
            (4, "a reason that is not known here"),
        ] {
            let words = Broken::Stopped(error).to_string();
            let expected = format!("xenstored has stopped with error {error}: {reason}");
            assert_eq!(words, expected);
        }
        let stopped = broken(|page| page.server_says(Features(2), 0, 3));
        assert_eq!(stopped, Broken::Stopped(3).to_string());
    }

    #[test]
    fn nothing_is_touched_before_the_server_is_there() {
        let page = Page::new();
        page.server_says(Features(0), abi::XENSTORE_RECONNECT, 0);
        page.set_index(Index::RspProd, 5000);
        let mut client = Client::new();
        client.request(&read(), None).unwrap();
        let step = client.exchange(&page, &mut Queue::new(&mut [])).unwrap();
        assert!(!step.notify && !step.more);
        assert_eq!(client.output().len(), 21);
    }
}
