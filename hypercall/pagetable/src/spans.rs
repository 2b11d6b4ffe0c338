//! Free memory that was never handed out: pieces of consecutive frames, however many.
//!
//! The piece in use is kept here. The others wait in a list that lies in their own memory, each in
//! its first frame: a memory map may have any number of holes, and there is no other place for them.

use core::ops::Range;

use hypercall::Pfn;

use crate::machine::Machine;

/// The pieces.
pub(super) struct Spans {
    /// The piece in use.
    current: Range<u64>,
    /// The first frame of the next one; see [`Node`].
    others: Option<u64>,
}

/// What the first frame of a waiting piece holds.
#[derive(Clone, Copy)]
#[repr(C)]
struct Node {
    /// The end of the piece.
    end: u64,
    /// The first frame of the next piece.
    next: Option<u64>,
}

impl Spans {
    /// None.
    pub(super) const EMPTY: Spans = Spans {
        current: 0..0,
        others: None,
    };

    /// Adds a piece. One that goes on where another ends becomes part of it.
    pub(super) fn give<M: Machine>(&mut self, machine: &M, piece: Range<u64>) {
        if self.current.is_empty() {
            self.current = piece;
            return;
        }
        // Chunk by chunk all of memory is one piece.
        if self.current.end == piece.start {
            self.current.end = piece.end;
            return;
        }
        let mut at = self.others;
        while let Some(first) = at {
            let node = node(machine, first);
            // SAFETY: the frames of waiting pieces belong to this value alone, and their first
            // words were written when they began to wait.
            let Node { end, next } = unsafe { node.read() };
            if end == piece.start {
                let end = piece.end;
                // SAFETY: the frames of waiting pieces belong to this value alone, and their first words
                // were written when they began to wait.
                unsafe { node.write(Node { end, next }) };
                return;
            }
            at = next;
        }
        let Range { start, end } = core::mem::replace(&mut self.current, piece);
        let next = self.others.replace(start);
        // SAFETY: the frame is free and in this value's hands from here on; the window maps it.
        unsafe { node(machine, start).write(Node { end, next }) };
    }

    /// Takes a frame.
    #[inline]
    pub(super) fn take<M: Machine>(&mut self, machine: &M) -> Option<Pfn> {
        if self.current.is_empty() {
            let first = self.others?;
            // SAFETY: as in `give`.
            let Node { end, next } = unsafe { node(machine, first).read() };
            self.others = next;
            self.current = first..end;
        }
        self.current.next().map(Pfn::truncate)
    }

    /// Takes a frame below `end`: the last of a piece of several that ends there.
    pub(super) fn take_below<M: Machine>(&mut self, machine: &M, end: u64) -> Option<Pfn> {
        let fits = |piece: &Range<u64>| piece.end <= end && piece.end - piece.start > 1;
        if fits(&self.current) {
            return self.current.next_back().map(Pfn::truncate);
        }
        let mut at = self.others;
        while let Some(first) = at {
            let node = node(machine, first);
            // SAFETY: the frames of waiting pieces belong to this value alone, and their first words
            // were written when they began to wait.
            let Node { end, next } = unsafe { node.read() };
            if fits(&(first..end)) {
                let end = end - 1;
                // SAFETY: the piece still waits and has its first frame, whose first words are this node: the one
                // that is taken is another.
                unsafe { node.write(Node { end, next }) };
                return Some(Pfn::truncate(end));
            }
            at = next;
        }
        None
    }
}

fn node<M: Machine>(machine: &M, first: u64) -> *mut Node {
    machine.memory(Pfn::truncate(first)).cast()
}
