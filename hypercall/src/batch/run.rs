//! Runs: updates of entries that follow each other in one table.
//!
//! Most of what is queued is one, from the first update on, or two where pages move. Its updates are found
//! by counting and take no part in the index; they are indexed only when one of them is written again.
//! Invariant: the first [`Batch::run`] updates are for slots that follow each other, so are the
//! [`Batch::second`] behind them, for others, and no bucket holds one of these.

use core::ops::Range;

use super::{Batch, Completion, FlushError, Info, Update, Write};
use crate::{Hypervisor, VirtAddr, abi::mmu::mmu_update, addr::PAGE_SIZE, mmu::Scope};

/// What to write to an entry of a run: see [`Batch::queue_run`].
type Each<'a, const N: usize, E> = dyn FnMut(&Batch<N>, usize) -> Result<Option<Write>, E> + 'a;

impl<const N: usize> Batch<N> {
    /// Queues writes to `count` entries that follow each other in one table: `first`, and from then on
    /// the next slot, the next virtual address and the next tag (where there is one). `each` is asked
    /// for what to write, by the number of the entry; the values in `first` are not used, and an entry
    /// that it has nothing for stays as it is. It is given what is queued by then. With a write to an
    /// entry that is present, a `flush` of the addresses from here on is asked for.
    ///
    /// # Errors
    /// Those of `each`, or of a flush in between; what was queued before it is answered by it, the
    /// rest is not queued.
    ///
    /// # Safety
    /// As [`queue`](Self::queue) for each.
    #[inline(always)]
    pub unsafe fn queue_run<H: Hypervisor + ?Sized, C: Completion + ?Sized, E: From<FlushError>>(
        &mut self,
        hv: &H,
        sink: &mut C,
        first: Update,
        count: usize,
        flush: Option<(Scope, VirtAddr)>,
        mut each: impl FnMut(&Self, usize) -> Result<Option<Write>, E>,
    ) -> Result<(), E> {
        let at = (first.request(), Info::new(&first));
        self.queue_each(hv, sink, at, 0..count, flush, &mut each)
    }

    /// Queues writes as [`queue_run`](Self::queue_run) does where all entries are written, and these are
    /// the queue's first or go on with its run: `olds` are what is there, and `fill` writes the values of
    /// the requests, in a loop that does nothing else. `false`, and nothing is queued, where it is not so,
    /// there is no room, or `fill` says so.
    ///
    /// # Errors
    /// Those of `fill`, or of a flush that made room.
    ///
    /// # Safety
    /// As [`queue`](Self::queue) for each.
    #[inline(always)]
    pub unsafe fn queue_filled<
        H: Hypervisor + ?Sized,
        C: Completion + ?Sized,
        E: From<FlushError>,
    >(
        &mut self,
        hv: &H,
        sink: &mut C,
        first: Update,
        flush: Option<(Scope, VirtAddr)>,
        olds: impl ExactSizeIterator<Item = u64>,
        fill: impl FnOnce(&mut [mmu_update]) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let (request, count) = (first.request(), olds.len());
        let slot = request.ptr & !7;
        if !self.continues_run(slot) && !self.may_be_second(slot, count) {
            return Ok(false);
        }
        self.ready_for_update(hv, sink)?;
        let from = self.len as usize;
        let places = self.updates.get_mut(from..from + count);
        if !places.map_or(Ok(false), fill)? {
            return Ok(false);
        }
        let present = self.fill_in(request, &Info::new(&first), olds);
        if let Some((scope, address)) = flush
            && present
        {
            self.flush_pages(scope, address, count);
        }
        Ok(true)
    }

