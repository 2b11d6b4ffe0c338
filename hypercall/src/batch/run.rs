//! Runs: updates of entries that follow each other in one table.
//!
//! Most of what is queued is one, from the first update on. Its updates are found by counting and take no
//! part in the index; they are indexed only when one of them is written again. Invariant: the first
//! [`Batch::run`] updates are for slots that follow each other, and no bucket holds one of them.

use core::ops::Range;

use super::{Batch, Completion, FlushError, Info, Update, Write};
use crate::{Hypervisor, VirtAddr, abi::mmu::mmu_update, addr::PAGE_SIZE, mmu::Scope};

/// What to write to an entry of a run: see [`Batch::queue_run`].
type Each<'a, const N: usize, E> =
    dyn FnMut(Option<&Batch<N>>, usize) -> Result<Option<Write>, E> + 'a;

impl<const N: usize> Batch<N> {
    /// Queues writes to `count` entries that follow each other in one table: `first`, and from then on
    /// the next slot, the next virtual address and the next tag (where there is one). `each` is asked
    /// for what to write, by the number of the entry; the values in `first` are not used, and an entry
    /// that it has nothing for stays as it is. It is given what is queued by then, or nothing if none
    /// of that is for the entry. With a write to an entry that is present, a `flush` of the addresses
    /// from here on is asked for.
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
        mut each: impl FnMut(Option<&Self>, usize) -> Result<Option<Write>, E>,
    ) -> Result<(), E> {
        let mut request = first.request();
        let mut info = Info::new(&first);
        let mut at = 0;
        if self.continues_run(request.ptr & !7) {
            self.ready_for_update(hv, sink)?;
            let mut result = Ok(());
            let from = self.len as usize;
            let room = (self.limit as usize).saturating_sub(from);
            let places = self.updates[from..].iter_mut().zip(&mut self.info[from..]);
            let mut any = 0;
            // Only what differs from one to the next by more than a step: the rest is filled in behind.
            for (update, place) in places.take(count.min(room)) {
                match each(None, at) {
                    Ok(Some(Write { old, value })) => {
                        any |= old;
                        update.val = value;
                        place.old = old;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
                at += 1;
            }
            if at > 0 {
                self.fill_in(&mut request, &mut info, at);
                if let Some((scope, address)) = flush
                    && any & 1 != 0
                {
                    self.flush_pages(scope, address, at);
                }
            }
            result?;
        }
        if at == count {
            return Ok(());
        }
        // Moved, so that what is referred to from here on was nobody's in the loop above.
        let mut each = each;
        self.queue_rest(hv, sink, (request, info), at..count, flush, &mut each)
    }

    /// Counts the next updates of the run, whose values are there, and writes down the rest of them. What
    /// it is given is that of the first, and is that of the one behind the last afterwards.
    #[inline(never)]
    fn fill_in(&mut self, request: &mut mmu_update, info: &mut Info, count: usize) {
        let (mut ptr, mut next, step) = (request.ptr, *info, info.step());
        let places = self.updates.iter_mut().zip(&mut self.info);
        for (update, place) in places.skip(self.len as usize).take(count) {
            update.ptr = ptr;
            place.fill_in(&next);
            ptr = ptr.wrapping_add(8);
            next.advance(step);
        }
        (request.ptr, *info) = (ptr, next);
        self.len += count as u16;
        self.run = self.len;
        self.run_end = ptr & !7;
        self.tagged |= next.tag() != 0;
    }

    /// The part of a run that is not the queue's first, or does not fit there. One function for all
    /// that runs are written with.
    #[inline(never)]
    fn queue_rest<H: Hypervisor + ?Sized, C: Completion + ?Sized, E: From<FlushError>>(
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
            if let Some(Write { old, value }) = each(Some(self), at)? {
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

    /// Has the index find the updates of the run as well, one of which is about to be written again.
    #[cold]
    #[inline(never)]
    pub(super) fn index_run(&mut self) {
        for entry in 0..self.run {
            let slot = self.updates[entry as usize].ptr & !7;
            let (bucket, _) = self.index.find(slot, &self.updates);
            self.index.set(bucket, entry);
            self.info[entry as usize].set_bucket(bucket);
        }
        self.run = 0;
    }
}
