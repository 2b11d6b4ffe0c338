//! The way this kernel runs: what the image found itself on.
//!
//! It is known before the first page-table entry is written, does not change afterwards, and is
//! asked by the few places that differ; everything else asks for a capability or for nothing.

use core::sync::atomic::{AtomicU8, Ordering};

pub use linker::subarch::Subarch;

/// PV unless the other entry says otherwise, so that the PV entry need not say anything.
static CURRENT: AtomicU8 = AtomicU8::new(Subarch::XenPv as u8);

/// The way this kernel runs.
#[inline]
#[must_use]
pub fn current() -> Subarch {
    match CURRENT.load(Ordering::Relaxed) {
        0 => Subarch::XenPv,
        1 => Subarch::XenPvh,
        _ => Subarch::Bare,
    }
}

/// Whether Xen owns the page tables: the one question on hot paths.
#[inline]
#[must_use]
pub fn is_pv() -> bool {
    CURRENT.load(Ordering::Relaxed) == Subarch::XenPv as u8
}

/// Says how this kernel runs.
///
/// # Safety
/// It is true, nothing was asked of Xen or written to page tables yet, and it is said once.
pub unsafe fn set(subarch: Subarch) {
    CURRENT.store(subarch as u8, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_means_pv() {
        assert_eq!(current(), Subarch::XenPv);
        assert!(is_pv());
    }
}
