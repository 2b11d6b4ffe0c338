//! Memory that programs are refused on demand: for tests of what becomes of that.
//!
//! Each look at whether there are frames for what a program asks for counts, and each thing on the kernel's
//! heap that grows for it.

use core::sync::atomic::{AtomicU64, Ordering};

/// What can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Frames.
    Frames,
    /// Room on the heap.
    Heap,
}

/// How many more there are up to the one that is refused, that one included; 0 if none is.
static LEFT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Has one be refused: the first, if it is 1.
pub(crate) fn arm(what: What, number: u64) {
    LEFT[what as usize].store(number, Ordering::Relaxed);
}

/// Has none be refused any more; whether one was.
pub(crate) fn disarm(what: What) -> bool {
    LEFT[what as usize].swap(0, Ordering::Relaxed) == 0
}

/// Counts one; whether it is the one.
#[inline]
pub(super) fn is_due(what: What) -> bool {
    let left = &LEFT[what as usize];
    left.load(Ordering::Relaxed) != 0 && count(left)
}

#[cold]
fn count(left: &AtomicU64) -> bool {
    left.fetch_sub(1, Ordering::Relaxed) == 1
}
