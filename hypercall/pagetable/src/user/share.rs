//! Tables that several spaces share: lent by fork, taken back or copied by whoever writes first.
//!
//! The rules, each of which the audit or the model sees broken:
//! - An L2 entry with RW is the only one that refers to its table. Xen looks at no L2's RW when an L1
//!   entry is updated, and would change it for every sharer: so who has no RW changes nothing.
//! - The count of a shared table falls under the lock of the kernel's half and is in force before that
//!   is let go: of two spaces that leave at once one is the last.
//! - A copy maps every page read-only, as the table that it was made of may be somebody's alone from
//!   then on; that one may have RW again once none of its entries is writable for memory that a copy
//!   maps as well.
//! - After a fork no translation of before leads to a page with the right to write.

use core::ops::Range;

use heapless::Vec;
use hypercall::Pfn;

use super::{Chunk, Tables};
use crate::entry::{Entry, Flags, L1, L2, Pte, TableLevel, Value};
use crate::error::MmError;
use crate::fresh::Fresh;
use crate::locks::Part;
use crate::machine::Machine;
use crate::ops::{PAGE, Replaced};
use crate::spaces::{AddressSpace, NotDestroyed};
use crate::tables::Place;

/// Where the user half ends.
pub(super) const END: u64 = 1 << 47;
/// Tables that are worked on in one section.
pub(super) const GROUP: usize = 64;

/// Some tables, by the start of their span, the entry that refers to them, and frame.
pub(super) type Group = Vec<(u64, Place<L2>, Pfn), GROUP>;

impl<M: Machine> Tables<M> {
    /// Makes a space whose user half is that of another, copy-on-write: both find the same memory, and
    /// what one writes from then on ([`Tables::make_writable`]) the other does not see.
    ///
    /// It costs two L2 entries for each L1 table, however many pages that maps. The parent may be in
    /// use; none of its vCPUs has the right to write cached when it returns. This vCPU holds the user
    /// halves of both afterwards, where the domain is shared.
    ///
    /// # Errors
    /// The parent is no space here, no memory, or Xen's refusal: the parent's memory is then as before.
    #[track_caller]
    pub fn fork_space(&mut self, parent: &AddressSpace) -> Result<AddressSpace, MmError> {
        self.fork_parts(parent, core::iter::once(0..END))
    }

    /// As [`Tables::fork_space`], of these ranges, which are in order and apart. The child has what the
    /// tables map that cover them: who knows what is mapped saves the search.
    ///
    /// # Errors
    /// As [`Tables::fork_space`].
    #[track_caller]
    pub fn fork_parts(
        &mut self,
        parent: &AddressSpace,
        parts: impl Iterator<Item = Range<u64>>,
    ) -> Result<AddressSpace, MmError> {
        let child = self.create_space()?;
        let shared = self
            .hold(Part::Both(parent, &child))
            .and_then(|()| self.hold(Part::KernelHalf))
            .and_then(|()| self.share_half(parent, &child, parts));
        let Err(error) = shared else {
            return Ok(child);
        };
        if let Err(NotDestroyed { error, .. }) = self.destroy_space(child) {
            // Only one error can be returned; the later one is not lost either.
            log::error!(target: "mm", "the space of a fork that failed: {error}");
        }
        Err(error)
    }

    fn share_half(
        &mut self,
        parent: &AddressSpace,
        child: &AddressSpace,
        mut parts: impl Iterator<Item = Range<u64>>,
    ) -> Result<(), MmError> {
        let (mut part, mut done) = (parts.next(), 0);
        while part.is_some() {
            let mut group = Group::new();
            self.in_space(parent, |tables| {
                while let Some(range) = part.take() {
                    // Two ranges may lie below one table.
                    let range = range.start.max(done)..range.end;
                    let next = tables.each_user_table(range.clone(), |start, pmd, table| {
                        let is_taken = group.push((start, pmd, table)).is_ok();
                        if is_taken {
                            done = start + L2::SPAN;
                        }
                        is_taken
                    })?;
                    part = match next {
                        Some(next) => Some(next..range.end),
                        None => parts.next(),
                    };
                    if next.is_some() {
                        break;
                    }
                }
                tables.lend(&group)?;
                // Once for all tables, with the last of them.
                match part {
                    Some(_) => Ok(()),
                    None => tables.flush_tlb(None),
                }
            })?;
            self.in_space(child, |tables| tables.borrow_tables(&group))?;
        }
        Ok(())
    }

