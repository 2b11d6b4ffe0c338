//! Where the record of each frame lies.
//!
//! A page of records serves one chunk of the direct map (2 MiB), a page of the directory the
//! records of 1 GiB, a root the directory's pages of 512 GiB. Each is added when the direct map
//! comes to what it serves, so that boot needs the same for every size of domain.
//!
//! The pages are named by where the window maps them: a record is found by four loads, without
//! asking for a frame number on the way.

use core::ops::Range;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use hypercall::Pfn;

use crate::error::FrameError;
use crate::frames::CHUNK;
use crate::machine::{Machine, Words};

/// Roots: as many as serve all that the direct map has room for.
const ROOTS: usize = 32;
/// Chunks that a page of the directory serves.
const CHUNKS: u64 = 512;
/// Chunks that a root serves.
const ROOT_CHUNKS: u64 = CHUNKS * 512;

/// The largest domain of which every page has a record, in pages.
pub(super) const MOST: u64 = ROOTS as u64 * ROOT_CHUNKS * CHUNK;

/// The directory.
pub(super) struct Directory {
    roots: [AtomicPtr<u64>; ROOTS],
    /// Chunks that have records.
    chunks: AtomicU64,
    /// Frames that have records, counted from 0: written when what leads to them is complete.
    frames: AtomicU64,
    /// The pages that boot found, one behind the other: a root, a page of the directory, records.
    first: AtomicU64,
}

impl Directory {
    /// Of no frames.
    pub(super) const fn new() -> Directory {
        Directory {
            roots: [const { AtomicPtr::new(core::ptr::null_mut()) }; ROOTS],
            chunks: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            first: AtomicU64::new(0),
        }
    }

    /// Pages that the first `chunks` chunks need.
    pub(super) const fn pages(chunks: u64) -> u64 {
        chunks + chunks.div_ceil(CHUNKS) + chunks.div_ceil(ROOT_CHUNKS)
    }

    /// Pages that chunk number `chunk` needs besides those before it.
    pub(super) const fn pages_of(chunk: u64) -> u64 {
        Self::pages(chunk + 1) - Self::pages(chunk)
    }

    /// Chunks that have records.
    #[inline]
    pub(super) fn chunks(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    /// Makes records for the first chunks, at most 512 of them, in consecutive pages from `first`
    /// on, for a domain of `total` frames.
    pub(super) fn begin<M: Machine>(
        &self,
        machine: &M,
        first: Pfn,
        chunks: u64,
        total: u64,
    ) -> Result<(), FrameError> {
        self.first.store(first.as_u64(), Ordering::Relaxed);
        let mut pages = (first.as_u64()..).map(Pfn::truncate);
        (0..chunks).try_for_each(|_| {
            self.add(machine, total, || {
                pages.next().ok_or(FrameError::OutOfMemory)
            })
        })
    }

    /// Makes records for the next chunk, all zeros, in pages that `page` gives: [`Self::pages_of`]
    /// says how many it takes.
    /// One at a time: whoever adds holds the lock of [`Frames`](crate::frames::Frames) for it.
    pub(super) fn add<M: Machine>(
        &self,
        machine: &M,
        total: u64,
        mut page: impl FnMut() -> Result<Pfn, FrameError>,
    ) -> Result<(), FrameError> {
        let mut empty = || -> Result<*mut u64, FrameError> {
            let pfn = page()?;
            let memory = machine.memory(pfn);
            if memory.is_null() {
                return Err(FrameError::NoRecord(pfn));
            }
            // SAFETY: the page was given for the directory alone, and the window maps it for good.
            unsafe { memory.write([0; 512]) };
            Ok(memory.cast())
        };
        let chunk = self.chunks();
        let (root, at) = Self::places(chunk);
        let place = self.roots.get(root).ok_or(FrameError::OutOfMemory)?;
        let mut root = place.load(Ordering::Relaxed);
        if root.is_null() {
            root = empty()?;
            place.store(root, Ordering::Relaxed);
        }
        // SAFETY: a root is a page of this value's, mapped for good, of 512 words.
        let entry = unsafe { root.add(at) };
        // SAFETY: a word of the root, a page of this value's.
        if unsafe { entry.read() } == 0 {
            let page = empty()?;
            // SAFETY: a word of the root, a page of this value's.
            unsafe { entry.write(page.expose_provenance() as u64) };
        }
        let records = empty()?;
        // SAFETY: an entry that is not zero is the address of a page of this value's, of 512 words.
        unsafe {
            let page = core::ptr::with_exposed_provenance_mut::<u64>(entry.read() as usize);
            page.add((chunk % CHUNKS) as usize)
                .write(records.expose_provenance() as u64);
        }
        self.chunks.store(chunk + 1, Ordering::Relaxed);
        let frames = total.min((chunk + 1) * CHUNK);
        self.frames.store(frames, Ordering::Release);
        Ok(())
    }

    /// Frames of chunks that have records have them from now on, up to a domain's new `total`.
    pub(super) fn lengthen(&self, total: u64) {
        let frames = total.min(self.chunks() * CHUNK);
        self.frames.store(frames, Ordering::Release);
    }

    /// Finds the pages that boot gave in the window that is in use from now on. At boot, when one vCPU
    /// runs.
    pub(super) fn move_to_window<M: Machine>(&self, machine: &M) {
        let mut pfn = self.first.load(Ordering::Relaxed);
        let mut next = || {
            let memory = machine.memory(Pfn::truncate(pfn));
            pfn += 1;
            memory.cast::<u64>()
        };
        let root = next();
        self.roots[0].store(root, Ordering::Relaxed);
        let mut page = core::ptr::null_mut::<u64>();
        for chunk in 0..self.chunks() {
            // SAFETY: these are the pages that `begin` filled, in the same order, where the window
            // maps them now; their words are within them.
            unsafe {
                if chunk % CHUNKS == 0 {
                    page = next();
                    root.add(Self::places(chunk).1)
                        .write(page.expose_provenance() as u64);
                }
                page.add((chunk % CHUNKS) as usize)
                    .write(next().expose_provenance() as u64);
            }
        }
    }

    /// The record of a frame, if it is one of the domain's and its chunk has records.
    #[inline]
    pub(super) fn record(&self, pfn: Pfn) -> Option<&AtomicU64> {
        if pfn.as_u64() >= self.frames.load(Ordering::Acquire) {
            return None;
        }
        let chunk = pfn.as_u64() / CHUNK;
        let (root, at) = Self::places(chunk);
        let page = |address: u64| core::ptr::with_exposed_provenance_mut::<u64>(address as usize);
        // SAFETY: for a frame below `frames` the root of its chunk and its entry were made by
        // `add`, and lead to pages of this value's that the window maps for good; each index is
        // within its page. A page of records is looked at in no other way once it was made.
        unsafe {
            let root = self.roots[root % ROOTS].load(Ordering::Relaxed);
            let entry = root.add(at).read();
            let records = page(entry).add((chunk % CHUNKS) as usize).read();
            Some(AtomicU64::from_ptr(
                page(records).add((pfn.as_u64() % CHUNK) as usize),
            ))
        }
    }

    /// The records of a chunk, if it has any: those of frames beyond the domain's last are zero.
    #[inline]
    pub(super) fn records(&self, chunk: u64) -> Option<&[AtomicU64; CHUNK as usize]> {
        let first = self.record(Pfn::truncate(chunk * CHUNK))?;
        // SAFETY: the record of a chunk's first frame begins the page of its records, which are looked
        // at in no other way once it was made.
        Some(unsafe { &*core::ptr::from_ref(first).cast() })
    }

    /// Where the records of the first chunks lie, one behind the other.
    pub(super) fn place(&self) -> Range<usize> {
        let chunks = (0..).map_while(|chunk| self.records(chunk));
        let mut places = chunks.map(|records| {
            let place = records.as_ptr_range();
            place.start.addr()..place.end.addr()
        });
        let first = places.next().unwrap_or(0..0);
        places.fold(first, |place, next| match next.start == place.end {
            true => place.start..next.end,
            false => place,
        })
    }

    /// The number of the root for a chunk, and the entry in it.
    #[inline]
    const fn places(chunk: u64) -> (usize, usize) {
        (
            (chunk / ROOT_CHUNKS) as usize,
            (chunk / CHUNKS % 512) as usize,
        )
    }
}

const _: () = assert!(size_of::<Words>() == 4096);

#[cfg(test)]
mod tests {
    use core::cell::UnsafeCell;
    use core::ops::Range;

