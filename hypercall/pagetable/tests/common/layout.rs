//! The address space of the tests' kernel.

use std::ops::Range;

use pagetable::layout::Layout;

pub(crate) const XEN: Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;
pub(crate) const DIRECT: Range<u64> = 0xffff_8880_0000_0000..0xffff_9880_0000_0000;
pub(crate) const P2M: Range<u64> = 0xffff_c000_0000_0000..0xffff_c080_0000_0000;
/// The p2m list, once it is longer.
pub(crate) const LIST: Range<u64> = 0xffff_c880_0000_0000..0xffff_c888_0000_0000;
/// Mappings made at run time.
pub(crate) const DYNAMIC: Range<u64> = 0xffff_c900_0000_0000..0xffff_c9c0_0000_0000;
/// What a kernel uses besides, below the same slot of the root and the next.
pub(crate) const HEAP: Range<u64> = 0xffff_c9c0_0000_0000..0xffff_ca40_0000_0000;
pub(crate) const IMAGE: Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_c000_0000;
pub(crate) const FIXMAP: Range<u64> = 0xffff_ffff_c000_0000..0xffff_ffff_c020_0000;

/// Pages that have a place of their own in the fixmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fixed {
    SharedInfo,
    Console,
}

impl Fixed {
    pub(crate) const fn address(self) -> u64 {
        FIXMAP.start + (self as u64) * 4096
    }
}

/// All of it, as the page tables ask for it.
pub(crate) struct Regions;

impl Layout for Regions {
    const XEN: Range<u64> = XEN;
    const DIRECT: Range<u64> = DIRECT;
    const P2M: Range<u64> = P2M;
    const IMAGE: Range<u64> = IMAGE;
    const FIXMAP: Range<u64> = FIXMAP;
    const RUNTIME: &'static [Range<u64>] = &[LIST, DYNAMIC, HEAP];
    const LIST: Range<u64> = LIST;

    fn name_of(address: u64) -> Option<&'static str> {
        DIRECT.contains(&address).then_some("direct map")
    }
}
