//! The data of a file in memory: pages by their index, with holes between them.
//!
//! Whoever changes data takes the file's turn, so a write is whole against others, however many
//! pages it has. Bytes are copied without the lock: a new page joins the file once it has its data,
//! and the size grows after that, so nobody ever reads what was not written yet.
//!
//! A file of a ramdisk that lies in memory for good begins without pages: its bytes are read where they
//! lie, a page is made when somebody maps it, and all the others when somebody changes the file. It counts
//! as many pages from the beginning, so that none of this can find the file system full.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::task::{Poll, Waker};

use super::Shared;
use crate::errno::{Errno, Result};
use crate::host::{PAGE, Page, ZEROS};
use crate::inode::{Allocate, Where};
use crate::lock::{Mutex, Turn};
use crate::transfer::{Drain, Sink, Source};

/// The largest size of a file (`MAX_LFS_FILESIZE` in Linux' `include/linux/fs.h`).
const MOST: u64 = i64::MAX as u64;

const PAGE_BYTES: u64 = PAGE as u64;

/// A file's data.
#[derive(Default)]
pub(super) struct Data {
    turn: Turn,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    size: u64,
    by_index: BTreeMap<u64, Arc<dyn Page>>,
    /// Bytes of those pages that are not made yet; the file is as large.
    kept: Option<&'static [u8]>,
}

impl Pages {
    /// Pages that the file counts.
    fn count(&self) -> u64 {
        match self.kept {
            Some(bytes) => bytes.len().div_ceil(PAGE) as u64,
            None => self.by_index.len() as u64,
        }
    }

    /// Those of the kept bytes that a page has, if it is not made yet.
    fn kept_page(&self, index: u64) -> Option<&'static [u8]> {
        let kept = self.kept?;
        let start = usize::try_from(index).ok()?.checked_mul(PAGE)?;
        let rest = kept.get(start..).filter(|rest| !rest.is_empty())?;
        let is_made = self.by_index.contains_key(&index);
        (!is_made).then_some(&rest[..rest.len().min(PAGE)])
    }
}

/// The page of a byte, and where in it that is.
const fn split(at: u64) -> (u64, usize) {
    (at / PAGE_BYTES, (at % PAGE_BYTES) as usize)
}

impl Data {
    pub(super) fn size_and_pages(&self) -> (u64, u64) {
        let pages = self.pages.lock();
        (pages.size, pages.count())
    }

    /// See [`Inode::keep`](crate::inode::Inode::keep).
    pub(super) fn keep(&self, shared: &Shared, bytes: &'static [u8]) -> Result<()> {
        let mut pages = self.pages.lock();
        if pages.size > 0 || pages.count() > 0 {
            return Err(Errno::EINVAL);
        }
        shared.charge_pages(bytes.len().div_ceil(PAGE) as u64)?;
        pages.size = bytes.len() as u64;
        pages.kept = Some(bytes);
        Ok(())
    }

    /// Makes a page of kept bytes, if it is not there.
    fn make_kept(&self, shared: &Shared, index: u64) -> Result<()> {
        let Some(bytes) = self.pages.lock().kept_page(index) else {
            return Ok(());
        };
        let page = shared.host.page().ok_or(Errno::ENOMEM)?;
        page.write(0, bytes.len(), &mut Drain::new(bytes));
        let mut pages = self.pages.lock();
        // Somebody may have been faster, or the file was cut.
        if pages.kept_page(index).is_some() {
            pages.by_index.insert(index, page);
        }
        Ok(())
    }

    /// Makes all pages of kept bytes, for somebody whose turn it is to change the file.
    fn settle(&self, shared: &Shared) -> Result<()> {
        let Some(bytes) = self.pages.lock().kept else {
            return Ok(());
        };
        for index in 0..bytes.len().div_ceil(PAGE) as u64 {
            self.make_kept(shared, index)?;
        }
        self.pages.lock().kept = None;
        Ok(())
    }

    pub(super) fn read(&self, at: u64, to: &mut dyn Sink) -> Result<usize> {
        let (wanted, mut done) = (to.room(), 0);
        while done < wanted {
            let Some(position) = at.checked_add(done as u64) else {
                break;
            };
            let (index, offset) = split(position);
            let (left, page, kept) = {
                let pages = self.pages.lock();
                let left = pages.size.saturating_sub(position);
                let page = pages.by_index.get(&index).cloned();
                (left, page, pages.kept_page(index))
            };
            let count = (PAGE - offset).min(wanted - done) as u64;
            let count = count.min(left) as usize;
            if count == 0 {
                break;
            }
            let copied = match (page, kept) {
                (Some(page), _) => page.read(offset, count, to),
                (None, Some(bytes)) => to.put(&bytes[offset..][..count]),
                (None, None) => to.put(&ZEROS[..count]),
            };
            done += copied;
            if copied < count {
                if done == 0 {
                    return Err(Errno::EFAULT);
                }
                break;
            }
        }
        Ok(done)
    }

