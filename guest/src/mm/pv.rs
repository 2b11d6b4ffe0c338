//! Frame numbers of a PV guest: the p2m list that Xen provides, and the M2P table that it shows.

use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::{Mfn, Pfn};

use super::layout;
use crate::trap::probe;

/// What the p2m list holds where there is no memory.
const INVALID: u64 = !0;

/// Both lists.
pub struct FrameLists {
    p2m: *const AtomicU64,
    nr_pages: u64,
}

// SAFETY: the p2m list is shared memory that every vCPU reads the same way, with atomic loads.
unsafe impl Send for FrameLists {}

impl FrameLists {
    /// Those of a domain without memory.
    pub const EMPTY: FrameLists = FrameLists {
        p2m: core::ptr::null(),
        nr_pages: 0,
    };

    /// Those of a domain of `nr_pages` pages with its p2m list at `p2m_list`.
    ///
    /// # Safety
    /// `p2m_list` is the address that Xen gave, with `nr_pages` entries, mapped for good.
    #[must_use]
    pub unsafe fn new(p2m_list: u64, nr_pages: u64) -> FrameLists {
        FrameLists {
            p2m: core::ptr::with_exposed_provenance(p2m_list as usize),
            nr_pages,
        }
    }

    /// The machine frame behind a pfn, if there is memory there.
    #[inline]
    #[must_use]
    pub fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        let mfn = self.mfn_or_ones(pfn)?;
        (mfn != INVALID).then_some(Mfn::truncate(mfn))
    }

    /// What the p2m list holds for a pfn: all ones where there is no memory; `None` beyond it.
    #[inline]
    #[must_use]
    pub fn mfn_or_ones(&self, pfn: Pfn) -> Option<u64> {
        if pfn.as_u64() >= self.nr_pages {
            return None;
        }
        // SAFETY: the list has an entry for every page of the domain.
        Some(unsafe { &*self.p2m.add(pfn.as_u64() as usize) }.load(Ordering::Relaxed))
    }

    /// Whether there is no list at all.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nr_pages == 0
    }

    /// The pfn of a machine frame of this domain.
    #[inline]
    #[must_use]
    pub fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        // The table has holes where the host has no memory: a machine frame read from a page table
        // may be a device's.
        let pfn = probe::read(layout::M2P + mfn.as_u64() * 8).ok()?;
        let pfn = Pfn::new(pfn)?;
        (self.mfn(pfn)? == mfn).then_some(pfn)
    }
}
