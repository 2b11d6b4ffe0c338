//! Transitions that are planned with a request, and what becomes of them when it is carried out.
//!
//! Every vCPU has a queue of its own, and with it a log of its own; the records belong to all. A
//! log applies only its own transitions: what it says of a frame it adds to the record and takes
//! out of it again, whatever other logs say meanwhile. Two kinds of transitions differ in that:
//! - Links of a table are *counted*: several logs may speak of the same frame at once, as pinning
//!   any root refers to every table of the kernel's half. None drops a link that another only plans.
//! - What a frame *is*, and whether it is pinned, one log decides, as long as no other speaks of
//!   the frame: the record counts the transitions in waiting, and if they are not all this log's,
//!   the transition is refused ([`FrameError::Busy`]).

use heapless::Vec;
use hypercall::Pfn;
use hypercall::batch::Completion;

use super::{Frame, FrameError, Frames};
use crate::domain::Domain;
use crate::entry::{L5, TableLevel};
use crate::machine::Machine;
use crate::record::Record;
use crate::state::Transition;

/// Transitions that can be queued between two flushes.
const TRANSITIONS: usize = 512;
/// Frames that can wait for a flush before they are free.
const WAITING: usize = if cfg!(feature = "small") { 32 } else { 512 };

const _: () = assert!(
    TRANSITIONS > 256 + 240,
    "a root can be pinned: all but Xen's slots, and itself"
);

/// 8 bytes each, as every vCPU has room for many.
#[derive(Clone, Copy)]
struct Logged {
    /// The bits of the pfn, of which there are 40.
    low: u32,
    high: u8,
    /// It came true.
    applied: bool,
    transition: Transition,
}

const _: () = assert!(size_of::<Logged>() == 8 && Pfn::MAX.as_u64() >> 40 == 0);

impl Logged {
    #[inline(always)]
    fn new(pfn: Pfn, transition: Transition) -> Logged {
        Logged {
            low: pfn.as_u64() as u32,
            high: (pfn.as_u64() >> 32) as u8,
            applied: false,
            transition,
        }
    }

    #[inline(always)]
    fn pfn(self) -> Pfn {
        Pfn::truncate(u64::from(self.high) << 32 | u64::from(self.low))
    }
}

/// What one queue will have changed once it is flushed.
pub struct Log {
    transitions: Vec<Logged, TRANSITIONS>,
    waiting: Vec<Pfn, WAITING>,
    /// There are transitions or frames in it.
    is_waiting: bool,
    /// The table whose link or unsealing was planned last: should it not come true, this log has the table
    /// given back.
    answers_for: Option<Pfn>,
}

/// Whether a table is nobody's if this does not come true.
const fn is_answered_for(transition: Transition) -> bool {
    matches!(transition, Transition::Link(_) | Transition::Unseal)
}

impl Default for Log {
    fn default() -> Self {
        Log::new()
    }
}

impl Log {
    /// Of nothing.
    #[must_use]
    pub const fn new() -> Log {
        Log {
            transitions: Vec::new(),
            waiting: Vec::new(),
            is_waiting: false,
            answers_for: None,
        }
    }

    /// Whether there is room for `transitions` more queued transitions and `frees` more frames in
    /// waiting.
    #[must_use]
    pub fn has_room(&self, transitions: usize, frees: usize) -> bool {
        self.transitions.len() + transitions <= TRANSITIONS && self.waiting.len() + frees <= WAITING
    }

    /// Plans the transitions that one request will make, and returns the tag by which it tells that
    /// they came true. Either all are planned or none.
    ///
    /// Each comes true or not by itself. So a link is dropped ([`Transition::Unlink`]) only from an
    /// entry that has it: what is only planned for the entry goes out before.
    ///
    /// # Errors
    /// A transition is not allowed, another log decides about the frame, or this log is full.
    pub fn plan(
        &mut self,
        frames: &Frames,
        transitions: &[(Pfn, Transition)],
    ) -> Result<u32, FrameError> {
        self.plan_all(frames, |log| {
            transitions
                .iter()
                .try_for_each(|&(pfn, transition)| log.plan_one(frames, pfn, transition))
        })
    }

