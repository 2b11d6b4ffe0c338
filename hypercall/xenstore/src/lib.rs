//! Xenstore as a guest speaks it: the ring that it shares with xenstored, and the messages in it.
//!
//! Xenstore is the tree of small values through which Xen's tools and a domain tell each other what
//! to do: `control/shutdown`, the devices, the domain's name. A domain reaches it by a page that it
//! shares with xenstored and an event channel (`xen/include/public/io/xs_wire.h`,
//! `docs/misc/xenstore.txt`, `docs/misc/xenstore-ring.txt`).
//!
//! # Principles
//!
//! - **No I/O.** A [`Client`] is told that bytes came and says what bytes go; who waits, and how,
//!   is said by a [`Host`]. So the same code runs in a kernel and, in the tests, against a stand-in.
//! - **The other side is not trusted.** It writes into the page at any time: every byte and every
//!   index is read once, into memory of ours, and checked there. Nothing that it says can make this
//!   crate panic, read out of bounds or go on for ever.
//! - **Nothing gets lost in silence.** Events of watches and replies come mixed; an event goes to a
//!   [`Listener`] at once, whatever is waited for. Whose memory is full says so ([`Queue`]).
//! - **One request at a time.** It is all that a kernel without threads has a use for, and the
//!   memory for a reply is then known: nothing allocates.
//!
//! # Layers
//!
//! ```text
//! abi      what Xen's headers say, nothing else
//! ring     the shared page: two rings of bytes, the connection's state
//! path     names of nodes, checked
//! header request reply refusal permission    messages
//! event    watches that fired, and a queue for them
//! client   which bytes are which message: a state machine
//! store    requests that wait for their reply
//! ```
//!
//! # Example
//!
//! The other side here is a function that answers the one request that is made.
//!
//! ```
//! use xenstore_wire::{Host, Page, Path, Queue, Session, Store};
//!
//! let page = Page::new();
//!
//! /// A host whose notification is answered at once.
//! struct Answers<'a>(&'a Page);
//! impl Host for Answers<'_> {
//!     fn begin(&mut self) {}
//!     fn look(&mut self) {}
//!     fn notify(&mut self) {
//!         let mut request = [0; 64];
//!         if self.0.server_take(&mut request).unwrap() > 0 {
//!             let reply = b"\x02\0\0\0\x01\0\0\0\0\0\0\0\x05\0\0\0guest";
//!             assert_eq!(self.0.server_put(reply), Ok(reply.len()));
//!         }
//!     }
//!     fn is_over(&mut self) -> bool { false }
//!     fn wait(&mut self) {} // The event that the answer raises is there already.
//! }
//!
//! let mut memory = [0; 256];
//! let mut events = Queue::new(&mut memory);
//! let mut store = Store::new(&page);
//! let mut session = Session::new(&mut store, Answers(&page), &mut events);
//! let name = session.read(Path::constant("name")).unwrap();
//! assert_eq!(name, b"guest");
//! ```
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod client;
pub mod event;
pub mod header;
pub mod path;
pub mod permission;
pub mod refusal;
pub mod reply;
pub mod request;
pub mod ring;
pub mod store;

pub use client::{Broken, Busy, Client, Fault, Step};
pub use event::{Event, Listener, Popped, Queue};
pub use header::{Header, Kind};
pub use path::{Path, PathError};
pub use permission::{Access, Permission};
pub use refusal::{Errno, Refusal};
pub use reply::{Malformed, Reply, Transaction};
pub use request::{Request, RequestError};
pub use ring::{Connection, CorruptIndex, Features, Index, Page};
pub use store::{CallError, Host, Session, Store};
