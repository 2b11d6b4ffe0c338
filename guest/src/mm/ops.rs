//! Operations on ranges of pages: map, change rights, unmap, move.
//!
//! Each works 2 MiB by 2 MiB, the span of one L1 table, and chooses by count ([`cost`](super::cost))
//! between updating entries and replacing the table: a new one is filled with plain stores, hooked
//! in place of the old, and validated by Xen once. The old table's memory becomes ordinary again.
//!
//! Replacing copies A and D bits as they are when the table is copied. What another vCPU sets
//! between the copy and the swap is lost, so whoever evaluates these bits while others run in the
//! range must change entries one by one.
//!
//! Translations are flushed with the change: Xen flushes all of them when an L2 entry changes
//! (`do_mmu_update`, `xen/arch/x86/mm.c`), single entries are flushed by address.

use heapless::Vec;
use hypercall::{Mfn, Pfn};

use super::cost::{self, Cost};
use super::entry::{Entry, Flags, Keep, L1, L2, Pte, Value};
use super::error::MmError;
use super::frames::FrameError;
use super::fresh::Fresh;
use super::layout;
use super::machine::{Machine, Words};
use super::tables::{Slot, TLB_SCOPE, Tables, slots};

/// Bytes in a page.
const PAGE: u64 = 4096;
/// Bytes that one L1 table covers.
const SPAN: u64 = 512 * PAGE;
/// Tables that are rebuilt before the queue is flushed: reading them while they are copied is
/// cheap as long as nothing is queued.
const GROUP: usize = 16;

/// A change that is in force once it is committed. Inside a lazy section it may still be queued.
#[must_use = "the range must not be touched before the change is in force"]
#[derive(Debug)]
pub struct Change(());

impl Change {
    /// Has it in force now.
    ///
    /// # Errors
    /// What Xen refused.
    pub fn commit<M: Machine>(self, tables: &mut Tables<M>) -> Result<(), MmError> {
        tables.flush()
    }

    /// Leaves it to the end of the lazy section: the range is not touched before.
    pub fn defer(self) {}
}

/// The pages of a range that one L1 table maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    va: u64,
    /// Index of the first entry.
    first: usize,
    /// Number of entries.
    count: usize,
}

/// A table, or none, to be put in place of the one that an entry refers to.
struct Swap {
    pmd: Slot<L2>,
    fresh: Option<Fresh<L1>>,
}

fn chunks(va: u64, pages: u64) -> impl Iterator<Item = Chunk> {
    let end = va + pages * PAGE;
    let mut next = va;
    core::iter::from_fn(move || {
        let va = next;
        (va < end).then(|| {
            next = ((va & !(SPAN - 1)) + SPAN).min(end);
            let first = (va / PAGE % 512) as usize;
            Chunk {
                va,
                first,
                count: ((next - va) / PAGE) as usize,
            }
        })
    })
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
}

impl Edit {
    /// The entries after the edit, for consecutive pages from `va` on.
    fn apply_all<M: Machine>(
        self,
        tables: &Tables<M>,
        va: u64,
        new: &mut [u64],
        old: &[u64],
    ) -> Result<(), MmError> {
        match self {
            Edit::Clear => new.fill(0),
            // Rights that only shrink need no look at each page.
            Edit::Rights { add, remove }
                if !add.contains(Flags::WRITABLE) && !remove.contains(Flags::NO_EXECUTE) =>
            {
                check_present(va, old)?;
                mask(new, old, Keep::all_but(remove), add);
            }
            Edit::Rights { .. } => {
                for ((new, old), i) in new.iter_mut().zip(old).zip(0_u64..) {
                    let old = Pte::from_table(*old);
                    *new = self.apply(tables, va + i * PAGE, old)?.bits();
                }
            }
        }
        Ok(())
    }
}

fn check_range(va: u64, pages: u64) -> Result<(), MmError> {
    let bad = MmError::BadRange { va, pages };
    let end = pages
        .checked_mul(PAGE)
        .and_then(|n| va.checked_add(n))
        .ok_or(bad)?;
    let canonical = |a: u64| !(1 << 47..0xffff_8000_0000_0000).contains(&a);
    let same_half = va >> 63 == (end - 1) >> 63;
    if pages == 0 || !va.is_multiple_of(PAGE) || !canonical(va) || !canonical(end - 1) || !same_half
    {
        return Err(bad);
    }
    Ok(())
}

