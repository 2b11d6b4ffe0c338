//! What lies under the page tables: a hypervisor, the two frame-number maps, and memory.
//!
//! Implemented by the running kernel (`running`) and on the host by the tests, over a model of Xen,
//! so that all of `mm` runs in both. Everything above asks this trait and no one else for a frame's
//! other number or for its memory.

use hypercall::{Hypervisor, Mfn, Pfn};

/// A page of a page table, or of anything else, as 512 words.
pub type Words = [u64; 512];

/// The machine a kernel's page tables live on.
pub trait Machine {
    /// Who carries out updates.
    type Hv: Hypervisor;

    /// The machine frame behind a pfn (the p2m list), if there is memory there.
    fn mfn(&self, pfn: Pfn) -> Option<Mfn>;

    /// The number of the machine frame behind a pfn, or all ones where there is no memory: for
    /// loops that look at the answers together.
    #[inline]
    fn mfn_or_ones(&self, pfn: Pfn) -> u64 {
        self.mfn(pfn).map_or(u64::MAX, Mfn::as_u64)
    }

    /// The pfn of a machine frame of this domain (the M2P, checked against the p2m).
    fn pfn(&self, mfn: Mfn) -> Option<Pfn>;

    /// Where the frame's memory is mapped for the kernel to use: null if the window does not reach
    /// it (yet).
    ///
    /// Only a frame that the caller owns may be written through it; a page table is read-only there
    /// and may change at any time, as the processor sets A and D.
    fn memory(&self, pfn: Pfn) -> *mut Words;

    /// The virtual address that the page tables map this frame's memory at, in the window in use.
    fn window(&self, pfn: Pfn) -> u64;

    /// The window reaches the first `pages` frames from now on.
    fn set_reach(&mut self, pages: u64);

    /// From now on memory is reached through the direct map and no longer through Xen's initial
    /// mapping.
    fn open_direct_map(&mut self);

    /// Whether it was opened.
    fn direct_map_is_open(&self) -> bool;
}
