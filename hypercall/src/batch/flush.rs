//! Sending what is queued, and settling what became of it.
//!
//! `mmu_update` and `mmuext_op` stop at the first request that is refused and say how many they
//! did; a multicall returns 0 and goes on with its next entry. So each call of a batch is settled
//! on its own: what it did, the one it refused, what it did not come to. Of a multicall's entries
//! only the results are read back, and the counts, which live outside of it.

use core::panic::Location;

use super::{Batch, Completion, ExtEntry, Failed, FlushError, FlushReason, Info, Update};
use crate::{
    Errno, Hypervisor, MachAddr, Op, VirtAddr, XenError,
    abi::{
        mmu::{MMU_PT_UPDATE_PRESERVE_AD, mmu_update},
        xen::DOMID_SELF,
    },
    mmu::{self, Level, Stopped, VaFlush},
    multicall,
};

/// What became of the requests of a flush, so far.
#[derive(Default)]
struct Tally {
    applied: u16,
    /// Of those applied, the updates.
    updates: u16,
    refused: u16,
    skipped: u16,
    ops_incomplete: bool,
    first: Option<First>,
}

#[derive(Clone, Copy)]
struct First {
    failed: Failed,
    caller: Option<&'static Location<'static>>,
    error: XenError,
}

/// A call that was the only one of its flush: its result, and how many updates were done if it
/// failed.
struct Sole {
    result: Result<(), XenError>,
    done: u32,
}

/// What became of one call: how many requests it carried out, and the errno it stopped with.
struct Outcome {
    done: usize,
    error: Option<Errno>,
    /// Xen began with it.
    reached: bool,
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

