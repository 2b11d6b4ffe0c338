//! A and D bits that other vCPUs set in a table while another takes its place.
//!
//! The new table has them as they were when it was filled. From then until the flush that comes with the
//! swap the others go on setting them in the old one. So that is read again when nobody can use it any
//! more, before its memory is given back, and what has come is sent after the swap: in a batch of its own,
//! which there is only where something may come. Memory that is mapped with both bits set costs nothing.

use hypercall::batch::Update;
use hypercall::mmu::Level;
use hypercall::{MachAddr, Pfn};

use super::Chunk;
use crate::entry::{Flags, L2, Pte};
use crate::error::MmError;
use crate::machine::{Live, Machine};
use crate::tables::{Place, Tables};

/// A table that another takes the place of.
pub(crate) struct Replaced {
    /// The entry that referred to it.
    pub(crate) pmd: Place<L2>,
    /// Its frame.
    pub(crate) old: Pfn,
    /// The entries that were edited with it, and which bits these keep. The others keep both.
    pub(crate) edited: Option<(Chunk, Flags)>,
}

impl Replaced {
    /// Which bits an entry keeps.
    fn keeps(&self, index: usize) -> Flags {
        match self.edited {
            Some((chunk, marks)) if chunk.entries().contains(&index) => marks,
            _ => Flags::MARKS,
        }
    }
}

/// Whether a processor may add a bit to any of these entries.
pub(super) fn any_may_gain(words: Live<'_>) -> bool {
    let gains = |word| !Pte::from_table(word).may_gain().is_empty();
    words.iter().any(gains)
}

impl<M: Machine> Tables<M> {
    /// Queues, for the table that has taken another's place, the bits that have come to that one since it
    /// was copied. Nothing is queued, and the entry that refers to it has been flushed.
    ///
    /// # Errors
    /// Xen's refusal.
    #[track_caller]
    pub(crate) fn keep_marks(&mut self, replaced: &Replaced) -> Result<(), MmError> {
        let new = self.value(self.entry(replaced.pmd));
        let Some(new) = new
            .map(|value| value.pfn)
            .filter(|new| *new != replaced.old)
        else {
            return Ok(());
        };
        let (machine, frame) = (self.machine(), self.mfn(new)?);
        // SAFETY: the one is a table that an entry refers to, the other was one and is nobody's memory yet.
        let (was, is) = unsafe { (machine.live(replaced.old), machine.live(new)) };
        let (Some(was), Some(is)) = (was, is) else {
            return Ok(());
        };
        for (index, (was, is)) in was.iter().zip(is.iter()).enumerate() {
            let (was, is) = (Pte::from_table(was), Pte::from_table(is));
            let came = (was.flags() - is.flags()) & replaced.keeps(index);
            if came.is_empty() || !was.is_present() || was.mfn() != is.mfn() {
                continue;
            }
            let marked = is.with_flags(is.flags() | came);
            let slot = MachAddr::of_entry(frame, index);
            let update = Update::new(Level::L1, slot, marked.bits()).old(is.bits());
            // SAFETY: the mapping stays as it is.
            unsafe { self.mmu.set(update.preserve_ad()) }?;
        }
        Ok(())
    }

    /// Keeps what has come to tables that were replaced, and gives back those that nothing refers to.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(super) fn settle_replaced(&mut self, replaced: &[Replaced]) -> Result<(), MmError> {
        let mut result = self.flush();
        for one in replaced {
            let kept = self.keep_marks(one);
            let released = match self.unreferenced(one.old) {
                Ok(true) => self.release_table(one.old),
                other => other.map(drop),
            };
            result = result.and(kept).and(released);
        }
        result
    }
}
