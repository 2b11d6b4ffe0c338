//! Sending what is queued: the common batch as one hypercall, anything else as lists.
//!
//! The lists, the counts and the calls are in the batch itself, so Xen reads and writes nothing
//! that could have gone away. Upcalls are masked from the first request to the end of the
//! accounting.

use core::panic::Location;

use super::{
    Batch, Completion, ExtEntry, FlushError, FlushReason, Info, Update, Write,
    results::{First, Sole, Tally, failed_update, report},
};
use crate::{
    Errno, Hypervisor, MachAddr, Op, VirtAddr, XenError,
    abi::{
        mmu::{
            MMU_PT_UPDATE_PRESERVE_AD, UVMF_ALL, UVMF_INVLPG, UVMF_LOCAL, UVMF_NONE, mmu_update,
            mmuext_op,
        },
        xen::DOMID_SELF,
    },
    instead::{PageTables, Refused},
    mmu::{self, Level, Scope, Stopped, VaFlush},
    multicall,
};

/// Updates with a page to flush each that go by address, at most. Of *n*, counted on Xen 4.17, that
/// costs 929 *n* instructions, a multicall of two lists 904 + 812 *n*.
const BY_ADDRESS: usize = 7;

/// What became of a flush's calls.
enum Sent {
    /// There was one, with updates alone.
    Sole(Sole),
    /// So many, with the errno of the multicall itself.
    Lists(usize, Option<Errno>),
}

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
    /// # Errors
    /// It may be that of this earlier flush; `update` is then not written.
    ///
    /// # Safety
    /// No mapping that safe code relies on goes away, changes its frame or loses rights. If the
    /// update names a virtual address, the current tables map it through this very entry.
    #[inline(always)]
    pub unsafe fn write_now<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        sink: &mut C,
        update: Update,
    ) -> Result<(), FlushError> {
        if let Some(va) = update.by_address()
            && self.is_empty()
        {
            // SAFETY: the caller answers for the change and for the address.
            return unsafe { self.write_alone(hv, sink, va, update, UVMF_NONE) };
        }
        // SAFETY: the caller's promise covers it.
        unsafe { self.write_behind(hv, sink, update, None) }
    }

    /// As [`write_now`](Self::write_now), and flushes what is cached for `address`, in the same hypercall
    /// where Xen has one. If Xen refuses to write, nothing has changed, and nothing is flushed.
    ///
    /// # Errors
    /// As [`write_now`](Self::write_now).
    ///
    /// # Safety
    /// As [`write_now`](Self::write_now).
    #[inline(always)]
    pub unsafe fn write_and_flush_now<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        sink: &mut C,
        update: Update,
        scope: Scope,
        address: VirtAddr,
    ) -> Result<(), FlushError> {
        if let Some(va) = update.by_address()
            && va == address
            && let Some(flags) = mmu::invlpg_flags(scope)
            && self.is_empty()
        {
            self.stats.tlb_requests += 1;
            // SAFETY: the caller answers for the change and for the address.
            return unsafe { self.write_alone(hv, sink, va, update, flags) };
        }
        // SAFETY: the caller's promise covers it.
        unsafe { self.write_behind(hv, sink, update, Some((scope, address))) }
    }

    /// Writes an L1 entry by its address `va`, with nothing queued, and flushes what is cached for it, if
    /// asked to: for this vCPU or for all, which a list of vCPUs is taken for.
    ///
    /// # Errors
    /// Xen's refusal, of which [`explain_at_once`](Self::explain_at_once) makes more.
    ///
    /// # Safety
    /// As [`write_now`](Self::write_now).
    #[inline(always)]
    pub(crate) unsafe fn write_at_once<H: Hypervisor + ?Sized>(
        &mut self,
        hv: &H,
        va: VirtAddr,
        value: u64,
        flush: Option<Scope>,
    ) -> Result<(), XenError> {
        debug_assert!(self.is_empty(), "what is queued goes first");
        let flags = match flush {
            None => UVMF_NONE,
            Some(Scope::Local) => UVMF_INVLPG | UVMF_LOCAL,
            Some(Scope::Vcpus(_) | Scope::All) => UVMF_INVLPG | UVMF_ALL,
        };
        self.stats.tlb_requests += u64::from(flush.is_some());
        self.stats.hypercalls += 1;
        // SAFETY: the caller answers for the change and for the address.
        unsafe { mmu::update_va_by_flags(hv, va, value, flags) }?;
        self.stats.applied += 1;
        Ok(())
    }

    /// What there is to say of a refusal of [`write_at_once`](Self::write_at_once).
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) fn explain_at_once(
        &mut self,
        error: XenError,
        slot: MachAddr,
        va: VirtAddr,
        Write { old, value }: Write,
    ) -> FlushError {
        let update = Update::new(Level::L1, slot, value).old(old).va(va);
        self.refused_alone(&mut (), &update, error)
    }

    /// Writes an L1 entry by its address, with nothing queued.
    #[inline(always)]
    unsafe fn write_alone<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        sink: &mut C,
        va: VirtAddr,
        update: Update,
        flags: u64,
    ) -> Result<(), FlushError> {
        let Update {
            slot,
            value,
            old,
            tag,
            caller,
            ..
        } = update;
        self.stats.hypercalls += 1;
        // SAFETY: the caller answers for the change and for the address.
        match unsafe { mmu::update_va_by_flags(hv, va, value, flags) } {
            Ok(()) => {
                report(sink, tag, true);
                self.stats.applied += 1;
                Ok(())
            }
            // Handed over word by word: an update in memory would cost each write that succeeds.
            Err(error) => {
                Err(self.refused_by_address(sink, error, va, slot, value, old, tag, caller))
            }
        }
    }

    #[cold]
    #[inline(never)]
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of an update, which stay in registers"
    )]
    fn refused_by_address<C: Completion + ?Sized>(
        &mut self,
        sink: &mut C,
        error: XenError,
        va: VirtAddr,
        slot: MachAddr,
        value: u64,
        old: u64,
        tag: u32,
        caller: &'static Location<'static>,
    ) -> FlushError {
        let update = Update {
            slot,
            value,
            old,
            level: Level::L1,
            va: Some(va),
            preserve_ad: false,
            tag,
            caller,
        };
        self.refused_alone(sink, &update, error)
    }

    /// Reports that Xen refused a write that was made by itself.
    #[cold]
    fn refused_alone<C: Completion + ?Sized>(
        &mut self,
        sink: &mut C,
        update: &Update,
        error: XenError,
    ) -> FlushError {
        report(sink, update.tag, false);
        self.stats.refused += 1;
        let tally = Tally {
            refused: 1,
            ..Tally::default()
        };
        let first = First {
            failed: failed_update(&update.request(), &Info::new(update), 0),
            caller: Some(update.caller),
            error,
        };
        tally.error(first, FlushReason::Immediate, false)
    }

    /// Writes an entry behind what is queued, or one that Xen does not find by an address.
    #[inline(never)]
    unsafe fn write_behind<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        sink: &mut C,
        update: Update,
        flush: Option<(Scope, VirtAddr)>,
    ) -> Result<(), FlushError> {
        if self.len | self.ext_len != 0 {
            self.flush(hv, FlushReason::Order, sink)?;
        }
        // Not with what went before, which does not hold the write yet.
        if let Some((scope, address)) = flush {
            self.flush_tlb(scope, Some(address));
        }
        if !self.pending.is_empty() {
            self.ready_for_update(hv, sink)?;
            self.push(update.request(), Info::new(&update));
            return self.flush(hv, FlushReason::Immediate, sink);
        }
        if let Some(va) = update.by_address() {
            // SAFETY: the caller answers for the change and for the address.
            return unsafe { self.write_alone(hv, sink, va, update, UVMF_NONE) };
        }
        self.stats.hypercalls += 1;
        // SAFETY: the caller answers for the change.
        match unsafe { mmu::update(hv, &[update.request()], DOMID_SELF) } {
            Ok(()) => {
                report(sink, update.tag, true);
                self.stats.applied += 1;
                Ok(())
            }
            Err(stopped) => Err(self.refused_alone(sink, &update, stopped.error)),
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
        let queued_ext = self.ext_len;
        let sent = if self.closed == 0
            && self.ext_len == 0
            && let Some(sole) = self.send_sole(hv)
        {
            Sent::Sole(sole)
        } else {
            self.close_lists();
            let (calls, error) = self.issue(hv);
            Sent::Lists(calls, error)
        };
        if !self.tagged && self.all_done(&sent) {
            self.stats.applied += self.len as u64;
            self.stats.ext_ops += self.ext_len as u64;
            self.reset();
            hv.restore_upcalls(was);
            return Ok(());
        }
        let result = self.conclude(hv, reason, sent, queued_ext as usize, sink);
        hv.restore_upcalls(was);
        result
    }

    /// Whether Xen has carried out all that was sent.
    #[inline]
    fn all_done(&self, sent: &Sent) -> bool {
        match sent {
            Sent::Sole(sole) => sole.result.is_ok(),
            Sent::Lists(_, Some(_)) => false,
            Sent::Lists(calls, None) => {
                let mut calls = self.calls.iter().take(*calls);
                calls.all(|call| matches!(multicall::result(call), Some(Ok(_))))
            }
        }
    }

    /// If there are only updates, and TLB flushes that can come with them, makes them: all but those
    /// that go by address as one list, and then these.
    #[inline]
    fn send_sole<H: Hypervisor + ?Sized>(&mut self, hv: &H) -> Option<Sole> {
        let count = self.len as usize;
        let (listed, flush) = self.split()?;
        let stopped = |error, done| Sole {
            result: Err(error),
            done,
        };
        let requests = self.updates.get(..listed)?;
        if !requests.is_empty() {
            // SAFETY: whoever queued the updates answered for them.
            if let Err(Stopped { error, done }) = unsafe { mmu::update(hv, requests, DOMID_SELF) } {
                return Some(stopped(error, done));
            }
        }
        for at in listed..count {
            self.stats.hypercalls += (at > 0) as u64;
            let (va, value) = (self.address(at)?, self.updates[at].val);
            // SAFETY: whoever queued the update answered for it, address included.
            if let Err(error) = unsafe { mmu::update_va_mapping(hv, va, value, flush) } {
                return Some(stopped(error, at as u32));
            }
        }
        Some(Sole {
            result: Ok(()),
            done: 0,
        })
    }

    /// How many updates go as a list before the others go by address, and with what flush each of those;
    /// nothing if the TLB flushes asked for cannot come with updates.
    ///
    /// Few, each with its own page to flush, are cheapest by address. Of more, the last one brings the
    /// flush of everything: cheaper than a multicall of two lists, by 500 instructions.
    #[inline]
    fn split(&self) -> Option<(usize, VaFlush)> {
        let count = self.len as usize;
        if self.pending.is_empty() {
            let alone = count == 1 && self.address(0).is_some();
            return Some((if alone { 0 } else { count }, VaFlush::None));
        }
        let scope = self.pending.only_scope()?;
        let last = count.checked_sub(1)?;
        if self.pending.is_everything() {
            self.address(last)?;
            return Some((last, VaFlush::Tlb(scope)));
        }
        let pages = (0..count).map(|at| self.address(at));
        let each = count <= BY_ADDRESS && self.pending.are(pages);
        each.then_some((0, VaFlush::Page(scope)))
    }

    /// The address by which Xen finds the entry of an update.
    #[inline]
    fn address(&self, at: usize) -> Option<VirtAddr> {
        let (update, info) = (self.updates.get(at)?, self.info.get(at)?);
        let preserve = update.ptr & 3 == MMU_PT_UPDATE_PRESERVE_AD as u64;
        match info.number() == Level::L1 as u8 && !preserve {
            true => info.va(),
            false => None,
        }
    }

    /// Does whatever is not the common case: reports tags, accounts for a failure.
    #[inline(never)]
    fn conclude<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        reason: FlushReason,
        sent: Sent,
        queued_ext: usize,
        sink: &mut C,
    ) -> Result<(), FlushError> {
        let (tally, flushed) = match sent {
            Sent::Sole(sole) => self.sole_done(sole, sink),
            Sent::Lists(_, error) => self.collect_results(error, queued_ext, sink),
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

    /// Adds the TLB flushes asked for to what is queued, and ends the last round.
    #[inline]
    fn close_lists(&mut self) {
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
        // SAFETY: the lists and counts of all calls are this batch's own and live; whoever queued the
        // requests answered for them.
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