    /// Writes one entry at once, without disturbing what is queued: for contexts that must not
    /// wait, such as interrupt handlers. A queued write to the same slot goes first, with all the
    /// others.
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
        if self.queued(update.slot).is_some() {
            self.flush(hv, FlushReason::Order, sink)?;
        }
        let idle = self.len == 0 && self.ext_len == 0;
        if idle && !self.pending.is_empty() {
            // The TLB flushes that wait can ride with it.
            self.ready_for_update(hv, sink)?;
            self.push(update.request(), Info::new(&update));
            return self.flush(hv, FlushReason::Immediate, sink);
        }
        self.stats.hypercalls += 1;
        let result = match update.va {
            // SAFETY: the caller answers for the change and for the address.
            Some(va) if idle && update.level == Level::L1 && !update.preserve_ad => unsafe {
                mmu::update_va_mapping(hv, va, update.value, VaFlush::None)
            },
            // By machine address: tables on the way to the virtual one may wait in the queue.
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
            Some(sole) => self.settle_sole(sole, sink),
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

    /// Says what became of each update of a call that was the only one.
    fn settle_sole<C: Completion + ?Sized>(&self, sole: Sole, sink: &mut C) -> (Tally, bool) {
        let mut tally = Tally::default();
        let count = self.len as usize;
        let error = sole.result.err();
        let outcome = match error {
            None => Outcome {
                done: count,
                error: None,
                reached: true,
            },
            Some(XenError { errno, .. }) => Outcome {
                done: (sole.done as usize).min(count),
                error: Some(errno),
                reached: true,
            },
        };
        tally.updates = outcome.done as u16;
        let refused = tally.count(count, &outcome);
        for (at, info) in self.info.iter().enumerate().take(count) {
            report(sink, info.tag, at < outcome.done);
        }
        tally.first = error.map(|error| {
            let (failed, caller) = self.failed_update(refused);
            First {
                failed,
                caller,
                error,
            }
        });
        (tally, error.is_none() || self.pending.is_empty())
    }

    /// What to say of the update with this number, if it was one.
    fn failed_update(&self, at: Option<usize>) -> (Failed, Option<&'static Location<'static>>) {
        match at {
            Some(at) => {
                let info = &self.info[at];
                (failed_update(&self.updates[at], info, at), info.caller)
            }
            None => (Failed::Call, None),
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
        self.settle(calls, list_error, queued_ext as usize, sink)
    }

    /// Writes the calls down and makes them: a single one as it is, several as a multicall. Says
    /// how many there were, and the errno of the multicall itself.
    fn issue<H: Hypervisor + ?Sized>(&mut self, hv: &H) -> (usize, Option<Errno>) {
        for (raw, entry) in self
            .ext_raw
            .iter_mut()
            .zip(&self.ext[..self.ext_len as usize])
        {
            *raw = entry.op.raw();
        }
        let updates = (&raw const self.updates).cast::<mmu_update>();
        let ext = (&raw const self.ext_raw).cast::<crate::abi::mmu::mmuext_op>();
        let done = (&raw mut self.done).cast::<u32>();
        let mut calls = 0;
        let mut from = super::Round::ZERO;
        for &to in &self.rounds[..self.closed as usize] {
            let lists = [
                (
                    Op::MmuUpdate,
                    updates.wrapping_add(from.updates as usize) as u64,
                    { to.updates - from.updates },
                ),
                (
                    Op::MmuextOp,
                    ext.wrapping_add(from.ext as usize) as u64,
                    to.ext - from.ext,
                ),
            ];
            for (op, list, count) in lists {
                if count != 0 && calls < super::CALLS {
                    self.done[calls] = 0;
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

    fn outcome(&self, call: usize, count: usize, list_error: Option<Errno>) -> Outcome {
        match multicall::result(&self.calls[call]) {
            Some(Ok(_)) => Outcome {
                done: count,
                error: None,
                reached: true,
            },
            Some(Err(errno)) => Outcome {
                done: (self.done[call] as usize).min(count),
                error: Some(errno),
                reached: true,
            },
            None => Outcome {
                done: 0,
                error: list_error.or(Some(Errno::EFAULT)),
                reached: false,
            },
        }
    }

    /// Goes through the calls and says what became of each request.
    fn settle<C: Completion + ?Sized>(
        &mut self,
        calls: usize,
        list_error: Option<Errno>,
        queued_ext: usize,
        sink: &mut C,
    ) -> (Tally, bool) {
        let mut tally = Tally::default();
        let all_done = list_error.is_none()
            && self.calls[..calls]
                .iter()
                .all(|c| matches!(multicall::result(c), Some(Ok(_))));
        if all_done && !self.tagged {
            tally.applied = self.len + queued_ext as u16;
            tally.updates = self.len;
            self.stats.ext_ops += self.ext_len as u64;
            return (tally, true);
        }
        let mut flushed = true;
        let mut call = 0;
        let mut from = super::Round::ZERO;
        for round in 0..self.closed as usize {
            let to = self.rounds[round];
            let (first, last) = (from.updates as usize, to.updates as usize);
            if first != last {
                let outcome = self.outcome(call, last - first, list_error);
                tally.updates += outcome.done as u16;
                let refused = tally.count(last - first, &outcome).map(|at| first + at);
                for at in first..last {
                    report(sink, self.info[at].tag, at < first + outcome.done);
                }
                if let (Some(errno), None) = (outcome.error, &tally.first) {
                    let (failed, caller) = self.failed_update(refused);
                    let op = if outcome.reached {
                        Op::MmuUpdate
                    } else {
                        Op::Multicall
                    };
                    let error = XenError {
                        op,
                        sub: None,
                        errno,
                    };
                    tally.first = Some(First {
                        failed,
                        caller,
                        error,
                    });
                }
                call += 1;
            }
            let (first, last) = (from.ext as usize, to.ext as usize);
            if first != last {
                let outcome = self.outcome(call, last - first, list_error);
                self.stats.ext_ops += outcome.done as u64;
                // The flushes at the end are nobody's requests: they are counted by themselves.
                let queued = last.min(queued_ext).max(first) - first;
                let refused = tally.count(queued, &outcome).map(|at| first + at);
                for at in first..first + queued {
                    report(sink, self.ext[at].tag, at < first + outcome.done);
                }
                tally.ops_incomplete |= outcome.done < queued;
                flushed &= last <= queued_ext || outcome.done == last - first;
                if let (Some(errno), None) = (outcome.error, &tally.first) {
                    let stopped = first + outcome.done;
                    let (failed, caller, sub) =
                        match refused.or((stopped < last).then_some(stopped)) {
                            Some(at) if outcome.reached => {
                                let ExtEntry { op, caller, .. } = self.ext[at];
                                (
                                    Failed::Ext {
                                        index: at as u16,
                                        op,
                                    },
                                    caller,
                                    Some(op.name()),
                                )
                            }
                            _ => (Failed::Call, None, None),
                        };
                    let op = if outcome.reached {
                        Op::MmuextOp
                    } else {
                        Op::Multicall
                    };
                    let error = XenError { op, sub, errno };
                    tally.first = Some(First {
                        failed,
                        caller,
                        error,
                    });
                }
                call += 1;
            }
            from = to;
        }
        (tally, flushed)
    }

    /// Carries out the pending TLB flushes on their own, after a call that should have was stopped
    /// before it came to them.
    #[cold]
    fn flush_again<H: Hypervisor + ?Sized>(&mut self, hv: &H) -> bool {
        let mut done = true;
        let mut calls = 0;
        self.pending.ops(|op| {
            calls += 1;
            // SAFETY: a flush changes no mapping.
            done &= unsafe { mmu::ext(hv, op) }.is_ok();
        });
        self.stats.hypercalls += calls;
        done
    }
}

impl Tally {
    /// Counts a call of `count` requests, and says which of them was refused.
    fn count(&mut self, count: usize, outcome: &Outcome) -> Option<usize> {
        let done = outcome.done.min(count);
        let refused = outcome.error.is_some() && outcome.reached && done < count;
        self.applied += done as u16;
        self.refused += refused as u16;
        self.skipped += (count - done) as u16 - refused as u16;
        refused.then_some(done)
    }

    fn error(&self, first: First, reason: FlushReason, tlb_stale: bool) -> FlushError {
        let First {
            failed,
            caller,
            error,
        } = first;
        let &Self {
            applied,
            refused,
            skipped,
            ops_incomplete,
            ..
        } = self;
        FlushError {
            failed,
            caller,
            error,
            reason,
            applied,
            refused,
            skipped,
            ops_incomplete,
            tlb_stale,
        }
    }
}

#[inline]
fn report<C: Completion + ?Sized>(sink: &mut C, tag: u32, applied: bool) {
    match (tag, applied) {
        (0, _) => {}
        (_, true) => sink.applied(tag),
        (_, false) => sink.dropped(tag),
    }
}

fn failed_update(update: &mmu_update, info: &Info, index: usize) -> Failed {
    let index = index as u16;
    let slot = MachAddr::truncate(update.ptr & !7);
    match info.level() {
        Some(level) => Failed::Update {
            index,
            slot,
            level,
            va: info.va(),
            old: info.old,
            new: update.val,
        },
        None => Failed::Machphys {
            index,
            frame: slot,
            pfn: update.val,
        },
    }
}
