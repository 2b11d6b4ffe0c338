//! Changing and clearing the entries of a range: one by one, or by replacing tables.

use heapless::Vec;
use hypercall::Pfn;
use hypercall::batch::MAX_INVLPG;

use super::edited::{Edit, Masks, set};
use super::marks::any_may_gain;
use super::writable::{check_may_be_writable, check_seen};
use super::{
    Change, Chunk, PAGE, Replaced, check_range, check_rights, chunks, copy, present, present_until,
};
use crate::entry::{Entry, Flags, L1, L2, Pte, Value};
use crate::error::MmError;
use crate::frames::FrameError;
use crate::fresh::Fresh;
use crate::layout::Layout;
use crate::machine::{Live, Machine};
use crate::tables::{Marks, Place, Tables};

/// Pages, at most, whose entries go by a request each where each brings the flush of its page: as many as
/// are flushed one by one. Counted on Xen 4.17, that costs less than lists for all of these.
const FEW: u64 = MAX_INVLPG as u64;

/// Tables that are rebuilt before the queue is flushed: reading them while they are copied is
/// cheap as long as nothing is queued.
const GROUP: usize = 16;

/// A table, or none, to be put in place of the one that an entry refers to.
struct Swap {
    pmd: Place<L2>,
    fresh: Option<Fresh<L1>>,
    /// The entries that differ from the old table's, and which of A and D they keep, if other vCPUs may
    /// set any in the old table until it is gone.
    marked: Option<(Chunk, Flags)>,
}

impl<M: Machine> Tables<M> {
    /// Adds and removes rights of consecutive mapped pages.
    ///
    /// # Errors
    /// A bad range, a page that is not mapped, rights that a page must not have (writable and
    /// executable; writable although it is a page table or read-only for good), no memory, or
    /// Xen's refusal.
    ///
    /// # Safety
    /// Whoever uses the range needs no more than the rights that remain, and nobody relies on it
    /// not having those that are added.
    #[track_caller]
    pub unsafe fn protect(
        &mut self,
        va: u64,
        pages: u64,
        add: Flags,
        remove: Flags,
    ) -> Result<Change, MmError> {
        // SAFETY: the caller answers for who uses the range, and for who relies on its rights.
        unsafe { self.edit(va, pages, || Edit::Rights { add, remove }) }
    }

    /// Gives consecutive mapped pages exactly these rights, entry by entry, whatever they had: for
    /// entries that more than one table refers to, such as those of the initial mapping.
    ///
    /// # Errors
    /// A page that is not mapped, or Xen's refusal.
    ///
    /// # Safety
    /// As [`Tables::protect`].
    #[track_caller]
    pub(crate) unsafe fn set_rights(
        &mut self,
        va: u64,
        pages: u64,
        flags: Flags,
    ) -> Result<(), MmError> {
        check_rights(va, flags)?;
        for chunk in chunks(va, pages) {
            let first = self.pte_place(chunk.va)?;
            // SAFETY: the pages keep their frames; the caller says that nobody needs the rights.
            unsafe {
                self.write_run(
                    first,
                    chunk.va,
                    chunk.count,
                    Marks::Given,
                    |va, old| match old.is_present() {
                        true => Ok(Some(old.with_flags(flags))),
                        false => Err(MmError::NotMapped { va }),
                    },
                )
            }?;
        }
        Ok(())
    }

    /// See [`check_may_be_writable`].
    pub(crate) fn check_may_be_writable(&self, va: u64, entry: Pte) -> Result<(), MmError> {
        check_may_be_writable(self.domain(), va, entry)
    }

    /// Unmaps consecutive pages. Pages that are not mapped are passed over.
    ///
    /// # Errors
    /// A bad range, no memory, or Xen's refusal.
    ///
    /// # Safety
    /// Nothing in use may be mapped there.
    #[track_caller]
    pub unsafe fn unmap(&mut self, va: u64, pages: u64) -> Result<Change, MmError> {
        // SAFETY: nothing in use is mapped there, as the caller says.
        unsafe { self.edit(va, pages, || Edit::Clear) }
    }

    /// Writes entries for `count` consecutive pages and pfns from `va` and `first` on, in tables
    /// that exist.
    ///
    /// # Errors
    /// A bad range, rights that a page must not have, a missing table, no memory behind a pfn, or
    /// Xen's refusal.
    ///
    /// # Safety
    /// As [`Tables::set_pte`], for each page.
    #[track_caller]
    pub unsafe fn set_ptes(
        &mut self,
        va: u64,
        first: Value<L1>,
        count: u64,
    ) -> Result<Change, MmError> {
        check_rights(va, first.flags)?;
        // SAFETY: nothing in use is mapped in the range, as the caller says.
        unsafe { self.edit(va, count, || Edit::Set { from: va, first }) }
    }

