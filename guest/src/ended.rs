//! How the first program ended, for those who pass it on.

use core::fmt;

/// A status, as `wait4` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) u32);

impl Ended {
    /// As `wait4` has it.
    pub(crate) fn status(self) -> u32 {
        self.0
    }

    /// Whether it says that all went well.
    pub(crate) fn is_good(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 & 0x7f, self.0 >> 8) {
            (0, status) => write!(f, "{status}"),
            (signal, _) => write!(f, "signal-{signal}"),
        }
    }
}
