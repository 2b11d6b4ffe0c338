//! Steps that are planned with a request, and what becomes of them when it is carried out.

use super::{FrameError, Frames, LIMBO, LOG, Logged};
use crate::frames::Frame;
use crate::machine::Machine;
use crate::record::Record;
use crate::state::{Kind, State, Step};
use hypercall::Pfn;

const fn is_frozen(state: State) -> bool {
    matches!(state.kind, Kind::Code | Kind::ImageFrozen)
}

impl Frames {
    /// Whether there is room for `steps` more queued steps and `frees` more frames in waiting.
    #[must_use]
    pub fn has_room(&self, steps: usize, frees: usize) -> bool {
        self.log.len() + steps <= LOG && self.limbo.len() + frees <= LIMBO
    }

    /// Plans the steps that one request will make, and returns the tag by which it tells that they
    /// came true. Either all are planned or none.
    ///
    /// # Errors
    /// A step is not allowed, or the log is full.
    pub fn plan(&mut self, steps: &[(Pfn, Step)]) -> Result<u32, FrameError> {
        self.plan_all(|frames| {
            steps
                .iter()
                .try_for_each(|&(pfn, step)| frames.plan_one(pfn, step))
        })
    }

    /// As [`Frames::plan`], for steps that `each` plans one by one ([`Frames::plan_one`]).
    ///
    /// # Errors
    /// Those of `each`.
    pub fn plan_all(
        &mut self,
        each: impl FnOnce(&mut Frames) -> Result<(), FrameError>,
    ) -> Result<u32, FrameError> {
        let first = self.log.len();
        if let Err(e) = each(self) {
            while self.log.len() > first {
                self.undo_last();
            }
            return Err(e);
        }
        let steps = self.log.len() - first;
        if steps == 0 {
            return Ok(0);
        }
        self.unsettled = true;
        Ok((first as u32 + 1) | (steps as u32) << 16)
    }

    /// Plans one step of a request.
    ///
    /// # Errors
    /// The step is not allowed, or the log is full.
    pub fn plan_one(&mut self, pfn: Pfn, step: Step) -> Result<(), FrameError> {
        if self.log.is_full() {
            return Err(FrameError::Full);
        }
        let (applied, planned) = self.states(pfn)?;
        let next = planned
            .after(step)
            .map_err(|e| FrameError::Illegal(pfn, e))?;
        self.put(pfn, applied, next)?;
        let logged = Logged {
            pfn,
            step,
            applied: false,
        };
        self.log.push(logged).map_err(|_| FrameError::Full)?;
        self.frozen += u64::from(step == Step::Freeze);
        Ok(())
    }

    /// Takes the last step out of the log, and out of what is planned if it did not come true.
    fn undo_last(&mut self) {
        let Some(Logged { pfn, step, applied }) = self.log.pop() else {
            return;
        };
        if applied {
            return;
        }
        self.frozen -= u64::from(step == Step::Freeze);
        if let Ok(record) = self.record(pfn) {
            // SAFETY: `record` points into a page of records, which belongs to this value.
            let (now, planned) = Record::from_bits(unsafe { record.read() }).states();
            // The record exists: it was just read.
            let _ = self.put(pfn, now, planned.without(step, now));
        }
    }

    /// Steps that came true, by the tag of their request.
    pub fn applied(&mut self, tag: u32) {
        let first = (tag as usize & 0xffff).wrapping_sub(1);
        for at in first..first.saturating_add(tag as usize >> 16) {
            let Some(logged) = self.log.get(at) else {
                return;
            };
            let Logged { pfn, step, .. } = *logged;
            let Ok((applied, planned)) = self.states(pfn) else {
                return;
            };
            if let Ok(next) = applied.after(step) {
                self.log[at].applied = true;
                let thawed = is_frozen(applied) && !is_frozen(next);
                self.frozen -= u64::from(thawed);
                // The record exists: it was just read.
                let _ = self.put(pfn, next, planned);
            }
        }
    }

    /// Whether any frame is frozen, or will be: only then writable mappings need a look.
    #[inline]
    #[must_use]
    pub fn has_frozen(&self) -> bool {
        self.frozen > 0
    }

    /// How many requests that carried steps did not come true so far: what was read through the
    /// queue before the last of them may not be so.
    #[inline]
    #[must_use]
    pub fn refusals(&self) -> u32 {
        self.refusals
    }

    /// Whether steps or frames wait for [`Frames::settle`].
    #[inline]
    #[must_use]
    pub fn unsettled(&self) -> bool {
        self.unsettled
    }

    /// To be called when the queue is empty: what did not come true is no longer planned, and
    /// frames that waited for the flush become free if they could.
    pub fn settle<M: Machine>(&mut self, machine: &M) {
        while let Some(&Logged { pfn, step, applied }) = self.log.last() {
            if !applied && matches!(step, Step::Link(_) | Step::Unseal) {
                // Whoever asked for this gave the table up.
                self.strand(pfn);
            }
            self.undo_last();
        }
        self.unsettled = false;
        while let Some(pfn) = self.limbo.pop() {
            // One that Xen did not let become writable is stranded by now.
            let _ = self.free(machine, Frame(pfn));
        }
    }
}