    use super::*;
    use crate::layout::Layout;
    use crate::pv::Guest;

    #[test]
    fn a_chunk_costs_its_records_and_what_leads_to_them() {
        assert_eq!(Directory::pages_of(0), 3);
        assert_eq!(Directory::pages_of(1), 1);
        assert_eq!(Directory::pages_of(512), 2);
        assert_eq!(Directory::pages_of(512 * 512), 3);
        assert_eq!(MOST * 4096, 16 << 40);
    }

    /// The window is the host's memory as it is.
    struct Host;

    impl Layout for Host {
        const XEN: Range<u64> = 0..0;
        const DIRECT: Range<u64> = 0..u64::MAX;
        const P2M: Range<u64> = 0..0;
        const IMAGE: Range<u64> = 0..u64::MAX;
        const FIXMAP: Range<u64> = 0..0;
        const RUNTIME: &'static [Range<u64>] = &[];
    }

    #[repr(align(4096))]
    struct Page(UnsafeCell<Words>);

    #[test]
    fn records_beyond_512_gib_have_a_root_of_their_own() {
        let machine = Guest::<Host>::unknown();
        machine.set_reach(u64::MAX);
        // A root has one page of the directory here, and that one page of records, again and again.
        let pages = [const { Page(UnsafeCell::new([0; 512])) }; 6];
        let address = |at: usize| pages[at].0.get().expose_provenance() as u64;
        let directory = Directory::new();
        for chunk in 0..=ROOT_CHUNKS {
            let of_root = 3 * (chunk / ROOT_CHUNKS) as usize;
            let needed = Directory::pages_of(chunk) as usize;
            let mut next = (of_root + 3 - needed..of_root + 3).map(address);
            let page = || Ok(Pfn::truncate(next.next().unwrap() / 4096));
            directory.add(&machine, MOST, page).unwrap();
            assert_eq!(next.next(), None, "chunk {chunk}");
        }
        let at = |pfn| directory.record(Pfn::truncate(pfn)).map(AtomicU64::as_ptr);
        let record = |page, index: u64| Some((address(page) + index * 8) as usize);
        let end = ROOT_CHUNKS * CHUNK;
        for (pfn, found) in [
            (0, record(2, 0)),
            (CHUNK + 7, record(2, 7)),
            (end - 1, record(2, 511)),
            (end, record(5, 0)),
            (end + 3, record(5, 3)),
            (end + CHUNK, None),
        ] {
            assert_eq!(at(pfn).map(|record| record.addr()), found, "pfn {pfn:#x}");
        }
    }
}
