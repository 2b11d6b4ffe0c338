//! The page that a domain shares with xenstored: a ring of bytes each way, and the connection's state.
//!
//! Both rings are [`byte_ring`]'s, and their indices need not begin at 0. The other side can write
//! anything at any time: an impossible index is an error that says which it was, and bytes are copied
//! once, and looked at only where they were copied to.
//!
//! ```
//! use xenstore_wire::Page;
//!
//! let page = Page::new();
//! assert_eq!(page.put(b"request"), Ok(7));
//! let mut taken = [0; 16];
//! assert_eq!(page.server_take(&mut taken), Ok(7));
//! assert_eq!(page.take(&mut taken), Ok(0));
//! ```

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use byte_ring::{Impossible, Ring};

use crate::abi;
use crate::abi::XENSTORE_RING_SIZE as SIZE;

/// The shared page. Atomics, because the other side writes concurrently.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Page {
    requests: [AtomicU8; SIZE],
    replies: [AtomicU8; SIZE],
    req_cons: AtomicU32,
    req_prod: AtomicU32,
    rsp_cons: AtomicU32,
    rsp_prod: AtomicU32,
    server_features: AtomicU32,
    connection: AtomicU32,
    error: AtomicU32,
}

const _: () = {
    use abi::xenstore_domain_interface as interface;
    use core::mem::offset_of;
    assert!(size_of::<Page>() == 4096);
    assert!(offset_of!(Page, requests) == offset_of!(interface, req));
    assert!(offset_of!(Page, replies) == offset_of!(interface, rsp));
    assert!(offset_of!(Page, req_cons) == offset_of!(interface, req_cons));
    assert!(offset_of!(Page, req_prod) == offset_of!(interface, req_prod));
    assert!(offset_of!(Page, rsp_cons) == offset_of!(interface, rsp_cons));
    assert!(offset_of!(Page, rsp_prod) == offset_of!(interface, rsp_prod));
    assert!(offset_of!(Page, server_features) == offset_of!(interface, server_features));
    assert!(offset_of!(Page, connection) == offset_of!(interface, connection));
    assert!(offset_of!(Page, error) == offset_of!(interface, error));
};

/// One of the four indices, by its name in Xen's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// How far xenstored has read requests.
    ReqCons,
    /// How far the domain has written requests.
    ReqProd,
    /// How far the domain has read replies.
    RspCons,
    /// How far xenstored has written replies.
    RspProd,
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Index::ReqCons => "req_cons",
            Index::ReqProd => "req_prod",
            Index::RspCons => "rsp_cons",
            Index::RspProd => "rsp_prod",
        })
    }
}

/// The other side put an index where it cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorruptIndex {
    /// Which.
    pub index: Index,
    /// Where it is, in bytes since the ring was made, modulo 2³².
    pub value: u32,
    /// Where this side's index of the same ring is.
    pub own: u32,
}

impl CorruptIndex {
    /// The index of the other side, as it was found with this side's.
    fn of(index: Index, Impossible { prod, cons }: Impossible) -> CorruptIndex {
        let (value, own) = match index {
            Index::ReqCons | Index::RspCons => (cons, prod),
            Index::ReqProd | Index::RspProd => (prod, cons),
        };
        CorruptIndex { index, value, own }
    }
}

impl fmt::Display for CorruptIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CorruptIndex { index, value, own } = self;
        let (ours, waiting) = match index {
            Index::ReqCons => (Index::ReqProd, own.wrapping_sub(*value)),
            Index::ReqProd => (Index::ReqCons, value.wrapping_sub(*own)),
            Index::RspCons => (Index::RspProd, own.wrapping_sub(*value)),
            Index::RspProd => (Index::RspCons, value.wrapping_sub(*own)),
        };
        write!(
            f,
            "{index} is {value:#x} where {ours} is {own:#x}: {waiting} bytes in a ring of {SIZE}"
        )
    }
}

impl core::error::Error for CorruptIndex {}

/// What the server says that it can do (`server_features`); bits are only ever added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub u32);

impl Features {
    /// The domain may ask for a fresh start of the connection.
    #[must_use]
    pub fn reconnects(self) -> bool {
        self.0 & abi::XENSTORE_SERVER_FEATURE_RECONNECTION != 0
    }