    /// Takes RW from the L2 entries of a group.
    fn lend(&mut self, group: &Group) -> Result<(), MmError> {
        for &(_, pmd, _) in group {
            let entry = self.entry(pmd);
            if entry.flags().contains(Flags::WRITABLE) {
                let flags = entry.flags() - Flags::WRITABLE;
                // SAFETY: user mode finds the same memory; its governor resolves the faults of those
                // who write.
                unsafe { self.set_pmd(pmd, entry.with_flags(flags)) }?;
            }
        }
        Ok(())
    }

    /// Refers to tables of another space, none with RW.
    fn borrow_tables(&mut self, group: &Group) -> Result<(), MmError> {
        for &(va, _, table) in group {
            let pmd = self.ensure_pmd_place(va)?;
            let flags = Flags::TABLE - Flags::WRITABLE;
            let entry = self.make_pmd(Value::new(table, flags))?;
            // SAFETY: nothing is mapped there: the space is new.
            unsafe { self.set_pmd(pmd, entry) }?;
        }
        Ok(())
    }

    /// Sees to it that the table that covers an address, if there is one, is this space's alone and its
    /// L2 entry has RW.
    #[inline]
    #[track_caller]
    pub(super) fn own_table(&mut self, va: u64) -> Result<(), MmError> {
        match self.pmd_place(va) {
            Ok(pmd) if self.is_lent(pmd) => self.take_table(va, pmd),
            _ => Ok(()),
        }
    }

    #[cold]
    #[track_caller]
    fn take_table(&mut self, va: u64, pmd: Place<L2>) -> Result<(), MmError> {
        self.hold(Part::KernelHalf)?;
        // What is queued would hide in the table that is looked at below.
        self.flush()?;
        let start = va & !(L2::SPAN - 1);
        let table = self.value(self.entry(pmd));
        let table = table.ok_or(MmError::NotMapped { va })?.pfn;
        if self.sharers(table)? > 1 {
            return self.copy_table(start, pmd, table);
        }
        self.lazily(|tables| {
            let first = tables.pte_place(start)?;
            let mut next = 0;
            while let Some(index) = tables.next_entry(table, next) {
                next = index + 1;
                let (va, place) = (start + index as u64 * PAGE, first.at(index));
                let entry = tables.entry(place);
                if entry.flags().contains(Flags::WRITABLE) && tables.is_alone(va) == Some(false) {
                    let flags = entry.flags() - Flags::WRITABLE;
                    // SAFETY: user mode finds the same memory, which it could not write to.
                    unsafe { tables.replace_pte(place, va, entry, entry.with_flags(flags)) }?;
                }
            }
            let entry = tables.entry(pmd);
            // SAFETY: the entries below decide, none of which is writable for memory that is mapped
            // elsewhere.
            unsafe { tables.set_pmd(pmd, entry.with_flags(Flags::TABLE)) }
        })?;
        self.flush()
    }

    /// How many L2 entries refer to a table.
    pub(super) fn sharers(&self, table: Pfn) -> Result<u16, MmError> {
        let (_, planned) = self.frames().states(table)?;
        Ok(planned.links)
    }

    /// Puts a copy in place of a shared table: one of the pool, if it has few entries.
    #[track_caller]
    fn copy_table(&mut self, start: u64, pmd: Place<L2>, table: Pfn) -> Result<(), MmError> {
        self.count_entries(table)?;
        let few = self.few_entries(table);
        let few = few.and_then(|entries| Some((entries, self.take_empty_table()?)));
        let copied = match few {
            Some((entries, copy)) => self
                .copy_entries_to(copy, table, &entries, pmd)
                .and_then(|()| self.keep_copied_marks(start, pmd, table)),
            None => self.rebuild_table(start, pmd, table),
        };
        if copied.is_err() && self.value(self.entry(pmd)).is_some_and(|v| v.pfn == table) {
            self.uncount_entries(table, 512);
        }
        copied
    }

    /// Copies a few entries to an empty table, read-only, and puts that in place of theirs.
    #[track_caller]
    fn copy_entries_to(
        &mut self,
        copy: Pfn,
        table: Pfn,
        entries: &[u16],
        pmd: Place<L2>,
    ) -> Result<(), MmError> {
        let filled = self.lazily(|tables| {
            // SAFETY: a table that an entry refers to is nobody's own memory.
            let old = unsafe { tables.machine().live(table) };
            for &index in entries {
                let old = Pte::from_table(old.map_or(0, |old| old.get(index.into())));
                let entry = old.with_flags(old.flags() - Flags::WRITABLE);
                tables.set_unlinked(copy, index, entry)?;
            }
            Ok(())
        });
        if let Err(e) = filled.and_then(|()| self.flush()) {
            self.end_table(copy)?;
            return Err(e);
        }
        // SAFETY: user mode finds the same memory, read-only as before.
        unsafe { self.link_empty_table(pmd, copy) }
    }

