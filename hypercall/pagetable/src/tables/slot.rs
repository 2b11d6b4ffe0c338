//! How many levels there are, and the place of one entry.

use core::marker::PhantomData;

use hypercall::MachAddr;

use crate::entry::{Entry, L1, TableLevel};
use crate::machine::Live;

/// How many levels the tables have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Four: the pgd is the p4d. Always so under PV.
    FourLevels,
    /// Five.
    FiveLevels,
}

impl Fold {
    /// Both.
    pub const ALL: [Fold; 2] = [Fold::FourLevels, Fold::FiveLevels];

    /// The level of the root table.
    #[inline]
    #[must_use]
    pub const fn top(self) -> u8 {
        match self {
            Fold::FourLevels => 4,
            Fold::FiveLevels => 5,
        }
    }

    /// The address with these bits below the sign: the bit that decides for all above it.
    #[inline]
    #[must_use]
    pub const fn canonical(self, address: u64) -> u64 {
        let unused = 64 - (12 + 9 * self.top() as u32);
        ((address as i64) << unused >> unused) as u64
    }
}

/// One entry of a table, found and not changed meanwhile: it borrows the tables, so that no table
/// can go while there is a slot in it.
///
/// ```compile_fail,E0502
/// # use pagetable::machine::Machine;
/// # use pagetable::Tables;
/// fn stale<M: Machine>(tables: &mut Tables<M>, va: u64) {
///     let slot = tables.pte_slot(va).unwrap();
///     // Whatever is queued may take the table away.
///     tables.flush().unwrap();
///     tables.get(slot);
/// }
/// ```
#[derive(Clone, Copy)]
pub struct Slot<'t, L: TableLevel> {
    place: Place<L>,
    tables: PhantomData<&'t ()>,
}

impl<L: TableLevel> Slot<'_, L> {
    /// The entry at a place, for as long as the tables are borrowed.
    #[inline]
    pub(crate) fn of(place: Place<L>) -> Self {
        Slot {
            place,
            tables: PhantomData,
        }
    }

    /// Its place, to write to it.
    #[inline]
    #[must_use]
    pub fn place(self) -> Place<L> {
        self.place
    }

    /// Its machine address.
    #[must_use]
    pub fn machine(self) -> MachAddr {
        self.place.machine
    }
}

/// The place of one entry: its machine address, for Xen, and where the kernel reads it. It tells
/// nothing of the table that lies there; whoever writes to a place answers for it.
pub struct Place<L> {
    pub(super) machine: MachAddr,
    pub(super) memory: *const u64,
    pub(super) level: PhantomData<L>,
}

impl<L> Clone for Place<L> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<L> Copy for Place<L> {}

impl<L> Place<L> {
    /// In no table.
    pub(super) const NOWHERE: Place<L> = Place {
        machine: MachAddr::truncate(0),
        memory: core::ptr::null(),
        level: PhantomData,
    };
}

impl<L: TableLevel> Place<L> {
    /// What stands in the table, whatever is queued for it.
    #[inline]
    pub(crate) fn in_table(self) -> Entry<L> {
        // SAFETY: a place is made from a table that the window maps. The processor may change A and
        // D meanwhile, hence volatile; an aligned word is read at once.
        Entry::from_table(unsafe { self.memory.read_volatile() })
    }

    /// What stands in the table from here on, for as many entries as are asked for and the table has.
    #[inline]
    pub(crate) fn live<'t>(self, count: usize) -> Live<'t> {
        let index = self.machine.entry_index();
        // SAFETY: a place lies in a table, which is nobody's own memory.
        let table = unsafe { Live::of(self.memory.wrapping_sub(index)) };
        table.split_at(index).1.split_at(count.min(512 - index)).0
    }

    /// The place `index` entries on, in the same table as this, its first.
    #[inline]
    pub(crate) fn at(self, index: usize) -> Self {
        debug_assert!(self.machine.entry_index() + index < 512);
        Place {
            machine: MachAddr::truncate(self.machine.as_u64() + 8 * index as u64),
            memory: self.memory.wrapping_add(index),
            level: PhantomData,
        }
    }

    /// Its machine address.
    #[must_use]
    pub fn machine(self) -> MachAddr {
        self.machine
    }

    #[inline]
    pub(super) fn retyped<K>(self) -> Place<K> {
        Place {
            machine: self.machine,
            memory: self.memory,
            level: PhantomData,
        }
    }
}

/// Consecutive slots of one table, as many as it has, `count` at most.
pub(crate) fn slots(first: Place<L1>, count: usize) -> impl Iterator<Item = Place<L1>> {
    (0..count.min(512 - first.machine.entry_index())).map(move |index| first.at(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypercall::Mfn;

    #[test]
    fn slots_end_with_their_table() {
        let machine = |index| MachAddr::of_entry(Mfn::truncate(7), index);
        let first = Place {
            machine: machine(500),
            memory: core::ptr::null(),
            level: PhantomData,
        };
        for (asked, found) in [(0, 0), (5, 5), (12, 12), (13, 12), (512, 12)] {
            let places = slots(first, asked).map(Place::machine);
            assert!(places.eq((500..500 + found).map(machine)), "{asked}");
        }
    }
}
