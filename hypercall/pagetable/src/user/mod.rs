//! The user half of a space: memory that its entries own together.
//!
//! A page of user mode's may be mapped in several spaces, so its frame counts the entries that map it
//! and is free when the last is gone. Who maps gives memory, who unmaps gets none back: nobody holds
//! a frame that user mode can reach, but for memory that is made to be held besides (`user/held.rs`), such
//! as the page of a file.
//!
//! L1 tables are shared as well (fork, in `user/share.rs`): a table that more than one L2 entry refers to stays
//! as it is, and none of these entries has RW, which makes all that it maps read-only at once. An
//! operation that would change one entry takes a copy of the table first.
//!
//! All of it works on the space under work ([`Tables::in_space`](crate::Tables::in_space)).

mod fault;
mod held;
mod one;
mod share;
mod spare;
mod table_pool;

pub use fault::{OnWrite, UserPage};
pub use held::HeldFrame;
pub(crate) use spare::Spares;
pub(crate) use table_pool::EmptyTables;

use core::ops::Range;

use hypercall::Pfn;

use crate::entry::{Entry, Flags, L1, L2, L3, L4, L5, Pte, TableLevel};
use crate::error::MmError;
use crate::machine::{Machine, Words};
use crate::mapping::Chunk as Numbers;
use crate::ops::{Chunk, PAGE, check_range, check_rights, chunks};
use crate::tables::{Place, Tables};

/// Rights that [`Tables::protect_user`] sets or takes.
const RIGHTS: Flags = Flags::WRITABLE.union(Flags::NO_EXECUTE);

/// A range of user mode's addresses, or an error.
fn check_user_range(va: u64, pages: u64) -> Result<(), MmError> {
    check_range(va, pages)?;
    if va >> 63 == 1 {
        return Err(MmError::BadRange { va, pages });
    }
    Ok(())
}

impl<M: Machine> Tables<M> {
    /// Maps fresh memory at consecutive pages from `va` on, where nothing is mapped; in force when it
    /// returns. `fill` writes each page, by its address: what was in it before must not show through.
    ///
    /// # Errors
    /// Not a range of user mode's, rights that a page must not have, something mapped there, no
    /// memory, or Xen's refusal. Whole tables that were mapped before the error stay mapped.
    #[track_caller]
    pub fn map_user(
        &mut self,
        va: u64,
        pages: u64,
        flags: Flags,
        mut fill: impl FnMut(u64, &mut Words),
    ) -> Result<(), MmError> {
        check_user_range(va, pages)?;
        check_rights(va, flags)?;
        for chunk in chunks(va, pages) {
            self.map_user_chunk(chunk, flags, |tables, taken| {
                tables.take_and_fill(chunk, taken, &mut fill)
            })?;
        }
        Ok(())
    }

    /// Maps what `take` notes, frames that are counted as mapped, at the pages of a chunk where nothing
    /// is mapped; in force when it returns.
    #[track_caller]
    fn map_user_chunk(
        &mut self,
        chunk: Chunk,
        flags: Flags,
        take: impl FnOnce(&mut Self, &mut Numbers) -> Result<(), MmError>,
    ) -> Result<(), MmError> {
        self.own_table(chunk.va)?;
        self.check_empty(chunk)?;
        if chunk.count <= table_pool::FEW {
            self.ensure_table(chunk.va)?;
        }
        let mut taken = Numbers::new();
        let mapped = take(self, &mut taken).and_then(|()| {
            let frames = taken.iter().map(|&number| Pfn::truncate(number.into()));
            // SAFETY: the frames are counted as mapped for this. Nothing was seen to be mapped there,
            // and what this fails to map is not used.
            let mapped = unsafe { self.map(chunk.va, frames, flags | Flags::USER) };
            mapped.and_then(|change| change.commit(self))
        });
        if let Err(e) = mapped {
            self.undo_user(chunk.va, &taken);
            return Err(e);
        }
        Ok(())
    }

    /// Has a table of the pool lead to an address where there is none, as long as there is one.
    fn ensure_table(&mut self, va: u64) -> Result<(), MmError> {
        if self.pte_place(va).is_ok() {
            return Ok(());
        }
        let Some(table) = self.take_empty_table() else {
            return Ok(());
        };
        match self.ensure_pmd_place(va) {
            // SAFETY: nothing was mapped below the entry.
            Ok(pmd) => unsafe { self.link_empty_table(pmd, table) },
            Err(e) => {
                self.keep_empty_table(table)?;
                Err(e)
            }
        }
    }

