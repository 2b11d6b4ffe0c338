//! Why nobody can be called for a port.

use core::fmt;

use hypercall::XenError;

use super::NotReady;

/// Why a port did not get a handler.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BindError {
    /// The heap has no room for the entry.
    NoMemory,
    /// The ABI has no such port.
    NoSuchPort,
    /// The port has a handler.
    Taken,
    /// The FIFO ABI has no word for it.
    NoWord(NotReady),
    /// Xen refused to unmask it.
    Refused(XenError),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::NoMemory => f.write_str("no memory for the handler of a port"),
            BindError::NoSuchPort => f.write_str("there is no such port"),
            BindError::Taken => f.write_str("the port has a handler"),
            BindError::NoWord(e) => e.fmt(f),
            BindError::Refused(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for BindError {}
