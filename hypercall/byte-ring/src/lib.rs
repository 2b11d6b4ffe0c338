//! A ring of bytes in memory that another domain writes as well, as Xen's consoles and xenstore have it
//! (`xen/include/public/io/console.h`, `io/xs_wire.h`).
//!
//! Producer and consumer are indices that count bytes for ever, modulo 2³²; the difference is what
//! waits. The other side can write anything at any time: its index is read once and checked, an
//! impossible one (more bytes wait than the ring holds) is an error, and a byte's place is its index
//! modulo the ring's size, so that nothing is reached beyond the ring. What follows from an impossible
//! index is the caller's to decide: nothing was moved.
//!
//! ```
//! use byte_ring::Ring;
//! use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
//!
//! let (bytes, prod, cons) = ([const { AtomicU8::new(0) }; 4], AtomicU32::new(0), AtomicU32::new(0));
//! let ring = Ring { bytes: &bytes, prod: &prod, cons: &cons };
//! assert_eq!(ring.put(b"hello"), Ok(4));
//! assert_eq!((ring.unread(), ring.waiting()), (Ok(4), Ok(4)));
//! let mut taken = [0; 8];
//! assert_eq!(ring.take(&mut taken), Ok(4));
//! assert_eq!(&taken[..4], b"hell");
//! cons.store(9, Ordering::Relaxed);
//! assert_eq!(ring.put(b"o").map_err(|e| e.waiting()), Err(4_u32.wrapping_sub(9)));
//! ```
#![no_std]
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};

/// A ring with its indices. Its size is a power of two, as the indices wrap at 2³².
#[derive(Clone, Copy, Debug)]
pub struct Ring<'a, const SIZE: usize> {
    /// The bytes.
    pub bytes: &'a [AtomicU8; SIZE],
    /// How far the producer has written, in bytes since the ring was made, modulo 2³².
    pub prod: &'a AtomicU32,
    /// How far the consumer has read, likewise.
    pub cons: &'a AtomicU32,
}

/// Indices between which there are more bytes than the ring holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impossible {
    /// The producer's.
    pub prod: u32,
    /// The consumer's.
    pub cons: u32,
}

impl Impossible {
    /// How many bytes would wait.
    #[must_use]
    pub const fn waiting(self) -> u32 {
        self.prod.wrapping_sub(self.cons)
    }
}

impl<const SIZE: usize> Ring<'_, SIZE> {
    /// Puts as many of `bytes` as fit into the ring and returns how many: for its producer.
    ///
    /// # Errors
    /// The consumer's index is impossible.
    pub fn put(&self, bytes: &[u8]) -> Result<usize, Impossible> {
        let prod = self.prod.load(Ordering::Relaxed);
        let room = SIZE - self.between(prod, self.cons.load(Ordering::Acquire))?;
        let count = bytes.len().min(room);
        for (at, byte) in (0..).zip(&bytes[..count]) {
            self.bytes[prod.wrapping_add(at) as usize % SIZE].store(*byte, Ordering::Relaxed);
        }
        // The bytes must be visible before the index that says they are there.
        let prod = prod.wrapping_add(count as u32);
        self.prod.store(prod, Ordering::Release);
        Ok(count)
    }

    /// Takes as many bytes as wait, and as `buffer` has room for, and returns how many: for its
    /// consumer.
    ///
    /// # Errors
    /// The producer's index is impossible.
    pub fn take(&self, buffer: &mut [u8]) -> Result<usize, Impossible> {
        let cons = self.cons.load(Ordering::Relaxed);
        let waiting = self.between(self.prod.load(Ordering::Acquire), cons)?;
        let count = waiting.min(buffer.len());
        for (at, byte) in (0..).zip(&mut buffer[..count]) {
            *byte = self.bytes[cons.wrapping_add(at) as usize % SIZE].load(Ordering::Relaxed);
        }
        // The bytes must have been read before the index lets the other side overwrite them.
        fence(Ordering::Release);
        let cons = cons.wrapping_add(count as u32);
        self.cons.store(cons, Ordering::Release);
        Ok(count)
    }

    /// Bytes that the consumer has not taken yet: for the producer.
    ///
    /// # Errors
    /// As [`Ring::put`].
    pub fn unread(&self) -> Result<usize, Impossible> {
        let prod = self.prod.load(Ordering::Relaxed);
        self.between(prod, self.cons.load(Ordering::Acquire))
    }

    /// Bytes that are there to be taken: for the consumer.
    ///
    /// # Errors
    /// As [`Ring::take`].
    pub fn waiting(&self) -> Result<usize, Impossible> {
        let cons = self.cons.load(Ordering::Relaxed);
        self.between(self.prod.load(Ordering::Acquire), cons)
    }

    /// How many bytes wait between two indices, each of which was read once.
    fn between(&self, prod: u32, cons: u32) -> Result<usize, Impossible> {
        const {
            assert!(
                SIZE.is_power_of_two(),
                "a place would change as an index wraps"
            )
        };
        match prod.wrapping_sub(cons) as usize {
            waiting if waiting <= SIZE => Ok(waiting),
            _ => Err(Impossible { prod, cons }),
        }
    }
}