    /// As [`Log::plan`], for transitions that `each` plans one by one ([`Log::plan_one`]).
    ///
    /// # Errors
    /// Those of `each`.
    pub fn plan_all(
        &mut self,
        frames: &Frames,
        each: impl FnOnce(&mut Log) -> Result<(), FrameError>,
    ) -> Result<u32, FrameError> {
        let first = self.transitions.len();
        if let Err(e) = each(self) {
            while self.transitions.len() > first {
                self.undo_last(frames);
            }
            return Err(e);
        }
        let transitions = self.transitions.len() - first;
        if transitions == 0 {
            return Ok(0);
        }
        self.is_waiting = true;
        Ok((first as u32 + 1) | (transitions as u32) << 16)
    }

    /// Plans one transition of a request.
    ///
    /// # Errors
    /// The transition is not allowed, another log decides about the frame, or this log is full.
    pub fn plan_one(
        &mut self,
        frames: &Frames,
        pfn: Pfn,
        transition: Transition,
    ) -> Result<(), FrameError> {
        if self.transitions.is_full() {
            return Err(FrameError::Full);
        }
        frames.change(pfn, |record| {
            let is_simple =
                transition != Transition::Unlink || self.holds_all(pfn, record.waiting());
            if is_simple && let Some(changed) = record.with_link_planned(transition) {
                return Ok(changed);
            }
            let (applied, planned) = record.states();
            let next = planned
                .after(transition)
                .map_err(|e| FrameError::Illegal(pfn, e))?;
            let counted = transition.is_counted() && applied.kind == planned.kind;
            let others_allow = || match transition {
                Transition::Unlink => counted && self.links_at_least(pfn, record) > 0,
                _ => counted,
            };
            if !self.holds_all(pfn, record.waiting()) && !others_allow() {
                return Err(FrameError::Busy(pfn));
            }
            let changed = record.with_states(applied, next);
            Ok(changed.with_waiting(record.waiting() + 1))
        })?;
        self.transitions
            .push(Logged::new(pfn, transition))
            .map_err(|_| FrameError::Full)?;
        if is_answered_for(transition) {
            self.answers_for = Some(pfn);
        }
        frames.count_frozen(i64::from(transition == Transition::Freeze));
        Ok(())
    }

    /// Whether all the transitions in waiting that a frame's record counts are this log's.
    #[inline]
    fn holds_all(&self, pfn: Pfn, waiting: u16) -> bool {
        let waits = |logged: &&Logged| logged.pfn() == pfn && !logged.applied;
        let waiting = usize::from(waiting);
        waiting == 0
            || self
                .transitions
                .iter()
                .rev()
                .filter(waits)
                .take(waiting)
                .count()
                == waiting
    }

    /// How many links a frame will have at least: of others' transitions only those come true that
    /// drop one. How many these are follows from how many there are and what they change in all.
    #[cold]
    fn links_at_least(&self, pfn: Pfn, record: Record) -> i64 {
        let (applied, planned) = record.states();
        let (applied, planned) = (i64::from(applied.links), i64::from(planned.links));
        let mine = self
            .transitions
            .iter()
            .filter(|s| s.pfn() == pfn && !s.applied);
        let (transitions, change) = mine.fold((0, 0), |(transitions, change), logged| match logged
            .transition
        {
            Transition::Link(_) => (transitions + 1, change + 1),
            Transition::Unlink => (transitions + 1, change - 1),
            _ => (transitions + 1, change),
        });
        let others = i64::from(record.waiting()) - transitions;
        let others_change = planned - applied - change;
        applied + change - (others - others_change) / 2
    }

