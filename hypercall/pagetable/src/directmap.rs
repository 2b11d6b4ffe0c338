//! The direct map, frame by frame as it is needed, and the tables that lead anywhere at all.
//!
//! Memory beyond Xen's initial mapping has no address until the direct map gives it one. It grows
//! in chunks of 2 MiB, one L1 table each, when the allocator runs low; a few frames are kept back
//! so that there is always room for the tables and records of the next chunk. Boot therefore costs
//! the same whatever the size of the domain.

use hypercall::{Mfn, Pfn};
use marks::init;

use crate::entry::{Flags, L1, L2, L3, L4, Pte, TableLevel, UpperLevel, Value};
use crate::error::MmError;
use crate::frames::{CHUNK, Frame, FrameError};
use crate::fresh::Fresh;
use crate::layout::Layout;
use crate::locks::Part;
use crate::machine::Machine;
use crate::ops::check_rights;
use crate::state::{Kind, State, Transition};
use crate::tables::{Fold, Place, Slot, Tables};

/// Where frames for tables come from.
type Alloc<M> = fn(&mut Tables<M>) -> Result<Frame, MmError>;

impl<M: Machine> Tables<M> {
    /// Hands out a frame of unspecified content, after growing the direct map if frames run low.
    ///
    /// # Errors
    /// None is left, or the direct map could not grow.
    #[inline]
    pub fn alloc_frame(&mut self) -> Result<Frame, MmError> {
        self.apply_log();
        if self.frames().orphans() > 0 && self.mmu.batch().is_empty() {
            self.reclaim_orphans();
        }
        let (frames, machine) = self.records();
        // More than once where the next chunks hold nothing to hand out.
        loop {
            match frames.alloc_above(machine, frames.reserve()) {
                Err(FrameError::OutOfMemory) if self.may_grow() => self.grow()?,
                Err(FrameError::OutOfMemory) if self.release_spare()? => {}
                Err(FrameError::OutOfMemory) => return Ok(frames.alloc(machine)?),
                frame => return Ok(frame?),
            }
        }
    }

    /// Hands out a frame below `end`, as [`Frames::alloc_below`](crate::frames::Frames::alloc_below) does.
    ///
    /// # Errors
    /// None is left there.
    pub fn alloc_frame_below(&mut self, end: u64) -> Result<Frame, MmError> {
        self.apply_log();
        let (frames, machine) = self.records();
        Ok(frames.alloc_below(machine, end)?)
    }

    /// Hands out a frame for the growth of the direct map.
    fn alloc_from_reserve(&mut self) -> Result<Frame, MmError> {
        self.apply_log();
        let (frames, machine) = self.records();
        Ok(frames.alloc(machine)?)
    }

    /// Takes a frame back.
    ///
    /// # Errors
    /// It is not a frame in use, or is code that is mapped still.
    #[inline]
    #[track_caller]
    pub fn free_frame(&mut self, frame: Frame) -> Result<(), MmError> {
        if self.frames().has_frozen() {
            return self.thaw_and_free(frame);
        }
        let (frames, machine) = self.records();
        Ok(frames.free(machine, frame)?)
    }

    /// Gives a frame to Xen or its tools for good: its record says so from now on.
    ///
    /// # Errors
    /// It is not a writable frame that was handed out.
    pub fn share_frame(&mut self, frame: Frame) -> Result<Pfn, MmError> {
        let pfn = frame.pfn();
        let frames = self.frames();
        frames.transition(pfn, Transition::Share)?;
        Ok(pfn)
    }

    fn may_grow(&self) -> bool {
        self.machine().direct_map_is_open() && self.frames().next_chunk().is_some()
    }

    /// Adds the next chunk, if there is one.
    pub(crate) fn grow_by_a_chunk(&mut self) -> Result<bool, MmError> {
        let may = self.may_grow();
        if may {
            self.grow()?;
        }
        Ok(may)
    }

    /// Adds the next chunk to the direct map and its frames to the allocator, if there is a gain in it.
    #[cold]
    fn grow(&mut self) -> Result<(), MmError> {
        self.hold(Part::KernelHalf)?;
        let chunk = self.frames().next_chunk().ok_or(FrameError::OutOfMemory)?;
        self.add_to_direct_map(chunk, u64::MAX)
    }

