//! What a caller of both the page tables and Xen itself can be refused by: one error for either.

use core::fmt;

use hypercall::XenError;

use crate::mm::MmError;

/// What was refused.
#[derive(Debug)]
pub(crate) enum Refused {
    /// By the page tables, or by Xen for them.
    Memory(MmError),
    /// By Xen.
    Xen(XenError),
}

impl From<MmError> for Refused {
    fn from(error: MmError) -> Self {
        Refused::Memory(error)
    }
}

impl From<XenError> for Refused {
    fn from(error: XenError) -> Self {
        Refused::Xen(error)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Memory(error) => error.fmt(f),
            Refused::Xen(error) => error.fmt(f),
        }
    }
}
