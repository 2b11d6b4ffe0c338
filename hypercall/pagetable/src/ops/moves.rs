//! Moving pages: whole tables change hands where both places lie alike, entries elsewhere.

use hypercall::Pfn;
use hypercall::abi::mmu::mmu_update;

use super::edited::values;
use super::{
    Change, Chunk, PAGE, SPAN, Seen, check_present, check_range, chunks, copy, fill_around, mask,
};
use crate::entry::{Entry, Flags, Keep, L1, L2, Pte, TableLevel};
use crate::error::MmError;
use crate::fresh::Fresh;
use crate::machine::{Live, Machine};
use crate::tables::{Marks, Place, Tables, slots};

/// Pages, at most, that move one by one, which costs no more than lists of so few.
const FEW: u64 = 4;

/// The entry for a page that moves from one place to another.
#[inline]
fn moved(old: Pte, from: u64, there: Pte, to: u64, in_use: bool) -> Result<Pte, MmError> {
    if !old.is_present() {
        return Err(MmError::NotMapped { va: from });
    }
    if there.is_present() {
        return Err(MmError::Occupied { va: to });
    }
    let left = if in_use { old.as_left() } else { old };
    Ok(left.with_flags(left.flags()))
}

/// Writes the values of requests that map elsewhere what entries map, if all of them are present and none
/// is where they go.
#[inline(never)]
fn fill_moved(requests: &mut [mmu_update], olds: Live<'_>, there: Live<'_>) -> bool {
    let keep = Keep::all_but(Flags::empty());
    let Seen { all, .. } = mask(values(requests), olds, keep, Flags::empty());
    let Seen { any, .. } = Seen::of(there);
    Pte::from_table(all).is_present() && !Pte::from_table(any).is_present()
}

impl<M: Machine> Tables<M> {
    /// Moves consecutive pages to where nothing is mapped; the ranges must not overlap.
    ///
    /// Where both ends lie equally in their 2 MiB, whole tables change hands, with the holes that
    /// are in them. Other pages, if other vCPUs may use them until they are gone, count as accessed,
    /// and as written where they can be.
    ///
    /// After an error some pages may be at the destination, some at the source and some at both;
    /// unmapping both ranges leaves neither.
    ///
    /// # Errors
    /// Bad or overlapping ranges, a page that is not mapped, something mapped at the destination,
    /// no memory, or Xen's refusal.
    ///
    /// # Safety
    /// Nothing in use may be mapped at the source.
    #[track_caller]
    pub unsafe fn move_pages(&mut self, from: u64, to: u64, pages: u64) -> Result<Change, MmError> {
        check_range(from, pages)?;
        check_range(to, pages)?;
        if from.abs_diff(to) < pages * PAGE {
            return Err(MmError::BadRange { va: to, pages });
        }
        if from.is_multiple_of(SPAN) && to.is_multiple_of(SPAN) && pages.is_multiple_of(512) {
            // SAFETY: nothing in use is mapped at the source, as the caller says.
            return unsafe { self.move_tables(from, to, pages / 512) };
        }
        // What is queued would hide in the tables that are copied.
        self.flush()?;
        if let (Some(source), Some(target)) = (self.single(from, pages), self.single(to, pages)) {
            // SAFETY: nothing in use is mapped at the source, as the caller says.
            unsafe { self.move_page(source, from, target, to) }?;
            return Ok(Change { va: to, pages });
        }
        if pages <= FEW
            && let Some(source) = self.in_one_table(from, pages)
            && let Some(target) = self.in_one_table(to, pages)
        {
            for index in 0..pages as usize {
                let offset = PAGE * index as u64;
                let (source, target) = (source.at(index), target.at(index));
                // SAFETY: nothing in use is mapped at the source, as the caller says.
                unsafe { self.move_page(source, from + offset, target, to + offset) }?;
            }
            return Ok(Change { va: to, pages });
        }
        self.lazily(|tables| {
            // The new places first: a frame that stays mapped somewhere is cheaper to map again.
            for chunk in chunks(to, pages) {
                let source = from + (chunk.va - to);
                // SAFETY: the frames stay their users', who find them at the new place.
                unsafe { tables.copy_chunk(source, chunk) }?;
            }
            // SAFETY: nothing in use is mapped at the source, as the caller says.
            let gone = unsafe { tables.unmap(from, pages) }?;
            Ok(Change { va: to, ..gone })
        })
    }

    /// Moves one page between two entries that nothing is queued for.
    ///
    /// # Safety
    /// Nothing in use is mapped at the source.
    #[inline(always)]
    #[track_caller]
    unsafe fn move_page(
        &mut self,
        source: Place<L1>,
        from: u64,
        target: Place<L1>,
        to: u64,
    ) -> Result<(), MmError> {
        let old = source.in_table();
        let new = moved(old, from, target.in_table(), to, self.others_mark(from))?;
        // SAFETY: the frame stays its users', who find it at the new place.
        unsafe { self.replace_pte(target, to, Pte::NONE, new) }?;
        // SAFETY: nothing in use is mapped at the source, as the caller says.
        unsafe { self.replace_pte(source, from, old, Pte::NONE) }
    }