    /// Refuses a part of a table that maps something.
    fn check_empty(&self, chunk: Chunk) -> Result<(), MmError> {
        let Ok(place) = self.pte_place(chunk.va) else {
            return Ok(());
        };
        let found = self.first_mapped(place, chunk.va, chunk.count as u64);
        found.map_or(Ok(()), |va| Err(MmError::Occupied { va }))
    }

    /// The first address whose page is mapped, of so many from `va` on in one table, where `place` is the
    /// first one's entry.
    fn first_mapped(&self, place: Place<L1>, va: u64, pages: u64) -> Option<u64> {
        let end = va + pages * PAGE;
        if pages > table_pool::FEW as u64 {
            return self.next_present(place, va).filter(|va| *va < end);
        }
        let mut places = (va..end).step_by(PAGE as usize).zip(0..);
        places.find_map(|(va, page)| self.entry(place.at(page)).is_present().then_some(va))
    }

    /// Addresses of the pages of a chunk.
    fn pages_of(&self, chunk: Chunk) -> impl Iterator<Item = u64> + use<M> {
        (0..chunk.count as u64).map(move |page| chunk.va + page * PAGE)
    }

    /// The entry of a page, as it stands in its table.
    fn user_entry(&self, va: u64) -> Pte {
        self.ptep_get(va).unwrap_or(Pte::NONE)
    }

    /// Takes a frame for each page of a chunk, counted as mapped, and has it filled.
    fn take_and_fill(
        &mut self,
        chunk: Chunk,
        taken: &mut Numbers,
        fill: &mut impl FnMut(u64, &mut Words),
    ) -> Result<(), MmError> {
        for va in self.pages_of(chunk) {
            let mut frame = self.alloc_frame()?;
            fill(va, self.frame_memory(&mut frame));
            let pfn = frame.pfn();
            self.frames().count_mapping(pfn)?;
            // There is room: as many as a table has entries.
            let _ = taken.push(pfn.as_u64() as u32);
        }
        Ok(())
    }

    /// Undoes a part of a table that could not be mapped whole: none of its frames is lost.
    #[cold]
    #[track_caller]
    fn undo_user(&mut self, va: u64, frames: &Numbers) {
        if let Err(e) = self.unmap_chunk(va, frames, &mut Self::drop_page) {
            log::error!(target: "mm", "pages of user mode's at {va:#x} stay mapped: {e}");
        }
    }

    /// One entry less maps a frame, which is free if it was the last.
    #[inline]
    fn drop_page(&mut self, pfn: Pfn) {
        if let Some(frame) = self.frames().uncount_mapping(pfn) {
            self.free_or_orphan(frame);
        }
    }

    /// Unmaps consecutive pages; those that are not mapped are passed over. Memory that nothing else
    /// maps is free when it returns.
    ///
    /// # Errors
    /// Not a range of user mode's, no memory for the copy of a shared table, or Xen's refusal. What
    /// was unmapped before the error stays so.
    #[track_caller]
    pub fn unmap_user(&mut self, va: u64, pages: u64) -> Result<(), MmError> {
        check_user_range(va, pages)?;
        self.each_table(va, pages, |tables, chunk, pmd| {
            if tables.is_lent(pmd) && tables.drop_shared(chunk, pmd)? {
                return Ok(());
            }
            let frames = tables.chunk_frames(chunk.va, chunk.count);
            tables.unmap_chunk(chunk.va, &frames, &mut Self::drop_page)
        })
    }

