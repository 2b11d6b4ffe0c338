//! Where a kernel reaches memory by its frame's number: in the mapping that it was entered with, from the
//! image on, and in the direct map once that is whole.
//!
//! ```
//! use core::ops::Range;
//!
//! use hypercall::Pfn;
//! use pagetable::layout::Layout;
//! use pagetable::window::Window;
//!
//! struct Places;
//!
//! impl Layout for Places {
//!     const XEN: Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;
//!     const DIRECT: Range<u64> = 0xffff_8880_0000_0000..0xffff_c880_0000_0000;
//!     const P2M: Range<u64> = 0xffff_d000_0000_0000..0xffff_d080_0000_0000;
//!     const IMAGE: Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_c000_0000;
//!     const FIXMAP: Range<u64> = 0xffff_ffff_f000_0000..0xffff_ffff_f100_0000;
//!     const RUNTIME: &'static [Range<u64>] = &[];
//! }
//!
//! let window = Window::<Places>::new();
//! window.set_reach(2048);
//! assert_eq!(window.address(Pfn::truncate(1)), 0xffff_ffff_8000_1000);
//! window.open_direct_map();
//! assert_eq!(window.address(Pfn::truncate(1)), 0xffff_8880_0000_1000);
//! assert!(window.memory(Pfn::truncate(2048)).is_null(), "out of reach");
//! ```

use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hypercall::Pfn;

use crate::layout::Layout;
use crate::machine::Words;

const PAGE: u64 = 4096;

/// The window in use, and how far it reaches: what a [`Machine`](crate::machine::Machine) needs to know
/// of it.
#[derive(Debug)]
pub struct Window<L> {
    /// Frames that it reaches, counted from 0.
    reach: AtomicU64,
    /// Whether it is the direct map.
    is_direct: AtomicBool,
    layout: PhantomData<fn() -> L>,
}

impl<L: Layout> Default for Window<L> {
    fn default() -> Window<L> {
        Window::new()
    }
}

impl<L: Layout> Window<L> {
    /// The first mapping, of which nothing is reached so far.
    #[must_use]
    pub const fn new() -> Window<L> {
        Window {
            reach: AtomicU64::new(0),
            is_direct: AtomicBool::new(false),
            layout: PhantomData,
        }
    }

    /// The address of frame 0.
    #[inline]
    #[must_use]
    pub fn base(&self) -> u64 {
        if self.is_direct_map() {
            L::DIRECT.start
        } else {
            L::IMAGE.start
        }
    }

    /// The address of a frame, whether the window reaches it or not.
    #[inline]
    #[must_use]
    pub fn address(&self, pfn: Pfn) -> u64 {
        self.base() + pfn.as_u64() * PAGE
    }

    /// A frame's memory: null if the window does not reach it.
    #[inline]
    #[must_use]
    pub fn memory(&self, pfn: Pfn) -> *mut Words {
        if pfn.as_u64() >= self.reach() {
            return core::ptr::null_mut();
        }
        core::ptr::with_exposed_provenance_mut(self.address(pfn) as usize)
    }

    /// Frames that it reaches, counted from 0.
    #[inline]
    #[must_use]
    pub fn reach(&self) -> u64 {
        self.reach.load(Ordering::Relaxed)
    }

    /// It reaches the first `pages` frames from now on.
    pub fn set_reach(&self, pages: u64) {
        self.reach.store(pages, Ordering::Relaxed);
    }

    /// It is the direct map from now on.
    pub fn open_direct_map(&self) {
        self.is_direct.store(true, Ordering::Relaxed);
    }

    /// Whether it is the direct map.
    #[inline]
    #[must_use]
    pub fn is_direct_map(&self) -> bool {
        self.is_direct.load(Ordering::Relaxed)
    }
}
