//! The address space: one table from which the constants, the table of the boot and the checks are made.
//!
//! ```text
//! ffff8000_00000000  Xen (L4 slots 256-271: its code, the read-only M2P)
//! ffff8880_00000000  direct map of all memory but the image's constants, 4 KiB pages, never executable
//! ffffc000_00000000  p2m list, where INIT_P2M asked Xen to put it; read-only
//! ffffff00_00000000  p2m list, once it is longer than Xen has made it; read-only
//! ffffff08_00000000  mappings made by the kernel at run time
//! ffffffbf_00000000  stacks of all vCPUs but the first
//! ffffffc0_00000000  kernel heap
//! ffffffff_80000000  the image
//! ffffffff_bfe00000  fixmap
//! ```
//!
//! The p2m list and the direct map have L4 slots of their own, so that one entry decides what no page
//! in them may be: the p2m's is read-only, the direct map's is no-execute. Regions that overlap or
//! share such a slot fail to compile. What else there is shares the image's slot as far as it can: Xen
//! takes 40,000 instructions to look through another L3 table, empty or not.

use core::fmt;
use core::ops::Range;

use pagetable::layout::Layout;
use pagetable::takeover::Segments;
pub use pagetable::walk::Size;

/// A part of the address space with one purpose.
#[derive(Clone, Debug)]
pub struct Region {
    /// Short name.
    pub name: &'static str,
    /// Virtual addresses.
    pub range: Range<u64>,
    /// What it is for.
    pub purpose: &'static str,
}

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

macro_rules! regions {
    ($($(#[$doc:meta])* $name:ident = $start:literal, $size:expr, $label:literal, $purpose:literal;)*) => {
        $($(#[$doc])* pub const $name: Range<u64> = $start..$start + ($size - 1) + 1;)*

        /// Every region, in order of address.
        pub const REGIONS: &[Region] = &[
            $(Region { name: $label, range: $name, purpose: $purpose },)*
        ];
    };
}

regions! {
    /// Xen's own: L4 slots 256 to 271, which a guest may not write.
    XEN = 0xffff_8000_0000_0000, 8 * TIB, "xen", "the hypervisor and the M2P table";
    /// All of the domain's memory, by pfn, but the image's code and constants.
    DIRECT = 0xffff_8880_0000_0000, 16 * TIB, "direct map", "all memory by pfn, 4 KiB pages, NX";
    /// The p2m list (INIT_P2M).
    P2M = 0xffff_c000_0000_0000, TIB / 2, "p2m", "mfn of each pfn, read-only, written by Xen's tools";
    /// The p2m list where it is longer than Xen has made it: 8 bytes for each page of the direct map.
    LIST = 0xffff_ff00_0000_0000, 32 * GIB, "long p2m", "the same for a domain that got more memory";
    /// Mappings made at run time.
    DYNAMIC = 0xffff_ff08_0000_0000, 3 * TIB / 4 - 36 * GIB, "dynamic", "mappings made at run time";
    /// Stacks.
    STACKS = 0xffff_ffbf_0000_0000, 4 * GIB, "stacks", "stacks of all vCPUs but the first";
    /// The kernel heap.
    HEAP = 0xffff_ffc0_0000_0000, TIB / 8, "heap", "the kernel heap, grown page by page";
    /// The image, as linked.
    IMAGE = 0xffff_ffff_8000_0000, GIB - (2 << 20), "image", "the kernel as linked";
    /// Fixed single-page mappings, known before memory is: below the L2 table of the image, as Xen takes
    /// 12,000 instructions to look through another.
    FIXMAP = 0xffff_ffff_bfe0_0000, 2 << 20, "fixmap", "single pages at fixed places";
}

/// The read-only machine-to-physical table (`MACH2PHYS_VIRT_START`, `arch-x86/xen-x86_64.h`).
pub const M2P: u64 = XEN.start;

const fn slot(address: u64) -> u64 {
    address >> 39
}

const fn is_in_order(regions: &[Region]) -> bool {
    let mut i = 0;
    while i < regions.len() {
        let range = &regions[i].range;
        let whole_tables = range.start.is_multiple_of(2 << 20) && range.end.is_multiple_of(2 << 20);
        if !whole_tables || range.start >= range.end {
            return false;
        }
        if i > 0 && regions[i - 1].range.end > range.start {
            return false;
        }
        i += 1;
    }
    true
}

const _: () = {
    assert!(
        is_in_order(REGIONS),
        "regions overlap, are out of order or share an L1 table"
    );
    assert!(
        slot(XEN.end - 1) < slot(DIRECT.start),
        "the direct map has L4 slots of its own"
    );
    assert!(
        slot(DIRECT.end - 1) < slot(P2M.start),
        "the direct map has L4 slots of its own"
    );
    assert!(
        slot(P2M.end - 1) < slot(LIST.start),
        "the p2m list has an L4 slot of its own"
    );
    assert!(
        LIST.end - LIST.start == (DIRECT.end - DIRECT.start) / 512,
        "the long p2m list has an entry for each page of the direct map"
    );
    assert!(
        IMAGE.start == linker::VIRT_BASE,
        "the image lies where it is linked"
    );
};

/// Pages that have a place of their own in the fixmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Fixed {
    /// `shared_info`.
    SharedInfo,
    /// The ring of the console.
    Console,
    /// The ring of xenstore.
    Store,
    /// A page that is looked at for a moment.
    Early,
    /// Registers of the local APIC.
    Apic,
    /// A page that self-tests map as they like.
    Test,
}

impl Fixed {
    /// All of them.
    pub const ALL: [Fixed; 6] = [
        Fixed::SharedInfo,
        Fixed::Console,
        Fixed::Store,
        Fixed::Early,
        Fixed::Apic,
        Fixed::Test,
    ];

    /// What it is for.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            Fixed::SharedInfo => "shared_info",
            Fixed::Console => "console ring",
            Fixed::Store => "xenstore ring",
            Fixed::Early => "a page looked at for a moment",
            Fixed::Apic => "the processor's APIC",
            Fixed::Test => "a page of the self-tests",
        }
    }

    /// Its virtual address.
    #[must_use]
    pub const fn address(self) -> u64 {
        FIXMAP.start + (self as u64) * 4096
    }
}

/// This address space, as the page tables ask for it.
#[derive(Clone, Copy, Debug)]
pub struct Regions;

impl Layout for Regions {
    const XEN: Range<u64> = XEN;
    const DIRECT: Range<u64> = DIRECT;
    const P2M: Range<u64> = P2M;
    const IMAGE: Range<u64> = IMAGE;
    const FIXMAP: Range<u64> = FIXMAP;
    const RUNTIME: &'static [Range<u64>] = &[LIST, DYNAMIC, STACKS, HEAP];
    const LIST: Range<u64> = LIST;

    fn name_of(address: u64) -> Option<&'static str> {
        region_of(address).map(|region| region.name)
    }
}

