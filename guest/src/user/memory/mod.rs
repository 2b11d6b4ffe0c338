//! The memory of a program: its areas, and the pages that come to be in them when they are touched.
//!
//! A page is mapped by the fault of whoever touches it first, the program or the kernel on its behalf
//! (`fault`); what may be touched the areas say. Places for new areas are found from above, below the room that the
//! stack may grow into.

extern crate alloc;

mod fault;

use alloc::sync::Arc;
use core::ops::Range;

use guest_files::{Page, Place};
use linux_raw_sys::general::{MREMAP_FIXED, MREMAP_MAYMOVE};

pub(crate) use fault::{Access, Refused};

use super::errno::{Errno, Result};
use super::pages::{PAGE, Pages};
use crate::areas::{self, Area, Areas, Rights};
use crate::lock::Lock;
use crate::mm::MmError;
use crate::mm::error::FrameError;
use crate::rank;
use crate::usermode::END;

/// The lowest address that a program may map, as Linux' `vm.mmap_min_addr` is by default.
pub(crate) const START: u64 = 0x1_0000;
/// How far a stack may grow.
pub(crate) const STACK: u64 = 8 << 20;
/// What stays free below a stack, so that a frame that is larger than a page meets nothing else.
const GUARD: u64 = 256 * PAGE;
/// Below the top of memory is the stack with its room, and then what is mapped anywhere.
const TOP: u64 = END - STACK - 2 * GUARD;
/// What a file has, page by page.
pub(crate) trait Content: Send + Sync {
    /// Reads what the file has at a byte; 0 bytes behind its end.
    ///
    /// # Errors
    /// Those of the file.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<usize>;

    /// The page of a byte, to map it: nothing for a hole, unless `make` has it filled by zeros.
    ///
    /// # Errors
    /// `ENODEV` of what has no pages to map, `EFAULT` behind the last one, `ENOSPC`.
    fn page(&self, at: u64, make: bool) -> Result<Option<Arc<dyn Page>>>;

    /// A number that no other file has while anybody has this one.
    fn identity(&self) -> usize;

    /// Where it lies.
    fn place(&self) -> Option<Place>;
}

/// What is in an area before the program writes there.
#[derive(Clone)]
pub(crate) enum Backing {
    /// Zeros.
    Zeros,
    /// Zeros, and more of them below when they are touched.
    Stack,
    /// Zeros, between the two ends that `brk` knows.
    Heap,
    /// A file's bytes from here on, of which the program has its own once it writes there.
    File(Arc<dyn Content>, u64),
    /// A file's bytes from here on, which all who have it see as they are written.
    Shared(Arc<dyn Content>, u64),
}

impl Backing {
    /// Whether it is memory of zeros, and nothing else.
    fn is_memory(&self) -> bool {
        matches!(self, Backing::Zeros | Backing::Stack | Backing::Heap)
    }
}

impl areas::Backing for Backing {
    fn advanced(&self, bytes: u64) -> Backing {
        match self {
            Backing::File(file, at) => Backing::File(file.clone(), at + bytes),
            Backing::Shared(file, at) => Backing::Shared(file.clone(), at + bytes),
            other => other.clone(),
        }
    }

    fn goes_on_as(&self, bytes: u64, next: &Backing) -> bool {
        match (self, next) {
            (Backing::Zeros, Backing::Zeros) | (Backing::Heap, Backing::Heap) => true,
            (Backing::File(one, at), Backing::File(two, next))
            | (Backing::Shared(one, at), Backing::Shared(two, next)) => {
                Arc::ptr_eq(one, two) && at + bytes == *next
            }
            _ => false,
        }
    }
}

/// The memory of a program, which its threads share.
pub(crate) struct Memory(Lock<Inner, rank::Areas>);

struct Inner {
    areas: Areas<Backing>,
    pages: Pages,
    /// Where `brk` begins, and where it is.
    heap: Range<u64>,
    ahead: fault::Ahead,
}

/// What cannot be done to pages, as an error of a system call.
fn errno(error: MmError) -> Errno {
    if !matches!(error, MmError::Frame(FrameError::OutOfMemory)) {
        log::error!(target: "user", "a program's pages: {error}");
    }
    Errno::ENOMEM
}

