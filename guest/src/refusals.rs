//! Things that are refused on demand, for tests of what becomes of that: those of a kind are counted as
//! somebody wants them, and the one of a number is refused.

use core::sync::atomic::{AtomicU64, Ordering};

/// Looks at whether there are frames for what a program asks for.
pub(crate) static FRAMES: Refusals = Refusals::none();
/// What grows on the kernel's heap for a program.
pub(crate) static HEAP: Refusals = Refusals::none();
/// Hypercalls by which a program's memory and registers are changed.
pub(crate) static HYPERCALLS: Refusals = Refusals::none();

/// How many more of a kind there are up to the one that is refused, that one included; 0 if none is.
pub(crate) struct Refusals(AtomicU64);

impl Refusals {
    const fn none() -> Refusals {
        Refusals(AtomicU64::new(0))
    }

    /// Has one be refused: the first, if `number` is 1.
    pub(crate) fn arm(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    /// Has none be refused any more; whether one was.
    pub(crate) fn disarm(&self) -> bool {
        self.0.swap(0, Ordering::Relaxed) == 0
    }

    /// Counts one; whether it is the one.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0 && self.count()
    }

    #[cold]
    fn count(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        before == Ok(1)
    }
}