    /// Gives the mapped pages among consecutive ones these rights (writable or not, executable or not);
    /// those that are not mapped are passed over. A page that is mapped elsewhere as well stays
    /// read-only: the fault of the first write decides ([`Tables::make_writable`]).
    ///
    /// # Errors
    /// Not a range of user mode's, rights that a page must not have, no memory for the copy of a shared
    /// table, or Xen's refusal.
    #[track_caller]
    pub fn protect_user(&mut self, va: u64, pages: u64, flags: Flags) -> Result<(), MmError> {
        check_user_range(va, pages)?;
        check_rights(va, flags)?;
        self.each_table(va, pages, |tables, chunk, _| {
            tables.own_table(chunk.va)?;
            tables.lazily(|tables| {
                let mut next = 0;
                while next < chunk.count as u64 {
                    let first = chunk.va + next * PAGE;
                    let Some(alone) = tables.is_alone(first) else {
                        next += 1;
                        continue;
                    };
                    let alike = (next..chunk.count as u64)
                        .take_while(|page| tables.is_alone(chunk.va + page * PAGE) == Some(alone))
                        .count() as u64;
                    let mut rights = flags & RIGHTS;
                    rights.set(Flags::WRITABLE, alone && flags.contains(Flags::WRITABLE));
                    // SAFETY: user mode finds the same memory, with rights that whoever governs the
                    // space chose.
                    let changed = unsafe { tables.protect(first, alike, rights, RIGHTS - rights) }?;
                    // SAFETY: it is in force at the end of the section, before anybody is told.
                    unsafe { changed.defer() };
                    next += alike;
                }
                Ok(())
            })
        })
    }

    /// Whether the memory of a page is mapped there alone and may become writable; nothing for a page
    /// that is not mapped.
    fn is_alone(&self, va: u64) -> Option<bool> {
        let value = self.pte_val(self.user_entry(va))?;
        Some(self.frames().is_mapped_once(value.pfn) == Some(true))
    }

    /// Moves what is mapped at consecutive pages to where nothing is mapped; the ranges must not
    /// overlap. Pages that are not mapped leave holes.
    ///
    /// # Errors
    /// Bad or overlapping ranges, something mapped at the destination, no memory, or Xen's refusal:
    /// each page is then at one of both places.
    #[track_caller]
    pub fn move_user(&mut self, from: u64, to: u64, pages: u64) -> Result<(), MmError> {
        check_user_range(from, pages)?;
        check_user_range(to, pages)?;
        if from.abs_diff(to) < pages * PAGE {
            return Err(MmError::BadRange { va: to, pages });
        }
        for chunk in chunks(to, pages) {
            self.own_table(chunk.va)?;
            self.check_empty(chunk)?;
        }
        let moved = self.each_table(from, pages, |tables, chunk, _| {
            let target = to + (chunk.va - from);
            if chunk.count == 512 && target.is_multiple_of(L2::SPAN) {
                // The table changes hands, and stays as shared as it is.
                // SAFETY: user mode's memory, which its governor moves.
                return unsafe { tables.move_pages(chunk.va, target, 512) }?.commit(tables);
            }
            tables.own_table(chunk.va)?;
            let mut next = 0;
            while next < chunk.count as u64 {
                let is_there = |page: &u64| tables.user_entry(chunk.va + page * PAGE).is_present();
                let run = (next..chunk.count as u64).take_while(is_there).count() as u64;
                if run > 0 {
                    let offset = next * PAGE;
                    // SAFETY: user mode's memory, which its governor moves.
                    unsafe { tables.move_pages(chunk.va + offset, target + offset, run) }?
                        .commit(tables)?;
                }
                next += run + 1;
            }
            Ok(())
        });
        if moved.is_err() {
            self.undo_copies(from, to, pages)?;
        }
        moved
    }

    /// After a move that failed: what both places map, each of which would count, the new one gives up.
    #[cold]
    fn undo_copies(&mut self, from: u64, to: u64, pages: u64) -> Result<(), MmError> {
        self.each_table(to, pages, |tables, chunk, pmd| {
            let source = tables.pmd_place(from + (chunk.va - to));
            let both_lead_there = |source: Place<L2>| {
                source.machine() != pmd.machine()
                    && tables.entry(source).mfn() == tables.entry(pmd).mfn()
            };
            if source.is_ok_and(both_lead_there) {
                // SAFETY: user mode finds all that the table maps where it was.
                unsafe { tables.set_pmd(pmd, Entry::NONE) }?;
                return tables.flush();
            }
            for va in tables.pages_of(chunk) {
                let (here, there) = (tables.user_entry(va), tables.user_entry(from + (va - to)));
                if here.is_present() && here.mfn() == there.mfn() {
                    // SAFETY: user mode finds the memory where it was.
                    unsafe { tables.unmap(va, 1) }?.commit(tables)?;
                }
            }
            Ok(())
        })
    }

