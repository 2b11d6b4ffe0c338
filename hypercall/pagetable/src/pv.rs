//! Frame numbers of a PV guest: the p2m list that Xen provides, and the M2P table that it shows; and
//! with them the machine of a kernel that runs under PV only.
//!
//! ```
//! use hypercall::{Mfn, Pfn};
//! use pagetable::pv::FrameLists;
//!
//! let list = [0x700_u64, !0, 0x123];
//! // SAFETY: an entry for each of three pages, and it stays.
//! let lists = unsafe { FrameLists::new(list.as_ptr().expose_provenance() as u64, 3) };
//! assert_eq!(lists.mfn(Pfn::truncate(2)), Some(Mfn::truncate(0x123)));
//! assert_eq!(lists.mfn(Pfn::truncate(1)), None, "no memory there");
//! assert_eq!(lists.mfn(Pfn::truncate(3)), None, "beyond the domain");
//! ```

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use hypercall::abi::start_info::{SIF_INITDOMAIN, SIF_MOD_START_PFN, start_info};
use hypercall::{Mfn, Pfn, Xen};

use crate::layout::Layout;
use crate::machine::{Machine, Words};
use crate::tables::Fold;
use crate::takeover::{Segments, Start};
use crate::window::Window;

const PAGE: u64 = 4096;
/// What the p2m list holds where there is no memory.
const INVALID: u64 = !0;

/// Both lists.
pub struct FrameLists {
    p2m: AtomicPtr<AtomicU64>,
    /// Written last: whoever finds it as large finds the list as long.
    nr_pages: AtomicU64,
}

impl FrameLists {
    /// Those of a domain without memory.
    #[must_use]
    pub const fn empty() -> FrameLists {
        FrameLists {
            p2m: AtomicPtr::new(core::ptr::null_mut()),
            nr_pages: AtomicU64::new(0),
        }
    }

    /// Those of a domain of `nr_pages` pages with its p2m list at `p2m_list`.
    ///
    /// # Safety
    /// `p2m_list` is the address that Xen gave, with `nr_pages` entries, mapped for good.
    #[must_use]
    pub unsafe fn new(p2m_list: u64, nr_pages: u64) -> FrameLists {
        let p2m = core::ptr::with_exposed_provenance_mut(p2m_list as usize);
        FrameLists {
            p2m: AtomicPtr::new(p2m),
            nr_pages: AtomicU64::new(nr_pages),
        }
    }

    /// The p2m list is at `p2m_list` from now on, with `nr_pages` entries: no fewer than before.
    ///
    /// # Safety
    /// They are mapped for good, and the first hold what they held.
    pub unsafe fn lengthen(&self, p2m_list: u64, nr_pages: u64) {
        let p2m = core::ptr::with_exposed_provenance_mut(p2m_list as usize);
        self.p2m.store(p2m, Ordering::Relaxed);
        self.nr_pages.store(nr_pages, Ordering::Release);
    }

    fn list(&self) -> *mut AtomicU64 {
        self.p2m.load(Ordering::Relaxed)
    }

    fn has(&self, pfn: Pfn) -> bool {
        pfn.as_u64() < self.nr_pages.load(Ordering::Acquire)
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
        if !self.has(pfn) {
            return None;
        }
        // SAFETY: the list has an entry for every page of the domain.
        Some(unsafe { &*self.list().add(pfn.as_u64() as usize) }.load(Ordering::Relaxed))
    }

    /// The p2m list as it is: one that takes its place has the same in it.
    #[inline]
    #[must_use]
    pub fn entries(&self) -> &[AtomicU64] {
        let count = self.nr_pages.load(Ordering::Acquire);
        match count {
            0 => &[],
            // SAFETY: the list has an entry for every page of the domain, mapped for good.
            count => unsafe { core::slice::from_raw_parts(self.list(), count as usize) },
        }
    }

    /// The address of the p2m list's entry for a pfn; `None` beyond it.
    #[must_use]
    pub fn entry(&self, pfn: Pfn) -> Option<u64> {
        let entry = || self.list().wrapping_add(pfn.as_u64() as usize) as u64;
        self.has(pfn).then(entry)
    }