    pub(super) fn write(
        &self,
        shared: &Shared,
        waker: &Waker,
        at: Where,
        limit: u64,
        from: &mut dyn Source,
    ) -> Poll<Result<(u64, usize)>> {
        let Poll::Ready(_turn) = self.turn.take(waker) else {
            return Poll::Pending;
        };
        if let Err(error) = self.settle(shared) {
            return Poll::Ready(Err(error));
        }
        let start = match at {
            Where::At(at) => at,
            Where::End => self.pages.lock().size,
        };
        let mut done = 0;
        while from.left() > 0 {
            match self.write_page(shared, start + done as u64, limit, from) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if done == 0 => return Poll::Ready(Err(error)),
                Err(_) => break,
            }
        }
        Poll::Ready(Ok((start, done)))
    }

    /// Writes what falls into the page of byte `at`.
    fn write_page(
        &self,
        shared: &Shared,
        at: u64,
        limit: u64,
        from: &mut dyn Source,
    ) -> Result<usize> {
        let room = limit.min(MOST).saturating_sub(at);
        if room == 0 {
            return Err(Errno::EFBIG);
        }
        let (index, offset) = split(at);
        let count = (PAGE - offset).min(from.left()) as u64;
        let count = count.min(room) as usize;
        let there = self.pages.lock().by_index.get(&index).cloned();
        let (page, is_new) = match there {
            Some(page) => (page, false),
            None => (Self::new_page(shared)?, true),
        };
        let copied = page.write(offset, count, from);
        if copied == 0 {
            if is_new {
                shared.uncharge_pages(1);
            }
            return Err(Errno::EFAULT);
        }
        let mut pages = self.pages.lock();
        if is_new {
            // A mapping may have filled the hole meanwhile; then that page is the file's.
            if let Some(there) = pages.by_index.get(&index).cloned() {
                drop(pages);
                shared.uncharge_pages(1);
                from.give_back(copied);
                let copied = there.write(offset, copied, from);
                self.grow(at + copied as u64);
                return Ok(copied);
            }
            pages.by_index.insert(index, page);
        }
        pages.size = pages.size.max(at + copied as u64);
        Ok(copied)
    }

    fn grow(&self, size: u64) {
        let mut pages = self.pages.lock();
        pages.size = pages.size.max(size);
    }

    fn new_page(shared: &Shared) -> Result<Arc<dyn Page>> {
        shared.charge_pages(1)?;
        shared.host.page().ok_or_else(|| {
            shared.uncharge_pages(1);
            Errno::ENOSPC
        })
    }

    pub(super) fn truncate(&self, shared: &Shared, waker: &Waker, size: u64) -> Poll<Result<()>> {
        if size > MOST {
            return Poll::Ready(Err(Errno::EFBIG));
        }
        let Poll::Ready(_turn) = self.turn.take(waker) else {
            return Poll::Pending;
        };
        let settled = match size {
            0 => Ok(()),
            _ => self.settle(shared),
        };
        if let Err(error) = settled {
            return Poll::Ready(Err(error));
        }
        let (whole, part) = split(size);
        let mut pages = self.pages.lock();
        let before = pages.count();
        pages.kept = None;
        let first_gone = if part > 0 { whole + 1 } else { whole };
        let _gone = pages.by_index.split_off(&first_gone);
        // What a mapping wrote behind the old end, and what lay behind the new one, reads as zeros
        // when the file grows again.
        let last = split(pages.size.min(size));
        if last.1 > 0
            && let Some(page) = pages.by_index.get(&last.0)
        {
            page.clear(last.1, PAGE - last.1);
        }
        pages.size = size;
        let gone = before - pages.count();
        drop(pages);
        shared.uncharge_pages(gone);
        Poll::Ready(Ok(()))
    }

    pub(super) fn allocate(
        &self,
        shared: &Shared,
        waker: &Waker,
        how: Allocate,
        at: u64,
        count: u64,
    ) -> Poll<Result<()>> {
        let Some(end) = at.checked_add(count).filter(|&end| end <= MOST) else {
            return Poll::Ready(Err(Errno::EFBIG));
        };
        let Poll::Ready(_turn) = self.turn.take(waker) else {
            return Poll::Pending;
        };
        if let Err(error) = self.settle(shared) {
            return Poll::Ready(Err(error));
        }
        let done = match how {
            Allocate::Grow | Allocate::KeepSize => self.fill(shared, at, end),
            Allocate::Punch => {
                self.punch(shared, at, end);
                Ok(())
            }
            Allocate::Zero => {
                self.punch(shared, at, end);
                self.fill(shared, at, end)
            }
        };
        if done.is_ok() && matches!(how, Allocate::Grow | Allocate::Zero) {
            self.grow(end);
        }
        Poll::Ready(done)
    }

    /// Has a page for each byte; if memory ends, those that were added are given back.
    fn fill(&self, shared: &Shared, at: u64, end: u64) -> Result<()> {
        let indices = at / PAGE_BYTES..end.div_ceil(PAGE_BYTES);
        let free = shared.limits.pages;
        // Without this a huge range would be tried page by page before it fails.
        if indices.end - indices.start > free {
            return Err(Errno::ENOSPC);
        }
        let mut added = alloc::vec::Vec::new();
        for index in indices {
            if self.pages.lock().by_index.contains_key(&index) {
                continue;
            }
            let page = added
                .try_reserve(1)
                .map_err(|_| Errno::ENOSPC)
                .and_then(|()| Self::new_page(shared));
            match page {
                Ok(page) => {
                    let mut pages = self.pages.lock();
                    if pages.by_index.contains_key(&index) {
                        // A mapping filled the hole meanwhile.
                        drop(pages);
                        shared.uncharge_pages(1);
                        continue;
                    }
                    pages.by_index.insert(index, page);
                    added.push(index);
                }
                Err(error) => {
                    for index in &added {
                        let _page = self.pages.lock().by_index.remove(index);
                    }
                    shared.uncharge_pages(added.len() as u64);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Makes a hole: whole pages are given back, parts of pages cleared.
    fn punch(&self, shared: &Shared, at: u64, end: u64) {
        let mut pages = self.pages.lock();
        let mut keep = pages.by_index.split_off(&(at / PAGE_BYTES));
        let mut behind = keep.split_off(&end.div_ceil(PAGE_BYTES));
        let mut gone = 0;
        for (index, page) in keep {
            let first = index * PAGE_BYTES;
            let from = at.saturating_sub(first).min(PAGE_BYTES);
            let to = (end - first).min(PAGE_BYTES);
            if from == 0 && to == PAGE_BYTES {
                gone += 1;
                continue;
            }
            page.clear(from as usize, (to - from) as usize);
            pages.by_index.insert(index, page);
        }
        pages.by_index.append(&mut behind);
        drop(pages);
        shared.uncharge_pages(gone);
    }

    pub(super) fn seek(&self, at: u64, data: bool) -> Result<u64> {
        let pages = self.pages.lock();
        if at >= pages.size {
            return Err(Errno::ENXIO);
        }
        if pages.kept.is_some() {
            // There is no hole in it.
            return Ok(if data { at } else { pages.size });
        }
        let mut index = at / PAGE_BYTES;
        if data {
            let (&found, _) = pages.by_index.range(index..).next().ok_or(Errno::ENXIO)?;
            let found = at.max(found * PAGE_BYTES);
            return if found < pages.size {
                Ok(found)
            } else {
                Err(Errno::ENXIO)
            };
        }
        for (&there, _) in pages.by_index.range(index..) {
            if there != index {
                break;
            }
            index += 1;
        }
        Ok(at.max(index * PAGE_BYTES).min(pages.size))
    }

    pub(super) fn page(
        &self,
        shared: &Shared,
        index: u64,
        make: bool,
    ) -> Result<Option<Arc<dyn Page>>> {
        self.make_kept(shared, index)?;
        let there = |pages: &Pages| {
            if index >= pages.size.div_ceil(PAGE_BYTES) {
                return Err(Errno::EFAULT);
            }
            Ok(pages.by_index.get(&index).cloned())
        };
        let found = there(&self.pages.lock())?;
        if found.is_some() || !make {
            return Ok(found);
        }
        let page = Self::new_page(shared)?;
        let mut pages = self.pages.lock();
        let found = there(&pages);
        if !matches!(found, Ok(None)) {
            drop(pages);
            shared.uncharge_pages(1);
            return found;
        }
        pages.by_index.insert(index, page.clone());
        Ok(Some(page))
    }
}
