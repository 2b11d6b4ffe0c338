//! The ways of running: what the image finds itself on, and what that offers.
//!
//! It is known before the first page-table entry is written, does not change afterwards, and is
//! asked by the few places that differ; everything else asks for a capability or for nothing.

use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

/// A way of running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Subarch {
    /// A paravirtual guest: domU, dom0, or inside the PV shim. Xen owns the page tables.
    XenPv,
    /// A guest of Xen in hardware virtualisation, with page tables of its own.
    XenPvh,
    /// No Xen at all.
    Bare,
}

/// What a way of running offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// There is a Xen that answers hypercalls.
    pub hypercalls: bool,
    /// The kernel writes its page tables itself, with four or five levels.
    pub own_tables: bool,
    /// Xen raises events, and shares a page about them.
    pub events: bool,
}

impl Subarch {
    /// All of them.
    pub const ALL: [Subarch; 3] = [Subarch::XenPv, Subarch::XenPvh, Subarch::Bare];

    /// What it offers.
    #[must_use]
    pub const fn capabilities(self) -> Capabilities {
        match self {
            Subarch::XenPv => Capabilities {
                hypercalls: true,
                own_tables: false,
                events: true,
            },
            Subarch::XenPvh => Capabilities {
                hypercalls: true,
                own_tables: true,
                events: true,
            },
            Subarch::Bare => Capabilities {
                hypercalls: false,
                own_tables: true,
                events: false,
            },
        }
    }

    /// Its name, as printed and as written on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Subarch::XenPv => "xen-pv",
            Subarch::XenPvh => "xen-pvh",
            Subarch::Bare => "bare",
        }
    }
}

impl fmt::Display for Subarch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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

    #[test]
    fn whoever_has_no_tables_of_its_own_has_a_xen_to_ask() {
        for subarch in Subarch::ALL {
            let offers = subarch.capabilities();
            assert!(offers.own_tables || offers.hypercalls, "{subarch}");
            assert!(offers.hypercalls || !offers.events, "{subarch}");
        }
    }
}