pub(super) fn check_rights(va: u64, flags: Flags) -> Result<(), MmError> {
    if !flags.contains(Flags::PRESENT) {
        // An entry with a frame that is not present is an attempt at L1TF to Xen.
        return Err(MmError::NotMapped { va });
    }
    if flags.contains(Flags::WRITABLE) && !flags.contains(Flags::NO_EXECUTE) {
        return Err(MmError::WriteAndExecute { va });
    }
    Ok(())
}

impl<M: Machine> Tables<M> {
    /// Runs `f` in a lazy section.
    ///
    /// # Errors
    /// Those of `f`, or of the flush at the end.
    #[inline]
    #[track_caller]
    pub fn lazily<R>(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<R, MmError>,
    ) -> Result<R, MmError> {
        self.mmu.enable()?;
        let result = f(self);
        let left = self.mmu.disable();
        self.settle();
        if let (Err(_), Err(also)) = (&result, &left) {
            // Only one error can be returned; the later one is not lost either.
            log::error!("{also}");
        }
        let value = result?;
        left?;
        Ok(value)
    }

    /// Maps frames at consecutive pages from `va` on, where nothing is mapped.
    ///
    /// # Errors
    /// A bad range, something mapped there, no memory for tables, or Xen's refusal. What was mapped
    /// before the error stays mapped.
    ///
    /// # Safety
    /// The frames' owner agrees to their being reached at these addresses with these rights.
    #[track_caller]
    pub unsafe fn map(
        &mut self,
        va: u64,
        mut frames: impl ExactSizeIterator<Item = Pfn>,
        flags: Flags,
    ) -> Result<Change, MmError> {
        let pages = frames.len() as u64;
        check_range(va, pages)?;
        check_rights(va, flags)?;
        if let Some(slot) = self.single(va, pages)
            && let Some(pfn) = frames.next()
        {
            if self.get(slot).is_present() {
                return Err(MmError::Occupied { va });
            }
            let new = self.make_pte(Value::new(pfn, flags))?;
            // SAFETY: nothing was mapped there.
            unsafe { self.set_pte_queued(slot, va, Pte::NONE, new) }?;
            return Ok(Change(()));
        }
        self.lazily(|tables| {
            for chunk in chunks(va, pages) {
                tables.map_chunk(chunk, &mut frames, flags)?;
            }
            Ok(Change(()))
        })
    }

    /// The slot of a range that is a single page in a table that exists: one request, which need
    /// not be queued to be cheap.
    #[inline]
    fn single(&self, va: u64, pages: u64) -> Option<Slot<L1>> {
        if pages == 1 {
            self.pte_slot(va).ok()
        } else {
            None
        }
    }

    fn map_chunk(
        &mut self,
        chunk: Chunk,
        frames: &mut impl Iterator<Item = Pfn>,
        flags: Flags,
    ) -> Result<(), MmError> {
        let Ok(first) = self.pte_slot(chunk.va) else {
            let pmd = self.ensure_pmd(chunk.va)?;
            if self.get(pmd).is_large() {
                return Err(MmError::Large {
                    va: chunk.va,
                    level: 2,
                });
            }
            let frame = self.alloc_frame()?;
            let filled = Fresh::<L1>::filled(self, frame, |tables, words| {
                fill_around(words, chunk);
                let target = &mut words[chunk.first..chunk.first + chunk.count];
                tables.make_run(chunk.va, target, frames, flags)
            });
            return self.hook_filled(pmd, filled);
        };
        for (i, slot) in slots(first, chunk.count).enumerate() {
            if self.get(slot).is_present() {
                return Err(MmError::Occupied {
                    va: chunk.va + i as u64 * PAGE,
                });
            }
        }
        for (i, slot) in slots(first, chunk.count).enumerate() {
            let Some(pfn) = frames.next() else { break };
            let (va, new) = (
                chunk.va + i as u64 * PAGE,
                self.make_pte(Value::new(pfn, flags))?,
            );
            // SAFETY: the entry was seen to be empty, so nothing in use is mapped by it.
            unsafe { self.set_pte_queued(slot, va, Pte::NONE, new) }?;
        }
        Ok(())
    }