    /// Edits every entry of a range.
    ///
    /// # Safety
    /// Whoever uses the range can do so after the edit.
    #[inline(always)]
    #[track_caller]
    unsafe fn edit(
        &mut self,
        va: u64,
        pages: u64,
        edit: impl Fn() -> Edit,
    ) -> Result<Change, MmError> {
        if let Some(slot) = self.single_at_once(va, pages) {
            let old = slot.in_table();
            let written = match edit().apply(self.domain(), va, old) {
                // SAFETY: the caller's users of this page can do with what the edit leaves.
                Ok(Some(new)) => unsafe { self.write_at_once(slot, va, old, new) },
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            return match written {
                Ok(()) => Ok(Change { va, pages }),
                Err(error) => Err(error),
            };
        }
        if let Some(slot) = self.single(va, pages) {
            let old = self.entry(slot);
            if let Some(new) = edit().apply(self.domain(), va, old)? {
                // SAFETY: the caller's users of this page can do with what the edit leaves.
                unsafe { self.replace_pte(slot, va, old, new) }?;
            }
            return Ok(Change { va, pages });
        }
        // SAFETY: as the caller says.
        unsafe { self.edit_more(va, pages, edit()) }
    }

    /// Edits every entry of a range that is more than a page in a table that exists.
    ///
    /// # Safety
    /// As [`Tables::edit`].
    #[inline(never)]
    #[track_caller]
    unsafe fn edit_more(&mut self, va: u64, pages: u64, edit: Edit) -> Result<Change, MmError> {
        if let Some(first) = self.in_one_table(va, pages) {
            // Where they lie in one table and what is there may be cached, each brings the flush of its page.
            if pages <= FEW && first.in_table().is_present() {
                // SAFETY: as the caller says.
                return unsafe { self.edit_few(first, va, pages, edit) };
            }
            if pages < edit.fewest() {
                for chunk in chunks(va, pages) {
                    // SAFETY: as the caller says, of the one that there is.
                    unsafe { self.edit_entries(first, chunk, edit) }?;
                }
                return Ok(Change { va, pages });
            }
        }
        // SAFETY: as the caller says.
        unsafe { self.edit_range(va, pages, edit) }
    }

    /// # Safety
    /// As [`Tables::edit`], for entries that lie in one table, from the `first` on.
    #[inline(never)]
    #[track_caller]
    unsafe fn edit_few(
        &mut self,
        first: Place<L1>,
        va: u64,
        pages: u64,
        edit: Edit,
    ) -> Result<Change, MmError> {
        let domain = self.domain();
        // SAFETY (all): the caller's users of the pages can do with what the edit leaves.
        match edit {
            // SAFETY: the users of the pages can do with what the edit leaves.
            Edit::Clear => unsafe {
                self.replace_few(first, va, pages, |va, old| {
                    Edit::Clear.apply(domain, va, old)
                })
            },
            Edit::Rights { add, remove } => {
                let masks = Masks::new(add, remove);
                // SAFETY: the users of the pages can do with what the edit leaves.
                unsafe {
                    self.replace_few(first, va, pages, |va, old| {
                        masks.apply(va, old, || check_seen(domain, va, old))
                    })
                }
            }
            Edit::Set { from, first: value } => {
                // SAFETY: the users of the pages can do with what the edit leaves.
                unsafe {
                    self.replace_few(first, va, pages, |va, _| {
                        set(domain, from, value, va).map(Some)
                    })
                }
            }
        }?;
        Ok(Change { va, pages })
    }

    /// Edits every entry of a range.
    ///
    /// Chunks are taken in groups: those worth it get a new table, filled while nothing is queued
    /// for the old one, which can be read as it is; then all are swapped in by one request.
    ///
    /// # Safety
    /// As [`Tables::edit`].
    #[inline(never)]
    #[track_caller]
    unsafe fn edit_range(&mut self, va: u64, pages: u64, edit: Edit) -> Result<Change, MmError> {
        check_range(va, pages)?;
        if pages < edit.fewest() {
            return self.lazily(|tables| {
                for chunk in chunks(va, pages) {
                    if let Some(first) = tables.find_chunk(chunk, edit)? {
                        // SAFETY: a part of the range whose users can do with what the edit leaves.
                        unsafe { tables.edit_entries(first, chunk, edit) }?;
                    }
                }
                Ok(Change { va, pages })
            });
        }
        let mut todo = chunks(va, pages).peekable();
        while todo.peek().is_some() {
            // What is queued would hide in the tables that are copied below. What the group itself
            // queues is for other tables, one a chunk.
            self.flush()?;
            self.lazily(|tables| {
                // Taken out one by one where they lie: together they are too large to be moved.
                let mut swaps = Vec::<Option<Swap>, GROUP>::new();
                let mut result = Ok(());
                while swaps.len() < GROUP
                    && let Some(chunk) = todo.next()
                {
                    // SAFETY: a part of the range whose users can do with what the edit leaves.
                    match unsafe { tables.edit_chunk(chunk, edit) } {
                        // There is room: the loop ends when there is none.
                        Ok(Some(swap)) => drop(swaps.push(Some(swap))),
                        Ok(None) => {}
                        Err(e) => {
                            result = Err(e);
                            break;
                        }
                    }
                }
                let mut swaps = swaps.iter_mut().filter_map(Option::take);
                let mut replaced = Vec::<Replaced, GROUP>::new();
                let swapped = swaps.try_for_each(|swap| {
                    // SAFETY: each was made for its place by the edit that the range's users agreed to.
                    let old = unsafe { tables.swap_table(swap) }?;
                    // There is room: as many as are swapped.
                    replaced.extend(old);
                    Ok(())
                });
                for Swap { fresh, .. } in swaps {
                    fresh.map_or(Ok(()), |fresh| fresh.discard(tables))?;
                }
                if !replaced.is_empty() {
                    tables.settle_replaced(&replaced)?;
                }
                swapped.and(result)
            })?;
        }
        Ok(Change { va, pages })
    }

    /// Edits the entries of one chunk in place, or makes the table that is to replace theirs.
    ///
    /// In the direct map always in place: its tables change as frames become tables, and the copy
    /// would be among those.
    ///
    /// # Safety
    /// As [`Tables::edit`], for the chunk.
    unsafe fn edit_chunk(&mut self, chunk: Chunk, edit: Edit) -> Result<Option<Swap>, MmError> {
        let Some(first) = self.find_chunk(chunk, edit)? else {
            return Ok(None);
        };
        let cost = edit.cost();
        if chunk.count as u64 >= edit.fewest()
            && let pmd = self.pmd_place(chunk.va)?
            && let Some(table) = self.value(self.entry(pmd))
            && !M::Layout::DIRECT.contains(&chunk.va)
        {
            // SAFETY: a table that an entry refers to is nobody's own memory. Nothing is queued for it.
            let Some(words) = (unsafe { self.machine().live(table.pfn) }) else {
                return Err(MmError::NoMemory {
                    pfn: table.pfn.as_u64(),
                });
            };
            let (before, rest) = words.split_at(chunk.first);
            let (inside, after) = rest.split_at(chunk.count);
            let kept = present(before) + present(after);
            if kept == 0 && matches!(edit, Edit::Clear) {
                // Whatever else refers to it keeps it.
                return Ok(Some(Swap {
                    pmd,
                    fresh: None,
                    marked: None,
                }));
            }
            let changed = present_until(inside, cost.enough(kept));
            if cost.prefers_table(changed, kept) && self.may_be_replaced(table.pfn) {
                match self.rebuild(pmd, table.pfn, chunk, edit) {
                    // It can be done without, and must be: unmapping is how memory gets free.
                    Err(MmError::Frame(FrameError::OutOfMemory)) => {}
                    swap => return swap.map(Some),
                }
            }
        }
        // SAFETY: the users of the chunk can do with what the edit leaves.
        unsafe { self.edit_entries(first, chunk, edit) }?;
        Ok(None)
    }

    /// The place of a chunk's first entry, or none where there is no table and nothing to edit.
    fn find_chunk(&self, chunk: Chunk, edit: Edit) -> Result<Option<Place<L1>>, MmError> {
        match self.pte_place(chunk.va) {
            Err(MmError::NoTable { .. }) if !matches!(edit, Edit::Set { .. }) => {
                // Nothing is mapped: fine if that is what is asked for, an error otherwise.
                edit.apply(self.domain(), chunk.va, Pte::NONE)?;
                Ok(None)
            }
            found => found.map(Some),
        }
    }

    /// Edits the entries of a chunk in place, from the `first` on.
    ///
    /// # Safety
    /// As [`Tables::edit`], for the chunk.
    #[track_caller]
    unsafe fn edit_entries(
        &mut self,
        first: Place<L1>,
        chunk: Chunk,
        edit: Edit,
    ) -> Result<(), MmError> {
        let domain = self.domain();
        let Chunk { va, count, .. } = chunk;
        if edit.takes_marks() {
            // SAFETY: the users of the chunk can do with what the edit leaves.
            return unsafe { self.edit_singly(first, chunk, edit) };
        }
        let marks = match edit {
            Edit::Rights { .. } => Marks::Kept,
            Edit::Clear | Edit::Set { .. } => Marks::Given,
        };
        let fill = |requests: &mut [_], olds: Live<'_>| Ok(edit.fill(domain, va, requests, olds));
        // SAFETY: the users of the chunk can do with what the edit leaves, as the caller says.
        match unsafe { self.write_filled(first, va, count, marks, fill) }? {
            true => Ok(()),
            // SAFETY: the users of the chunk can do with what the edit leaves, as the caller says.
            false => unsafe {
                self.write_run(first, va, count, marks, |va, old| {
                    edit.apply(domain, va, old)
                })
            },
        }
    }

    /// As [`Tables::edit_entries`], one by one: each as what other vCPUs set in it demands.
    ///
    /// # Safety
    /// As [`Tables::edit`], for the chunk.
    #[cold]
    #[inline(never)]
    #[track_caller]
    unsafe fn edit_singly(
        &mut self,
        first: Place<L1>,
        chunk: Chunk,
        edit: Edit,
    ) -> Result<(), MmError> {
        for index in 0..chunk.count {
            let (place, va) = (first.at(index), chunk.va + PAGE * index as u64);
            let old = self.entry(place);
            if let Some(new) = edit.apply(self.domain(), va, old)? {
                // SAFETY: the users of this page can do with what the edit leaves.
                unsafe { self.replace_pte(place, va, old, new) }?;
            }
        }
        Ok(())
    }

    /// Whether a table may be swapped for a copy: one entry refers to it and nothing else does.
    fn may_be_replaced(&self, table: Pfn) -> bool {
        self.frames()
            .states(table)
            .is_ok_and(|(_, planned)| planned.links == 1 && !planned.pinned)
    }

    /// Copies a table, editing the entries of the chunk.
    fn rebuild(
        &mut self,
        pmd: Place<L2>,
        old: Pfn,
        chunk: Chunk,
        edit: Edit,
    ) -> Result<Swap, MmError> {
        let frame = self.alloc_frame()?;
        let mut marked = None;
        let fresh = Fresh::filled(self, frame, |tables, words| {
            // SAFETY: the table is in use, and no frame that was handed out since.
            let old = unsafe { tables.machine().live(old) };
            let old = old.ok_or(MmError::NotMapped { va: chunk.va })?;
            if tables.others_mark(chunk.va) && any_may_gain(old) {
                marked = Some((chunk, edit.keeps()));
            }
            let (before, rest) = old.split_at(chunk.first);
            let (inside, after) = rest.split_at(chunk.count);
            let end = chunk.first + chunk.count;
            copy(&mut words[..chunk.first], before);
            copy(&mut words[end..], after);
            edit.apply_all(
                tables.domain(),
                chunk.va,
                &mut words[chunk.first..end],
                inside,
            )
        })?;
        Ok(Swap {
            pmd,
            fresh: Some(fresh),
            marked,
        })
    }

    /// Puts a table, or none, in place of the one an entry refers to, whose frame is given back: by the
    /// caller, if it is returned.
    ///
    /// # Safety
    /// What is in use below the entry is mapped by the new table as its users need it.
    unsafe fn swap_table(&mut self, swap: Swap) -> Result<Option<Replaced>, MmError> {
        let Swap { pmd, fresh, marked } = swap;
        let old = self.value(self.entry(pmd));
        match fresh {
            Some(fresh) => {
                // SAFETY: what is in use below the entry is mapped as its users need it.
                unsafe { self.install(pmd, fresh, Flags::TABLE) }?;
            }
            // SAFETY: nothing in use is mapped below the entry: no table serves its users as well.
            None => unsafe { self.set_upper(pmd, Entry::NONE) }?,
        }
        match old.map(|old| old.pfn) {
            Some(old) if marked.is_some() => {
                let edited = marked;
                return Ok(Some(Replaced { pmd, old, edited }));
            }
            Some(old) if self.unreferenced(old)? => self.release_table(old)?,
            _ => {}
        }
        Ok(None)
    }
}