/// The parts of the image as the takeover asks for them.
#[must_use]
pub fn segments(image: &linker::Image) -> Segments {
    Segments {
        text: image.text.clone(),
        kept_text: image.kept_text.clone(),
        rodata: image.rodata.clone(),
        data: image.data.clone(),
        guard: image.stack_guard.clone(),
    }
}

/// The region an address lies in.
#[must_use]
pub fn region_of(address: u64) -> Option<&'static Region> {
    REGIONS.iter().find(|r| r.range.contains(&address))
}

/// One line of the aligned table of the address space.
pub struct Line<'a> {
    /// Addresses.
    pub range: Range<u64>,
    /// Rights, such as `r-x`.
    pub rights: &'a str,
    /// What it is.
    pub purpose: &'a str,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.range;
        write!(
            f,
            "{start:016x}-{:016x} {} {:<4} {}",
            end - 1,
            Size(end - start),
            self.rights,
            self.purpose
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_align() {
        let line = |range, rights| {
            Line {
                range,
                rights,
                purpose: "x",
            }
            .to_string()
        };
        let a = line(0xffff_8880_0000_0000..0xffff_8880_0400_0000, "rw-");
        let b = line(0xffff_ffff_8010_0000..0xffff_ffff_8010_1000, "r-x");
        assert_eq!(a, "ffff888000000000-ffff888003ffffff    64M rw-  x");
        assert_eq!(b, "ffffffff80100000-ffffffff80100fff     4K r-x  x");
        assert_eq!(Size(5000).to_string(), " 5000B");
        assert_eq!(Size(0).to_string(), "    0B");
    }

    #[test]
    fn the_table_on_the_first_page_is_the_one_in_the_code() {
        let source = include_str!("layout.rs");
        let drawn: Vec<u64> = source
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .filter_map(|line| line.strip_prefix("//! ffff")?.split_whitespace().next())
            .map(|address| u64::from_str_radix(&format!("ffff{}", address.replace('_', "")), 16))
            .collect::<Result<_, _>>()
            .unwrap();
        let starts: Vec<u64> = REGIONS.iter().map(|region| region.range.start).collect();
        assert_eq!(drawn, starts);
    }

    #[test]
    fn fixed_places_lie_in_the_fixmap() {
        assert!(FIXMAP.contains(&Fixed::Test.address()));
        assert_eq!(
            region_of(Fixed::SharedInfo.address()).unwrap().name,
            "fixmap"
        );
        assert!(region_of(0x1000).is_none());
    }
}
