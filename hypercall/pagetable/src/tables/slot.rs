//! How many levels there are, and the place of one entry.

use core::marker::PhantomData;

use hypercall::MachAddr;

use crate::entry::{L1, TableLevel};

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

/// The place of one entry: its machine address, for Xen, and where the kernel reads it.
pub struct Slot<L> {
    pub(super) machine: MachAddr,
    pub(super) memory: *const u64,
    pub(super) level: PhantomData<L>,
}

impl<L> Clone for Slot<L> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<L> Copy for Slot<L> {}

impl<L: TableLevel> Slot<L> {
    /// The place `index` entries on, in the same table as this, its first.
    #[inline]
    pub(super) fn at(self, index: usize) -> Self {
        debug_assert!(self.machine.entry_index() + index < 512);
        Slot {
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
    pub(super) fn retyped<K>(self) -> Slot<K> {
        Slot {
            machine: self.machine,
            memory: self.memory,
            level: PhantomData,
        }
    }
}

/// Consecutive slots of one table, as many as it has, `count` at most.
pub(crate) fn slots(first: Slot<L1>, count: usize) -> impl Iterator<Item = Slot<L1>> {
    (0..count.min(512 - first.machine.entry_index())).map(move |index| first.at(index))
}