    /// Maps at a chunk what is mapped from `source` on.
    ///
    /// # Safety
    /// The frames' users agree to their being reached there with the same rights.
    unsafe fn copy_chunk(&mut self, source: u64, chunk: Chunk) -> Result<(), MmError> {
        let pmd = self.ensure_pmd_place(chunk.va)?;
        if self.entry(pmd).is_present() || chunk.count < 8 {
            // SAFETY: for the same frames and users as this is.
            return unsafe { self.copy_entries(source, chunk) };
        }
        let frame = self.alloc_frame()?;
        let fresh = Fresh::<L1>::filled(self, frame, |tables, words| {
            fill_around(words, chunk);
            let mut done = 0;
            for piece in chunks(source, chunk.count as u64) {
                // Not below a large page.
                tables.pte_place(piece.va)?;
                let pmd = tables.pmd_place(piece.va)?;
                let table = tables.value(tables.entry(pmd));
                let table = table.ok_or(MmError::NotMapped { va: piece.va })?;
                // SAFETY: the table is in use, so nobody's own memory. Nothing is queued for it:
                // the operation began with a flush and has queued only for new tables since.
                let old = unsafe { tables.machine().live(table.pfn) };
                let old = old.ok_or(MmError::NotMapped { va: piece.va })?;
                let old = old.split_at(piece.first).1.split_at(piece.count).0;
                let target = &mut words[chunk.first + done..chunk.first + done + piece.count];
                let are_present = copy(target, old);
                if tables.others_mark(piece.va) {
                    let left = |word: &mut u64| *word = Pte::from_table(*word).as_left().bits();
                    target.iter_mut().for_each(left);
                }
                if !are_present {
                    check_present(piece.va, old)?;
                }
                done += piece.count;
            }
            Ok(())
        })?;
        // SAFETY: nothing was mapped below the entry.
        unsafe { self.install(pmd, fresh, Flags::TABLE) }
    }

    /// # Safety
    /// As [`Tables::copy_chunk`].
    unsafe fn copy_entries(&mut self, source: u64, chunk: Chunk) -> Result<(), MmError> {
        self.ensure_pte_table(chunk.va)?;
        for piece in chunks(source, chunk.count as u64) {
            let to = chunk.va + (piece.va - source);
            let (from, target) = (self.pte_place(piece.va)?, self.pte_place(to)?);
            // SAFETY: for the same frames and users as this is.
            unsafe { self.copy_run(from, piece.va, target, to, piece.count) }?;
        }
        Ok(())
    }

    /// Copies entries of one table to empty ones of another, or of the same. Nothing is queued for them.
    ///
    /// # Safety
    /// As [`Tables::copy_chunk`].
    #[inline]
    unsafe fn copy_run(
        &mut self,
        source: Place<L1>,
        from: u64,
        target: Place<L1>,
        to: u64,
        count: usize,
    ) -> Result<(), MmError> {
        let in_use = self.others_mark(from);
        if !in_use {
            let olds = source.live(count);
            // SAFETY: nothing was mapped there.
            let filled = unsafe {
                self.write_filled(target, to, count, Marks::Given, |requests, there| {
                    Ok(fill_moved(requests, olds, there))
                })
            }?;
            if filled {
                return Ok(());
            }
        }
        let each = |va, there| {
            let old = source.at(((va - to) / PAGE) as usize).in_table();
            moved(old, va - to + from, there, va, in_use).map(Some)
        };
        // SAFETY: nothing was mapped there.
        unsafe { self.write_run(target, to, count, Marks::Given, each) }
    }

    /// # Safety
    /// Nothing in use is mapped at the source.
    unsafe fn move_tables(&mut self, from: u64, to: u64, count: u64) -> Result<Change, MmError> {
        self.lazily(|tables| {
            // The tables that these lie in stay.
            let (mut before, mut behind) = (None, None);
            for i in 0..count {
                let (from, to) = (from + i * SPAN, to + i * SPAN);
                let source = match before {
                    Some(source) if L2::index(from) != 0 => Place::<L2>::at(source, 1),
                    _ => tables.pmd_place(from)?,
                };
                before = Some(source);
                let entry = tables.entry(source);
                if entry.is_large() {
                    return Err(MmError::Large { va: from, level: 2 });
                }
                if !entry.is_present() {
                    return Err(MmError::NotMapped { va: from });
                }
                let target = match behind {
                    Some(target) if L2::index(to) != 0 => Place::at(target, 1),
                    _ => tables.ensure_pmd_place(to)?,
                };
                behind = Some(target);
                let empty = tables.empty_table(target, to)?;
                let move_it = |tables: &mut Self| {
                    // Linked before it is unlinked, so that Xen need not validate it again.
                    // SAFETY: nothing is mapped at the destination, nothing in use at the source.
                    unsafe { tables.set_pmd(target, entry.with_flags(entry.flags())) }?;
                    // SAFETY: nothing is mapped at the destination, nothing in use at the source.
                    unsafe { tables.set_pmd(source, Entry::NONE) }
                };
                let Some(empty) = empty else {
                    move_it(tables)?;
                    continue;
                };
                tables.or_orphan(empty, move_it)?;
                if tables.unreferenced(empty)? {
                    tables.release_table(empty)?;
                }
            }
            Ok(Change {
                va: to,
                pages: count * 512,
            })
        })
    }

    /// The table that an entry refers to, if any, which must map nothing: one that was emptied
    /// entry by entry stays.
    fn empty_table(&self, pmd: Place<L2>, va: u64) -> Result<Option<Pfn>, MmError> {
        if !self.entry(pmd).is_present() {
            return Ok(None);
        }
        let mut entries = slots(self.pte_place(va)?, 512);
        match entries.position(|slot| self.entry(slot).is_present()) {
            Some(index) => Err(MmError::Occupied {
                va: va + index as u64 * PAGE,
            }),
            None => Ok(self.value(self.entry(pmd)).map(|table| table.pfn)),
        }
    }
}
