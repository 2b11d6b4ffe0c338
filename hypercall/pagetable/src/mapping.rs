//! Mappings of the kernel's that own the frames they map.
//!
//! [`Tables::map`] takes the numbers of frames, on its caller's word. Here the frames themselves go in
//! and come out again: in between nobody has them, so nothing that is mapped can be freed or become a
//! table, and they come out only when nothing can reach them any more, after the flush. That costs
//! nothing while they are mapped: no count, no record.
//!
//! ```
//! use pagetable::frames::Frame;
//! use pagetable::machine::Machine;
//! use pagetable::{Flags, MmError, Tables};
//!
//! fn once<M: Machine>(tables: &mut Tables<M>, va: u64, frame: Frame) -> Result<(), MmError> {
//!     let mapping = tables.map_frames(va, [frame], Flags::DATA)?;
//!     // …
//!     tables.unmap_and_free(mapping).map_err(|refused| refused.error)
//! }
//! ```
//!
//! A frame that is mapped is not there to be freed:
//!
//! ```compile_fail,E0382
//! # use pagetable::frames::Frame;
//! # use pagetable::machine::Machine;
//! # use pagetable::{Flags, MmError, Tables};
//! fn twice<M: Machine>(tables: &mut Tables<M>, va: u64, frame: Frame) -> Result<(), MmError> {
//!     let mapping = tables.map_frames(va, [frame], Flags::DATA)?;
//!     tables.free_frame(frame)
//! }
//! ```
//!
//! Nor is a mapping that was undone:
//!
//! ```compile_fail,E0382
//! # use pagetable::machine::Machine;
//! # use pagetable::mapping::Mapping;
//! # use pagetable::Tables;
//! fn twice<M: Machine>(tables: &mut Tables<M>, mapping: Mapping) {
//!     let once = tables.unmap_and_free(mapping);
//!     let twice = tables.unmap_and_free(mapping);
//! }
//! ```
//!
//! And a number is no frame but by a promise:
//!
//! ```compile_fail,E0133
//! # use pagetable::frames::Frame;
//! # use pagetable::machine::Machine;
//! # use pagetable::Tables;
//! fn forged<M: Machine>(tables: &mut Tables<M>, of: &Frame) {
//!     let freed = tables.free_frame(Frame::from_pfn(of.pfn()));
//! }
//! ```

use heapless::Vec;
use hypercall::Pfn;

use crate::entry::Flags;
use crate::error::MmError;
use crate::frames::Frame;
use crate::layout::Layout;
use crate::machine::Machine;
use crate::ops::chunks;
use crate::tables::{Tables, slots};

const PAGE: u64 = 4096;

/// The frames of pages of one L1 table, in order: 32 bits hold the number of any frame that has a
/// record, and so of any [`Frame`]; for a page without a frame all are set.
pub(crate) type Chunk = Vec<u32, 512>;
/// No frame.
const NONE: u32 = u32::MAX;

fn pfn(number: u32) -> Pfn {
    Pfn::truncate(number.into())
}

/// Consecutive pages of the kernel's half, each with a frame of its own. One that is dropped stays
/// mapped for good.
#[must_use = "the frames come back only when it is unmapped"]
#[derive(Debug, PartialEq, Eq)]
pub struct Mapping {
    va: u64,
    pages: u64,
}

impl Mapping {
    /// The first address.
    #[must_use]
    pub fn va(&self) -> u64 {
        self.va
    }

    /// How many pages there are.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }
}

/// A mapping that Xen did not let go of entirely.
#[derive(Debug)]
pub struct StillMapped {
    /// What it refused.
    pub error: MmError,
    /// What can be asked for again.
    pub mapping: Mapping,
}

impl<M: Machine> Tables<M> {
    /// Maps frames at consecutive pages of the kernel's half from `va` on, where nothing is mapped;
    /// in force when it returns. If it fails, the frames are free.
    ///
    /// # Errors
    /// A bad range, or one of another region's; rights to execute, which memory gets by
    /// [`Tables::set_memory_x`]; something mapped there, no memory for tables, or Xen's refusal.
    #[track_caller]
    pub fn map_frames(
        &mut self,
        va: u64,
        frames: impl IntoIterator<Item = Frame, IntoIter: ExactSizeIterator>,
        flags: Flags,
    ) -> Result<Mapping, MmError> {
        let mut frames = frames.into_iter();
        let mut mapping = Mapping { va, pages: 0 };
        let result = self
            .check_mapping(va, frames.len() as u64, flags)
            .and_then(|()| {
                for chunk in chunks(va, frames.len() as u64) {
                    let count = chunk.count;
                    let taken: Chunk = frames
                        .by_ref()
                        .take(count)
                        .map(|frame| frame.pfn().as_u64() as u32)
                        .collect();
                    // SAFETY: the frames were given for this, and nobody else has them. Nothing was seen
                    // to be mapped there, and what this fails to map is not used.
                    let mapped =
                        unsafe { self.map(chunk.va, taken.iter().copied().map(pfn), flags) };
                    if let Err(e) = mapped.and_then(|change| change.commit(self)) {
                        self.undo_chunk(chunk.va, &taken);
                        return Err(e);
                    }
                    mapping.pages += count as u64;
                }
                Ok(())
            });
        if result.is_ok() {
            return Ok(mapping);
        }
        for frame in frames {
            self.free_or_orphan(frame);
        }
        if mapping.pages > 0
            && let Err(StillMapped { error, mapping }) = self.unmap_and_free(mapping)
        {
            log::error!(
                target: "mm",
                "{} pages at {:#x} stay mapped: {error}",
                mapping.pages,
                mapping.va
            );
        }
        result.map(|()| Mapping { va, pages: 0 })
    }

