//! Counts of the entries that map memory of user mode's.
//!
//! A count changes at once and in both states: it belongs to whoever is about to write the entry, or
//! has seen it cleared, so that nothing has to be taken back when Xen refuses a request.

use hypercall::Pfn;

use super::{Frame, FrameError, Frames};
use crate::state::{Illegal, Kind, Transition};

impl Frames {
    /// Counts one more entry that maps a frame.
    ///
    /// # Errors
    /// It is neither in use nor user mode's, or as many entries as can be counted map it.
    #[inline]
    pub(crate) fn count_mapping(&self, pfn: Pfn) -> Result<(), FrameError> {
        self.change(pfn, |record| {
            let (applied, _) = record.states();
            let after = applied.after(Transition::Link(0));
            let after = after.map_err(|e| FrameError::Illegal(pfn, e))?;
            Ok(record.with_states(after, after))
        })
    }

    /// Counts one entry less, if the frame is user mode's, and returns the frame if that was the last.
    pub(crate) fn uncount_mapping(&self, pfn: Pfn) -> Option<Frame> {
        let mut last = false;
        let changed = self.change(pfn, |record| {
            let (applied, _) = record.states();
            let transition = Transition::Unlink;
            let after = match applied.kind {
                Kind::User => applied.after(transition),
                _ => Err(Illegal {
                    state: applied,
                    transition,
                }),
            };
            let after = after.map_err(|e| FrameError::Illegal(pfn, e))?;
            last = applied.links == 1;
            Ok(record.with_states(after, after))
        });
        (changed.is_ok() && last).then_some(Frame(pfn))
    }

    /// How many entries map a frame of user mode's; none are counted of another.
    #[inline]
    pub(crate) fn mappings(&self, pfn: Pfn) -> Option<u16> {
        let (applied, _) = self.states(pfn).ok()?;
        (applied.kind == Kind::User).then_some(applied.links)
    }
}
