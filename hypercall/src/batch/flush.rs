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
    mmu::{self, Level, VaFlush},
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

struct First {
    failed: Failed,
    caller: Option<&'static Location<'static>>,
    error: XenError,
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
    pub unsafe fn write_now<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        sink: &mut C,
        update: Update,
    ) -> Result<(), FlushError> {
        if self.queued(update.slot).is_some() {
            self.flush(hv, FlushReason::Order, sink)?;
        }
        if self.len == 0 && self.ext_len == 0 {
            self.ready_for_update(hv, sink)?;
            self.push(update.request(), Info::new(&update));
            return self.flush(hv, FlushReason::Immediate, sink);
        }
        // By machine address: tables on the way to the virtual one may wait in the queue.
        self.stats.hypercalls += 1;
        // SAFETY: the caller answers for the change.
        let result = unsafe { mmu::update(hv, &[update.request()], DOMID_SELF) };
        if update.tag != 0 {
            match result {
                Ok(()) => sink.applied(update.tag),
                Err(_) => sink.dropped(update.tag),
            }
        }
        match result {
            Ok(()) => {
                self.stats.applied += 1;
                Ok(())
            }
            Err(stopped) => {
                self.stats.refused += 1;
                Err(FlushError {
                    failed: failed_update(&update.request(), &Info::new(&update), 0),
                    caller: Some(update.caller),
                    error: stopped.error,
                    reason: FlushReason::Immediate,
                    applied: 0,
                    refused: 1,
                    skipped: 0,
                    ops_incomplete: false,
                    tlb_stale: false,
                })
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
        let was = hv.mask_upcalls();
        let (tally, flushed) = match self.lone() {
            Some((va, flush)) => self.send_lone(hv, va, flush, sink),
            None => self.send_lists(hv, sink),
        };
        let tlb_stale = !flushed && !self.flush_again(hv);
        self.reset();
        self.stats.applied += tally.updates as u64;
        self.stats.refused += tally.refused as u64;
        hv.restore_upcalls(was);
        match tally.first {
            None => Ok(()),
            Some(First {
                failed,
                caller,
                error,
            }) => {
                let Tally {
                    applied,
                    refused,
                    skipped,
                    ops_incomplete,
                    ..
                } = tally;
                Err(FlushError {
                    failed,
                    caller,
                    error,
                    reason,
                    applied,
                    refused,
                    skipped,
                    ops_incomplete,
                    tlb_stale,
                })
            }
        }
    }

    /// Whether all there is to do is one `update_va_mapping`.
    #[inline]
    fn lone(&self) -> Option<(VirtAddr, VaFlush)> {
        if self.len != 1 || self.ext_len != 0 {
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

    fn send_lone<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        va: VirtAddr,
        flush: VaFlush,
        sink: &mut C,
    ) -> (Tally, bool) {
        let mut tally = Tally::default();
        let (update, info) = (self.updates[0], self.info[0]);
        self.stats.hypercalls += 1;
        // SAFETY: whoever queued the update answered for it, address included.
        let result = unsafe { mmu::update_va_mapping(hv, va, update.val, flush) };
        report(sink, info.tag, result.is_ok());
        match result {
            Ok(()) => {
                tally.applied = 1;
                tally.updates = 1;
                (tally, true)
            }
            Err(error) => {
                tally.refused = 1;
                let failed = failed_update(&update, &info, 0);
                tally.first = Some(First {
                    failed,
                    caller: info.caller,
                    error,
                });
                (tally, self.pending.is_empty())
            }
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
        let calls = self.prepare();
        self.stats.hypercalls += 1;
        let list_error = self.issue(hv, calls);
        self.settle(calls, list_error, queued_ext as usize, sink)
    }

    /// Writes the calls down, and says how many there are.
    fn prepare(&mut self) -> usize {
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
        calls
    }

    /// Makes the calls: a single one as it is, several as a multicall, whose own errno is returned.
    fn issue<H: Hypervisor + ?Sized>(&mut self, hv: &H, calls: usize) -> Option<Errno> {
        if let [only] = &mut self.calls[..calls] {
            let Some(op) = Op::from_number(only.op) else {
                return Some(Errno::ENOSYS);
            };
            let [a, b, c, d, e, _] = only.args;
            // SAFETY: the lists and the count are this batch's own and live; whoever queued the
            // requests answered for them.
            only.result = unsafe { hv.call(op, [a, b, c, d, e]) } as u64;
            return None;
        }
        // SAFETY: as above, for each entry.
        unsafe { multicall::multicall(hv, &mut self.calls[..calls]) }
            .err()
            .map(|error| error.errno)
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
                    let (failed, caller) = match refused {
                        Some(at) => {
                            let info = &self.info[at];
                            (failed_update(&self.updates[at], info, at), info.caller)
                        }
                        None => (Failed::Call, None),
                    };
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