    /// Unmaps pages and gives their frames, as they come free, to `each`: after the flush that makes
    /// sure that no translation leads to them.
    ///
    /// # Errors
    /// Xen's refusal, with what is mapped still.
    #[track_caller]
    pub fn unmap_frames(
        &mut self,
        mapping: Mapping,
        mut each: impl FnMut(&mut Self, Frame),
    ) -> Result<(), StillMapped> {
        let Mapping { va, pages } = mapping;
        for chunk in chunks(va, pages) {
            let frames = self.chunk_frames(chunk.va, chunk.count);
            let mut each = |tables: &mut Self, pfn| {
                // SAFETY: the mapping owned the frame, and maps it no more.
                each(tables, unsafe { Frame::from_pfn(pfn) });
            };
            if let Err(error) = self.unmap_chunk(chunk.va, &frames, &mut each) {
                let pages = pages - (chunk.va - va) / PAGE;
                return Err(StillMapped {
                    error,
                    mapping: Mapping {
                        va: chunk.va,
                        pages,
                    },
                });
            }
        }
        Ok(())
    }

    /// Unmaps pages and gives their frames back to the allocator.
    ///
    /// # Errors
    /// As [`Tables::unmap_frames`].
    #[track_caller]
    pub fn unmap_and_free(&mut self, mapping: Mapping) -> Result<(), StillMapped> {
        self.unmap_frames(mapping, Self::free_or_orphan)
    }

    fn check_mapping(&self, va: u64, pages: u64, flags: Flags) -> Result<(), MmError> {
        let bad = MmError::BadRange { va, pages };
        let end = pages
            .checked_mul(PAGE)
            .and_then(|bytes| va.checked_add(bytes));
        let end = end.filter(|_| pages > 0 && va >> 63 == 1).ok_or(bad)?;
        let others = [
            M::Layout::XEN,
            M::Layout::DIRECT,
            M::Layout::P2M,
            M::Layout::IMAGE,
            M::Layout::FIXMAP,
        ];
        if others
            .iter()
            .any(|region| va < region.end && region.start < end)
        {
            return Err(bad);
        }
        if !flags.contains(Flags::NO_EXECUTE) {
            // The direct map has the frames writable.
            return Err(MmError::WriteAndExecute { va });
        }
        let mut pages = (va..end).step_by(PAGE as usize);
        match pages.find(|page| self.is_mapped(*page)) {
            Some(va) => Err(MmError::Occupied { va }),
            None => Ok(()),
        }
    }

    /// Whether a page is mapped.
    fn is_mapped(&self, page: u64) -> bool {
        self.ptep_get(page).is_ok_and(|entry| entry.is_present())
    }

    /// The frames that consecutive pages of one table map.
    pub(crate) fn chunk_frames(&self, va: u64, count: usize) -> Chunk {
        let frame = |place| {
            let value = self.pte_val(self.entry(place))?;
            Some(value.pfn.as_u64() as u32)
        };
        let first = self.pte_place(va).ok();
        let places = first.into_iter().flat_map(|first| slots(first, count));
        let found = places.map(|place| frame(place).unwrap_or(NONE));
        found.chain(core::iter::repeat(NONE)).take(count).collect()
    }

    /// Unmaps pages of one table and passes on the frames that no entry there leads to any more.
    #[track_caller]
    pub(crate) fn unmap_chunk(
        &mut self,
        va: u64,
        frames: &Chunk,
        each: &mut impl FnMut(&mut Self, Pfn),
    ) -> Result<(), MmError> {
        // SAFETY: whoever gave the mapping up uses it no more, and what is mapped there is its own.
        let cleared = unsafe { self.unmap(va, frames.len() as u64) };
        let result = cleared.and_then(|change| change.commit(self));
        if result.is_err() {
            // Some may be gone nevertheless, with translations that nobody flushed.
            self.flush_tlb(None).and_then(|()| self.flush())?;
        }
        // Often the table is gone with all of them.
        let some_stay = self.pte_place(va).is_ok();
        for (page, &number) in (0..).map(|page| va + page * PAGE).zip(frames) {
            if number != NONE && !(some_stay && self.is_mapped(page)) {
                each(self, pfn(number));
            }
        }
        result
    }

    /// Undoes a part of a table that could not be mapped whole, and frees its frames.
    #[track_caller]
    fn undo_chunk(&mut self, va: u64, frames: &Chunk) {
        let mut free = |tables: &mut Self, pfn| {
            // SAFETY: it was given to be mapped there, and is not.
            tables.free_or_orphan(unsafe { Frame::from_pfn(pfn) });
        };
        // All of them, whether they came to be mapped or not.
        if let Err(e) = self.unmap_chunk(va, frames, &mut free) {
            log::error!(target: "mm", "pages at {va:#x} stay mapped: {e}");
        }
    }

    /// Gives a frame back to the allocator, now or when Xen agrees.
    pub(crate) fn free_or_orphan(&mut self, frame: Frame) {
        let pfn = frame.pfn();
        if self.free_frame(frame).is_err() {
            self.frames().orphan(pfn);
        }
    }
}
