//! Frames without memory, which Xen can put there: how many, and which. They were given back, or are behind
//! what the domain was built with.

use core::sync::atomic::Ordering;

use hypercall::Pfn;

use super::{CHUNK, Frame, FrameError, Frames};
use crate::directory;
use crate::state::{Kind, State, Transition};

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

    /// How many frames the domain can have, if it is not to have more than `most`, once numbers were added up
    /// to the end of a chunk.
    pub(crate) fn longer(&self, most: u64) -> u64 {
        let total = self.counts().total;
        let end = (total / CHUNK + 1) * CHUNK;
        end.min(most).min(directory::MOST).max(total)
    }

    /// The domain has numbers for `total` frames from now on; what of them has no records yet is counted
    /// when it has. It never has fewer than have records. Who asks holds the kernel's half.
    pub(crate) fn lengthen(&self, total: u64) -> Result<(), FrameError> {
        let special = self.special.lock();
        self.total.store(total, Ordering::Relaxed);
        self.directory.lengthen(total);
        let mapped = self.mapped.load(Ordering::Relaxed);
        let known = total.min(self.directory.chunks() * CHUNK);
        self.mapped.store(known, Ordering::Relaxed);
        drop(special);
        (mapped..known).try_for_each(|pfn| self.note_given(Pfn::truncate(pfn)))
    }

    /// Chunks that have records.
    pub(crate) fn chunks(&self) -> u64 {
        self.directory.chunks()
    }

    /// A frame that was never used has no memory, and Xen may put some there.
    pub(crate) fn note_given(&self, pfn: Pfn) -> Result<(), FrameError> {
        self.set(pfn, State::of(Kind::Given))?;
        self.given.fetch_add(1, Ordering::Relaxed);
        self.first_given.fetch_min(pfn.as_u64(), Ordering::Relaxed);
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
