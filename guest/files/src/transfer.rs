//! Bytes on their way between a file and a program's memory.
//!
//! The kernel hands in where they go or come from; files never see an address. Neither side may
//! wait or call into this crate: files copy with a lock held. What is not there (a page that must
//! be faulted in) ends the copy early, and the kernel calls again once it is.

use crate::errno::{Errno, Result};

/// Where a read puts bytes.
pub trait Sink {
    /// How many bytes it still takes.
    fn room(&self) -> usize;
    /// Takes bytes from the front of `bytes`, and returns how many: fewer than the lesser of
    /// `bytes.len()` and [`Sink::room`] only where the memory behind it cannot be written.
    fn put(&mut self, bytes: &[u8]) -> usize;
}

/// Where a write takes bytes from.
pub trait Source {
    /// How many bytes it still has.
    fn left(&self) -> usize;
    /// How many bytes were taken and not given back. A write that waited goes on from here, and one
    /// that a signal ended has written so many.
    fn taken(&self) -> usize;
    /// Fills the front of `into`, and returns how much: fewer than the lesser of `into.len()` and
    /// [`Source::left`] only where the memory behind it cannot be read.
    fn take(&mut self, into: &mut [u8]) -> usize;
    /// Takes up to `count` bytes that go nowhere, without looking at them, and returns how many.
    fn skip(&mut self, count: usize) -> usize;
    /// Gives the last `count` bytes taken back: they were not written after all.
    fn give_back(&mut self, count: usize);
}

/// What an ioctl or fcntl has as its last argument: a number, or the address of something.
pub trait Argument {
    /// The argument as a number.
    fn value(&self) -> u64;
    /// Reads what the argument points to.
    ///
    /// # Errors
    /// `EFAULT` where it points to nothing.
    fn get(&mut self, into: &mut [u8]) -> Result<()>;
    /// Writes to where the argument points.
    ///
    /// # Errors
    /// `EFAULT` where it points to nothing.
    fn put(&mut self, bytes: &[u8]) -> Result<()>;

    /// Reads the number that the argument points to, an `int`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_number(&mut self) -> Result<i32> {
        let mut bytes = [0; 4];
        self.get(&mut bytes).map(|()| i32::from_ne_bytes(bytes))
    }

    /// Writes a number, an `int`, to where the argument points: what most requests answer. Returns what
    /// the call does then.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    fn put_number(&mut self, number: i32) -> Result<u64> {
        self.put(&number.to_ne_bytes()).map(|()| 0)
    }
}

/// The kernel's own memory as a sink.
pub struct Fill<'a> {
    memory: &'a mut [u8],
    filled: usize,
}

impl<'a> Fill<'a> {
    /// Fills `memory` from its start.
    pub fn new(memory: &'a mut [u8]) -> Self {
        Self { memory, filled: 0 }
    }

    /// How many bytes came.
    pub fn filled(&self) -> usize {
        self.filled
    }
}

impl Sink for Fill<'_> {
    fn room(&self) -> usize {
        self.memory.len() - self.filled
    }

    fn put(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        self.memory[self.filled..][..count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        count
    }
}

/// The kernel's own memory as a source.
pub struct Drain<'a> {
    memory: &'a [u8],
    taken: usize,
}

impl<'a> Drain<'a> {
    /// Gives `memory` from its start.
    pub fn new(memory: &'a [u8]) -> Self {
        Self { memory, taken: 0 }
    }
}

impl Source for Drain<'_> {
    fn left(&self) -> usize {
        self.memory.len() - self.taken
    }

    fn taken(&self) -> usize {
        self.taken
    }

    fn take(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.left());
        into[..count].copy_from_slice(&self.memory[self.taken..][..count]);
        self.taken += count;
        count
    }

    fn skip(&mut self, count: usize) -> usize {
        let count = count.min(self.left());
        self.taken += count;
        count
    }

    fn give_back(&mut self, count: usize) {
        self.taken -= count;
    }
}

/// An argument that is a number and points to nothing.
pub struct Number(
    /// The number.
    pub u64,
);

impl Argument for Number {
    fn value(&self) -> u64 {
        self.0
    }

    fn get(&mut self, _into: &mut [u8]) -> Result<()> {
        Err(Errno::EFAULT)
    }

    fn put(&mut self, _bytes: &[u8]) -> Result<()> {
        Err(Errno::EFAULT)
    }
}