    /// Calls `f` for each part of a range that an L1 table covers which exists, with the place of the
    /// entry that refers to it.
    fn each_table(
        &mut self,
        va: u64,
        pages: u64,
        mut f: impl FnMut(&mut Self, Chunk, Place<L2>) -> Result<(), MmError>,
    ) -> Result<(), MmError> {
        let end = va + pages * PAGE;
        let mut next = va;
        while let Some((start, pmd)) = self.next_table(next, end)? {
            let stop = (start | (L2::SPAN - 1)).min(end - 1) + 1;
            for chunk in chunks(start, (stop - start) / PAGE) {
                f(self, chunk, pmd)?;
            }
            next = stop;
        }
        Ok(())
    }

    /// Calls `f` with each L1 table of a range: the start of its span, the place of the entry that refers to
    /// it, and its frame. Returns the start of the first that `f` did not take.
    ///
    /// Nothing should be queued: each entry would be looked for in the queue as well.
    fn each_user_table(
        &self,
        range: Range<u64>,
        mut f: impl FnMut(u64, Place<L2>, Pfn) -> bool,
    ) -> Result<Option<u64>, MmError> {
        let mut next = range.start;
        while let Some((va, pmd)) = self.next_table(next, range.end)? {
            let start = va & !(L2::SPAN - 1);
            let table = self.value(self.entry(pmd));
            let table = table.ok_or(MmError::NotMapped { va })?.pfn;
            if !f(start, pmd, table) {
                return Ok(Some(start));
            }
            next = start + L2::SPAN;
        }
        Ok(None)
    }

    /// As [`Tables::next_present`], of the addresses below `end`: in few entries it looks one by one.
    fn next_present_before<L: TableLevel>(
        &self,
        place: Place<L>,
        va: u64,
        end: u64,
    ) -> Option<u64> {
        /// Entries for which a look at a whole table does not pay.
        const FEW: u64 = 16;
        let start = va & !(L::SPAN - 1);
        let entries = ((end - start).div_ceil(L::SPAN)).min((512 - L::index(va)) as u64);
        if entries > FEW {
            return self.next_present(place, va).filter(|found| *found < end);
        }
        let mut entries = 0..entries;
        let found = entries.find(|entry| self.entry(place.at(*entry as usize)).is_present());
        found.map(|entry| va.max(start + entry * L::SPAN))
    }

    /// The first address from `va` on, below `end`, that an L1 table covers, and the place of the entry
    /// that refers to the table.
    fn next_table(&self, va: u64, end: u64) -> Result<Option<(u64, Place<L2>)>, MmError> {
        let mut next = va;
        while next < end {
            let (found, span) = match self.pmd_place(next) {
                Ok(pmd) => match self.next_present_before(pmd, next, end) {
                    Some(found) => return Ok(Some((found, self.pmd_place(found)?))),
                    None => (None, L3::SPAN),
                },
                Err(MmError::NoTable { level: 3, .. }) => {
                    let pud = self.p4d_place(next).and_then(|p4d| self.pud_at(p4d, next));
                    (
                        pud.and_then(|pud| self.next_present_before(pud, next, end)),
                        L4::SPAN,
                    )
                }
                Err(MmError::NoTable { level: 4, .. }) => {
                    let p4d = self.p4d_place(next);
                    (
                        p4d.and_then(|p4d| self.next_present_before(p4d, next, end)),
                        L5::SPAN,
                    )
                }
                Err(MmError::NoTable { .. }) => (None, L5::SPAN),
                Err(e) => return Err(e),
            };
            next = found.unwrap_or((next | (span - 1)) + 1);
        }
        Ok(None)
    }

    fn p4d_place(&self, va: u64) -> Option<Place<L4>> {
        self.p4d_at(self.pgd_at(va)?, va)
    }

    /// Whether the table that an entry refers to is one that may be shared: the entry has no RW.
    fn is_lent(&self, pmd: Place<L2>) -> bool {
        let entry = self.entry(pmd);
        entry.is_present() && !entry.flags().contains(Flags::WRITABLE)
    }
}
