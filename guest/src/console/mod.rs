//! The serial console and the `log` back end that writes to it.
//!
//! Three real ways out: the shared ring as domU and in the shim, CONSOLEIO_write as dom0, a device
//! that is handed in where there is no Xen; which one is decided at boot, once. A full ring or device
//! is waited for, and `drain` waits until the daemon has taken everything before the domain goes
//! down. Waiting is bounded by time without progress, so that a dead daemon cannot hold the kernel;
//! what is lost that way is said as soon as anybody listens again ([`xen_pv_rt::console::stream`]).

pub mod filter;
#[cfg(target_os = "none")]
mod out;

#[cfg(target_os = "none")]
pub(crate) use out::{
    Device, drain, first_byte, init, init_device, init_if_closed, move_ring, port, print_if_free,
    print_last, print_panicking, read, set_filter, set_port, steal, write,
};

/// Prints a line without the logger's prefix: verdicts, tables and reports.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($arg)*))) };
}

/// Prints formatted text.
#[cfg(target_os = "none")]
#[track_caller]
pub fn print(args: core::fmt::Arguments<'_>) {
    out::print(args);
}

/// Prints a line that must be known of a run, with more patience than for anything else.
#[cfg(not(target_os = "none"))]
pub(crate) fn print_last(args: core::fmt::Arguments<'_>) {
    print(args);
}

/// Prints formatted text (on the host, where the kernel's modules are tested, to stdout).
#[cfg(not(target_os = "none"))]
pub fn print(args: core::fmt::Arguments<'_>) {
    std::print!("{args}");
}