    /// Writes the machine entries for frames, to be mapped from `va` on, into words: as [`Tables::make`] for each, but looking
    /// at what the p2m list held only once.
    fn make_run(
        &self,
        va: u64,
        words: &mut [u64],
        frames: &mut impl Iterator<Item = Pfn>,
        flags: Flags,
    ) -> Result<(), MmError> {
        let mut seen = 0;
        let bits = Pte::from_mfn(Mfn::truncate(0), flags).bits();
        let mut make = |word: &mut u64| {
            // An iterator that ends early must not leave old words to be hooked.
            let Some(pfn) = frames.next() else {
                return *word = 0;
            };
            let number = self.machine().mfn_or_ones(pfn);
            seen |= number;
            *word = number << 12 | bits;
        };
        // Four at a time: this loop is a good part of what the kernel itself adds to Xen's work.
        let (groups, rest) = words.as_chunks_mut::<4>();
        groups
            .iter_mut()
            .for_each(|group| group.iter_mut().for_each(&mut make));
        rest.iter_mut().for_each(make);
        if seen > Mfn::MAX.as_u64() {
            let ones = u64::MAX << 12 | bits;
            let index = words.iter().position(|word| *word == ones).unwrap_or(0);
            return Err(MmError::NoFrame {
                va: va + index as u64 * PAGE,
            });
        }
        Ok(())
    }

    /// Seals a filled table and hooks it where there was none.
    fn hook_filled(
        &mut self,
        pmd: Slot<L2>,
        filled: Result<Fresh<L1>, (super::frames::Frame, MmError)>,
    ) -> Result<(), MmError> {
        let fresh = filled.or_else(|(frame, error)| {
            self.free_frame(frame)?;
            Err(error)
        })?;
        // SAFETY: nothing was mapped below the entry.
        unsafe { self.install(pmd, fresh, Flags::TABLE) }
    }

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
        self.edit(va, pages, Edit::Rights { add, remove })
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
    pub(super) unsafe fn set_rights(
        &mut self,
        va: u64,
        pages: u64,
        flags: Flags,
    ) -> Result<(), MmError> {
        check_rights(va, flags)?;
        for chunk in chunks(va, pages) {
            let first = self.pte_slot(chunk.va)?;
            for (i, slot) in slots(first, chunk.count).enumerate() {
                let (va, old) = (chunk.va + i as u64 * PAGE, self.get(slot));
                if !old.is_present() {
                    return Err(MmError::NotMapped { va });
                }
                // SAFETY: the caller's promise.
                unsafe { self.set_pte_queued(slot, va, old, old.with_flags(flags)) }?;
            }
        }
        Ok(())
    }

    fn check_may_be_writable(&self, va: u64, entry: Pte) -> Result<(), MmError> {
        // A frame without a record is none of the kernel's tables or constants.
        if let Some(value) = self.value(entry)
            && let Ok((applied, planned)) = self.frames().states(self.machine(), value.pfn)
            && !(applied.may_be_writable() && planned.may_be_writable())
        {
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
        self.edit(va, pages, Edit::Clear)
    }

    /// Edits every entry of a range.
    ///
    /// Chunks are taken in groups: those worth it get a new table, filled while nothing is queued
    /// for the old one, which can be read as it is; then all are swapped in by one request.
    #[track_caller]
    fn edit(&mut self, va: u64, pages: u64, edit: Edit) -> Result<Change, MmError> {
        check_range(va, pages)?;
        if let Some(slot) = self.single(va, pages) {
            self.edit_slot(slot, va, edit)?;
            return Ok(Change(()));
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
                    match tables.edit_chunk(chunk, edit) {
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
                let swapped = swaps.try_for_each(|swap| tables.swap_table(swap));
                for Swap { fresh, .. } in swaps {
                    fresh.map_or(Ok(()), |fresh| fresh.discard(tables))?;
                }
                swapped.and(result)
            })?;
        }
        Ok(Change(()))
    }

