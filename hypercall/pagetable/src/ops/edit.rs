//! Changing and clearing the entries of a range: one by one, or by replacing tables.

use heapless::Vec;
use hypercall::Pfn;

use super::{
    Change, Chunk, PAGE, check_present, check_range, check_rights, chunks, copy, mask, present,
};
use crate::cost::{self, Cost};
use crate::entry::{Entry, Flags, Keep, L1, L2, Pte};
use crate::error::MmError;
use crate::frames::FrameError;
use crate::fresh::Fresh;
use crate::layout::Layout;
use crate::machine::{Live, Machine};
use crate::tables::{Place, Tables, slots};

/// Tables that are rebuilt before the queue is flushed: reading them while they are copied is
/// cheap as long as nothing is queued.
const GROUP: usize = 16;

/// A table, or none, to be put in place of the one that an entry refers to.
struct Swap {
    pmd: Place<L2>,
    fresh: Option<Fresh<L1>>,
}

/// What happens to the entries of a range.
#[derive(Clone, Copy)]
enum Edit {
    /// Their rights change; the pages must be mapped.
    Rights { add: Flags, remove: Flags },
    /// They are cleared.
    Clear,
}

impl Edit {
    fn cost(self) -> Cost {
        match self {
            Edit::Rights { .. } => cost::PROTECT,
            Edit::Clear => cost::CLEAR,
        }
    }

    /// The entry after the edit.
    #[inline(always)]
    fn apply<M: Machine>(self, tables: &Tables<M>, va: u64, old: Pte) -> Result<Pte, MmError> {
        let Edit::Rights { add, remove } = self else {
            return Ok(Pte::NONE);
        };
        if !old.is_present() {
            return Err(MmError::NotMapped { va });
        }
        let was = old.flags();
        let flags = (was - remove) | add;
        if flags.contains(Flags::WRITABLE) && !was.contains(Flags::WRITABLE) {
            tables.check_may_be_writable(va, old)?;
        }
        check_rights(va, flags)?;
        Ok(old.with_flags(flags))
    }