/// What cannot be remembered, as an error of a system call.
fn too_many(_: areas::TooMany) -> Errno {
    Errno::ENOMEM
}

impl Memory {
    /// Nothing.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Memory> {
        Ok(Memory(Lock::new(Inner {
            areas: Areas::new(),
            pages: Pages::new().map_err(errno)?,
            heap: 0..0,
            ahead: fault::Ahead::default(),
        })))
    }

    /// Has this vCPU run in it.
    ///
    /// # Errors
    /// `ENOMEM`: Xen refused.
    pub(crate) fn enter(&self) -> Result<()> {
        self.0.lock().pages.enter().map_err(errno)
    }

    /// Whether this vCPU runs in it.
    pub(crate) fn is_entered(&self) -> bool {
        self.0.lock().pages.is_entered()
    }

    /// Has this vCPU run in no program's memory. There is no way on without that, so that Xen is asked
    /// again should it refuse.
    pub(crate) fn leave() {
        if let Err(e) = Pages::leave().or_else(|_| Pages::leave()) {
            panic!("a vCPU cannot leave a program's space: {e}");
        }
    }

    /// A copy of it, for a child.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn duplicate(&self) -> Result<Memory> {
        let inner = self.0.lock();
        Ok(Memory(Lock::new(Inner {
            areas: inner.areas.duplicate().map_err(too_many)?,
            pages: {
                let areas = inner.areas.iter().map(|area| area.range.clone());
                inner.pages.fork(areas).map_err(errno)?
            },
            heap: inner.heap.clone(),
            ahead: fault::Ahead::default(),
        })))
    }

    /// Maps `bytes` at `place`, or anywhere; returns the address. `place` with `fixed` takes the place of
    /// what was there.
    ///
    /// # Errors
    /// `EINVAL` for no bytes or a bad address, `ENOMEM` for no room.
    pub(crate) fn map(
        &self,
        place: u64,
        bytes: u64,
        rights: Rights,
        backing: Backing,
        how: Fixed,
    ) -> Result<u64> {
        self.0.lock().map(place, bytes, rights, backing, how)
    }

    /// Maps what a program has as its stack when it begins, ending at `top`.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub(crate) fn map_stack(&self, range: Range<u64>) -> Result<()> {
        let rights = Rights::READ | Rights::WRITE;
        let bytes = range.end - range.start;
        self.map(range.start, bytes, rights, Backing::Stack, Fixed::Free)
            .map(drop)
    }

    /// Moves the stack down by so many bytes, at least as many as it has.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn shift_stack(&self, range: Range<u64>, down: u64) -> Result<()> {
        let mut inner = self.0.lock();
        let to = range.start - down;
        let pages = &mut inner.pages;
        pages.relocate(range.clone(), to).map_err(errno)?;
        inner.areas.remove(range.clone()).map_err(too_many)?;
        let area = Area {
            range: to..range.end - down,
            rights: Rights::READ | Rights::WRITE,
            backing: Backing::Stack,
        };
        inner.areas.insert(area).map_err(too_many)
    }

    /// Unmaps a range.
    ///
    /// # Errors
    /// `EINVAL` for a bad range, `ENOMEM`.
    pub(crate) fn unmap(&self, start: u64, bytes: u64) -> Result<()> {
        let range = check(start, bytes)?;
        self.0.lock().clear(range)
    }

    /// Changes the rights of a range.
    ///
    /// # Errors
    /// `EINVAL` for a bad range, `ENOMEM` where nothing is mapped.
    pub(crate) fn protect(&self, start: u64, bytes: u64, rights: Rights) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let range = check(start, bytes).map_err(|_| Errno::ENOMEM)?;
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        // What lies before the first hole is changed all the same, as Linux does.
        let is_whole = inner.areas.covers(range.clone());
        let covered = match is_whole {
            true => range,
            false => start..inner.areas.covered_from(range),
        };
        if !covered.is_empty() {
            inner
                .areas
                .set_rights(covered.clone(), rights)
                .map_err(too_many)?;
            inner.pages.protect(covered, rights).map_err(errno)?;
        }
        match is_whole {
            true => Ok(()),
            false => Err(Errno::ENOMEM),
        }
    }

    /// Forgets what a range holds, which then is as it was when it was mapped.
    ///
    /// # Errors
    /// `EINVAL` for a bad range, `ENOMEM` where nothing is mapped.
    pub(crate) fn discard(&self, start: u64, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let range = check(start, bytes).map_err(|_| Errno::ENOMEM)?;
        let mut inner = self.0.lock();
        inner.pages.unmap(range.clone()).map_err(errno)?;
        if inner.areas.covers(range) {
            Ok(())
        } else {
            Err(Errno::ENOMEM)
        }
    }

    /// Whether all of a range is mapped.
    pub(crate) fn covers(&self, start: u64, bytes: u64) -> bool {
        check(start, bytes).is_ok_and(|range| self.0.lock().areas.covers(range))
    }

    /// Makes a mapping larger or smaller, elsewhere if that is allowed; returns its address.
    ///
    /// # Errors
    /// `EINVAL`, `EFAULT` where nothing is mapped, `ENOMEM` for no room.
    pub(crate) fn remap(
        &self,
        old: u64,
        old_bytes: u64,
        bytes: u64,
        flags: u32,
        to: u64,
    ) -> Result<u64> {
        let known = MREMAP_MAYMOVE | MREMAP_FIXED;
        if flags & !known != 0 || old_bytes == 0 || bytes == 0 {
            return Err(Errno::EINVAL);
        }
        let from = check(old, old_bytes)?;
        let wanted = check(old, bytes).map_err(|_| Errno::ENOMEM)?;
        self.0.lock().remap(from, wanted, flags, to)
    }

    /// Where `brk` begins.
    pub(crate) fn set_heap(&self, start: u64) {
        self.0.lock().heap = start..start;
    }

    /// Moves the end of the heap, if it can be there; returns where it is.
    pub(crate) fn brk(&self, end: u64) -> u64 {
        let mut inner = self.0.lock();
        if end >= inner.heap.start && inner.set_brk(end).is_ok() {
            inner.heap.end = end;
        }
        inner.heap.end
    }
}

