//! Finding entries and reading them: from the root down, level by level.

use core::marker::PhantomData;

use hypercall::{MachAddr, Pfn};

use super::{Fold, Slot, Tables};
use crate::entry::{Entry, L1, L2, L3, L4, L5, Pte, TableLevel, UpperLevel};
use crate::error::MmError;
use crate::machine::Machine;

impl<M: Machine> Tables<M> {
    /// The slot of the topmost entry for an address.
    #[must_use]
    pub fn pgd_offset(&self, va: u64) -> Option<Slot<L5>> {
        match self.fold {
            Fold::FourLevels => Some(self.slot::<L4>(self.root, va)?.retyped()),
            Fold::FiveLevels => self.slot(self.root, va),
        }
    }

    /// The slot one level down; the same slot where the fifth level is folded.
    #[must_use]
    pub fn p4d_offset(&self, pgd: Slot<L5>, va: u64) -> Option<Slot<L4>> {
        match self.fold {
            Fold::FourLevels => Some(pgd.retyped()),
            Fold::FiveLevels => self.below(pgd, va),
        }
    }

    /// The slot one level down.
    #[must_use]
    pub fn pud_offset(&self, p4d: Slot<L4>, va: u64) -> Option<Slot<L3>> {
        self.below(p4d, va)
    }

    /// The slot one level down.
    #[must_use]
    pub fn pmd_offset(&self, pud: Slot<L3>, va: u64) -> Option<Slot<L2>> {
        self.below(pud, va)
    }

    /// The slot one level down.
    #[must_use]
    pub fn pte_offset(&self, pmd: Slot<L2>, va: u64) -> Option<Slot<L1>> {
        self.below(pmd, va)
    }

    fn below<L: UpperLevel>(&self, slot: Slot<L>, va: u64) -> Option<Slot<L::Below>> {
        let entry = self.get(slot);
        if entry.is_large() {
            return None;
        }
        self.slot(self.machine().pfn(entry.mfn()?)?, va)
    }

    /// The slot for `va` in the table that lies in `table`.
    #[inline]
    pub(crate) fn slot<L: TableLevel>(&self, table: Pfn, va: u64) -> Option<Slot<L>> {
        let mfn = self.machine().mfn(table)?;
        let memory = self.machine().memory(table);
        if memory.is_null() {
            return None;
        }
        let index = L::index(va);
        Some(Slot {
            machine: MachAddr::of_entry(mfn, index),
            memory: memory.cast::<u64>().wrapping_add(index),
            level: PhantomData,
        })
    }

    /// The slot of the L2 entry for an address.
    ///
    /// # Errors
    /// A table on the way is missing, or a large page of Xen's is in it.
    #[inline]
    pub fn pmd_slot(&self, va: u64) -> Result<Slot<L2>, MmError> {
        if let Some((number, first, refusals)) = self.last_pmd.get()
            && number == va >> L3::SHIFT
            && refusals == self.frames().refusals()
        {
            return Ok(first.at(L2::index(va)));
        }
        self.walk_to_pmd(va)
    }

    #[inline(never)]
    fn walk_to_pmd(&self, va: u64) -> Result<Slot<L2>, MmError> {
        let none = |level| MmError::NoTable { va, level };
        let pgd = self.pgd_offset(va).ok_or(none(5))?;
        let p4d = self.p4d_offset(pgd, va).ok_or(none(5))?;
        let pud = self.pud_offset(p4d, va).ok_or(none(4))?;
        if self.get(pud).is_large() {
            return Err(MmError::Large { va, level: 3 });
        }
        let first = self.pmd_offset(pud, va & !(L3::SPAN - 1));
        let first = first.ok_or(none(3))?;
        let refusals = self.frames().refusals();
        self.last_pmd.set(Some((va >> L3::SHIFT, first, refusals)));
        Ok(first.at(L2::index(va)))
    }

    /// The slot of the entry that maps the page at an address.
    ///
    /// # Errors
    /// As [`Tables::pmd_slot`].
    #[inline]
    pub fn pte_slot(&self, va: u64) -> Result<Slot<L1>, MmError> {
        if let Some((number, first, refusals)) = self.last.get()
            && number == va >> L2::SHIFT
            && refusals == self.frames().refusals()
        {
            return Ok(first.at(L1::index(va)));
        }
        self.walk_to_pte(va)
    }

    #[inline(never)]
    fn walk_to_pte(&self, va: u64) -> Result<Slot<L1>, MmError> {
        let pmd = self.pmd_slot(va)?;
        if self.get(pmd).is_large() {
            return Err(MmError::Large { va, level: 2 });
        }
        let first = self.pte_offset(pmd, va & !(L2::SPAN - 1));
        let first = first.ok_or(MmError::NoTable { va, level: 2 })?;
        let refusals = self.frames().refusals();
        self.last.set(Some((va >> L2::SHIFT, first, refusals)));
        Ok(first.at(L1::index(va)))
    }

    /// Forgets the tables that were used last, as far as an entry of this level leads to them.
    #[inline]
    pub(super) fn forget_last(&self, level: usize) {
        self.last.set(None);
        if level > L2::NUMBER {
            self.last_pmd.set(None);
        }
    }

    /// The entry as it is once everything queued has been carried out.
    #[inline]
    pub fn get<L: TableLevel>(&self, slot: Slot<L>) -> Entry<L> {
        // SAFETY: a slot is made from a table that the window maps. The processor may change A and
        // D meanwhile, hence volatile; an aligned word is read at once.
        let in_table = unsafe { slot.memory.read_volatile() };
        Entry::from_table(self.mmu.read(slot.machine, in_table))
    }

    /// The entry that maps the page at an address, as it is once the queue is carried out.
    ///
    /// # Errors
    /// As [`Tables::pte_slot`].
    pub fn ptep_get(&self, va: u64) -> Result<Pte, MmError> {
        Ok(self.get(self.pte_slot(va)?))
    }
}
