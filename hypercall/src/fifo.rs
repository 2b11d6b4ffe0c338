//! The FIFO ABI of event channels: the guest's side of its queues (`event_channel.h`; Xen's side is
//! `xen/common/event_fifo.c`).
//!
//! A port has a word: whether it is raised, masked, in a queue, and which port is behind it there. A
//! vCPU has a queue for each of 16 priorities, whose heads are in its control block, and a bit of the
//! same block says that a queue was empty and has a head now. Xen links a port when it is raised, is not
//! masked and is not linked; the guest unlinks it, looks whether it is raised, and only then calls
//! whoever waits. So nothing is lost: what is raised while it is linked is found by whoever unlinks it,
//! what is raised after that is linked again.
//!
//! Xen reads the word of the last port to link another behind it, and writes a head only if that one is
//! no longer linked. So the guest takes `LINKED` and the link in one step, remembers the link as its next
//! head, and reads Xen's head only when it has none.
//!
//! A port that comes to another vCPU or priority stays in the queue where it is linked. Whoever finds it
//! there passes it on: masked, and unmasked by Xen, which links it where it belongs.
//!
//! ```
//! use core::cell::Cell;
//! use hypercall::event::Port;
//! use hypercall::fifo::{LINKED, PENDING, Reader, Shared, Taken};
//!
//! /// Xen has raised port 3, the head of queue 7.
//! struct Raised {
//!     ready: Cell<u32>,
//!     word: Cell<u32>,
//! }
//!
//! impl Shared for Raised {
//!     fn take_ready(&self) -> u32 {
//!         self.ready.take()
//!     }
//!     fn head(&self, queue: usize) -> u32 {
//!         if queue == 7 { 3 } else { 0 }
//!     }
//!     fn clear(&self, port: Port, bits: u32) -> Option<u32> {
//!         let word = self.word.get();
//!         self.word.set(word & !bits);
//!         (port == Port(3)).then_some(word)
//!     }
//! }
//!
//! let shared = Raised { ready: Cell::new(1 << 7), word: Cell::new(PENDING | LINKED) };
//! let mut reader = Reader::new();
//! assert_eq!(reader.next(&shared), Some(Taken::Port(Port(3), PENDING | LINKED)));
//! // It is in no queue any more, and raised until whoever calls its handler clears that.
//! assert_eq!(shared.word.get(), PENDING);
//! assert_eq!(reader.next(&shared), None);
//! ```

use core::sync::atomic::{AtomicU32, Ordering};

use crate::abi::event::{
    EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_MAX_QUEUES,
    EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PENDING,
};
use crate::event::Port;

/// A port's word, which Xen and the guest write by atomic operations.
pub type Word = AtomicU32;

/// Ports that there can be.
pub const PORTS: u32 = EVTCHN_FIFO_NR_CHANNELS;
/// Ports whose words are in one page.
pub const PORTS_OF_A_PAGE: u32 = 1024;
/// Queues of a vCPU.
pub const QUEUES: usize = EVTCHN_FIFO_MAX_QUEUES as usize;

/// In a word: the port is raised.
pub const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
/// In a word: Xen is not to link the port.
pub const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
/// In a word: the port is in a queue.
pub const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
/// In a word: the port behind this one, or 0.
pub const LINK: u32 = EVTCHN_FIFO_LINK_MASK;

/// A vCPU's control block (`struct evtchn_fifo_control_block`): it begins at a multiple of 8 and lies
/// within a page.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Block {
    ready: AtomicU32,
    reserved: u32,
    heads: [AtomicU32; QUEUES],
}

impl Block {
    /// One that Xen was not given yet.
    #[must_use]
    pub const fn new() -> Block {
        Block {
            ready: AtomicU32::new(0),
            reserved: 0,
            heads: [const { AtomicU32::new(0) }; QUEUES],
        }
    }

    /// Forgets what a Xen wrote that knows of the block no more.
    pub fn clear(&self) {
        self.ready.store(0, Ordering::Relaxed);
        for head in &self.heads {
            head.store(0, Ordering::Relaxed);
        }
    }

    /// Takes the bits of queues that have got a head.
    pub fn take_ready(&self) -> u32 {
        match self.ready.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.ready.swap(0, Ordering::AcqRel),
        }
    }

    /// The head that Xen has written for a queue, below [`QUEUES`].
    ///
    /// # Panics
    /// There is no such queue.
    pub fn head(&self, queue: usize) -> u32 {
        self.heads[queue].load(Ordering::Acquire)
    }
}

impl Default for Block {
    fn default() -> Block {
        Block::new()
    }
}

/// What a vCPU shares with Xen: its block, and the words of the domain.
pub trait Shared {
    /// As [`Block::take_ready`].
    fn take_ready(&self) -> u32;
    /// As [`Block::head`].
    fn head(&self, queue: usize) -> u32;
    /// Clears bits of a port's word in one step, and returns what it was; `None` if the array has no
    /// such port.
    fn clear(&self, port: Port, bits: u32) -> Option<u32>;
}

/// What a vCPU took out of its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A port with what its word was: raised or not, masked or not.
    Port(Port, u32),
    /// A number that is no port's. What was behind it is lost: Xen never writes such a one.
    Stray(u32),
}

/// What a vCPU knows of its queues.
#[derive(Debug)]
pub struct Reader {
    /// Queues that have something.
    ready: u32,
    /// The next port of each, or 0 for the one that Xen has written.
    heads: [u32; QUEUES],
}

impl Reader {
    /// Of a vCPU whose block is new.
    #[must_use]
    pub const fn new() -> Reader {
        Reader {
            ready: 0,
            heads: [0; QUEUES],
        }
    }

    /// Takes the next port, of the queue with the highest priority that has one. It looks at one port at
    /// most, whatever Xen has written.
    pub fn next(&mut self, shared: &impl Shared) -> Option<Taken> {
        // Each time: a queue of higher priority may have got something.
        self.ready |= shared.take_ready() & ((1 << QUEUES) - 1);
        if self.ready == 0 {
            return None;
        }
        let queue = self.ready.trailing_zeros() as usize;
        let port = match self.heads[queue] {
            0 => shared.head(queue),
            head => head,
        };
        let word = match port {
            // No port at all.
            0 => None,
            _ => shared.clear(Port(port), LINKED | LINK),
        };
        self.heads[queue] = match word {
            Some(word) if word & LINKED != 0 => word & LINK,
            _ => 0,
        };
        if self.heads[queue] == 0 {
            self.ready &= !(1 << queue);
        }
        Some(word.map_or(Taken::Stray(port), |word| Taken::Port(Port(port), word)))
    }
}

impl Default for Reader {
    fn default() -> Reader {
        Reader::new()
    }
}

const _: () = {
    use crate::abi::event::evtchn_fifo_control_block as Abi;
    use core::mem::offset_of;
    assert!(offset_of!(Block, ready) == offset_of!(Abi, ready));
    assert!(offset_of!(Block, heads) == offset_of!(Abi, head));
    assert!(size_of::<Abi>() <= size_of::<Block>());
};