    /// The entries after the edit, for consecutive pages from `va` on.
    fn apply_all<M: Machine>(
        self,
        tables: &Tables<M>,
        va: u64,
        new: &mut [u64],
        old: Live<'_>,
    ) -> Result<(), MmError> {
        match self {
            Edit::Clear => new.fill(0),
            // Rights that only shrink need no look at each page.
            Edit::Rights { add, remove }
                if !add.contains(Flags::WRITABLE)
                    && !remove.intersects(Flags::NO_EXECUTE | Flags::PRESENT) =>
            {
                check_present(va, old)?;
                mask(new, old, Keep::all_but(remove), add);
            }
            Edit::Rights { .. } => {
                for ((new, old), i) in new.iter_mut().zip(old.iter()).zip(0_u64..) {
                    let old = Pte::from_table(old);
                    *new = self.apply(tables, va + i * PAGE, old)?.bits();
                }
            }
        }
        Ok(())
    }
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
        unsafe { self.edit(va, pages, Edit::Rights { add, remove }) }
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
            for (i, slot) in slots(first, chunk.count).enumerate() {
                let (va, old) = (chunk.va + i as u64 * PAGE, self.entry(slot));
                if !old.is_present() {
                    return Err(MmError::NotMapped { va });
                }
                // SAFETY: the page keeps its frame; the caller says that nobody needs the rights.
                unsafe { self.set_pte_queued(slot, va, old, old.with_flags(flags)) }?;
            }
        }
        Ok(())
    }

    pub(crate) fn check_may_be_writable(&self, va: u64, entry: Pte) -> Result<(), MmError> {
        // A frame without a record is none of the kernel's tables or constants.
        let pfn = entry.mfn().and_then(|mfn| self.machine().pfn(mfn));
        if pfn.is_some_and(|pfn| !self.frames().may_be_writable(pfn)) {
            return Err(MmError::MustStayReadOnly { va });
        }
        Ok(())
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
        unsafe { self.edit(va, pages, Edit::Clear) }
    }

    /// Edits every entry of a range.
    ///
    /// Chunks are taken in groups: those worth it get a new table, filled while nothing is queued
    /// for the old one, which can be read as it is; then all are swapped in by one request.
    ///
    /// # Safety
    /// Whoever uses the range can do so after the edit.
    #[track_caller]
    unsafe fn edit(&mut self, va: u64, pages: u64, edit: Edit) -> Result<Change, MmError> {
        check_range(va, pages)?;
        if let Some(slot) = self.single(va, pages) {
            // SAFETY: the caller's users of this page can do with what the edit leaves.
            unsafe { self.edit_slot(slot, va, edit) }?;
            return Ok(Change { va, pages });
        }
        let whole = pages >= edit.cost().break_even();
        let mut todo = chunks(va, pages).peekable();
        while todo.peek().is_some() {
            if whole {
                // What is queued would hide in the tables that are copied below. What the group
                // itself queues is for other tables, one a chunk.
                self.flush()?;
            }
            self.lazily(|tables| {
                let mut swaps = Vec::<Swap, GROUP>::new();
                let mut result = Ok(());
                while swaps.len() < GROUP
                    && let Some(chunk) = todo.next()
                {
                    // SAFETY: a part of the range whose users can do with what the edit leaves.
                    match unsafe { tables.edit_chunk(chunk, edit) } {
                        // There is room: the loop ends when there is none.
                        Ok(Some(swap)) => drop(swaps.push(swap)),
                        Ok(None) => {}
                        Err(e) => {
                            result = Err(e);
                            break;
                        }
                    }
                }
                let mut swaps = swaps.into_iter();
                // SAFETY: each was made for its place by the edit that the range's users agreed to.
                let swapped = swaps.try_for_each(|swap| unsafe { tables.swap_table(swap) });
                for Swap { fresh, .. } in swaps {
                    fresh.map_or(Ok(()), |fresh| fresh.discard(tables))?;
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
        let first = match self.pte_place(chunk.va) {
            Ok(first) => first,
            Err(MmError::NoTable { .. }) => {
                // Nothing is mapped: fine if that is what is asked for, an error otherwise.
                edit.apply(self, chunk.va, Pte::NONE)?;
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let cost = edit.cost();
        if chunk.count as u64 >= cost.break_even()
            && let pmd = self.pmd_place(chunk.va)?
            && let Some(table) = self.value(self.entry(pmd))
            && !M::Layout::DIRECT.contains(&chunk.va)
        {
            // SAFETY: a table that an entry refers to is nobody's own memory. Nothing is queued for
            // it, and A and D bits that are set meanwhile the operation may lose.
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
                return Ok(Some(Swap { pmd, fresh: None }));
            }
            if cost.prefers_table(present(inside), kept) && self.may_be_replaced(table.pfn) {
                match self.rebuild(pmd, table.pfn, chunk, edit) {
                    // It can be done without, and must be: unmapping is how memory gets free.
                    Err(MmError::Frame(FrameError::OutOfMemory)) => {}
                    swap => return swap.map(Some),
                }
            }
        }
        for (i, slot) in slots(first, chunk.count).enumerate() {
            // SAFETY: a page of the chunk, whose users can do with what the edit leaves.
            unsafe { self.edit_slot(slot, chunk.va + i as u64 * PAGE, edit) }?;
        }
        Ok(None)
    }

    /// Edits one entry.
    ///
    /// # Safety
    /// As [`Tables::edit`], for the page; `slot` is its entry.
    #[inline]
    unsafe fn edit_slot(&mut self, slot: Place<L1>, va: u64, edit: Edit) -> Result<(), MmError> {
        let old = self.entry(slot);
        let new = edit.apply(self, va, old)?;
        if new.same(old) {
            return Ok(());
        }
        // SAFETY: users of the page can do with what the edit leaves, as the caller says.
        unsafe { self.set_pte_queued(slot, va, old, new) }
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
        let fresh = Fresh::filled(self, frame, |tables, words| {
            // SAFETY: the table is in use, and no frame that was handed out since.
            let old = unsafe { tables.machine().live(old) };
            let old = old.ok_or(MmError::NotMapped { va: chunk.va })?;
            let (before, rest) = old.split_at(chunk.first);
            let (inside, after) = rest.split_at(chunk.count);
            let end = chunk.first + chunk.count;
            copy(&mut words[..chunk.first], before);
            copy(&mut words[end..], after);
            edit.apply_all(tables, chunk.va, &mut words[chunk.first..end], inside)
        })?;
        Ok(Swap {
            pmd,
            fresh: Some(fresh),
        })
    }

    /// Puts a table, or none, in place of the one an entry refers to, whose frame is given back.
    ///
    /// # Safety
    /// What is in use below the entry is mapped by the new table as its users need it.
    unsafe fn swap_table(&mut self, Swap { pmd, fresh }: Swap) -> Result<(), MmError> {
        let old = self.value(self.entry(pmd));
        match fresh {
            Some(fresh) => {
                // SAFETY: what is in use below the entry is mapped as its users need it.
                unsafe { self.install(pmd, fresh, Flags::TABLE) }?;
            }
            // SAFETY: nothing in use is mapped below the entry: no table serves its users as well.
            None => unsafe { self.set_upper(pmd, Entry::NONE) }?,
        }
        match old {
            Some(old) if self.unreferenced(old.pfn)? => self.release_table(old.pfn),
            _ => Ok(()),
        }
    }
}
