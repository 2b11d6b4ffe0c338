//! How many levels the page tables have, and why: said at boot, in the layout and by the monitor.

use core::fmt;

use pagetable::tables::Fold;

use super::layout;
use crate::subarch::Subarch;

/// The choice with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// The choice.
    pub fold: Fold,
    /// The reason.
    pub why: &'static str,
}

impl Levels {
    /// Those of the running kernel.
    #[cfg(target_os = "none")]
    #[must_use]
    pub fn current() -> Levels {
        use super::processor::{Processor, has_la57};
        use pagetable::native::Cpu;
        match crate::subarch::current() {
            Subarch::XenPv => Levels::explain(Subarch::XenPv, Fold::FourLevels, false),
            native => Levels::explain(native, Processor.fold(), has_la57()),
        }
    }

    /// The reason for a choice that was made already: by Xen, or by the entry from what the
    /// processor has (`la57`) and from the command line.
    #[must_use]
    pub fn explain(subarch: Subarch, fold: Fold, la57: bool) -> Levels {
        let why = match (subarch, fold) {
            (Subarch::XenPv, _) => "xen-pv",
            (_, Fold::FiveLevels) => "la57",
            (_, Fold::FourLevels) if la57 => "no5lvl",
            (_, Fold::FourLevels) => "no la57",
        };
        Levels { fold, why }
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (levels, why) = (self.fold.top(), self.why);
        let direct = layout::DIRECT.start;
        write!(f, "{levels} levels ({why}), direct map at {direct:#x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_has_its_reason() {
        let why = |subarch, fold, la57| Levels::explain(subarch, fold, la57).why;
        for la57 in [false, true] {
            assert_eq!(why(Subarch::XenPv, Fold::FourLevels, la57), "xen-pv");
        }
        for subarch in [Subarch::XenPvh, Subarch::Bare] {
            assert_eq!(why(subarch, Fold::FiveLevels, true), "la57");
            assert_eq!(why(subarch, Fold::FourLevels, true), "no5lvl");
            assert_eq!(why(subarch, Fold::FourLevels, false), "no la57");
        }
        let levels = Levels::explain(Subarch::Bare, Fold::FiveLevels, true);
        let text = levels.to_string();
        assert_eq!(text, "5 levels (la57), direct map at 0xffff888000000000");
    }
}