impl Memory {
    /// Which file an address lies in that is shared, by a number of its own while anybody has it, and where
    /// there.
    pub(crate) fn shared_place(&self, address: u64) -> Option<(usize, u64)> {
        let inner = self.0.lock();
        let area = inner.areas.find(address)?;
        match &area.backing {
            Backing::Shared(file, at) => Some((file.identity(), at + (address - area.range.start))),
            _ => None,
        }
    }

    /// A file has become as small as `size`: what was mapped behind its last page is there no more.
    pub(crate) fn cut(&self, file: usize, size: u64) {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        let end = size.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        for area in inner.areas.iter() {
            let (Backing::File(content, at) | Backing::Shared(content, at)) = &area.backing else {
                continue;
            };
            let first = area.range.start.saturating_add(end.saturating_sub(*at));
            if content.identity() == file
                && first < area.range.end
                && let Err(e) = inner.pages.unmap(first..area.range.end)
            {
                log::error!(target: "user", "what was cut off a file stays mapped: {e}");
            }
        }
    }

    /// Calls `f` with each area.
    pub(crate) fn each(&self, mut f: impl FnMut(&Area<Backing>)) {
        self.0.lock().areas.iter().for_each(&mut f);
    }
}

/// Where a mapping may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fixed {
    /// Anywhere; the address is a hint.
    No,
    /// At the address, where nothing may be (`MAP_FIXED_NOREPLACE`).
    Free,
    /// At the address, whatever is there (`MAP_FIXED`).
    Replace,
}

/// Whole pages of a program's, by address and bytes.
fn check(start: u64, bytes: u64) -> Result<Range<u64>> {
    if !start.is_multiple_of(PAGE) || bytes == 0 {
        return Err(Errno::EINVAL);
    }
    let range = areas::pages(start, bytes).ok_or(Errno::EINVAL)?;
    if range.end > END {
        return Err(Errno::EINVAL);
    }
    Ok(range)
}

