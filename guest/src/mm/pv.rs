//! The machine that a PV guest runs on: the p2m list that Xen provides, the M2P table that it
//! shows, and memory through one of two windows.

use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::{Mfn, Pfn, Xen};

use super::layout;
use super::machine::{Machine, Words};
use crate::trap::probe;

const PAGE: u64 = 4096;
/// What the p2m list holds where there is no memory.
const INVALID: u64 = !0;

/// The running guest.
pub struct Pv {
    p2m: *const AtomicU64,
    nr_pages: u64,
    /// Frames that the window reaches, counted from 0.
    reach: u64,
    /// Whether the window is the direct map, or still Xen's initial mapping.
    direct: bool,
}

// SAFETY: the p2m list is shared memory that every vCPU reads the same way, with atomic loads.
unsafe impl Send for Pv {}

impl Pv {
    /// A domain without memory, until it is known.
    pub const EMPTY: Pv = Pv {
        p2m: core::ptr::null(),
        nr_pages: 0,
        reach: 0,
        direct: false,
    };

    /// A domain of `nr_pages` pages with its p2m list at `p2m_list`.
    ///
    /// # Safety
    /// `p2m_list` is the address that Xen gave, with `nr_pages` entries, mapped for good.
    #[must_use]
    pub unsafe fn new(p2m_list: u64, nr_pages: u64) -> Pv {
        let p2m = core::ptr::with_exposed_provenance(p2m_list as usize);
        Pv {
            p2m,
            nr_pages,
            reach: 0,
            direct: false,
        }
    }

    fn base(&self) -> u64 {
        if self.direct {
            layout::DIRECT.start
        } else {
            layout::IMAGE.start
        }
    }
}

impl Machine for Pv {
    type Hv = Xen;

    #[inline]
    fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        if pfn.as_u64() >= self.nr_pages {
            return None;
        }
        // SAFETY: the list has an entry for every page of the domain.
        let mfn = unsafe { &*self.p2m.add(pfn.as_u64() as usize) }.load(Ordering::Relaxed);
        (mfn != INVALID).then_some(Mfn::truncate(mfn))
    }

    #[inline]
    fn mfn_or_ones(&self, pfn: Pfn) -> u64 {
        if pfn.as_u64() >= self.nr_pages {
            return INVALID;
        }
        // SAFETY: as in `mfn`.
        unsafe { &*self.p2m.add(pfn.as_u64() as usize) }.load(Ordering::Relaxed)
    }

    #[inline]
    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        // The table has holes where the host has no memory: a machine frame read from a page table
        // may be a device's.
        let pfn = probe::read(layout::M2P + mfn.as_u64() * 8).ok()?;
        let pfn = Pfn::new(pfn)?;
        (self.mfn(pfn)? == mfn).then_some(pfn)
    }

    #[inline]
    fn memory(&self, pfn: Pfn) -> *mut Words {
        if pfn.as_u64() >= self.reach {
            return core::ptr::null_mut();
        }
        core::ptr::with_exposed_provenance_mut(self.window(pfn) as usize)
    }

    #[inline]
    fn window(&self, pfn: Pfn) -> u64 {
        self.base() + pfn.as_u64() * PAGE
    }

    fn set_reach(&mut self, pages: u64) {
        self.reach = pages;
    }

    fn open_direct_map(&mut self) {
        self.direct = true;
    }

    fn direct_map_is_open(&self) -> bool {
        self.direct
    }
}