    /// Edits the entries of one chunk in place, or makes the table that is to replace theirs.
    ///
    /// In the direct map always in place: its tables change as frames become tables, and the copy
    /// would be among those.
    fn edit_chunk(&mut self, chunk: Chunk, edit: Edit) -> Result<Option<Swap>, MmError> {
        let first = match self.pte_slot(chunk.va) {
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
            && let pmd = self.pmd_slot(chunk.va)?
            && let Some(table) = self.value(self.get(pmd))
            && !layout::DIRECT.contains(&chunk.va)
        {
            let words = self.machine().memory(table.pfn).cast_const();
            // SAFETY: the table is mapped, and its entries change only through this path and by
            // A and D bits, which the operation may lose. Nothing is queued for it.
            let words = unsafe { &*words };
            let (before, rest) = words.split_at(chunk.first);
            let (inside, after) = rest.split_at(chunk.count);
            let kept = present(before) + present(after);
            if kept == 0 && matches!(edit, Edit::Clear) {
                // Whatever else refers to it keeps it.
                return Ok(Some(Swap { pmd, fresh: None }));
            }
            if cost.prefers_table(present(inside), kept) && self.may_be_replaced(table.pfn) {
                match self.rebuild(pmd, words, chunk, edit) {
                    // It can be done without, and must be: unmapping is how memory gets free.
                    Err(MmError::Frame(FrameError::OutOfMemory)) => {}
                    swap => return swap.map(Some),
                }
            }
        }
        for (i, slot) in slots(first, chunk.count).enumerate() {
            self.edit_slot(slot, chunk.va + i as u64 * PAGE, edit)?;
        }
        Ok(None)
    }

    /// Edits one entry.
    #[inline]
    fn edit_slot(&mut self, slot: Slot<L1>, va: u64, edit: Edit) -> Result<(), MmError> {
        let old = self.get(slot);
        let new = edit.apply(self, va, old)?;
        if new.same(old) {
            return Ok(());
        }
        // SAFETY: the promise of who edits the range, for each page of it.
        unsafe { self.set_pte_queued(slot, va, old, new) }
    }

    /// Whether a table may be swapped for a copy: one entry refers to it and nothing else does.
    fn may_be_replaced(&self, table: Pfn) -> bool {
        self.frames()
            .states(self.machine(), table)
            .is_ok_and(|(_, planned)| planned.links == 1 && !planned.pinned)
    }

    /// Copies a table, editing the entries of the chunk.
    fn rebuild(
        &mut self,
        pmd: Slot<L2>,
        old: &Words,
        chunk: Chunk,
        edit: Edit,
    ) -> Result<Swap, MmError> {
        let frame = self.alloc_frame()?;
        let filled = Fresh::filled(self, frame, |tables, words| {
            let end = chunk.first + chunk.count;
            copy(&mut words[..chunk.first], &old[..chunk.first]);
            copy(&mut words[end..], &old[end..]);
            edit.apply_all(
                tables,
                chunk.va,
                &mut words[chunk.first..end],
                &old[chunk.first..end],
            )
        });
        match filled {
            Ok(fresh) => Ok(Swap {
                pmd,
                fresh: Some(fresh),
            }),
            Err((frame, error)) => {
                self.free_frame(frame)?;
                Err(error)
            }
        }
    }

    /// Puts a table, or none, in place of the one an entry refers to, whose frame is given back.
    fn swap_table(&mut self, Swap { pmd, fresh }: Swap) -> Result<(), MmError> {
        let old = self.value(self.get(pmd));
        match fresh {
            Some(fresh) => {
                // SAFETY: what is in use below the entry is mapped as the range's user promised.
                unsafe { self.install(pmd, fresh, Flags::TABLE) }?;
            }
            // SAFETY: nothing in use is mapped below the entry, by the promise of who unmaps.
            None => unsafe { self.set_upper(pmd, Entry::NONE) }?,
        }
        match old {
            Some(old) if self.unreferenced(old.pfn)? => self.release_table(old.pfn),
            _ => Ok(()),
        }
    }

    /// Moves consecutive pages to where nothing is mapped; the ranges must not overlap.
    ///
    /// Where both ends lie equally in their 2 MiB, whole tables change hands, with the holes that
    /// are in them.
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
            return self.move_tables(from, to, pages / 512);
        }
        // The new places first: a frame that stays mapped somewhere is cheaper to map again.
        self.flush()?;
        self.lazily(|tables| {
            for chunk in chunks(to, pages) {
                let source = from + (chunk.va - to);
                tables.copy_chunk(source, chunk)?;
            }
            Ok(())
        })?;
        // SAFETY: the caller's promise.
        unsafe { self.unmap(from, pages) }
    }

    /// Maps at a chunk what is mapped from `source` on.
    fn copy_chunk(&mut self, source: u64, chunk: Chunk) -> Result<(), MmError> {
        let pmd = self.ensure_pmd(chunk.va)?;
        if self.get(pmd).is_present() || chunk.count < 8 {
            return self.copy_entries(source, chunk);
        }
        let frame = self.alloc_frame()?;
        let filled = Fresh::<L1>::filled(self, frame, |tables, words| {
            fill_around(words, chunk);
            let mut done = 0;
            for piece in chunks(source, chunk.count as u64) {
                // Not below a large page.
                tables.pte_slot(piece.va)?;
                let pmd = tables.pmd_slot(piece.va)?;
                let table = tables.value(tables.get(pmd));
                let table = table.ok_or(MmError::NotMapped { va: piece.va })?;
                let old = tables.machine().memory(table.pfn).cast_const();
                // SAFETY: the table is mapped and nothing is queued for it: the operation began
                // with a flush and has queued only what concerns new tables since.
                let old = unsafe { &(&*old)[piece.first..piece.first + piece.count] };
                let target = &mut words[chunk.first + done..chunk.first + done + piece.count];
                copy(target, old);
                check_present(piece.va, old)?;
                done += piece.count;
            }
            Ok(())
        });
        self.hook_filled(pmd, filled)
    }

    fn copy_entries(&mut self, source: u64, chunk: Chunk) -> Result<(), MmError> {
        for i in 0..chunk.count as u64 {
            let (from, to) = (source + i * PAGE, chunk.va + i * PAGE);
            let old = self.ptep_get(from)?;
            if !old.is_present() {
                return Err(MmError::NotMapped { va: from });
            }
            self.ensure_pte_table(to)?;
            let slot = self.pte_slot(to)?;
            if self.get(slot).is_present() {
                return Err(MmError::Occupied { va: to });
            }
            let new = old.with_flags(old.flags());
            // SAFETY: nothing was mapped there.
            unsafe { self.set_pte_queued(slot, to, Pte::NONE, new) }?;
        }
        Ok(())
    }

    fn move_tables(&mut self, from: u64, to: u64, count: u64) -> Result<Change, MmError> {
        self.lazily(|tables| {
            for i in 0..count {
                let (from, to) = (from + i * SPAN, to + i * SPAN);
                let source = tables.pmd_slot(from)?;
                let entry = tables.get(source);
                if entry.is_large() {
                    return Err(MmError::Large { va: from, level: 2 });
                }
                if !entry.is_present() {
                    return Err(MmError::NotMapped { va: from });
                }
                let target = tables.ensure_pmd(to)?;
                let empty = tables.empty_table(target, to)?;
                // Hooked before it is unhooked, so that Xen need not validate it again.
                // SAFETY: nothing is mapped at the destination, nothing in use at the source.
                let moved = unsafe { tables.set_pmd(target, entry.with_flags(Flags::TABLE)) }
                    // SAFETY: as above.
                    .and_then(|()| unsafe { tables.set_pmd(source, Entry::NONE) });
                let Some(empty) = empty else {
                    moved?;
                    continue;
                };
                tables.or_strand(empty, moved)?;
                if tables.unreferenced(empty)? {
                    tables.release_table(empty)?;
                }
            }
            Ok(Change(()))
        })
    }

    /// The table that an entry refers to, if any, which must map nothing: one that was emptied
    /// entry by entry stays.
    fn empty_table(&self, pmd: Slot<L2>, va: u64) -> Result<Option<Pfn>, MmError> {
        if !self.get(pmd).is_present() {
            return Ok(None);
        }
        let mut entries = slots(self.pte_slot(va)?, 512);
        match entries.position(|slot| self.get(slot).is_present()) {
            Some(index) => Err(MmError::Occupied {
                va: va + index as u64 * PAGE,
            }),
            None => Ok(self.value(self.get(pmd)).map(|table| table.pfn)),
        }
    }

    /// Writes entries for `count` consecutive pages and pfns from `va` and `first` on, in tables
    /// that exist. Enters lazy mode by itself, whether or not it is active.
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
        check_range(va, count)?;
        check_rights(va, first.flags)?;
        self.lazily(|tables| {
            for chunk in chunks(va, count) {
                let slot = tables.pte_slot(chunk.va)?;
                let offset = (chunk.va - va) / PAGE;
                for (i, slot) in slots(slot, chunk.count).enumerate() {
                    let pfn = Pfn::truncate(first.pfn.as_u64() + offset + i as u64);
                    let new = tables.make_pte(Value::new(pfn, first.flags))?;
                    let old = tables.get(slot);
                    // SAFETY: the caller's promise.
                    unsafe { tables.set_pte_queued(slot, chunk.va + i as u64 * PAGE, old, new) }?;
                }
            }
            Ok(Change(()))
        })
    }

    /// Clears the entry of a page and returns what it was, A and D bits included as far as they
    /// were set when it was read.
    ///
    /// # Errors
    /// A missing table, or Xen's refusal.
    ///
    /// # Safety
    /// Nothing in use may be mapped there.
    #[track_caller]
    pub unsafe fn ptep_get_and_clear(&mut self, va: u64) -> Result<Pte, MmError> {
        let slot = self.pte_slot(va)?;
        let old = self.get(slot);
        // SAFETY: the caller's promise.
        unsafe { self.set_pte(slot, va, Pte::NONE) }?;
        Ok(old)
    }

    /// Takes the right to write from a page. A and D bits that are set meanwhile are kept.
    ///
    /// # Errors
    /// The page is not mapped, or Xen's refusal.
    ///
    /// # Safety
    /// Nobody who uses the page writes to it.
    #[track_caller]
    pub unsafe fn ptep_set_wrprotect(&mut self, va: u64) -> Result<(), MmError> {
        let slot = self.pte_slot(va)?;
        let old = self.get(slot);
        if !old.is_present() {
            return Err(MmError::NotMapped { va });
        }
        let new = old.with_flags(old.flags() - Flags::WRITABLE);
        // SAFETY: the caller's promise.
        unsafe { self.set_pte_preserving(slot, va, new) }
    }

    /// Clears the accessed bit of a page and says whether it was set. A dirty bit that another
    /// vCPU sets at the same moment would be lost: only for pages that no other vCPU uses.
    ///
    /// # Errors
    /// The page is not mapped, or Xen's refusal.
    #[track_caller]
    pub fn ptep_test_and_clear_young(&mut self, va: u64) -> Result<bool, MmError> {
        let slot = self.pte_slot(va)?;
        let old = self.get(slot);
        if !old.is_present() {
            return Err(MmError::NotMapped { va });
        }
        let young = old.flags().contains(Flags::ACCESSED);
        if young {
            let new = old.with_flags(old.flags() - Flags::ACCESSED);
            // SAFETY: the mapping stays as it is.
            unsafe { self.set_pte(slot, va, new) }?;
        }
        Ok(young)
    }

    /// Flushes the translations of all vCPUs, of one page or of everything.
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn flush_tlb(&mut self, va: Option<u64>) -> Result<(), MmError> {
        let address = va.map(hypercall::VirtAddr::new_truncate);
        Ok(self.mmu.flush_tlb(TLB_SCOPE, address)?)
    }
}

/// Copies entries, without what Xen added to them.
fn copy(new: &mut [u64], old: &[u64]) {
    mask(new, old, Keep::all_but(Flags::empty()), Flags::empty());
}

/// Copies entries with rights changed by masks.
fn mask(new: &mut [u64], old: &[u64], keep: Keep, add: Flags) {
    for (new, old) in new.iter_mut().zip(old) {
        *new = Pte::from_table(*old).masked(keep, add).bits();
    }
}

/// Finds the first of consecutive pages that is not mapped.
fn check_present(va: u64, words: &[u64]) -> Result<(), MmError> {
    if present(words) == words.len() as u64 {
        return Ok(());
    }
    let index = words.iter().position(|word| word & 1 == 0).unwrap_or(0);
    Err(MmError::NotMapped {
        va: va + index as u64 * PAGE,
    })
}

/// Zeroes what lies outside of a chunk.
fn fill_around(words: &mut Words, chunk: Chunk) {
    words[..chunk.first].fill(0);
    words[chunk.first + chunk.count..].fill(0);
}

/// Present entries among words of a table.
fn present(words: &[u64]) -> u64 {
    words.iter().map(|word| word & 1).sum()
}
