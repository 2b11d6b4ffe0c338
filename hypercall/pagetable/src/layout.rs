//! Where a kernel has what in its address space.
//!
//! The regions are the kernel's choice; what is demanded of them is what makes one entry of the root
//! decide for a whole region: each but image and fixmap has root entries (512 GiB each) of its own.
//!
//! ```
//! use core::ops::Range;
//! use pagetable::Domain;
//! use pagetable::layout::Layout;
//! use pagetable::pv::Guest;
//!
//! struct Places;
//!
//! impl Layout for Places {
//!     const XEN: Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;
//!     const DIRECT: Range<u64> = 0xffff_8880_0000_0000..0xffff_9880_0000_0000;
//!     const P2M: Range<u64> = 0xffff_c000_0000_0000..0xffff_c080_0000_0000;
//!     const IMAGE: Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_c000_0000;
//!     const FIXMAP: Range<u64> = 0xffff_ffff_c000_0000..0xffff_ffff_c020_0000;
//!     const RUNTIME: &'static [Range<u64>] = &[0xffff_c900_0000_0000..0xffff_c980_0000_0000];
//! }
//!
//! /// The domain of a kernel with these places, before it knows of its memory.
//! static DOMAIN: Domain<Guest<Places>> = Domain::new(Guest::unknown());
//! assert_eq!(DOMAIN.frames().counts().total, 0);
//! ```

use core::ops::Range;

/// The address space of a kernel: ranges of virtual addresses, whole L1 tables (2 MiB) each, apart
/// from each other.
pub trait Layout: 'static {
    /// Xen's own slots of the root, which a guest may not write; not walked.
    const XEN: Range<u64>;
    /// All of the domain's memory by pfn, but the image's code and constants: never executable, and
    /// writable but for page tables and the like.
    const DIRECT: Range<u64>;
    /// The p2m list, if Xen was asked to put it here (`XEN_ELFNOTE_INIT_P2M`).
    const P2M: Range<u64>;
    /// Where the image is linked, and Xen's initial mapping begins: VIRT_BASE.
    const IMAGE: Range<u64>;
    /// Pages at fixed places, which may be other domains' or devices'.
    const FIXMAP: Range<u64>;
    /// Where else the kernel maps something while it runs, in its half: what is in none of these
    /// cannot be mapped, as the entries of the roots that lead there are made at boot.
    const RUNTIME: &'static [Range<u64>];

    /// Where the p2m list goes when it becomes longer than Xen has made it, in one of [`RUNTIME`](Self::RUNTIME): 8
    /// bytes a page. Where there is no such place, a domain has no more memory than it was built with.
    const LIST: Range<u64> = 0..0;

    /// The name of the region that an address lies in, for reports.
    fn name_of(_: u64) -> Option<&'static str> {
        None
    }
}
