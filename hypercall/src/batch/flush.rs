//! Sending what is queued: the common batch as one hypercall, anything else as lists.
//!
//! The lists, the counts and the calls are in the batch itself, so Xen reads and writes nothing
//! that could have gone away. Upcalls are masked from the first request to the end of the
//! accounting.

use super::{
    Batch, Completion, ExtEntry, FlushError, FlushReason, Info, Update,
    results::{First, Sole, Tally, failed_update, report},
};
use crate::{
    Errno, Hypervisor, Op, VirtAddr,
    abi::{
        mmu::{MMU_PT_UPDATE_PRESERVE_AD, mmu_update, mmuext_op},
        xen::DOMID_SELF,
    },
    instead::{PageTables, Refused},
    mmu::{self, Level, Stopped, VaFlush},
    multicall,
};

impl<const N: usize> Batch<N> {
    /// Sends whatever is queued. Afterwards nothing is.
    ///
    /// `sink` is told of each tagged entry, in order, before this returns.
    #[inline]
    pub fn flush<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        reason: FlushReason,
        sink: &mut C,
    ) -> Result<(), FlushError> {
        if self.is_empty() {
            return Ok(());
        }
        self.send(hv, reason, sink)
    }

    /// Writes one entry at once: for contexts that must not wait, such as interrupt handlers. What
    /// is queued goes first: it may be a write to the same entry, or what makes the entry's table a
    /// table and leads to it. TLB flushes that wait alone ride with the write.
    ///
    /// An error may be that of this earlier flush; `update` is then not written.
    ///
    /// # Safety
    /// No mapping that safe code relies on goes away, changes its frame or loses rights. If the
    /// update names a virtual address, the current tables map it through this very entry.
    #[inline(never)]
    pub unsafe fn write_now<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        sink: &mut C,
        update: Update,
    ) -> Result<(), FlushError> {
        if self.len | self.ext_len != 0 {
            self.flush(hv, FlushReason::Order, sink)?;
        }
        if !self.pending.is_empty() {
            self.ready_for_update(hv, sink)?;
            self.push(update.request(), Info::new(&update));
            return self.flush(hv, FlushReason::Immediate, sink);
        }
        self.stats.hypercalls += 1;
        let result = match update.va {
            // SAFETY: the caller answers for the change and for the address.
            Some(va) if update.level == Level::L1 && !update.preserve_ad => unsafe {
                mmu::update_va_mapping(hv, va, update.value, VaFlush::None)
            },
            // SAFETY: the caller answers for the change.
            _ => unsafe { mmu::update(hv, &[update.request()], DOMID_SELF) }
                .map_err(|stopped| stopped.error),
        };
        report(sink, update.tag, result.is_ok());
        match result {
            Ok(()) => {
                self.stats.applied += 1;
                Ok(())
            }
            Err(error) => {
                self.stats.refused += 1;
                let failed = failed_update(&update.request(), &Info::new(&update), 0);
                let tally = Tally {
                    refused: 1,
                    ..Tally::default()
                };
                let first = First {
                    failed,
                    caller: Some(update.caller),
                    error,
                };
                Err(tally.error(first, FlushReason::Immediate, false))
            }
        }
    }

    #[inline(never)]
    fn send<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        reason: FlushReason,
        sink: &mut C,
    ) -> Result<(), FlushError> {
        self.stats.flush(self.len, reason);
        self.stats.hypercalls += 1;
        let was = hv.mask_upcalls();
        let sole = if self.closed == 0 && self.ext_len == 0 {
            self.send_sole(hv)
        } else {
            None
        };
        if let (Some(Sole { result: Ok(()), .. }), false) = (&sole, self.tagged) {
            self.stats.applied += self.len as u64;
            self.reset();
            hv.restore_upcalls(was);
            return Ok(());
        }
        let result = self.conclude(hv, reason, sole, sink);
        hv.restore_upcalls(was);
        result
    }

    /// If all there is to do is one hypercall with updates, makes it.
    #[inline]
    fn send_sole<H: Hypervisor + ?Sized>(&mut self, hv: &H) -> Option<Sole> {
        if let Some((va, flush)) = self.lone() {
            // SAFETY: whoever queued the update answered for it, address included.
            let result = unsafe { mmu::update_va_mapping(hv, va, self.updates[0].val, flush) };
            return Some(Sole { result, done: 0 });
        }
        if !self.pending.is_empty() {
            return None;
        }
        let requests = self.updates.get(..self.len as usize)?;
        // SAFETY: whoever queued the updates answered for them.
        Some(match unsafe { mmu::update(hv, requests, DOMID_SELF) } {
            Ok(()) => Sole {
                result: Ok(()),
                done: 0,
            },
            Err(Stopped { error, done }) => Sole {
                result: Err(error),
                done,
            },
        })
    }

    /// Whether all there is to do is one `update_va_mapping`.
    #[inline]
    fn lone(&self) -> Option<(VirtAddr, VaFlush)> {
        if self.len != 1 {
            return None;
        }
        let info = &self.info[0];
        let preserve = self.updates[0].ptr & 3 == MMU_PT_UPDATE_PRESERVE_AD as u64;
        if info.level != Level::L1 as u8 || preserve {
            return None;
        }
        let va = info.va()?;
        self.pending.with_va(va).map(|flush| (va, flush))
    }

    /// Does whatever is not the common case: sends lists, reports tags, accounts for a failure.
    #[inline(never)]
    fn conclude<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        reason: FlushReason,
        sole: Option<Sole>,
        sink: &mut C,
    ) -> Result<(), FlushError> {
        let (tally, flushed) = match sole {
            Some(sole) => self.sole_done(sole, sink),
            None => self.send_lists(hv, sink),
        };
        let tlb_stale = !flushed && !self.flush_again(hv);
        self.reset();
        self.stats.applied += tally.updates as u64;
        self.stats.refused += tally.refused as u64;
        match tally.first {
            None => Ok(()),
            Some(first) => Err(tally.error(first, reason, tlb_stale)),
        }
    }

    /// Sends everything as lists. Says as well whether the TLB flushes asked for were done.
    fn send_lists<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        sink: &mut C,
    ) -> (Tally, bool) {
        let queued_ext = self.ext_len;
        let (ext, ext_len) = (&mut self.ext, &mut self.ext_len);
        self.pending.ops(|op| {
            // At most `FLUSH_OPS`, for which there is room.
            if let Some(entry) = ext.get_mut(*ext_len as usize) {
                *entry = ExtEntry {
                    op,
                    ..ExtEntry::ZERO
                };
                *ext_len += 1;
            }
        });
        self.close_round();
        let (calls, list_error) = self.issue(hv);
        self.collect_results(calls, list_error, queued_ext as usize, sink)
    }

    /// Writes the calls down and makes them: a single one as it is, several as a multicall. Says
    /// how many there were, and the errno of the multicall itself.
    fn issue<H: Hypervisor + ?Sized>(&mut self, hv: &H) -> (usize, Option<Errno>) {
        if let Some(tables) = hv.page_tables() {
            return (self.carry_out(tables), None);
        }
        for (raw, entry) in self
            .ext_raw
            .iter_mut()
            .zip(&self.ext[..self.ext_len as usize])
        {
            *raw = entry.op.raw();
        }
        // Before pointers to them are taken.
        let counts = 2 * self.closed as usize;
        self.done.iter_mut().take(counts).for_each(|done| *done = 0);
        let updates = (&raw const self.updates).cast::<mmu_update>();
        let ext = (&raw const self.ext_raw).cast::<mmuext_op>();
        let done = (&raw mut self.done).cast::<u32>();
        let mut calls = 0;
        let mut from = super::Round::ZERO;
        for &to in &self.rounds[..self.closed as usize] {
            let lists = [
                (
                    Op::MmuUpdate,
                    updates.wrapping_add(from.updates as usize) as u64,
                    to.updates - from.updates,
                ),
                (
                    Op::MmuextOp,
                    ext.wrapping_add(from.ext as usize) as u64,
                    to.ext - from.ext,
                ),
            ];
            for (op, list, count) in lists {
                if count != 0 && calls < super::CALLS {
                    let done = done.wrapping_add(calls) as u64;
                    let args = [list, count as u64, done, DOMID_SELF as u64, 0];
                    self.calls[calls] = multicall::entry(op, args);
                    calls += 1;
                }
            }
            from = to;
        }
        if let [only] = &mut self.calls[..calls] {
            let op = if from.ext == 0 {
                Op::MmuUpdate
            } else {
                Op::MmuextOp
            };
            let [a, b, c, d, e, _] = only.args;
            // SAFETY: the lists and the count are this batch's own and live; whoever queued the
            // requests answered for them.
            only.result = unsafe { hv.call(op, [a, b, c, d, e]) } as u64;
            return (calls, None);
        }
        // SAFETY: as above, for each entry.
        let result = unsafe { multicall::multicall(hv, &mut self.calls[..calls]) };
        (calls, result.err().map(|error| error.errno))
    }

    /// Has the lists carried out by whoever answers instead of Xen, and writes down what became of
    /// each as if it had been a call. Says how many there were.
    #[cold]
    fn carry_out(&mut self, tables: &dyn PageTables) -> usize {
        let mut calls = 0;
        let mut note = |op, count: usize, result: Result<(), Refused>| {
            let (value, done) = match result {
                Ok(()) => (0, count as u32),
                Err(Refused { errno, done }) => (errno.to_return(), done),
            };
            let place = (self.calls.get_mut(calls), self.done.get_mut(calls));
            if let (Some(call), Some(noted)) = place {
                *call = multicall::entry(op, [0; 5]);
                call.result = value as u64;
                *noted = done;
                calls += 1;
            }
        };
        let mut from = super::Round::ZERO;
        for &to in &self.rounds[..self.closed as usize] {
            let updates = &self.updates[from.updates as usize..to.updates as usize];
            if !updates.is_empty() {
                // SAFETY: whoever queued the requests answered for them.
                let result = unsafe { tables.update(updates) };
                note(Op::MmuUpdate, updates.len(), result);
            }
            let ext = &self.ext[from.ext as usize..to.ext as usize];
            if !ext.is_empty() {
                let result = ext.iter().zip(0..).try_for_each(|(entry, done)| {
                    // SAFETY: whoever queued the operations answered for them.
                    unsafe { tables.ext(entry.op) }.map_err(|errno| Refused { errno, done })
                });
                note(Op::MmuextOp, ext.len(), result);
            }
            from = to;
        }
        calls
    }

    /// Carries out the pending TLB flushes on their own, after a call that should have was stopped
    /// before it came to them.
    #[cold]
    fn flush_again<H: Hypervisor + ?Sized>(&mut self, hv: &H) -> bool {
        let (mut calls, mut carried_out) = (0, 0);
        self.pending.ops(|op| {
            calls += 1;
            // SAFETY: a flush changes no mapping.
            carried_out += unsafe { mmu::ext(hv, op) }.is_ok() as u64;
        });
        self.stats.hypercalls += calls;
        self.stats.ext_ops += carried_out;
        carried_out == calls
    }
}
