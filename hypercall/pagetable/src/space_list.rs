//! The spaces that exist, however many there are.
//!
//! How many is the programs' to decide, so the list grows: the first few have a place in it, the
//! others lie in frames that it takes one by one and gives back as it shrinks.

use hypercall::Pfn;

use crate::frames::Frame;
use crate::machine::Machine;
use crate::spaces::Roots;

/// Spaces that need no frame.
const FEW: usize = 8;
/// Spaces that fit in a frame.
const ROOM: usize = 170;

/// What a frame of the list holds.
#[repr(C)]
struct Page {
    /// The frame that was filled before this one.
    below: Option<Pfn>,
    spaces: [Roots; ROOM],
}

const _: () = assert!(size_of::<Page>() <= 4096);

/// The list.
pub(super) struct SpaceList {
    few: [Roots; FEW],
    len: usize,
    /// The frame that was taken last.
    top: Option<Pfn>,
}

impl SpaceList {
    /// Of no spaces.
    pub(super) const fn new() -> SpaceList {
        let none = Roots {
            kernel: Pfn::truncate(0),
            user: None,
        };
        SpaceList {
            few: [none; FEW],
            len: 0,
            top: None,
        }
    }

    /// Whether one more needs a frame.
    pub(super) fn needs_frame(&self) -> bool {
        self.len >= FEW && (self.len - FEW).is_multiple_of(ROOM)
    }

    /// Adds a space, with a frame if it [needs one](Self::needs_frame).
    pub(super) fn push<M: Machine>(&mut self, machine: &M, space: Roots, frame: Option<Frame>) {
        if let Some(frame) = frame {
            let page = machine.memory(frame.pfn()).cast::<Page>();
            // SAFETY: the frame is the list's alone from here on, and the window maps it.
            unsafe { (&raw mut (*page).below).write(self.top) };
            self.top = Some(frame.pfn());
        }
        self.len += 1;
        let place = self.place(machine, self.len - 1);
        // SAFETY: a place of this list's, which is borrowed exclusively.
        unsafe { place.write(space) };
    }

    /// Takes out the space at a place, into which the last one moves; with it the frame that the
    /// list needs no more, if one is.
    pub(super) fn remove<M: Machine>(&mut self, machine: &M, index: usize) -> Option<Frame> {
        let last = self.place(machine, self.len - 1);
        let gap = self.place(machine, index);
        // SAFETY: both are places of this list's that hold spaces.
        unsafe { gap.write(last.read()) };
        self.len -= 1;
        if !self.needs_frame() {
            return None;
        }
        let top = self.top?;
        let page = machine.memory(top).cast::<Page>();
        // SAFETY: the frame is the list's, and was filled by `push`.
        self.top = unsafe { (&raw const (*page).below).read() };
        // SAFETY: `push` was given the frame, which this list held since and holds no more.
        Some(unsafe { Frame::from_pfn(top) })
    }

    /// The space at a place, if there are as many.
    pub(super) fn get<M: Machine>(&self, machine: &M, index: usize) -> Option<Roots> {
        if index < FEW.min(self.len) {
            return Some(self.few[index]);
        }
        // SAFETY: a place of this list's that holds a space.
        (index < self.len).then(|| unsafe { self.place_in_frame(machine, index).read() })
    }

    fn place<M: Machine>(&mut self, machine: &M, index: usize) -> *mut Roots {
        match self.few.get_mut(index) {
            Some(few) => few,
            None => self.place_in_frame(machine, index),
        }
    }

    /// The place of a space that lies in a frame.
    fn place_in_frame<M: Machine>(&self, machine: &M, index: usize) -> *mut Roots {
        let page = |pfn: Option<Pfn>| {
            pfn.map_or(core::ptr::null_mut(), |pfn| {
                machine.memory(pfn).cast::<Page>()
            })
        };
        let mut at = page(self.top);
        for _ in (index - FEW) / ROOM..(self.len - 1 - FEW) / ROOM {
            // SAFETY: a frame of the list's, filled by `push`: there are as many as hold the spaces.
            at = page(unsafe { (&raw const (*at).below).read() });
        }
        // SAFETY: a frame of the list's, filled by `push`; the index is within the frame.
        unsafe {
            (&raw mut (*at).spaces)
                .cast::<Roots>()
                .add((index - FEW) % ROOM)
        }
    }
}
