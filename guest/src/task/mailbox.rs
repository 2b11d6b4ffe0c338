//! What one vCPU leaves for another to do: letters, in the order in which they came.
//!
//! Who leaves the first one has the other look; who leaves one beside others need not, for they are
//! taken until there is none. Once closed it takes no more, and what lies there is still taken.

extern crate alloc;

use alloc::collections::VecDeque;

use crate::lock::Lock;

/// The letters.
struct Letters<L> {
    letters: VecDeque<L>,
    open: bool,
}

/// A box of a vCPU.
pub(super) struct Mailbox<L>(Lock<Letters<L>>);

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
        Mailbox(Lock::new(Letters {
            letters: VecDeque::new(),
            open: true,
        }))
    }

    /// Leaves a letter; whether it is the first, so that its vCPU has to be told.
    pub(super) fn leave(&self, letter: L) -> Result<bool, NotLeft> {
        let mut held = self.0.lock();
        if !held.open {
            return Err(NotLeft::Closed);
        }
        if held.letters.try_reserve(1).is_err() {
            return Err(NotLeft::NoMemory);
        }
        held.letters.push_back(letter);
        Ok(held.letters.len() == 1)
    }

    /// Takes the first.
    pub(super) fn take(&self) -> Option<L> {
        self.0.lock().letters.pop_front()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.lock().letters.len()
    }

    /// Takes letters from now on, or no more.
    pub(super) fn set_open(&self, open: bool) {
        self.0.lock().open = open;
    }
}
