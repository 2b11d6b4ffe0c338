//! What lies under the page tables: a hypervisor, the two frame-number maps, and memory.
//!
//! Implemented by the running kernel (`running`) and on the host by the tests, over a model of Xen,
//! so that all of `mm` runs in both. Everything above asks this trait and no one else for a frame's
//! other number or for its memory.

use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::{Hypervisor, Mfn, Pfn};
use lock_api::RawMutex;

use crate::layout::Layout;

/// A page of memory that its holder alone uses, as 512 words.
pub type Words = [u64; 512];

/// Entries of a page table, or of a part of one, while it is in use: the processor sets A and D in
/// them at any time, so each is read at once and may differ the next time.
#[derive(Clone, Copy)]
pub struct Live<'a>(&'a [AtomicU64]);

impl<'a> Live<'a> {
    /// Those of the table that begins at an address.
    ///
    /// # Safety
    /// As [`Machine::live`], and there is a table.
    #[inline]
    #[must_use]
    pub unsafe fn of(table: *const u64) -> Live<'a> {
        // SAFETY: the caller says that a table's 512 words lie there, all accesses to which are atomic;
        // `AtomicU64` is laid out as `u64`.
        Live(unsafe { &*table.cast::<[AtomicU64; 512]>() })
    }

    /// How many entries there are.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The entry at a place: 0, which maps nothing, beyond the end.
    #[inline]
    #[must_use]
    pub fn get(self, index: usize) -> u64 {
        self.0
            .get(index)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The entries, one by one.
    #[inline(always)]
    pub fn iter(self) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator + Clone + 'a {
        self.0.iter().map(|word| word.load(Ordering::Relaxed))
    }

    /// The first place from one on where an entry is present. Most tables of a program are empty but for
    /// a few entries, so it looks at sixteen at a time.
    #[inline]
    #[must_use]
    pub fn next_present(self, from: usize) -> Option<usize> {
        const GROUP: usize = 16;
        let is_present = |word: &AtomicU64| word.load(Ordering::Relaxed) & 1;
        let rest = self.0.get(from..)?;
        if is_present(rest.first()?) != 0 {
            return Some(from);
        }
        let (groups, _) = rest.as_chunks::<GROUP>();
        let bits = |any, word: &AtomicU64| any | word.load(Ordering::Relaxed);
        let any = |group: &[AtomicU64; GROUP]| group.iter().fold(0, bits) & 1;
        let first = groups.iter().position(|group| any(group) != 0);
        let first = first.unwrap_or(groups.len()) * GROUP;
        let found = rest[first..]
            .iter()
            .position(|word| is_present(word) != 0)?;
        Some(from + first + found)
    }

    /// The places from one on where an entry is present.
    #[inline]
    pub fn present_from(self, from: usize) -> impl Iterator<Item = usize> + use<'a> {
        core::iter::successors(self.next_present(from), move |last| {
            self.next_present(last + 1)
        })
    }

    /// The entries before a place, and those from it on.
    ///
    /// # Panics
    /// It lies beyond the end.
    #[inline]
    #[must_use]
    pub fn split_at(self, index: usize) -> (Live<'a>, Live<'a>) {
        let (before, after) = self.0.split_at(index);
        (Live(before), Live(after))
    }
}

/// The machine a kernel's page tables live on.
pub trait Machine: 'static {
    /// Who carries out updates.
    type Hv: Hypervisor;
    /// Excludes vCPUs that work on the same tables. It is locked and unlocked by the same vCPU, and
    /// what interrupts that one meanwhile may find it locked: it need not hold upcalls back.
    type Lock: RawMutex;
    /// Where the kernel has what.
    type Layout: Layout;

    /// The machine frame behind a pfn (the p2m list), if there is memory there.
    fn mfn(&self, pfn: Pfn) -> Option<Mfn>;

    /// The number of the machine frame behind a pfn, or all ones where there is no memory: for
    /// loops that look at the answers together.
    #[inline]
    fn mfn_or_ones(&self, pfn: Pfn) -> u64 {
        self.mfn(pfn).map_or(u64::MAX, Mfn::as_u64)
    }

    /// As [`mfn_or_ones`](Self::mfn_or_ones) for many, one after the other: where the answers lie is looked
    /// up once.
    #[inline]
    fn mfns_or_ones(&self) -> impl Fn(Pfn) -> u64 {
        |pfn| self.mfn_or_ones(pfn)
    }

    /// The pfn of a machine frame of this domain (the M2P, checked against the p2m).
    fn pfn(&self, mfn: Mfn) -> Option<Pfn>;

    /// A pfn whose frame is the machine frame behind `mfn` if any of this domain's is: not checked against
    /// the p2m, for loops that ask seldom whether it is true.
    #[inline]
    fn pfn_to_check(&self, mfn: Mfn) -> Option<Pfn> {
        self.pfn(mfn)
    }

    /// As [`pfn_to_check`](Self::pfn_to_check) for many, one after the other.
    #[inline]
    fn pfns_to_check(&self) -> impl Fn(Mfn) -> Option<Pfn> {
        |mfn| self.pfn_to_check(mfn)
    }

    /// The address of the entry of the p2m list for a pfn, where there is a list. The list is mapped
    /// read-only; whoever changes an entry has its page writable in the direct map meanwhile.
    fn list_entry(&self, pfn: Pfn) -> Option<u64> {
        let _ = pfn;
        None
    }

    /// The p2m list is at `list` from now on, and has entries for `pages` pages: as many as before or
    /// more, the first with what they hold. Where there is no list, there are `pages` numbers for frames.
    fn lengthen_list(&self, list: u64, pages: u64) {
        let _ = (list, pages);
    }

    /// Where the frame's memory is mapped for the kernel to use: null if the window does not reach
    /// it (yet).
    ///
    /// Only a frame that the caller owns may be written through it; a page table is read-only there
    /// and may change at any time, as the processor sets A and D.
    fn memory(&self, pfn: Pfn) -> *mut Words;

    /// The entries of the table that lies in a frame, if the window reaches it.
    ///
    /// # Safety
    /// For as long as they are looked at nobody has the frame's memory to himself, as the holder of
    /// a [`Frame`](crate::frames::Frame) has: it is a table, whoever changes it does so atomically.
    #[inline]
    unsafe fn live(&self, table: Pfn) -> Option<Live<'_>> {
        let words = self.memory(table).cast::<[AtomicU64; 512]>().cast_const();
        // SAFETY: memory that the window reaches is there for as long as the machine is; by the
        // caller's contract all accesses to it are atomic. `AtomicU64` is laid out as `u64`.
        unsafe { words.as_ref() }.map(|words| Live(words))
    }

    /// The virtual address that the page tables map this frame's memory at, in the window in use.
    fn window(&self, pfn: Pfn) -> u64;

    /// The window reaches the first `pages` frames from now on.
    fn set_reach(&self, pages: u64);

    /// From now on memory is reached through the direct map and no longer through Xen's initial
    /// mapping.
    fn open_direct_map(&self);

    /// Whether it was opened.
    fn direct_map_is_open(&self) -> bool;
}
