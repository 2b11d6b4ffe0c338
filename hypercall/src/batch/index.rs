//! Which update is queued for a slot: open addressing over `u16`, at most half full.
//!
//! A bucket holds the number of an update plus one, 0 where it is free; the key is the update's
//! own slot. There are two buckets an update, so a probe always meets a free one. Buckets are
//! freed all at once, each by the update that took it, never in between: no tombstones.

use crate::abi::mmu::mmu_update;

pub(super) struct Index<const N: usize> {
    pub(super) buckets: [[u16; 2]; N],
}

impl<const N: usize> Index<N> {
    const MASK: usize = 2 * N - 1;
    /// 2⁶⁴ divided by the golden ratio: consecutive slots end up far apart, so that the runs of
    /// two tables do not pile up.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

    pub(super) const fn new() -> Self {
        Self {
            buckets: [[0; 2]; N],
        }
    }

    /// The bucket for `slot` (a multiple of 8), and what is in it: 0, or the update's number plus
    /// one.
    #[inline(always)]
    pub(super) fn find(&self, slot: u64, updates: &[mmu_update; N]) -> (u16, u16) {
        let buckets = self.buckets.as_flattened();
        let spread = (slot >> 3).wrapping_mul(Self::SPREAD);
        let mut bucket = (spread >> (64 - (2 * N).trailing_zeros())) as usize;
        loop {
            let taken = buckets[bucket & Self::MASK];
            if taken == 0 {
                return (bucket as u16, 0);
            }
            let holder = updates.get(taken as usize - 1);
            if holder.is_some_and(|update| update.ptr & !7 == slot) {
                return (bucket as u16, taken);
            }
            bucket = (bucket + 1) & Self::MASK;
        }
    }

    /// Puts update number `entry` into `bucket`.
    #[inline]
    pub(super) fn set(&mut self, bucket: u16, entry: u16) {
        self.buckets.as_flattened_mut()[bucket as usize & Self::MASK] = entry + 1;
    }

    /// Frees `bucket`. All others must follow before the next [`find`](Self::find).
    #[inline]
    pub(super) fn clear(&mut self, bucket: u16) {
        self.buckets.as_flattened_mut()[bucket as usize & Self::MASK] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 512;

    /// How many buckets lie between where the look-up of each slot begins and where it ends, with
    /// all of them in the index.
    fn ways(slots: &[u64]) -> std::vec::Vec<usize> {
        let empty = Index::<N>::new();
        let mut updates = [mmu_update { ptr: 0, val: 0 }; N];
        let mut index = Index::<N>::new();
        for (update, &slot) in updates.iter_mut().zip(slots) {
            update.ptr = slot;
        }
        for (entry, slot) in (0..).zip(slots) {
            let (bucket, taken) = index.find(*slot, &updates);
            assert_eq!(taken, 0, "{slot:#x} is not there yet");
            index.set(bucket, entry);
        }
        let way = |&slot: &u64| {
            let (from, _) = empty.find(slot, &updates);
            let (to, taken) = index.find(slot, &updates);
            assert_eq!(updates[taken as usize - 1].ptr, slot);
            (to as usize).wrapping_sub(from as usize) & (2 * N - 1)
        };
        slots.iter().map(way).collect()
    }

    /// Looking up takes constant time: a full queue of what page tables are written with, runs of
    /// neighbours in several tables, keeps each close to where its look-up begins.
    #[test]
    fn look_ups_are_short_whatever_tables_are_written() {
        let run = |table: u64, count| (0..count).map(move |n| table + 8 * n);
        let one: std::vec::Vec<_> = run(0x1234_5000, 512).collect();
        let neighbours = run(0x7000, 256).chain(run(0x8000, 256)).collect();
        let apart = run(0x12_3000, 256).chain(run(0xf_ffff_f000, 256)).collect();
        let each_first = (0..512).map(|table| table << 12).collect();
        let eight = (1..=64).flat_map(|table| run(table << 21, 8)).collect();
        for slots in [one, neighbours, apart, each_first, eight] {
            let ways = ways(&slots);
            assert!(ways.iter().sum::<usize>() <= N, "{ways:?}");
            assert!(ways.iter().all(|way| *way <= 16), "{ways:?}");
        }
    }
}