    /// Whether there is no list at all.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nr_pages.load(Ordering::Relaxed) == 0
    }

    /// The pfn of a machine frame of this domain. `read` reads the M2P table at an address.
    ///
    /// The table has holes where the host has no memory, and a machine frame from a page table may be
    /// a device's: `read` answers `None` there.
    #[inline]
    #[must_use]
    pub fn pfn<L: Layout>(&self, mfn: Mfn, read: impl FnOnce(u64) -> Option<u64>) -> Option<Pfn> {
        let pfn = Pfn::new(read(L::XEN.start + mfn.as_u64() * 8)?)?;
        (self.mfn(pfn)? == mfn).then_some(pfn)
    }
}

/// The machine of a kernel that runs under PV only, and maps no device's memory.
pub struct Guest<L> {
    lists: FrameLists,
    window: Window<L>,
}

impl<L: Layout> Guest<L> {
    /// A domain without memory, for a static, until [`Guest::new`] knows more.
    #[must_use]
    pub const fn unknown() -> Guest<L> {
        Guest {
            lists: FrameLists::empty(),
            window: Window::new(),
        }
    }

    /// That of the domain that `info` tells of.
    ///
    /// # Safety
    /// `info` is what Xen passed to this kernel, which is linked as its layout says. Its tables refer
    /// to memory of hosts only: the M2P table is read for every frame that an entry names.
    #[must_use]
    pub unsafe fn new(info: &start_info) -> Guest<L> {
        Guest {
            // SAFETY: Xen maps the list where it says, until the kernel unmaps it.
            lists: unsafe { FrameLists::new(info.mfn_list, info.nr_pages) },
            ..Self::unknown()
        }
    }

    /// What the takeover must know, as `info` has it, for a kernel that was entered with this `stack`
    /// pointer and uses another stack by now.
    #[must_use]
    pub fn start(&self, info: &start_info, stack: u64, image: Segments) -> Start {
        let frame = |address: u64| (address - L::IMAGE.start) / PAGE;
        let shared = |mfn| self.pfn(Mfn::new(mfn)?).map(|pfn| pfn.as_u64());
        let is_dom0 = info.flags & SIF_INITDOMAIN != 0;
        // SAFETY: whichever of the two it is, it is plain numbers.
        let console = unsafe { info.console.domU }.mfn;
        let module = match info.flags & SIF_MOD_START_PFN {
            0 if info.mod_len == 0 => 0,
            0 => frame(info.mod_start),
            _ => info.mod_start,
        };
        Start {
            nr_pages: info.nr_pages,
            fold: Fold::FourLevels,
            pt_base: info.pt_base,
            nr_pt_frames: info.nr_pt_frames,
            p2m_list: Some(info.mfn_list),
            p2m_frames: info.first_p2m_pfn..info.first_p2m_pfn + info.nr_p2m_frames,
            start_info: frame(core::ptr::from_ref(info).expose_provenance() as u64),
            shared: match is_dom0 {
                true => [None, None],
                false => [shared(console), shared(info.store_mfn)],
            },
            module: module..module + info.mod_len.div_ceil(PAGE),
            boot_stack: frame(stack - 1),
            image,
        }
    }
}

impl<L: Layout> Machine for Guest<L> {
    type Hv = Xen;
    type Lock = spin::Mutex<()>;
    type Layout = L;

    fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        self.lists.mfn(pfn)
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        self.lists.pfn::<L>(mfn, |address| {
            let entry = core::ptr::with_exposed_provenance::<u64>(address as usize);
            // SAFETY: Xen maps the table for every guest to read, with an entry for each frame of
            // memory, and this kernel's tables refer to no others.
            Some(unsafe { entry.read_volatile() })
        })
    }

    fn list_entry(&self, pfn: Pfn) -> Option<u64> {
        self.lists.entry(pfn)
    }

    fn memory(&self, pfn: Pfn) -> *mut Words {
        self.window.memory(pfn)
    }

    fn window(&self, pfn: Pfn) -> u64 {
        self.window.address(pfn)
    }

    fn set_reach(&self, pages: u64) {
        self.window.set_reach(pages);
    }

    fn open_direct_map(&self) {
        self.window.open_direct_map();
    }

    fn direct_map_is_open(&self) -> bool {
        self.window.is_direct_map()
    }
}
