//! From the first call after the entry shim to a kernel that knows where it is.

pub mod acpi;
#[cfg(target_os = "none")]
pub(crate) mod common;
#[cfg(target_os = "none")]
mod fixmap;
pub mod hvm;
pub mod processor;
#[cfg(target_os = "none")]
mod provoke;
#[cfg(target_os = "none")]
pub mod pv;
#[cfg(target_os = "none")]
pub mod pvh;