    /// Adds the next chunk, which is this one, to the direct map and its frames to the allocator. Behind
    /// those from `to_come` on memory is still to come.
    pub(crate) fn add_to_direct_map(&mut self, chunk: u64, to_come: u64) -> Result<(), MmError> {
        let first = chunk * CHUNK;
        let va = M::Layout::DIRECT.start + first * 4096;
        // From here on only the reserve is used: no growth within growth.
        let frame = self.alloc_from_reserve()?;
        let filled = Fresh::<L1>::filled(self, frame, |tables, words| {
            let declared = tables.frames().declared();
            for (pfn, word) in (first..).zip(words.iter_mut()) {
                *word = 0;
                if pfn < tables.frames().counts().total
                    && let Some(mfn) = tables.machine().mfn(Pfn::truncate(pfn))
                {
                    let flags = match declared.kind(pfn) {
                        Kind::P2m => Flags::CONST,
                        _ => Flags::DATA,
                    };
                    *word = Pte::from_mfn(mfn, flags).bits();
                }
            }
            Ok(())
        });
        let installed = filled.and_then(|fresh| self.install_chunk(va, fresh));
        // The new frames are touched from here on.
        installed.and_then(|()| self.flush())?;
        let end = (first + CHUNK).min(self.frames().counts().total);
        self.machine().set_reach(end);
        let (frames, machine) = self.records();
        frames.add_chunk(machine)?;
        for pfn in first..end {
            let pfn = Pfn::truncate(pfn);
            if machine.mfn(pfn).is_some() {
                continue;
            }
            match pfn.as_u64() < to_come {
                true => frames.set(pfn, State::of(Kind::Hole))?,
                false => frames.note_given(pfn)?,
            }
        }
        frames.give_free(machine, first..end)?;
        Ok(())
    }

    /// Links the table of a chunk.
    fn install_chunk(&mut self, va: u64, fresh: Fresh<L1>) -> Result<(), MmError> {
        self.lazily(
            |tables| match tables.ensure_pmd_from(Self::alloc_from_reserve, va) {
                // Only what followed failed, when this chunk was added before.
                Ok(pmd) if tables.entry(pmd).is_present() => fresh.discard(tables),
                // SAFETY: nothing was mapped there: chunks are added once, in order.
                Ok(pmd) => unsafe { tables.install(pmd, fresh, Flags::TABLE) },
                Err(e) => fresh.discard(tables).and(Err(e)),
            },
        )
    }

    /// Grows the direct map until it reaches the frames below `end`, or all there are: also by what brings
    /// no frames, as all of it is somebody's already.
    ///
    /// # Errors
    /// As [`Tables::alloc_frame`].
    pub fn reach(&mut self, end: u64) -> Result<(), MmError> {
        let end = end.min(self.frames().counts().total);
        while self.frames().counts().mapped < end {
            self.hold(Part::KernelHalf)?;
            let chunk = self.frames().counts().mapped / CHUNK;
            self.add_to_direct_map(chunk, u64::MAX)?;
        }
        Ok(())
    }

    /// Adds every chunk that is left.
    ///
    /// # Errors
    /// As [`Tables::alloc_frame`].
    pub fn populate_all(&mut self) -> Result<(), MmError> {
        while self.may_grow() {
            self.grow()?;
        }
        Ok(())
    }

    /// Makes the entries of the root for every region that the kernel can ever use, with an empty
    /// table each: from then on every space has the same, and none ever changes.
    #[init]
    pub(super) fn lay_out_kernel_half(&mut self) -> Result<(), MmError> {
        let memory = self.frames().counts().total * 4096;
        let direct = M::Layout::DIRECT.start..M::Layout::DIRECT.start + memory;
        for region in core::iter::once(direct).chain(M::Layout::RUNTIME.iter().cloned()) {
            let first = region.start & !(L4::SPAN - 1);
            for va in (first..region.end).step_by(L4::SPAN as usize) {
                self.ensure_pud_place(Self::alloc_frame, va)?;
            }
        }
        self.close_kernel_half();
        Ok(())
    }

