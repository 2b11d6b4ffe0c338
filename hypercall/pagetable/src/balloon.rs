//! Memory that goes back to Xen while the domain runs, and comes again: what a balloon does.
//!
//! A frame that goes is first nobody's: wiped, for Xen wipes nothing of a domain that lives, and taken
//! out of the direct map, for Xen keeps what is mapped. Then the p2m list says that there is nothing
//! behind its number, so that tools which look at the domain in the middle of it never take another
//! domain's memory for this one's; and only then Xen is asked. Memory that comes takes the same steps
//! the other way, at numbers that were given back before.
//!
//! Xen may do less than it is asked for, and refuse any step. What was done is then read off the tables
//! and the list, not remembered: what cannot be finished is undone.

use core::sync::atomic::{AtomicU64, Ordering};

use heapless::Vec;
use hypercall::{Mfn, Pfn, XenError, memory};

use crate::entry::{Flags, Pte};
use crate::error::MmError;
use crate::frames::{Frame, FrameError};
use crate::machine::Machine;
use crate::tables::Tables;
use crate::walk::End;

const PAGE: u64 = 4096;
/// Frames that go or come at once, at most.
pub const BATCH: usize = 128;
/// What the p2m list holds where there is no memory.
const NOTHING: u64 = !0;

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Frames that went or came.
    pub frames: usize,
    /// Why Xen did none of what was left; without a reason it may have done a part.
    pub refused: Option<XenError>,
}

impl Moved {
    fn by(result: Result<usize, XenError>) -> Moved {
        match result {
            Ok(frames) => Moved {
                frames,
                refused: None,
            },
            Err(refused) => Moved {
                frames: 0,
                refused: Some(refused),
            },
        }
    }
}

/// A frame with what the p2m list had behind it, or will have.
struct Moving {
    frame: Frame,
    mfn: Mfn,
}

/// Frames on their way.
type All = Vec<Moving, BATCH>;

impl<M: Machine> Tables<M> {
    /// Gives up to `most` free frames back to Xen, [`BATCH`] at once, as long as `keep` can still be had.
    /// None goes if there are not more.
    ///
    /// # Errors
    /// A step before Xen is asked was refused: none went.
    pub fn give_back(&mut self, most: usize, keep: u64) -> Result<Moved, MmError> {
        let spare = self.frames().obtainable().saturating_sub(keep);
        let count = most.min(BATCH).min(spare as usize);
        let mut going = All::new();
        for _ in 0..count {
            let mut frame = match self.alloc_frame() {
                Ok(frame) => frame,
                Err(MmError::Frame(FrameError::OutOfMemory)) => break,
                Err(e) => return Err(self.stay(going, e)),
            };
            self.frame_memory(&mut frame).fill(0);
            match self.mfn(frame.pfn()) {
                // There is room: no more were asked for.
                Ok(mfn) => drop(going.push(Moving { frame, mfn })),
                Err(e) => return Err(self.stay(going, e)),
            }
        }
        if let Err(e) = self.show(&going, |_| Pte::NONE) {
            return Err(self.stay(going, e));
        }
        if let Err(e) = self.list(&going, |_| NOTHING) {
            return Err(self.stay(going, e));
        }
        let mfns: Vec<Mfn, BATCH> = going.iter().map(|moving| moving.mfn).collect();
        // SAFETY: nothing maps the frames, which nobody held but this function.
        let taken = unsafe { memory::decrease_reservation(&self.mmu.hv, &mfns) };
        let moved = Moved::by(taken);
        let mut left = All::new();
        for (at, moving) in going.into_iter().enumerate() {
            if at < moved.frames {
                self.frames().give_back(moving.frame)?;
            } else {
                // There is room for all.
                let _ = left.push(moving);
            }
        }
        self.put_back(left)?;
        Ok(moved)
    }

