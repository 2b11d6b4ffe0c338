//! The console of a kernel on this crate, and the parts that other consoles are made of.
//!
//! Two ways out: the shared ring as an ordinary domain and in the shim, CONSOLEIO_write as dom0. A full
//! ring is waited for, and before the domain ends until the daemon has taken everything; as the daemon
//! may be gone, only for a while ([`stream`]). What the console says of itself, such as a ring that
//! cannot be trusted, goes to Xen's own console, where a debug Xen shows it.

#[cfg(target_os = "none")]
mod out;
pub mod ring;
pub mod stream;

#[cfg(all(target_os = "none", feature = "pagetable"))]
pub(crate) use out::move_ring;
#[cfg(target_os = "none")]
pub use out::read;
#[cfg(target_os = "none")]
pub(crate) use out::{drain, open, print_emergency, print_last, steal};

/// Prints formatted text; see [`println!`](crate::println).
#[cfg(target_os = "none")]
pub fn print(text: core::fmt::Arguments<'_>) {
    out::print(text);
}

/// Prints formatted text: nowhere, on a host, where there is no console.
#[cfg(not(target_os = "none"))]
pub fn print(_: core::fmt::Arguments<'_>) {}