    /// The server says in the page why it no longer serves it.
    #[must_use]
    pub fn says_errors(self) -> bool {
        self.0 & abi::XENSTORE_SERVER_FEATURE_ERROR != 0
    }
}

/// Whether anybody is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// As it should be.
    Connected,
    /// Not yet, or not again: nothing else in the page means anything.
    Waiting,
    /// The server has stopped, for a reason by its number.
    Stopped(u32),
}

impl Default for Page {
    fn default() -> Page {
        Page::new()
    }
}

impl Page {
    /// A page of zeros, as it is before the first message. A domain is given its page; this one is
    /// for tests and for who plays the server.
    #[must_use]
    pub const fn new() -> Page {
        Page {
            requests: [const { AtomicU8::new(0) }; SIZE],
            replies: [const { AtomicU8::new(0) }; SIZE],
            req_cons: AtomicU32::new(0),
            req_prod: AtomicU32::new(0),
            rsp_cons: AtomicU32::new(0),
            rsp_prod: AtomicU32::new(0),
            server_features: AtomicU32::new(0),
            connection: AtomicU32::new(abi::XENSTORE_CONNECTED),
            error: AtomicU32::new(abi::XENSTORE_ERROR_NONE),
        }
    }

    /// Puts as many of `bytes` as fit into the ring of requests and returns how many.
    ///
    /// # Errors
    /// `req_cons` is impossible.
    pub fn put(&self, bytes: &[u8]) -> Result<usize, CorruptIndex> {
        let put = self.request_ring().put(bytes);
        put.map_err(|e| CorruptIndex::of(Index::ReqCons, e))
    }

    /// Takes as many bytes of replies as there are, and as `buffer` has room for, and returns how
    /// many.
    ///
    /// # Errors
    /// `rsp_prod` is impossible.
    pub fn take(&self, buffer: &mut [u8]) -> Result<usize, CorruptIndex> {
        let taken = self.reply_ring().take(buffer);
        taken.map_err(|e| CorruptIndex::of(Index::RspProd, e))
    }

    /// Bytes of replies that are there to be taken.
    ///
    /// # Errors
    /// As [`Page::take`].
    pub fn waiting(&self) -> Result<usize, CorruptIndex> {
        let waiting = self.reply_ring().waiting();
        waiting.map_err(|e| CorruptIndex::of(Index::RspProd, e))
    }