    /// Asks Xen for memory behind up to `most` frames that were given back, [`BATCH`] at once. What comes
    /// is free.
    ///
    /// # Errors
    /// A step after Xen was asked was refused: what is not in the direct map has gone back.
    pub fn regain(&mut self, most: usize) -> Result<Moved, MmError> {
        let mut pfns = [0; BATCH];
        let found = self.frames().find_given(&mut pfns[..most.min(BATCH)]);
        if found == 0 {
            return Ok(Moved::default());
        }
        let mut got = pfns;
        let moved = Moved::by(memory::populate_physmap(&self.mmu.hv, &mut got[..found]));
        let mut coming = All::new();
        for (&pfn, &mfn) in pfns.iter().zip(&got).take(moved.frames) {
            let pfn = Pfn::truncate(pfn);
            // Without a list a frame has one number, which Xen leaves as it is.
            let mfn = Mfn::truncate(mfn);
            let frame = self.frames().regain(pfn)?;
            // There is room for all.
            let _ = coming.push(Moving { frame, mfn });
        }
        let listed = self.list(&coming, |moving| moving.mfn.as_u64());
        let shown = listed.and_then(|()| self.show(&coming, in_direct_map));
        match shown {
            Ok(()) => {
                for moving in coming {
                    self.free_frame(moving.frame)?;
                }
                Ok(moved)
            }
            Err(e) => {
                self.send_back(coming)?;
                Err(e)
            }
        }
    }

    /// Has frames that were to go stay after all, because of an error, which it returns.
    fn stay(&mut self, going: All, error: MmError) -> MmError {
        match self.put_back(going) {
            Ok(()) => error,
            Err(also) => {
                // Only one error can be returned; the other one is not lost either.
                log::error!(target: "mm", "{error}");
                also
            }
        }
    }

    /// Puts frames that are the domain's back to where they were, and makes them free. One for which that
    /// is refused is lost: whoever has it cannot reach it.
    fn put_back(&mut self, frames: All) -> Result<(), MmError> {
        if frames.is_empty() {
            return Ok(());
        }
        let listed = self.list(&frames, |moving| moving.mfn.as_u64());
        let shown = listed.and(self.show(&frames, in_direct_map));
        for moving in frames {
            if self.is_shown(&moving) {
                self.free_frame(moving.frame)?;
            }
        }
        shown
    }

    /// Gives memory that came and did not find its place to Xen again; what did find it is free.
    fn send_back(&mut self, coming: All) -> Result<(), MmError> {
        let mut left = All::new();
        for moving in coming {
            if self.is_shown(&moving) {
                self.free_frame(moving.frame)?;
            } else {
                // There is room for all.
                let _ = left.push(moving);
            }
        }
        let listed = self.list(&left, |_| NOTHING);
        let mfns: Vec<Mfn, BATCH> = left.iter().map(|moving| moving.mfn).collect();
        // SAFETY: nothing maps the frames: they came just now.
        let taken = unsafe { memory::decrease_reservation(&self.mmu.hv, &mfns) };
        let taken = taken.unwrap_or(0);
        for moving in left.into_iter().take(taken) {
            self.frames().give_back(moving.frame)?;
        }
        listed
    }

    /// Whether the direct map has a frame.
    fn is_shown(&self, moving: &Moving) -> bool {
        let va = self.machine().window(moving.frame.pfn());
        self.ptep_get(va).is_ok_and(Pte::is_present)
    }

    /// Writes the entries of frames in the direct map that are not so already.
    fn show(&mut self, frames: &All, to: fn(&Moving) -> Pte) -> Result<(), MmError> {
        let queued = self.lazily(|tables| {
            for moving in frames {
                let va = tables.machine().window(moving.frame.pfn());
                let (place, entry) = (tables.pte_place(va)?, to(moving));
                if tables.entry(place).is_present() != entry.is_present() {
                    // SAFETY: the frame is the caller's, who does not use its memory, and this is its
                    // place.
                    unsafe { tables.set_pte(place, va, entry) }?;
                }
            }
            Ok(())
        });
        queued.and(self.flush())
    }

