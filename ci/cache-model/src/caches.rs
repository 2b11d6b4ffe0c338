//! Caches as sets of ways, the least recently used of which makes room.
//!
//! Sizes are those of AMD's Zen, the processor that QEMU shows to Xen ("Software Optimization Guide for AMD
//! Family 17h Processors", 2.6 and 2.12). Lines are found by physical address, pages by virtual address.
//! Nothing is fetched ahead, what the processor itself looks up in page tables is not seen, and no page is forgotten when a root changes: what is counted is what does not
//! fit, or was never there.

/// Bytes of a line, as a power of two.
const LINE: u32 = 6;
/// Bytes of a page, likewise.
pub(crate) const PAGE: u32 = 12;

/// One cache: numbers of lines, or of pages.
struct Cache {
    sets: Vec<Vec<u64>>,
    ways: usize,
}

impl Cache {
    /// An empty one, of so many sets, each with so many ways.
    fn new(sets: usize, ways: usize) -> Cache {
        Cache {
            sets: vec![Vec::with_capacity(ways); sets],
            ways,
        }
    }

    /// Looks a number up, and has it from then on. Whether it was there.
    fn hits(&mut self, number: u64) -> bool {
        let which = number as usize % self.sets.len();
        let set = &mut self.sets[which];
        // The one that was used last stands first.
        if let Some(at) = set.iter().position(|&known| known == number) {
            set[..=at].rotate_right(1);
            return true;
        }
        if set.len() == self.ways {
            set.pop();
        }
        set.insert(0, number);
        false
    }
}

/// What accesses came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) accesses: u64,
    /// Not in the first level.
    pub(crate) first: u64,
    /// Nor in the second.
    pub(crate) second: u64,
    /// Of pages that the TLB did not have.
    pub(crate) pages: u64,
    /// Which lines of a page were accessed, a bit each: all that caches without any of them would miss.
    pub(crate) touched: u64,
}

/// A processor's caches of data.
pub(crate) struct Caches {
    first: Cache,
    second: Cache,
    tlb: Cache,
}

impl Caches {
    /// Empty ones: 32 KiB of eight ways, 512 KiB of eight ways, 64 pages of any.
    pub(crate) fn new() -> Caches {
        Caches {
            first: Cache::new(64, 8),
            second: Cache::new(1024, 8),
            tlb: Cache::new(1, 64),
        }
    }

    /// One access that lies in a line, counted where it is to be.
    pub(crate) fn access(&mut self, virt: u64, phys: u64, counts: Option<&mut Counts>) {
        let tlb = self.tlb.hits(virt >> PAGE);
        let first = self.first.hits(phys >> LINE);
        let second = first || self.second.hits(phys >> LINE);
        if let Some(counts) = counts {
            counts.accesses += 1;
            counts.first += u64::from(!first);
            counts.second += u64::from(!second);
            counts.pages += u64::from(!tlb);
            counts.touched |= 1 << (virt >> LINE & 63);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(caches: &mut Caches, addresses: impl Iterator<Item = u64>) -> Counts {
        let mut counts = Counts::default();
        addresses.for_each(|address| caches.access(address, address, Some(&mut counts)));
        counts
    }

    #[test]
    fn what_fits_is_missed_once() {
        let mut caches = Caches::new();
        let words = || (0..32 << 10).step_by(8);
        let cold = count(&mut caches, words());
        let expected = Counts {
            accesses: 4096,
            first: 512,
            second: 512,
            pages: 8,
            touched: !0,
        };
        assert_eq!(cold, expected);
        let warm = count(&mut caches, words());
        let expected = Counts {
            accesses: 4096,
            touched: !0,
            ..Counts::default()
        };
        assert_eq!(warm, expected);
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut caches = Caches::new();
        // Nine lines of one set of the first level, of which one is used between all others.
        let stride = 64 << LINE;
        for line in 1..8 {
            caches.access(line * stride, line * stride, None);
            caches.access(0, 0, None);
        }
        caches.access(8 * stride, 8 * stride, None);
        assert_eq!(count(&mut caches, [0].into_iter()).first, 0);
        let gone = count(&mut caches, [stride].into_iter());
        assert_eq!((gone.first, gone.second), (1, 0));
    }
}