    fn request_ring(&self) -> Ring<'_, SIZE> {
        Ring {
            bytes: &self.requests,
            prod: &self.req_prod,
            cons: &self.req_cons,
        }
    }

    fn reply_ring(&self) -> Ring<'_, SIZE> {
        Ring {
            bytes: &self.replies,
            prod: &self.rsp_prod,
            cons: &self.rsp_cons,
        }
    }

    /// What the server can do.
    #[must_use]
    pub fn features(&self) -> Features {
        Features(self.server_features.load(Ordering::Acquire))
    }

    /// Whether anybody is at the other end. A number that no header knows counts as waiting.
    #[must_use]
    pub fn connection(&self) -> Connection {
        if self.connection.load(Ordering::Acquire) != abi::XENSTORE_CONNECTED {
            return Connection::Waiting;
        }
        match self.error.load(Ordering::Acquire) {
            error if error != abi::XENSTORE_ERROR_NONE && self.features().says_errors() => {
                Connection::Stopped(error)
            }
            _ => Connection::Connected,
        }
    }

    /// Asks the server to begin anew: it drops what is in the rings, every watch and every
    /// transaction, and then says [`Connection::Connected`]. It must be notified. False, and nothing
    /// is asked, where the server does not do that.
    #[must_use]
    pub fn ask_to_reconnect(&self) -> bool {
        let can = self.features().reconnects();
        if can {
            self.connection
                .store(abi::XENSTORE_RECONNECT, Ordering::Release);
        }
        can
    }

    /// What the server does with the ring of replies: as [`Page::put`].
    ///
    /// # Errors
    /// `rsp_cons` is impossible.
    pub fn server_put(&self, bytes: &[u8]) -> Result<usize, CorruptIndex> {
        let put = self.reply_ring().put(bytes);
        put.map_err(|e| CorruptIndex::of(Index::RspCons, e))
    }

    /// What the server does with the ring of requests: as [`Page::take`].
    ///
    /// # Errors
    /// `req_prod` is impossible.
    pub fn server_take(&self, buffer: &mut [u8]) -> Result<usize, CorruptIndex> {
        let taken = self.request_ring().take(buffer);
        taken.map_err(|e| CorruptIndex::of(Index::ReqProd, e))
    }

    /// Writes one of the indices, whatever it makes of the ring.
    pub fn set_index(&self, index: Index, value: u32) {
        match index {
            Index::ReqCons => &self.req_cons,
            Index::ReqProd => &self.req_prod,
            Index::RspCons => &self.rsp_cons,
            Index::RspProd => &self.rsp_prod,
        }
        .store(value, Ordering::Release);
    }

    /// Says what the server can do, how the connection is, and with which error the server stopped.
    pub fn server_says(&self, features: Features, connection: u32, error: u32) {
        self.server_features.store(features.0, Ordering::Release);
        self.error.store(error, Ordering::Release);
        self.connection.store(connection, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page_at(request: u32, reply: u32) -> Page {
        let page = Page::new();
        page.set_index(Index::ReqProd, request);
        page.set_index(Index::ReqCons, request);
        page.set_index(Index::RspProd, reply);
        page.set_index(Index::RspCons, reply);
        page
    }

    #[test]
    fn a_full_ring_takes_nothing_more() {
        let page = page_at(u32::MAX - 3, 0);
        assert_eq!(page.put(&[b'x'; 3000]), Ok(SIZE));
        assert_eq!(page.put(b"y"), Ok(0));
        let mut taken = [0; 2000];
        assert_eq!(page.server_take(&mut taken), Ok(SIZE));
        assert_eq!(page.put(b"y"), Ok(1));
    }

    #[test]
    fn an_impossible_index_is_named_with_its_value() {
        let page = page_at(5, 7);
        page.set_index(Index::ReqCons, 6);
        let error = page.put(b"x").unwrap_err();
        assert_eq!(
            (error.index, error.value, error.own),
            (Index::ReqCons, 6, 5)
        );
        let words = error.to_string();
        assert_eq!(
            words,
            "req_cons is 0x6 where req_prod is 0x5: 4294967295 bytes in a ring of 1024"
        );
        page.set_index(Index::RspProd, 7 + 1025);
        let error = page.take(&mut [0; 8]).unwrap_err();
        assert_eq!((error.index, error.value), (Index::RspProd, 1032));
        assert_eq!(page.waiting(), Err(error));
        // A full ring is none.
        page.set_index(Index::RspProd, 7 + 1024);
        assert_eq!(page.waiting(), Ok(1024));
    }

    #[test]
    fn a_connection_is_what_its_three_fields_say() {
        let page = Page::new();
        assert_eq!(page.connection(), Connection::Connected);
        assert!(!page.ask_to_reconnect());
        page.server_says(Features(0), 0, 3);
        assert_eq!(
            page.connection(),
            Connection::Connected,
            "not said to be valid"
        );
        page.server_says(Features(3), 0, 3);
        assert_eq!(page.connection(), Connection::Stopped(3));
        assert!(page.ask_to_reconnect());
        assert_eq!(page.connection(), Connection::Waiting);
        page.server_says(Features(3), 0, 0);
        assert_eq!(page.connection(), Connection::Connected);
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(start: u32, pieces: Vec<Vec<u8>>, room in 1_usize..2000) {
            let page = page_at(start, start);
            let (mut sent, mut received) = (Vec::<u8>::new(), Vec::<u8>::new());
            for piece in pieces {
                let count = page.server_put(&piece).unwrap();
                sent.extend(&piece[..count]);
                let mut buffer = vec![0; room];
                let count = page.take(&mut buffer).unwrap();
                received.extend(&buffer[..count]);
            }
            let mut buffer = [0; SIZE];
            let count = page.take(&mut buffer).unwrap();
            received.extend(&buffer[..count]);
            prop_assert_eq!(sent, received);
        }

        #[test]
        fn no_indices_can_make_it_panic(indices: [u32; 4], data: Vec<u8>) {
            let page = page_at(indices[0], indices[1]);
            page.set_index(Index::ReqCons, indices[2]);
            page.set_index(Index::RspProd, indices[3]);
            let _ = page.put(&data);
            let _ = page.take(&mut [0; 2000]);
            let _ = page.waiting();
        }
    }
}
