//! The serial console and the `log` back end that writes to it.
//!
//! Two real ways out: the shared ring as domU and in the shim, CONSOLEIO_write as dom0; which one
//! is decided by `start_info`, once. Nothing printed is lost: a full ring is waited for, and
//! `drain` waits until the daemon has taken everything before the domain goes down. Waiting is
//! bounded by time without progress, so that a dead daemon cannot hold the kernel.

pub mod filter;
#[cfg(target_os = "none")]
mod out;
pub mod ring;

#[cfg(target_os = "none")]
pub(crate) use out::{
    drain, first_byte, init, init_if_closed, move_ring, print_panicking, read, set_filter, steal,
    write_bytes,
};

/// Prints a line without the logger's prefix: verdicts, tables and reports.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($arg)*))) };
}

/// Prints formatted text.
#[cfg(target_os = "none")]
pub fn print(args: core::fmt::Arguments<'_>) {
    out::print(args);
}

/// Prints formatted text (on the host, where the kernel's modules are tested, to stdout).
#[cfg(not(target_os = "none"))]
pub fn print(args: core::fmt::Arguments<'_>) {
    std::print!("{args}");
}
