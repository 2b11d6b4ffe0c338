//! Counts of the entries that map memory of user mode's.
//!
//! A count changes at once and in both states: it belongs to whoever is about to write the entry, or
//! has seen it cleared, so that nothing has to be taken back when Xen refuses a request. So it is with
//! who holds such memory besides the entries, as the page of a file is held.

use hypercall::Pfn;

use super::{Frame, FrameError, Frames};
use crate::state::{Illegal, Kind, State, Transition};

/// Memory that one entry maps.
const ONCE: State = State {
    links: 1,
    ..State::of(Kind::User)
};

impl Frames {
    /// Counts one more entry that maps a frame.
    ///
    /// # Errors
    /// It is neither in use nor user mode's, or as many entries as can be counted map it.
    #[inline]
    pub(crate) fn count_mapping(&self, pfn: Pfn) -> Result<(), FrameError> {
        if self.swap(pfn, State::of(Kind::Owned), ONCE) {
            return Ok(());
        }
        self.change(pfn, |record| {
            let (applied, _) = record.states();
            let after = applied.after(Transition::Link(0));
            let after = after.map_err(|e| FrameError::Illegal(pfn, e))?;
            Ok(record.with_states(after, after))
        })
    }

    /// Counts one more entry that maps a frame which is held.
    ///
    /// # Errors
    /// It is not, or as many entries as can be counted map it.
    pub(crate) fn count_held(&self, pfn: Pfn) -> Result<(), FrameError> {
        let (state, _) = self.states(pfn)?;
        if !self.is_held(pfn) {
            let transition = Transition::Link(0);
            return Err(FrameError::Illegal(pfn, Illegal { state, transition }));
        }
        self.count_mapping(pfn)
    }

    /// Counts one entry less, if the frame is user mode's, and returns the frame if that was the last and
    /// nobody holds it.
    #[inline]
    pub(crate) fn uncount_mapping(&self, pfn: Pfn) -> Option<Frame> {
        if self.swap(pfn, ONCE, State::of(Kind::Owned)) {
            return Some(Frame(pfn));
        }
        self.uncount_one_of_many(pfn)
    }

    fn uncount_one_of_many(&self, pfn: Pfn) -> Option<Frame> {
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
            last = after.kind == Kind::Owned;
            Ok(record.with_states(after, after))
        });
        (changed.is_ok() && last).then_some(Frame(pfn))
    }

    /// Whether a frame is user mode's.
    #[inline]
    pub(crate) fn is_user(&self, pfn: Pfn) -> bool {
        let states = self.states(pfn);
        states.is_ok_and(|(applied, _)| applied.kind == Kind::User)
    }

    /// Whether one entry, and nobody else, has a frame of user mode's; nothing for other frames.
    #[inline]
    pub(crate) fn is_mapped_once(&self, pfn: Pfn) -> Option<bool> {
        let (applied, _) = self.states(pfn).ok()?;
        let once = applied.links == 1 && !applied.pinned;
        (applied.kind == Kind::User).then_some(once)
    }

    /// Whether somebody holds a frame of user mode's besides the entries.
    #[inline]
    pub(crate) fn is_held(&self, pfn: Pfn) -> bool {
        let states = self.states(pfn);
        states.is_ok_and(|(applied, _)| applied.kind == Kind::User && applied.pinned)
    }

    /// Makes a frame user mode's, held by the caller from now on, or by nobody any more.
    fn set_held(&self, pfn: Pfn, transition: Transition) -> Result<State, FrameError> {
        let mut now = State::default();
        self.change(pfn, |record| {
            let (applied, _) = record.states();
            let after = applied.after(transition);
            now = after.map_err(|e| FrameError::Illegal(pfn, e))?;
            Ok(record.with_states(now, now))
        })?;
        Ok(now)
    }

    /// Makes memory in use user mode's, that entries may map and the caller holds.
    ///
    /// # Errors
    /// The frame, with what its record says against it.
    pub(crate) fn hold(&self, frame: Frame) -> Result<Pfn, (Frame, FrameError)> {
        match self.set_held(frame.pfn(), Transition::Pin(0)) {
            Ok(_) => Ok(frame.pfn()),
            Err(e) => Err((frame, e)),
        }
    }

    /// Ends that; returns the frame if no entry maps it.
    ///
    /// # Errors
    /// It was not held.
    pub(crate) fn let_go(&self, pfn: Pfn) -> Result<Option<Frame>, FrameError> {
        let now = self.set_held(pfn, Transition::Unpin)?;
        Ok((now.kind == Kind::Owned).then_some(Frame(pfn)))
    }
}
