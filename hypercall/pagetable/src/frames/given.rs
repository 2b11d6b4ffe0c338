//! Frames whose memory was given back to Xen: how many, and which.

use core::sync::atomic::Ordering;

use hypercall::Pfn;

use super::{Frame, FrameError, Frames};
use crate::state::{Kind, Transition};

impl Frames {
    /// The memory of a frame is Xen's from now on.
    ///
    /// # Errors
    /// It is not a writable frame that was handed out.
    pub(crate) fn give_back(&self, frame: Frame) -> Result<(), FrameError> {
        self.transition(frame.pfn(), Transition::GiveBack)?;
        self.given.fetch_add(1, Ordering::Relaxed);
        self.first_given
            .fetch_min(frame.pfn().as_u64(), Ordering::Relaxed);
        Ok(())
    }

    /// A frame has memory again, which is the caller's.
    ///
    /// # Errors
    /// It was not given back.
    pub(crate) fn regain(&self, pfn: Pfn) -> Result<Frame, FrameError> {
        self.transition(pfn, Transition::Regain)?;
        self.given.fetch_sub(1, Ordering::Relaxed);
        Ok(Frame(pfn))
    }

    /// Puts the lowest frames that were given back into a list, and says how many there are. Who asks
    /// holds the kernel's half, as whoever gives frames back does.
    pub(crate) fn find_given(&self, list: &mut [u64]) -> usize {
        let counts = self.counts();
        let wanted = list.len().min(counts.given as usize);
        let first = self.first_given.load(Ordering::Relaxed);
        let is_given = |pfn: &u64| {
            let states = self.states(Pfn::truncate(*pfn));
            states.is_ok_and(|(applied, _)| applied.kind == Kind::Given)
        };
        let given = (first..counts.mapped).filter(is_given).take(wanted);
        let found = list
            .iter_mut()
            .zip(given)
            .map(|(to, pfn)| *to = pfn)
            .count();
        if let Some(&first) = list[..found].first() {
            self.first_given.store(first, Ordering::Relaxed);
        }
        found
    }
}
