//! `xen.h`: several hypercalls in one trap.
//!
//! Only `result` may be read back: a debug Xen overwrites everything else.

pub use xen_sys::multicall_entry;
