//! Numbers for more frames than the domain was built with, so that memory can come behind them
//! ([`balloon`](crate::balloon)).
//!
//! What is built for a number of frames grows with it, by a chunk of the direct map at most: the p2m
//! list, the records, the direct map. The list that Xen has made lies in tables of Xen's. So it is
//! mapped once more, in a place of the kernel's own, when it is to become longer; pages that are added are
//! mapped there alone. Nothing that was told anybody becomes wrong by it: the list is where it was, too.

use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::Pfn;

use crate::entry::{Flags, Pte};
use crate::error::MmError;
use crate::frames::CHUNK;
use crate::layout::Layout;
use crate::locks::Part;
use crate::machine::Machine;
use crate::state::{Kind, State};
use crate::tables::Tables;

const PAGE: u64 = 4096;
/// Entries of a page of the list: one for each frame of a chunk.
const ENTRIES: u64 = PAGE / 8;
const _: () = assert!(ENTRIES == CHUNK);

impl<M: Machine> Tables<M> {
    /// Adds numbers without memory, up to `most` frames in all and at most to the end of a chunk; says how
    /// many there are now. It takes a few frames. Whoever was told of the p2m list is to be told anew.
    ///
    /// # Errors
    /// No memory, no place for a list that is longer, or Xen's refusal: there are as many numbers as before.
    pub fn lengthen(&mut self, most: u64) -> Result<u64, MmError> {
        self.hold(Part::KernelHalf)?;
        let total = self.frames().counts().total;
        let end = self.frames().longer(most);
        if end == total {
            return Ok(total);
        }
        // Chunks follow each other.
        while self.frames().chunks() * CHUNK < total {
            self.add_to_direct_map(self.frames().chunks(), total)?;
        }
        self.lengthen_list(total, end)?;
        self.frames().lengthen(end)?;
        if end > self.frames().chunks() * CHUNK {
            let added = self.add_to_direct_map(self.frames().chunks(), total);
            if let Err(e) = added {
                // Entries of the list that nobody looks at harm nobody.
                self.frames().lengthen(total)?;
                return Err(e);
            }
        } else {
            self.machine().set_reach(end);
        }
        if self.machine().list_entry(Pfn::truncate(0)).is_none() {
            self.machine().lengthen_list(0, end);
        }
        Ok(end)
    }

    /// Has the list end at `end`, with nothing behind the numbers that it gets.
    fn lengthen_list(&mut self, total: u64, end: u64) -> Result<(), MmError> {
        let place = M::Layout::LIST;
        let Some(list) = self.machine().list_entry(Pfn::truncate(0)) else {
            return Ok(());
        };
        if end * 8 > place.end - place.start {
            return Err(MmError::BadRange {
                va: place.start,
                pages: end.div_ceil(ENTRIES),
            });
        }
        if list != place.start {
            for page in 0..total.div_ceil(ENTRIES) {
                let frame = self.frame_of_list(list + page * PAGE)?;
                self.map_list(place.start + page * PAGE, frame)?;
            }
            self.flush()?;
        }
        if total.is_multiple_of(ENTRIES) {
            self.add_to_list(place.start + total * 8)?;
        } else {
            self.empty_list(list + total * 8)?;
        }
        self.machine().lengthen_list(place.start, end);
        Ok(())
    }

    /// Maps a page of the list in the kernel's own place, if it is not there from an earlier try.
    fn map_list(&mut self, va: u64, frame: Pfn) -> Result<(), MmError> {
        let mfn = self.mfn(frame)?;
        if let Ok(entry) = self.ptep_get(va)
            && entry.mfn() == Some(mfn)
        {
            return Ok(());
        }
        // SAFETY: a page of the list, which is only read here.
        unsafe { self.map_machine(va, mfn, Flags::CONST) }
    }

    /// Maps a page of the list with nothing behind its numbers, if there is none from an earlier try. Its
    /// frame is the list's for good.
    fn add_to_list(&mut self, va: u64) -> Result<(), MmError> {
        if self.ptep_get(va).is_ok_and(Pte::is_present) {
            return Ok(());
        }
        let mut frame = self.alloc_frame()?;
        self.frame_memory(&mut frame).fill(u64::MAX);
        let pfn = frame.pfn();
        let protected = self.write_window(pfn, Flags::CONST);
        let mapped = protected.and_then(|()| {
            self.map_list(va, pfn)?;
            self.flush()
        });
        match mapped {
            Ok(()) => Ok(self.frames().set(pfn, State::of(Kind::P2m))?),
            Err(e) => {
                // As far as it came; a frame that stays read-only would be lost, and is said to be.
                self.write_window(pfn, Flags::DATA)?;
                self.free_frame(frame)?;
                Err(e)
            }
        }
    }

    /// Empties the page of the list that an address lies in, from there on.
    fn empty_list(&mut self, va: u64) -> Result<(), MmError> {
        self.edit_list(va & !(PAGE - 1), |words: *const AtomicU64| {
            for index in va % PAGE / 8..ENTRIES {
                // SAFETY: a word of the page, which is writable here just now; everybody reads it
                // atomically.
                unsafe { (*words.add(index as usize)).store(u64::MAX, Ordering::Relaxed) };
            }
        })
    }
}
