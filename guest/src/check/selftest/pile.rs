//! A pile of frames, as many as there are, kept track of in their own memory.
//!
//! There is nowhere else to write down 4096 frames, or all the frames of a domain that has run out
//! of memory.

use core::mem::MaybeUninit;
use core::ptr::NonNull;

use hypercall::Pfn;

use crate::mm::Running;
use crate::mm::frames::Frame;
use crate::mm::{MmError, Tables};

const ROOM: usize = 508;

/// A frame that holds others.
struct Node {
    below: Option<Top>,
    len: usize,
    frames: [MaybeUninit<Frame>; ROOM],
}

struct Top {
    frame: Frame,
    node: NonNull<Node>,
}

const _: () = assert!(size_of::<Node>() <= 4096);

/// Frames of the holder's, one on top of the other.
#[must_use = "frames that are dropped are lost"]
pub(crate) struct Pile {
    top: Option<Top>,
    len: usize,
}

impl Pile {
    /// No frames.
    pub(crate) const fn new() -> Pile {
        Pile { top: None, len: 0 }
    }

    /// Frames that can be used: without those that hold the others.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts a frame on top.
    pub(crate) fn push(&mut self, tables: &mut Tables<Running>, mut frame: Frame) {
        if let Some(top) = &mut self.top {
            // SAFETY: the node lies in a frame that the pile owns, and was initialised.
            let node = unsafe { top.node.as_mut() };
            if node.len < ROOM {
                node.frames[node.len].write(frame);
                node.len += 1;
                self.len += 1;
                return;
            }
        }
        let node = NonNull::from(tables.frame_memory(&mut frame)).cast::<Node>();
        // SAFETY: the frame is writable memory of the pile's own from here on, page-aligned and as
        // large as a node; the frames in it need no initialisation.
        unsafe {
            (&raw mut (*node.as_ptr()).below).write(self.top.take());
            (&raw mut (*node.as_ptr()).len).write(0);
        }
        self.top = Some(Top { frame, node });
    }

    /// Takes a frame from the top.
    pub(crate) fn pop(&mut self) -> Option<Frame> {
        let top = self.top.as_mut()?;
        // SAFETY: as in `push`.
        let node = unsafe { top.node.as_mut() };
        if node.len > 0 {
            node.len -= 1;
            self.len -= 1;
            // SAFETY: frames up to the length were written, and this one is read for the last time.
            return Some(unsafe { node.frames[node.len].assume_init_read() });
        }
        let below = node.below.take();
        core::mem::replace(&mut self.top, below).map(|top| top.frame)
    }

    /// The numbers of its usable frames, from the top down.
    pub(crate) fn pfns(&self) -> Pfns<'_> {
        let mut pfns = Pfns {
            node: None,
            at: 0,
            left: self.len,
        };
        pfns.enter(self.top.as_ref());
        pfns
    }

    /// Allocates as many frames as can be used at once: all of them or none.
    pub(crate) fn of(tables: &mut Tables<Running>, count: usize) -> Result<Pile, MmError> {
        let mut pile = Pile::new();
        while pile.len < count {
            match tables.alloc_frame() {
                Ok(frame) => pile.push(tables, frame),
                Err(e) => {
                    pile.free(tables)?;
                    return Err(e);
                }
            }
        }
        Ok(pile)
    }

    /// Gives all of them back.
    pub(crate) fn free(mut self, tables: &mut Tables<Running>) -> Result<(), MmError> {
        while let Some(frame) = self.pop() {
            tables.free_frame(frame)?;
        }
        Ok(())
    }
}

/// See [`Pile::pfns`].
#[derive(Clone)]
pub(crate) struct Pfns<'a> {
    node: Option<&'a Node>,
    at: usize,
    left: usize,
}

impl<'a> Pfns<'a> {
    fn enter(&mut self, top: Option<&'a Top>) {
        // SAFETY: as in `Pile::push`; the pile is borrowed for as long as the iterator lives.
        self.node = top.map(|top| unsafe { top.node.as_ref() });
        self.at = self.node.map_or(0, |node| node.len);
    }
}

impl Iterator for Pfns<'_> {
    type Item = Pfn;

    fn next(&mut self) -> Option<Pfn> {
        while self.at == 0 {
            let below = self.node?.below.as_ref();
            self.enter(below);
        }
        self.at -= 1;
        self.left -= 1;
        // SAFETY: frames below the length were written.
        Some(unsafe { self.node?.frames[self.at].assume_init_ref() }.pfn())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Pfns<'_> {}
