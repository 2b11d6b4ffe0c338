//! Why a change of mode or of contexts failed.

use crate::{
    batch::FlushError,
    lazy::{LazyError, LazyMmu},
};

/// Why a change of mode failed.
#[derive(Clone, Copy, Debug)]
pub enum MmuError {
    /// It does not match those before it; nothing was changed.
    Lazy(LazyError),
    /// The flush that belongs to it failed; the mode has changed.
    Flush(FlushError),
}

impl From<LazyError> for MmuError {
    fn from(error: LazyError) -> Self {
        Self::Lazy(error)
    }
}

impl From<FlushError> for MmuError {
    fn from(error: FlushError) -> Self {
        Self::Flush(error)
    }
}

impl core::fmt::Display for MmuError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Lazy(error) => error.fmt(f),
            Self::Flush(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for MmuError {}

/// A switch of contexts during which something failed.
#[derive(Clone, Copy, Debug)]
pub struct SwitchError {
    /// What.
    pub error: MmuError,
    /// How many of the new tables' operations Xen carried out, the first ones. Whoever goes back
    /// to the old tables undoes these.
    pub carried_out: usize,
    /// The lazy mode of the context that was left, if the switch was made nevertheless: updates
    /// were refused, all operations of the new tables were carried out. Otherwise the context that
    /// ran still runs.
    pub previous: Option<LazyMmu>,
}

impl core::fmt::Display for SwitchError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for SwitchError {}
