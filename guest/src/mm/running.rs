//! The machine that the kernel runs on: frame numbers as the way of running has them, and memory
//! through one of two windows.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::{Mfn, Pfn};
use pagetable::layout::Layout;
use pagetable::machine::{Machine, Words};
use pagetable::memory::Memory;
use pagetable::pv::FrameLists;
use pagetable::window::Window;

use super::layout;
use super::processor;
use crate::lock::KeptLock;
use crate::probe;
use crate::xen::Hv;

const PAGE: u64 = 4096;

/// The running machine.
///
/// Frame numbers are looked up in the lists of PV first, which are empty elsewhere: so that the
/// ways of running cost PV nothing where millions of numbers are looked up.
pub struct Running {
    lists: FrameLists,
    /// Memory whose frames have one number; none under PV.
    memory: Memory,
    /// Where its frames end that became memory while it runs; 0 before.
    grown: AtomicU64,
    window: Window<layout::Regions>,
}

impl Running {
    /// A PV guest with these lists.
    #[must_use]
    pub const fn pv(lists: FrameLists) -> Running {
        Running {
            lists,
            memory: Memory::none(),
            grown: AtomicU64::new(0),
            window: Window::new(),
        }
    }

    /// A machine with this memory.
    #[must_use]
    pub const fn native(memory: Memory) -> Running {
        Running {
            lists: FrameLists::empty(),
            memory,
            grown: AtomicU64::new(0),
            window: Window::new(),
        }
    }

    /// Frames behind those that the domain was built with, which memory can come behind.
    pub(crate) fn room(&self) -> Range<u64> {
        match self.lists.is_empty() {
            true => self.memory.room(),
            // A list can be as long as there is place for it.
            false => 0..u64::MAX,
        }
    }

    /// Whether a frame was no memory when the kernel booted, and is.
    fn has_grown_to(&self, frame: u64) -> bool {
        frame < self.grown.load(Ordering::Relaxed) && self.memory.room().contains(&frame)
    }

    /// Where the kernel writes its tables itself, whoever does so must know the window.
    fn tell_writer(&self) {
        if self.lists.is_empty() {
            processor::set_window(self.window.base(), self.window.reach() * PAGE);
        }
    }
}

impl Machine for Running {
    type Hv = Hv;
    type Lock = KeptLock;
    type Layout = layout::Regions;

    #[inline]
    fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        let mfn = self.mfn_or_ones(pfn);
        (mfn != !0).then_some(Mfn::truncate(mfn))
    }

    #[inline]
    fn mfn_or_ones(&self, pfn: Pfn) -> u64 {
        match self.lists.mfn_or_ones(pfn) {
            Some(mfn) => mfn,
            None if self.has_grown_to(pfn.as_u64()) => pfn.as_u64(),
            None => self.memory.mfn_or_ones(pfn),
        }
    }

    #[inline]
    fn mfns_or_ones(&self) -> impl Fn(Pfn) -> u64 {
        let entries = self.lists.entries();
        move |pfn| match entries.get(pfn.as_u64() as usize) {
            Some(mfn) => mfn.load(Ordering::Relaxed),
            None => self.mfn_or_ones(pfn),
        }
    }

    #[inline]
    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        if self.lists.is_empty() {
            if self.has_grown_to(mfn.as_u64()) {
                return Some(Pfn::truncate(mfn.as_u64()));
            }
            return self.memory.pfn(mfn);
        }
        self.lists
            .pfn::<layout::Regions>(mfn, |address| probe::read(address).ok())
    }

    #[inline]
    fn pfn_to_check(&self, mfn: Mfn) -> Option<Pfn> {
        self.pfns_to_check()(mfn)
    }

    #[inline]
    fn pfns_to_check(&self) -> impl Fn(Mfn) -> Option<Pfn> {
        let is_pv = !self.lists.is_empty();
        move |mfn| match is_pv {
            true => {
                let place = layout::Regions::XEN.start + mfn.as_u64() * 8;
                probe::read(place).ok().map(Pfn::truncate)
            }
            false => self.memory.pfn(mfn),
        }
    }

    fn list_entry(&self, pfn: Pfn) -> Option<u64> {
        self.lists.entry(pfn)
    }

    fn lengthen_list(&self, list: u64, pages: u64) {
        if self.lists.is_empty() {
            self.grown.store(pages, Ordering::Relaxed);
            return;
        }
        // SAFETY: the page tables have just mapped it, for good.
        unsafe { self.lists.lengthen(list, pages) };
    }

    #[inline]
    fn memory(&self, pfn: Pfn) -> *mut Words {
        self.window.memory(pfn)
    }

    #[inline]
    fn window(&self, pfn: Pfn) -> u64 {
        self.window.address(pfn)
    }

    fn set_reach(&self, pages: u64) {
        self.window.set_reach(pages);
        self.tell_writer();
    }

    fn open_direct_map(&self) {
        self.window.open_direct_map();
        self.tell_writer();
    }

    fn direct_map_is_open(&self) -> bool {
        self.window.is_direct_map()
    }
}