impl Inner {
    fn map(
        &mut self,
        place: u64,
        bytes: u64,
        rights: Rights,
        backing: Backing,
        how: Fixed,
    ) -> Result<u64> {
        if bytes == 0 {
            return Err(Errno::EINVAL);
        }
        let bytes = bytes.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
        let start = match how {
            Fixed::No => self.find(place & !(PAGE - 1), bytes)?,
            Fixed::Free | Fixed::Replace => {
                let beyond = || match place.is_multiple_of(PAGE) {
                    true => Errno::ENOMEM,
                    false => Errno::EINVAL,
                };
                let range = check(place, bytes).map_err(|_| beyond())?;
                if range.start < START {
                    return Err(Errno::EPERM);
                }
                if how == Fixed::Replace {
                    self.clear(range)?;
                } else if !self.areas.is_free(range) {
                    return Err(Errno::EEXIST);
                }
                place
            }
        };
        self.add(start..start + bytes, rights, backing)?;
        Ok(start)
    }

    /// Adds an area.
    fn add(&mut self, range: Range<u64>, rights: Rights, backing: Backing) -> Result<()> {
        let area = Area {
            range,
            rights,
            backing,
        };
        self.areas.insert(area).map_err(too_many)
    }

    /// A free place: the one that is asked for, or the highest.
    fn find(&self, hint: u64, bytes: u64) -> Result<u64> {
        if hint >= START
            && let Ok(range) = check(hint, bytes)
            && range.end <= TOP
            && self.areas.is_free(range)
        {
            return Ok(hint);
        }
        self.areas.gap(bytes, START..TOP).ok_or(Errno::ENOMEM)
    }

    /// Removes areas and pages of a range.
    fn clear(&mut self, range: Range<u64>) -> Result<()> {
        let met: Option<Range<u64>> = self
            .areas
            .within(range.clone())
            .map(|area| area.range)
            .reduce(|all, next| all.start..next.end);
        self.areas.remove(range).map_err(too_many)?;
        // Beyond what was mapped there are no pages to look for.
        met.map_or(Ok(()), |met| self.pages.unmap(met).map_err(errno))
    }

    /// Has the heap end at an address.
    fn set_brk(&mut self, end: u64) -> Result<()> {
        let is = self.heap.end.next_multiple_of(PAGE);
        let wanted = end.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
        if wanted <= is {
            return if wanted < is {
                self.clear(wanted..is)
            } else {
                Ok(())
            };
        }
        let added = is..wanted;
        if added.end > TOP || !self.areas.is_free(added.start..added.end + GUARD) {
            return Err(Errno::ENOMEM);
        }
        self.add(added.clone(), Rights::READ | Rights::WRITE, Backing::Heap)?;
        self.go_on(added);
        Ok(())
    }

    fn remap(&mut self, from: Range<u64>, wanted: Range<u64>, flags: u32, to: u64) -> Result<u64> {
        let whole = self.areas.find(from.start).ok_or(Errno::EFAULT)?.clone();
        if whole.range.end < from.end {
            return Err(Errno::EFAULT);
        }
        let bytes = wanted.end - wanted.start;
        let backing = areas::Backing::advanced(&whole.backing, from.start - whole.range.start);
        let may_move = flags & MREMAP_MAYMOVE != 0;
        if flags & MREMAP_FIXED != 0 {
            let target = check(to, bytes)?;
            let apart = target.end <= from.start || from.end <= target.start;
            if !may_move || !apart || target.start < START {
                return Err(Errno::EINVAL);
            }
            self.clear(target.clone())?;
            return self.relocate(from, target, whole.rights, backing);
        }
        if wanted.end <= from.end {
            if wanted.end < from.end {
                self.clear(wanted.end..from.end)?;
            }
            return Ok(from.start);
        }
        let added = from.end..wanted.end;
        if whole.range.end == from.end && added.end <= TOP && self.areas.is_free(added.clone()) {
            let old_bytes = from.end - from.start;
            let backing = areas::Backing::advanced(&backing, old_bytes);
            self.add(added, whole.rights, backing)?;
            return Ok(from.start);
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        let start = self.find(0, bytes)?;
        self.relocate(from, start..start + bytes, whole.rights, backing)
    }

    /// Moves pages and their area to where nothing is mapped; what the new place lacks room for is gone.
    fn relocate(
        &mut self,
        from: Range<u64>,
        to: Range<u64>,
        rights: Rights,
        backing: Backing,
    ) -> Result<u64> {
        let bytes = (from.end - from.start).min(to.end - to.start);
        let moved = from.start..from.start + bytes;
        self.add(to.clone(), rights, backing)?;
        self.pages.relocate(moved, to.start).map_err(errno)?;
        self.clear(from)?;
        Ok(to.start)
    }
}
