//! What the machines say: their serial ports, the log kept of it, and the kernel's verdict in it.

pub(crate) mod contract;
pub(crate) mod serial;
pub(crate) mod terminal;
pub(crate) mod transcript;
pub(crate) mod verdict;
