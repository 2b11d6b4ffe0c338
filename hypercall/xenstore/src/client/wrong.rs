//! What can be wrong with what xenstored says, and with a request.

use core::fmt;

use crate::abi::{self, XENSTORE_PAYLOAD_MAX};
use crate::header::Kind;
use crate::reply::Malformed;
use crate::request::RequestError;
use crate::ring::CorruptIndex;

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
