//! Finding entries and reading them: from the root down, level by level.

use core::marker::PhantomData;

use hypercall::{MachAddr, Pfn};

use super::{Fold, Place, Remembered, Slot, Tables, Used, slots};
use crate::entry::{Entry, L1, L2, L3, L4, L5, Pte, TableLevel, UpperLevel};
use crate::error::MmError;
use crate::layout::Layout;
use crate::machine::{Live, Machine};

/// Slots: what is found while nothing changes.
impl<M: Machine> Tables<M> {
    /// The slot of the topmost entry for an address.
    #[must_use]
    pub fn pgd_offset(&self, va: u64) -> Option<Slot<'_, L5>> {
        self.check_held(va).ok()?;
        self.pgd_at(va).map(Slot::of)
    }

    /// The slot one level down; the same slot where the fifth level is folded.
    #[must_use]
    pub fn p4d_offset(&self, pgd: Slot<'_, L5>, va: u64) -> Option<Slot<'_, L4>> {
        self.p4d_at(pgd.place(), va).map(Slot::of)
    }

    /// The slot one level down.
    #[must_use]
    pub fn pud_offset(&self, p4d: Slot<'_, L4>, va: u64) -> Option<Slot<'_, L3>> {
        self.pud_at(p4d.place(), va).map(Slot::of)
    }

    /// The slot one level down.
    #[must_use]
    pub fn pmd_offset(&self, pud: Slot<'_, L3>, va: u64) -> Option<Slot<'_, L2>> {
        self.pmd_at(pud.place(), va).map(Slot::of)
    }

    /// The slot one level down.
    #[must_use]
    pub fn pte_offset(&self, pmd: Slot<'_, L2>, va: u64) -> Option<Slot<'_, L1>> {
        self.pte_at(pmd.place(), va).map(Slot::of)
    }

    /// The slot of the L2 entry for an address.
    ///
    /// # Errors
    /// A table on the way is missing, or a large page of Xen's is in it.
    #[inline]
    pub fn pmd_slot(&self, va: u64) -> Result<Slot<'_, L2>, MmError> {
        self.pmd_place(va).map(Slot::of)
    }

    /// The slot of the entry that maps the page at an address.
    ///
    /// # Errors
    /// As [`Tables::pmd_slot`].
    #[inline]
    pub fn pte_slot(&self, va: u64) -> Result<Slot<'_, L1>, MmError> {
        self.pte_place(va).map(Slot::of)
    }

    /// The entry as it is once everything queued has been carried out.
    #[inline]
    pub fn get<L: TableLevel>(&self, slot: Slot<'_, L>) -> Entry<L> {
        self.entry(slot.place())
    }

    /// The entry at a place that was found before something changed.
    ///
    /// # Safety
    /// The table that the place lies in is one still: nothing has given it back meanwhile.
    #[inline]
    pub unsafe fn get_at<L: TableLevel>(&self, place: Place<L>) -> Entry<L> {
        self.entry(place)
    }
}

/// Places, which nothing keeps from becoming something else.
impl<M: Machine> Tables<M> {
    /// The place of the topmost entry for an address.
    pub(crate) fn pgd_at(&self, va: u64) -> Option<Place<L5>> {
        match self.fold {
            Fold::FourLevels => Some(self.place_in::<L4>(self.root, va)?.retyped()),
            Fold::FiveLevels => self.place_in(self.root, va),
        }
    }

    /// The place one level down; the same where the fifth level is folded.
    pub(crate) fn p4d_at(&self, pgd: Place<L5>, va: u64) -> Option<Place<L4>> {
        match self.fold {
            Fold::FourLevels => Some(pgd.retyped()),
            Fold::FiveLevels => self.below(pgd, va),
        }
    }

    /// The place one level down.
    pub(crate) fn pud_at(&self, p4d: Place<L4>, va: u64) -> Option<Place<L3>> {
        self.below(p4d, va)
    }

    /// The place one level down.
    pub(crate) fn pmd_at(&self, pud: Place<L3>, va: u64) -> Option<Place<L2>> {
        self.below(pud, va)
    }

    /// The place one level down.
    pub(crate) fn pte_at(&self, pmd: Place<L2>, va: u64) -> Option<Place<L1>> {
        self.below(pmd, va)
    }

    fn below<L: UpperLevel>(&self, slot: Place<L>, va: u64) -> Option<Place<L::Below>> {
        let entry = self.entry(slot);
        if entry.is_large() {
            return None;
        }
        self.place_in(self.machine().pfn(entry.mfn()?)?, va)
    }

    /// The place for `va` in the table that lies in `table`.
    #[inline]
    pub(crate) fn place_in<L: TableLevel>(&self, table: Pfn, va: u64) -> Option<Place<L>> {
        let mfn = self.machine().mfn(table)?;
        let memory = self.machine().memory(table);
        if memory.is_null() {
            return None;
        }
        let index = L::index(va);
        Some(Place {
            machine: MachAddr::of_entry(mfn, index),
            memory: memory.cast::<u64>().wrapping_add(index),
            level: PhantomData,
        })
    }

    /// The place of the L2 entry for an address; see [`Tables::pmd_slot`].
    #[inline]
    pub(crate) fn pmd_place(&self, va: u64) -> Result<Place<L2>, MmError> {
        match self.remembered(&self.recent.last_pmd, va) {
            Some(place) => Ok(place),
            None => self.walk_to_pmd(va),
        }
    }

    #[inline(never)]
    fn walk_to_pmd(&self, va: u64) -> Result<Place<L2>, MmError> {
        self.check_held(va)?;
        let last = match M::Layout::DIRECT.contains(&va) {
            true => &self.window_pmd,
            false => &self.recent.last_pmd,
        };
        if let Some(place) = self.remembered(last, va) {
            return Ok(place);
        }
        let none = |level| MmError::NoTable { va, level };
        let pgd = self.pgd_at(va).ok_or(none(5))?;
        let p4d = self.p4d_at(pgd, va).ok_or(none(5))?;
        let pud = self.pud_at(p4d, va).ok_or(none(4))?;
        if self.entry(pud).is_large() {
            return Err(MmError::Large { va, level: 3 });
        }
        let first = self.pmd_at(pud, va & !(L3::SPAN - 1));
        let first = first.ok_or(none(3))?;
        self.remember(last, va, first);
        Ok(first.at(L2::index(va)))
    }

    /// The place of the entry that maps the page at an address.
    #[inline]
    pub(crate) fn pte_place(&self, va: u64) -> Result<Place<L1>, MmError> {
        match self.remembered(&self.recent.last, va) {
            Some(place) => Ok(place),
            None => self.walk_to_pte(va),
        }
    }

    /// The place of the entry that maps the page at an address, in the table that was used last.
    #[inline(always)]
    pub(crate) fn nearby(&self, va: u64) -> Option<Place<L1>> {
        self.remembered(&self.recent.last, va)
    }

    #[inline(never)]
    fn walk_to_pte(&self, va: u64) -> Result<Place<L1>, MmError> {
        // A move goes to and fro between two tables.
        if let Some(place) = self.remembered(&self.recent.last_but_one, va) {
            return Ok(place);
        }
        let pmd = self.pmd_place(va)?;
        if self.entry(pmd).is_large() {
            return Err(MmError::Large { va, level: 2 });
        }
        let first = self.pte_at(pmd, va & !(L2::SPAN - 1));
        let first = first.ok_or(MmError::NoTable { va, level: 2 })?;
        self.recent.last_but_one.set(self.recent.last.get());
        self.remember(&self.recent.last, va, first);
        Ok(first.at(L1::index(va)))
    }

    /// The place for an address in a table that was used, if that is the table and what leads to it
    /// has not changed.
    #[inline(always)]
    fn remembered<L: TableLevel>(&self, last: &Remembered<L>, va: u64) -> Option<Place<L>> {
        let Used {
            end,
            first,
            changes,
        } = last.get();
        let is_it = end == end_of::<L>(va) && changes == self.domain().changes(L::NUMBER + 1);
        is_it.then(|| first.at(L::index(va)))
    }

    /// Remembers the table that an address leads to, by its first slot.
    fn remember<L: TableLevel>(&self, last: &Remembered<L>, va: u64, first: Place<L>) {
        last.set(Used {
            end: end_of::<L>(va),
            first,
            changes: self.domain().changes(L::NUMBER + 1),
        });
    }

    /// The entry as it is once everything queued has been carried out.
    #[inline]
    pub(crate) fn entry<L: TableLevel>(&self, slot: Place<L>) -> Entry<L> {
        Entry::from_table(self.mmu.read(slot.machine, slot.in_table().bits()))
    }

    /// The first address from `va` on whose entry is present, of those in the table that `place`, the
    /// entry for `va`, lies in.
    pub(crate) fn next_present<L: TableLevel>(&self, place: Place<L>, va: u64) -> Option<u64> {
        let first = L::index(va);
        let found = if self.mmu.batch().is_empty() {
            let table = place.memory.wrapping_sub(first);
            // SAFETY: a place lies in a table, which is nobody's own memory.
            unsafe { Live::of(table) }.next_present(first)? - first
        } else {
            (0..512 - first).find(|index| self.entry(place.at(*index)).is_present())?
        };
        let start = va & !(L::SPAN - 1);
        Some(if found == 0 {
            va
        } else {
            start + found as u64 * L::SPAN
        })
    }

    /// The number of the first entry that is present, of `count` from one on in its table.
    pub(crate) fn first_present(&self, first: Place<L1>, count: usize) -> Option<usize> {
        if self.mmu.batch().is_empty() {
            return first.live(count).next_present(0);
        }
        slots(first, count).position(|slot| self.entry(slot).is_present())
    }

    /// The entry that maps the page at an address, as it is once the queue is carried out.
    ///
    /// # Errors
    /// As [`Tables::pte_slot`].
    pub fn ptep_get(&self, va: u64) -> Result<Pte, MmError> {
        Ok(self.entry(self.pte_place(va)?))
    }
}

/// The last address that the table of a level leads to which leads to this one: never 0.
#[inline(always)]
fn end_of<L: TableLevel>(va: u64) -> u64 {
    va | ((L::SPAN << 9) - 1)
}
