//! Which bytes are which message: a state machine that is handed bytes and hands bytes out.
//!
//! One request is under way at a time. A request that is given up leaves the connection in order: the
//! rest of it is still sent, and its reply, should it come, is known for what it is. What cannot be
//! put in order again is [`Broken`]: a message whose end cannot be known, an index that cannot be.
//! Then only a fresh start of the connection helps ([`Client::reset`]).

#[cfg(test)]
mod tests;
mod wrong;

use crate::abi::{self, XENSTORE_PAYLOAD_MAX};
use crate::event::{Event, Listener};
use crate::header::{self, Header, Kind};
use crate::refusal::Refusal;
use crate::reply::{Malformed, Reply, Transaction};
use crate::request::{Request, RequestError};
use crate::ring::{Connection, Page};
pub use wrong::{Broken, Busy, Fault};

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