    /// The slot of the L2 entry for an address; tables on the way are made.
    ///
    /// # Errors
    /// No memory, a large page of Xen's in the way, or Xen's refusal.
    pub fn ensure_pmd(&mut self, va: u64) -> Result<Slot<'_, L2>, MmError> {
        self.ensure_pmd_place(va).map(Slot::of)
    }

    pub(super) fn ensure_pmd_place(&mut self, va: u64) -> Result<Place<L2>, MmError> {
        self.ensure_pmd_from(Self::alloc_frame, va)
    }

    /// As [`Tables::ensure_pmd`], with tables in frames that `alloc` hands out.
    fn ensure_pmd_from(&mut self, alloc: Alloc<M>, va: u64) -> Result<Place<L2>, MmError> {
        if let Ok(slot) = self.pmd_place(va) {
            return Ok(slot);
        }
        let pud = self.ensure_pud_place(alloc, va)?;
        self.ensure_below(alloc, pud, va, Flags::TABLE)?;
        let none = MmError::NoTable { va, level: 3 };
        self.pmd_at(pud, va).ok_or(none)
    }

    /// The place of the L3 entry for an address; tables on the way are made.
    fn ensure_pud_place(&mut self, alloc: Alloc<M>, va: u64) -> Result<Place<L3>, MmError> {
        self.check_held(va)?;
        let none = |level| MmError::NoTable { va, level };
        let pgd = self.pgd_at(va).ok_or(none(5))?;
        if self.fold() == Fold::FiveLevels {
            self.ensure_below(alloc, pgd, va, Flags::TABLE)?;
        }
        let p4d = self.p4d_at(pgd, va).ok_or(none(5))?;
        // One entry decides for the whole direct map that nothing in it is code.
        let flags = if M::Layout::DIRECT.contains(&va) {
            Flags::TABLE | Flags::NO_EXECUTE
        } else {
            Flags::TABLE
        };
        self.ensure_below(alloc, p4d, va, flags)?;
        self.ensure_mirrored(p4d, va)?;
        self.pud_at(p4d, va).ok_or(none(4))
    }

    /// Makes sure that user mode's root has what the kernel's has for an address of the user half. Of the two
    /// writes Xen may have refused the one, and whoever was told of that tries again.
    fn ensure_mirrored(&mut self, p4d: Place<L4>, va: u64) -> Result<(), MmError> {
        let user = self.user_root().filter(|_| va >> 63 == 0);
        let Some(mirror) = user.and_then(|user| self.place_in::<L4>(user, va)) else {
            return Ok(());
        };
        let entry = self.entry(p4d);
        if self.entry(mirror).mfn() == entry.mfn() {
            return Ok(());
        }
        // SAFETY: the kernel's root keeps what it has; user mode found nothing there.
        unsafe { self.set_p4d(p4d, entry) }
    }

    /// Makes sure that an L1 table leads to an address.
    ///
    /// # Errors
    /// As [`Tables::ensure_pmd`].
    pub fn ensure_pte_table(&mut self, va: u64) -> Result<(), MmError> {
        let pmd = self.ensure_pmd_place(va)?;
        self.ensure_below(Self::alloc_frame, pmd, va, Flags::TABLE)
    }

    /// Makes sure that an entry refers to a table.
    fn ensure_below<L: UpperLevel>(
        &mut self,
        alloc: Alloc<M>,
        slot: Place<L>,
        va: u64,
        flags: Flags,
    ) -> Result<(), MmError> {
        let entry = self.entry(slot);
        if entry.is_large() {
            return Err(MmError::Large {
                va,
                level: L::NUMBER,
            });
        }
        if entry.is_present() {
            return Ok(());
        }
        self.check_root_entry(L::NUMBER, va)?;
        let frame = alloc(self)?;
        let fresh = Fresh::<L::Below>::empty(self, frame);
        // SAFETY: nothing was mapped below the entry.
        unsafe { self.install(slot, fresh, flags) }
    }

    /// The chunk of the direct map that a pfn lies in has been added.
    #[must_use]
    pub fn is_populated(&self, pfn: Pfn) -> bool {
        self.frames().states(pfn).is_ok()
    }

    /// Maps one page of machine memory that is no part of the domain's own, such as `shared_info`,
    /// where nothing is mapped.
    ///
    /// # Errors
    /// Rights that a page must not have, something is mapped there, no memory for tables, or Xen's
    /// refusal.
    ///
    /// # Safety
    /// The frame may be reached at this address with these rights.
    #[track_caller]
    pub unsafe fn map_machine(&mut self, va: u64, mfn: Mfn, flags: Flags) -> Result<(), MmError> {
        check_rights(va, flags)?;
        self.ensure_pte_table(va)?;
        let slot = self.pte_place(va)?;
        if self.entry(slot).is_present() {
            return Err(MmError::Occupied { va });
        }
        // SAFETY: nothing was mapped there; the frame is the caller's to map.
        unsafe { self.set_pte(slot, va, Pte::from_mfn(mfn, flags)) }
    }
}

/// Refers at `to` to the L1 table that maps what is at `from`: one table, reached a second way.
/// With it boot makes the direct map of the initial mapping's tables.
///
/// # Safety
/// The frames' owners agree to their being reached there with the rights that they have.
pub(super) unsafe fn share<M: Machine>(
    tables: &mut Tables<M>,
    from: u64,
    to: u64,
) -> Result<(), MmError> {
    let source = tables.pmd_place(from)?;
    let target = tables.ensure_pmd_place(to)?;
    let table = tables
        .value(tables.entry(source))
        .ok_or(MmError::NotMapped { va: from })?;
    let entry = tables.make_pmd(Value::new(table.pfn, Flags::TABLE))?;
    // SAFETY: nothing was mapped at `to`; the frames are memory of the domain, and this is the
    // place where the kernel reaches them.
    unsafe { tables.set_pmd(target, entry) }
}
