//! What a flush did: what Xen applied, what it refused, what it never came to.
//!
//! `mmu_update` and `mmuext_op` stop at the first request that is refused and say how many they
//! did; a multicall returns 0 and goes on with its next entry. So each call of a batch is
//! judged on its own. Of a multicall's entries only the results are read back, and the counts, which live
//! outside of it. Invariant: each request is counted once, and each tag reported once.

use core::panic::Location;

use super::{Batch, Completion, ExtEntry, Failed, FlushError, FlushReason, Info, Round};
use crate::{Errno, MachAddr, Op, XenError, abi::mmu::mmu_update, multicall};

/// What became of the requests of a flush, so far.
#[derive(Default)]
pub(super) struct Tally {
    /// Requests carried out, for an error: not counted where there is none and no tag to report.
    pub(super) applied: u16,
    /// Updates carried out.
    pub(super) updates: u16,
    pub(super) refused: u16,
    pub(super) skipped: u16,
    pub(super) last_ops_undone: u16,
    pub(super) first: Option<First>,
}

#[derive(Clone, Copy)]
pub(super) struct First {
    pub(super) failed: Failed,
    pub(super) caller: Option<&'static Location<'static>>,
    pub(super) error: XenError,
}

/// A call that was the only one of its flush: its result, and how many updates were done if it
/// failed.
pub(super) struct Sole {
    pub(super) result: Result<(), XenError>,
    pub(super) done: u32,
}

/// What became of one call: how many requests it carried out, and the errno it stopped with.
struct CallResult {
    done: usize,
    error: Option<Errno>,
    /// Xen began with it.
    reached: bool,
}

impl CallResult {
    /// Of a call of `count` requests that Xen began with: all were carried out or, if it stopped
    /// with an error, those that it says were.
    fn new(count: usize, error: Option<Errno>, done: u32) -> Self {
        Self {
            done: match error {
                None => count,
                Some(_) => (done as usize).min(count),
            },
            error,
            reached: true,
        }
    }

    /// The hypercall that an error is of: this one, `op`, or the multicall it was to be part of.
    fn source(&self, op: Op) -> Op {
        if self.reached { op } else { Op::Multicall }
    }
}

impl<const N: usize> Batch<N> {
    /// Says what became of each update of a call that was the only one.
    pub(super) fn sole_done<C: Completion + ?Sized>(
        &self,
        sole: Sole,
        sink: &mut C,
    ) -> (Tally, bool) {
        let mut tally = Tally::default();
        let count = self.len as usize;
        let error = sole.result.err();
        let outcome = CallResult::new(count, error.map(|error| error.errno), sole.done);
        tally.updates = outcome.done as u16;
        let refused = tally.count(count, &outcome);
        for (at, info) in self.info.iter().enumerate().take(count) {
            report(sink, info.tag(), at < outcome.done);
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

    fn outcome(&self, call: usize, count: usize, list_error: Option<Errno>) -> CallResult {
        match multicall::result(&self.calls[call]) {
            Some(result) => CallResult::new(count, result.err(), self.done[call]),
            None => CallResult {
                done: 0,
                error: list_error.or(Some(Errno::EFAULT)),
                reached: false,
            },
        }
    }

    /// Goes through the calls and says what became of each request.
    pub(super) fn collect_results<C: Completion + ?Sized>(
        &mut self,
        list_error: Option<Errno>,
        queued_ext: usize,
        sink: &mut C,
    ) -> (Tally, bool) {
        let mut tally = Tally::default();
        let mut flushed = true;
        let mut call = 0;
        let mut from = Round::ZERO;
        for round in 0..self.closed as usize {
            let to = self.rounds[round];
            let (first, last) = (from.updates as usize, to.updates as usize);
            if first != last {
                tally.last_ops_undone = 0;
                let outcome = self.outcome(call, last - first, list_error);
                tally.updates += outcome.done as u16;
                let refused = tally.count(last - first, &outcome).map(|at| first + at);
                for at in first..last {
                    report(sink, self.info[at].tag(), at < first + outcome.done);
                }
                if let (Some(errno), None) = (outcome.error, &tally.first) {
                    let (failed, caller) = self.failed_update(refused);
                    let error = XenError {
                        op: outcome.source(Op::MmuUpdate),
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
                tally.last_ops_undone = queued.saturating_sub(outcome.done) as u16;
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
                    let error = XenError {
                        op: outcome.source(Op::MmuextOp),
                        sub,
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
            from = to;
        }
        (tally, flushed)
    }
}

impl Tally {
    /// Counts a call of `count` requests, and says which of them was refused.
    fn count(&mut self, count: usize, outcome: &CallResult) -> Option<usize> {
        let done = outcome.done.min(count);
        let refused = outcome.error.is_some() && outcome.reached && done < count;
        self.applied += done as u16;
        self.refused += refused as u16;
        self.skipped += (count - done) as u16 - refused as u16;
        refused.then_some(done)
    }

    pub(super) fn error(&self, first: First, reason: FlushReason, tlb_stale: bool) -> FlushError {
        let First {
            failed,
            caller,
            error,
        } = first;
        let &Self {
            applied,
            refused,
            skipped,
            last_ops_undone,
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
            last_ops_undone,
            tlb_stale,
        }
    }
}

#[inline]
pub(super) fn report<C: Completion + ?Sized>(sink: &mut C, tag: u32, applied: bool) {
    match (tag, applied) {
        (0, _) => {}
        (_, true) => sink.applied(tag),
        (_, false) => sink.dropped(tag),
    }
}

pub(super) fn failed_update(update: &mmu_update, info: &Info, index: usize) -> Failed {
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