    /// Copies a table, read-only, and puts the copy in its place.
    #[track_caller]
    fn rebuild_table(&mut self, start: u64, pmd: Place<L2>, table: Pfn) -> Result<(), MmError> {
        let frame = self.alloc_frame()?;
        let fresh = Fresh::<L1>::filled(self, frame, |tables, words| {
            // SAFETY: a table that an entry refers to is nobody's own memory.
            let old = unsafe { tables.machine().live(table) };
            let old = old.ok_or(MmError::NotMapped { va: start })?;
            for (word, old) in words.iter_mut().zip(old.iter()) {
                let old = Pte::from_table(old);
                *word = match old.is_present() {
                    true => old.with_flags(old.flags() - Flags::WRITABLE).bits(),
                    false => 0,
                };
            }
            Ok(())
        })?;
        // SAFETY: user mode finds the same memory, read-only as before.
        unsafe { self.install(pmd, fresh, Flags::TABLE) }?;
        self.flush()?;
        self.keep_copied_marks(start, pmd, table)
    }

    /// What other vCPUs of the space have set in a shared table since it was copied is kept in the copy.
    fn keep_copied_marks(&mut self, start: u64, pmd: Place<L2>, old: Pfn) -> Result<(), MmError> {
        if !self.others_mark(start) {
            return Ok(());
        }
        let edited = None;
        self.lazily(|tables| tables.keep_marks(&Replaced { pmd, old, edited }))?;
        self.flush()
    }

    /// Counts each memory of user mode's that a table maps once more, or none.
    fn count_entries(&mut self, table: Pfn) -> Result<(), MmError> {
        let mut next = 0;
        while let Some(index) = self.next_entry(table, next) {
            if let Some(pfn) = self.user_frame(table, index)
                && let Err(e) = self.frames().count_mapping(pfn)
            {
                self.uncount_entries(table, index);
                return Err(e.into());
            }
            next = index + 1;
        }
        Ok(())
    }

    /// Counts each memory of user mode's that the first entries of a table map once less: what nothing
    /// maps any more is free.
    pub(crate) fn uncount_entries(&mut self, table: Pfn, entries: usize) {
        let mut next = 0;
        while let Some(index) = self
            .next_entry(table, next)
            .filter(|index| *index < entries)
        {
            if let Some(pfn) = self.user_frame(table, index) {
                self.drop_page(pfn);
            }
            next = index + 1;
        }
    }

    /// The first present entry of a table from a place on.
    fn next_entry(&self, table: Pfn, from: usize) -> Option<usize> {
        // SAFETY: as for `user_frame`.
        unsafe { self.machine().live(table) }?.next_present(from)
    }

    /// The memory of user mode's that an entry of a table maps.
    pub(super) fn user_frame(&self, table: Pfn, index: usize) -> Option<Pfn> {
        // SAFETY: what is in the user half's L2 entries, or was until now, is a table.
        let words = unsafe { self.machine().live(table) }?;
        let mfn = Pte::from_table(words.get(index)).mfn()?;
        let pfn = self.machine().pfn(mfn)?;
        self.frames().is_user(pfn).then_some(pfn)
    }

    /// Unmaps a chunk of a table that may be shared, by leaving the table to the others where the chunk
    /// is all that it maps; otherwise the table is this space's alone afterwards. Says whether the chunk
    /// is unmapped.
    #[cold]
    #[track_caller]
    pub(super) fn drop_shared(&mut self, chunk: Chunk, pmd: Place<L2>) -> Result<bool, MmError> {
        self.hold(Part::KernelHalf)?;
        self.flush()?;
        let start = chunk.va & !(L2::SPAN - 1);
        let table = self.value(self.entry(pmd));
        let table = table.ok_or(MmError::NotMapped { va: start })?.pfn;
        let first = (chunk.va - start) / PAGE;
        let inside = first as usize..first as usize + chunk.count;
        let before = self.next_entry(table, 0);
        let others = [before, self.next_entry(table, inside.end)];
        if others
            .into_iter()
            .flatten()
            .any(|index| !inside.contains(&index))
        {
            self.own_table(start)?;
            return Ok(false);
        }
        let is_shared = self.sharers(table)? > 1;
        if is_shared {
            // SAFETY: user mode's memory, which its governor unmaps there; the table stays the others'.
            unsafe { self.set_pmd(pmd, Entry::NONE) }?;
            self.flush()?;
        }
        Ok(is_shared)
    }
}
