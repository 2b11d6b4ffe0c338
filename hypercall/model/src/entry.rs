//! Page-table entries as Xen reads them: which bits a guest may set, and which bits Xen sets
//! itself (`xen/arch/x86/mm.c`, `pv/mm.h`, `asm/x86_64/page.h`).
//!
//! Invariant: everything that decides about single bits of an entry is in this file.

use hypercall::{Mfn, addr::ADDR_MASK, mmu::Level};

/// Present.
pub const P: u64 = 1 << 0;
/// Writable.
pub const RW: u64 = 1 << 1;
/// User: a PV kernel runs in ring 3, so Xen sets it on every entry.
pub const U: u64 = 1 << 2;
/// Write-through.
pub const PWT: u64 = 1 << 3;
/// Cache disabled.
pub const PCD: u64 = 1 << 4;
/// Accessed.
pub const A: u64 = 1 << 5;
/// Dirty.
pub const D: u64 = 1 << 6;
/// In an L1 entry, the third cache bit.
pub const PAT: u64 = 1 << 7;
/// Above L1, a large page. Only Xen makes those.
pub const PSE: u64 = 1 << 7;
/// Global.
pub const G: u64 = 1 << 8;
/// Bits 9 to 11: the kernel's own.
pub const AVAIL: u64 = 7 << 9;
/// Bits 52 to 62: the kernel's own but for 52, which Xen uses, and 62, which a debug Xen uses.
pub const AVAIL_HIGH: u64 = 0x7ff << 52;
/// Xen's mark on an L1 entry that came without U: a page of the kernel.
pub const GUEST_KERNEL: u64 = 1 << 52;
/// Debug Xen's mark on an L1 entry that maps a grant.
pub const GNTTAB: u64 = 1 << 62;
/// No execution.
pub const NX: u64 = 1 << 63;
/// The bits that choose how an L1 entry is cached.
pub const CACHE: u64 = PWT | PCD | PAT;

/// The bits allowed at every level.
const BASE: u64 = P | RW | U | A | D | AVAIL | AVAIL_HIGH | NX;

/// The bits that may change in a present entry without another look at what it maps. RW is not
/// among them; nor can it be for tables while linear page tables are allowed.
pub(crate) const FAST: u64 = NX | AVAIL_HIGH | AVAIL | G | D | A | U;

/// The first of the L4 slots that are Xen's.
pub const XEN_SLOT_FIRST: usize = 256;
/// The last of them.
pub const XEN_SLOT_LAST: usize = 271;

/// Whether slot `index` of an L4 table is Xen's.
pub const fn is_xen_slot(index: usize) -> bool {
    index >= XEN_SLOT_FIRST && index <= XEN_SLOT_LAST
}

/// Whether `va` is where Xen lives, or not canonical: no guest mapping can be there.
pub const fn is_guest_va(va: u64) -> bool {
    let canonical = (va as i64) << 16 >> 16 == va as i64;
    canonical && !is_xen_slot(index(va, Level::L4))
}

/// Which entry of a table of `level` translates `va`.
pub const fn index(va: u64, level: Level) -> usize {
    (va >> (12 + 9 * (level as u32 - 1)) & 511) as usize
}

/// The frame an entry names.
pub const fn frame(entry: u64) -> Mfn {
    Mfn::truncate((entry & ADDR_MASK) >> 12)
}

/// The entry for `frame` with `flags`.
pub const fn entry(frame: Mfn, flags: u64) -> u64 {
    frame.addr().as_u64() | flags
}

/// What a domain may put into its entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rights {
    /// The domain has memory-mapped or port I/O: it may choose how its pages are cached.
    pub(crate) cache: bool,
    /// Xen is a debug build, which keeps bit 62 of L1 entries for itself.
    pub(crate) debug: bool,
}

impl Rights {
    /// The bits that make Xen refuse an entry of `level`.
    pub(crate) const fn disallowed(self, level: Level) -> u64 {
        let mut allowed = BASE;
        if let Level::L1 = level {
            allowed |= G;
            if self.cache {
                allowed |= CACHE;
            }
            if self.debug {
                allowed &= !GNTTAB;
            }
        }
        !(allowed | ADDR_MASK)
    }
}

/// What Xen makes of a present entry before it writes it.
pub const fn adjust(level: Level, mut entry: u64) -> u64 {
    if entry & P == 0 {
        return entry;
    }
    match level {
        Level::L1 => {
            if entry & U == 0 {
                entry |= GUEST_KERNEL | U;
            }
            if entry & GUEST_KERNEL == 0 {
                entry |= G | U;
            }
            entry
        }
        Level::L2 | Level::L3 => entry | U,
        // Always accessed, because Xen may run a copy of the L4 and would not see the bit change.
        Level::L4 => entry | U | A,
    }
}

/// Whether `old` becomes `new` by a change of harmless flags alone.
pub(crate) const fn is_fast(old: u64, new: u64) -> bool {
    (old ^ new) & !FAST == 0
}

/// What Xen flips in the flags of an L1 entry that maps device memory: a cacheable one becomes
/// uncacheable. The PAT is Xen's: WB WT UC- UC, WC WP UC UC.
pub(crate) const fn force_uncached(entry: u64) -> u64 {
    match (entry & PAT != 0, entry & PCD != 0, entry & PWT != 0) {
        (false, true, _) | (true, false, false) | (true, true, _) => 0,
        (false, false, _) | (true, false, true) => entry & CACHE ^ (PCD | PWT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_rewritten_as_seen_on_xen() {
        // Written …061, read 0010…065; written …065, read …165.
        assert_eq!(adjust(Level::L1, 0x1061), 0x0010_0000_0000_1065);
        assert_eq!(adjust(Level::L1, 0x1065), 0x1165);
        assert_eq!(adjust(Level::L2, 0x1061), 0x1065);
        assert_eq!(adjust(Level::L3, 0x1001), 0x1005);
        assert_eq!(adjust(Level::L4, 0x1001), 0x1025);
        assert_eq!(adjust(Level::L4, 0), 0);
    }

    #[test]
    fn masks_by_level() {
        let domu = Rights {
            cache: false,
            debug: false,
        };
        for level in [Level::L2, Level::L3, Level::L4] {
            assert_eq!(domu.disallowed(level), PWT | PCD | PSE | G);
        }
        assert_eq!(domu.disallowed(Level::L1), CACHE);
        let dom0 = Rights {
            cache: true,
            debug: true,
        };
        assert_eq!(dom0.disallowed(Level::L1), GNTTAB);
    }

    #[test]
    fn device_memory_is_not_cached() {
        assert_eq!(force_uncached(0), PCD | PWT);
        assert_eq!(PWT ^ force_uncached(PWT), PCD | PWT);
        assert_eq!(force_uncached(PCD), 0);
        assert_eq!(force_uncached(PAT), 0);
        assert_eq!((PAT | PWT) ^ force_uncached(PAT | PWT), PCD | PWT);
    }

    #[test]
    fn xen_s_part_of_the_address_space() {
        assert!(is_guest_va(0xffff_7fff_ffff_f000u64 & 0x7fff_ffff_f000));
        assert!(!is_guest_va(0xffff_8000_0000_0000));
        assert!(!is_guest_va(0xffff_87ff_ffff_ffff));
        assert!(is_guest_va(0xffff_8800_0000_0000));
        assert!(!is_guest_va(0x8000_0000_0000));
    }
}