    /// Writes entries of the p2m list, where there is one.
    fn list(&mut self, frames: &All, to: fn(&Moving) -> u64) -> Result<(), MmError> {
        let mut rest = &frames[..];
        while let Some(first) = rest.first() {
            let page = |moving: &Moving| {
                let entry = self.machine().list_entry(moving.frame.pfn());
                entry.map(|va| va & !(PAGE - 1))
            };
            let Some(va) = page(first) else {
                return Ok(());
            };
            let here = rest.iter().take_while(|moving| page(moving) == Some(va));
            let (now, later) = rest.split_at(here.count());
            self.write_list(va, now, to)?;
            rest = later;
        }
        Ok(())
    }

    /// Writes entries of a page of the list.
    fn write_list(
        &mut self,
        va: u64,
        frames: &[Moving],
        to: fn(&Moving) -> u64,
    ) -> Result<(), MmError> {
        let entries: Vec<_, BATCH> = frames
            .iter()
            .map(|moving| {
                let entry = self.machine().list_entry(moving.frame.pfn());
                (entry.map_or(0, |entry| (entry - va) / 8), to(moving))
            })
            .collect();
        self.edit_list(va, |words| {
            for (index, value) in entries {
                // SAFETY: a page of the list, which is writable here just now; everybody reads its words
                // atomically. The entry lies in it, as `list` has seen.
                unsafe { (*words.add(index as usize)).store(value, Ordering::Relaxed) };
            }
        })
    }

    /// Calls `edit` with the words of a page of the list, which is writable there meanwhile.
    pub(crate) fn edit_list(
        &mut self,
        va: u64,
        edit: impl FnOnce(*const AtomicU64),
    ) -> Result<(), MmError> {
        let page = self.frame_of_list(va)?;
        self.write_window(page, Flags::DATA)?;
        edit(self.machine().memory(page).cast::<AtomicU64>());
        let protected = self.write_window(page, Flags::CONST);
        // Once more: the list should not stay writable for a whim of Xen's.
        protected.or_else(|_| self.write_window(page, Flags::CONST))
    }

    /// The frame of a page of the list, in the direct map, which grows until it is.
    pub(crate) fn frame_of_list(&mut self, va: u64) -> Result<Pfn, MmError> {
        loop {
            let walk = self.walk(va);
            let last = walk.entries.last().map(|last| last.entry);
            if let (End::Page(size, _), Some(first)) =
                (walk.end, last.and_then(|entry| entry.mfn()))
            {
                // Xen may have mapped the list by large pages.
                let inside = va % size / PAGE;
                let first = first.as_u64() & !(size / PAGE - 1);
                let mfn = Mfn::truncate(first + inside);
                let page = self.machine().pfn(mfn);
                let page = page.ok_or(MmError::Foreign {
                    va,
                    mfn: mfn.as_u64(),
                })?;
                if self.is_populated(page) {
                    return Ok(page);
                }
            }
            if !self.grow_by_a_chunk()? {
                return Err(MmError::NotMapped { va });
            }
        }
    }

    /// Writes the entry of a frame in the direct map at once.
    pub(crate) fn write_window(&mut self, pfn: Pfn, flags: Flags) -> Result<(), MmError> {
        let va = self.machine().window(pfn);
        let (place, entry) = (self.pte_place(va)?, Pte::from_mfn(self.mfn(pfn)?, flags));
        // SAFETY: the frame is the list's, which only this module writes to, while it is writable.
        unsafe { self.set_pte(place, va, entry) }?;
        self.flush()
    }
}

/// The entry of the direct map for memory to hand out.
fn in_direct_map(moving: &Moving) -> Pte {
    Pte::from_mfn(moving.mfn, Flags::DATA)
}
