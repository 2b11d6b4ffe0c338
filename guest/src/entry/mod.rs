//! The ways into the kernel, each a small shim around `boot`.

pub mod pv;
mod pvh;