    /// Takes the last transition out of the log, and out of what is planned if it did not come
    /// true.
    fn undo_last(&mut self, frames: &Frames) {
        let Some(logged) = self.transitions.pop() else {
            return;
        };
        if logged.applied {
            return;
        }
        let (pfn, transition) = (logged.pfn(), logged.transition);
        frames.count_frozen(-i64::from(transition == Transition::Freeze));
        // The record exists: the transition was planned in it.
        let _ = frames.change(pfn, |record| {
            let (applied, planned) = record.states();
            let changed = record.with_states(applied, planned.without(transition, applied));
            Ok(changed.with_waiting(record.waiting().saturating_sub(1)))
        });
    }

    /// The table that this log has given back if what was planned of it does not come true: the last one
    /// since [`answer_for_none`](Self::answer_for_none).
    #[must_use]
    pub fn answers_for(&self) -> Option<Pfn> {
        self.answers_for
    }

    /// Forgets which table that is.
    pub fn answer_for_none(&mut self) {
        self.answers_for = None;
    }

    /// Transitions that came true, by the tag of their request.
    pub fn applied(&mut self, frames: &Frames, tag: u32) {
        let first = (tag as usize & 0xffff).wrapping_sub(1);
        for at in first..first.saturating_add(tag as usize >> 16) {
            let Some(logged) = self.transitions.get_mut(at) else {
                return;
            };
            let mut thawed = false;
            let changed = frames.change(logged.pfn(), |record| {
                if let Some(changed) = record.with_link_applied(logged.transition) {
                    return Ok(changed);
                }
                let (applied, planned) = record.states();
                let illegal = |e| FrameError::Illegal(logged.pfn(), e);
                let next = applied.after(logged.transition).map_err(illegal)?;
                thawed = applied.kind.is_frozen() && !next.kind.is_frozen();
                let changed = record.with_states(next, planned);
                Ok(changed.with_waiting(record.waiting().saturating_sub(1)))
            });
            if changed.is_ok() {
                logged.applied = true;
                frames.count_frozen(-i64::from(thawed));
            }
        }
    }

    /// Whether transitions or frames wait for [`Log::apply`].
    #[inline]
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Takes a frame back as soon as everything queued so far has been carried out: at the next
    /// [`Log::apply`]. Its state does not tell whether anything is queued for it: one that was
    /// sealed and unsealed again since the last flush looks as if nothing had happened.
    ///
    /// # Errors
    /// Too many wait: flush first.
    pub fn free_after_flush(&mut self, frame: Frame) -> Result<(), FrameError> {
        self.is_waiting = true;
        self.waiting.push(frame.pfn()).map_err(|_| FrameError::Full)
    }

    /// To be called when the queue is empty: what did not come true is no longer planned, and
    /// frames that waited for the flush become free if they could.
    pub fn apply<M: Machine>(&mut self, frames: &Frames, machine: &M) {
        while let Some(&logged) = self.transitions.last() {
            self.undo_last(frames);
            match logged.transition {
                _ if logged.applied => {}
                // Whoever asked for this gave the table up.
                _ if is_answered_for(logged.transition) => {
                    frames.orphan_unless_held(logged.pfn());
                }
                // The entry refers to it still.
                Transition::Unlink => frames.hold_again(logged.pfn()),
                _ => {}
            }
        }
        self.is_waiting = false;
        while let Some(pfn) = self.waiting.pop() {
            // SAFETY: `free_after_flush` was given the frame, and it is taken out here once.
            let frame = unsafe { Frame::from_pfn(pfn) };
            // One that Xen did not let become writable is orphaned by now.
            let _ = frames.free(machine, frame);
        }
    }
}

/// What the flushes of a vCPU's queue report to: its log, with the domain whose frames it is about.
pub struct Ledger<M: Machine> {
    /// The domain.
    pub(crate) domain: &'static Domain<M>,
    /// What is planned with the queue.
    pub(crate) log: Log,
}

impl<M: Machine> Completion for Ledger<M> {
    #[inline]
    fn applied(&mut self, tag: u32) {
        self.log.applied(self.domain.frames(), tag);
    }

    #[inline]
    fn dropped(&mut self, _: u32) {
        // Applying the log brings the plan back to what was applied; what was read through the
        // queue before may not be so.
        self.domain.changed(L5::NUMBER);
    }
}