    /// Counts the next updates, the values of which are there, as a run's, and writes down the rest of
    /// them. Says whether any replaces an entry that is present.
    #[inline(never)]
    fn fill_in(
        &mut self,
        request: mmu_update,
        info: &Info,
        olds: impl ExactSizeIterator<Item = u64>,
    ) -> bool {
        let (from, count, step) = (self.len, olds.len() as u16, info.step());
        let (caller, mut parts) = info.parts();
        let (mut ptr, mut any) = (request.ptr, 0);
        let updates = self.updates[from as usize..].iter_mut();
        let places = updates.zip(&mut self.info[from as usize..]);
        for (old, (update, place)) in olds.zip(places) {
            any |= old;
            update.ptr = ptr;
            *place = Info::of_parts(caller, parts, old);
            ptr = ptr.wrapping_add(8);
            parts = parts.advanced(step);
        }
        self.len = from + count;
        let is_second = from != self.run || self.run != 0 && self.run_end != request.ptr & !7;
        if is_second {
            self.second += count;
            self.second_end = ptr & !7;
        } else {
            self.run = self.len;
            self.run_end = ptr & !7;
        }
        self.tagged |= info.tag() != 0;
        any & 1 != 0
    }

    /// One function for all that runs are written with.
    #[inline(never)]
    fn queue_each<H: Hypervisor + ?Sized, C: Completion + ?Sized, E: From<FlushError>>(
        &mut self,
        hv: &H,
        sink: &mut C,
        (mut request, mut info): (mmu_update, Info),
        entries: Range<usize>,
        flush: Option<(Scope, VirtAddr)>,
        each: &mut Each<'_, N, E>,
    ) -> Result<(), E> {
        let (mut asked, step) = (false, info.step());
        for at in entries.clone() {
            if let Some(Write { old, value }) = each(self, at)? {
                self.ready_for_update(hv, sink)?;
                // A batch that was full has taken with it what was asked for.
                if let Some((scope, address)) = flush
                    && old & 1 != 0
                    && (!asked || self.pending.is_empty())
                {
                    let address = VirtAddr::new_truncate(address.as_u64() + PAGE_SIZE * at as u64);
                    self.flush_pages(scope, address, entries.end - at);
                    asked = true;
                }
                request.val = value;
                info.old = old;
                self.push(request, info);
            }
            request.ptr = request.ptr.wrapping_add(8);
            info.advance(step);
        }
        Ok(())
    }

    /// Whether a slot continues the run, or begins it, with nothing else queued.
    #[inline(always)]
    pub(super) fn continues_run(&self, slot: u64) -> bool {
        self.len == self.run && (self.run == 0 || self.run_end == slot)
    }

    /// Whether slots from one on can be the second run, or go on with it: nothing is queued for them, and
    /// nothing but runs is queued.
    fn may_be_second(&self, slot: u64, count: usize) -> bool {
        let is_all = self.len == self.run + self.second;
        let begins = self.second == 0 || self.second_end == slot;
        let first = self.run_end.wrapping_sub(8 * self.run as u64);
        let is_apart = slot >= self.run_end || slot + 8 * count as u64 <= first;
        is_all && begins && is_apart
    }

    /// The number of the update of a run that is for a slot.
    #[inline(always)]
    pub(super) fn find_in_runs(&self, slot: u64) -> Option<usize> {
        match place_in(slot, self.run_end, self.run) {
            None if self.second == 0 => None,
            None => Some(self.run as usize + place_in(slot, self.second_end, self.second)?),
            found => found,
        }
    }

    /// Has the index find the updates of the runs as well, one of which is about to be written again.
    #[cold]
    #[inline(never)]
    pub(super) fn index_runs(&mut self) {
        for entry in 0..self.run + self.second {
            let slot = self.updates[entry as usize].ptr & !7;
            let (bucket, _) = self.index.find(slot, &self.updates);
            self.index.set(bucket, entry);
            self.info[entry as usize].set_bucket(bucket);
        }
        (self.run, self.second) = (0, 0);
    }
}

/// The place of a slot in a run of so many that ends before another.
#[inline(always)]
fn place_in(slot: u64, end: u64, count: u16) -> Option<usize> {
    let bytes = 8 * count as u64;
    let behind = slot.wrapping_sub(end.wrapping_sub(bytes));
    if behind < bytes {
        Some((behind / 8) as usize)
    } else {
        None
    }
}
