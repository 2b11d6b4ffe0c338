//! What one vCPU leaves for another to do: letters, in the order in which they came.
//!
//! Who leaves the first one has the other look; who leaves one beside others need not, for they are
//! taken until there is none. Once closed it takes no more, and what lies there is still taken.

extern crate alloc;

use alloc::collections::VecDeque;

use super::words::{AtomicUsize, Ordering};
use crate::lock::Lock;
use crate::rank;

/// The letters.
struct Letters<L> {
    letters: VecDeque<L>,
    open: bool,
}

/// A box of a vCPU.
pub(super) struct Mailbox<L> {
    held: Lock<Letters<L>, rank::Mailbox>,
    /// How many letters there are, for those who only look.
    count: AtomicUsize,
}

/// Why a letter is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotLeft {
    /// The box is closed: its vCPU does not run.
    Closed,
    /// The heap has no room for it.
    NoMemory,
}

impl<L> Mailbox<L> {
    pub(super) const fn new() -> Mailbox<L> {
        Mailbox {
            held: Lock::new(Letters {
                letters: VecDeque::new(),
                open: true,
            }),
            count: AtomicUsize::new(0),
        }
    }

    /// Leaves a letter; whether it is the first, so that its vCPU has to be told.
    pub(super) fn leave(&self, letter: L) -> Result<bool, NotLeft> {
        let mut held = self.held.lock();
        if !held.open {
            return Err(NotLeft::Closed);
        }
        if held.letters.try_reserve(1).is_err() {
            return Err(NotLeft::NoMemory);
        }
        held.letters.push_back(letter);
        self.count.store(held.letters.len(), Ordering::Relaxed);
        Ok(held.letters.len() == 1)
    }

    /// Takes the first.
    pub(super) fn take(&self) -> Option<L> {
        let mut held = self.held.lock();
        let letter = held.letters.pop_front();
        self.count.store(held.letters.len(), Ordering::Relaxed);
        letter
    }

    /// How many there are, as it was a moment ago: for who took the last look, at least those that were left
    /// beside another.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Takes letters from now on, or no more.
    pub(super) fn set_open(&self, open: bool) {
        self.held.lock().open = open;
    }
}
