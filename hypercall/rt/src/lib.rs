//! What a Xen PV kernel needs besides its own code: the way in and out, the console, and a crash that
//! reads.
//!
//! A whole kernel, whose domain says hello and powers off:
//!
//! ```
//! # /*
//! #![no_std]
//! #![no_main]
//! # */
//! # #[cfg(target_os = "none")] mod kernel {
//!
//! use xen_pv_rt::{Start, entry, println};
//!
//! entry!(main);
//!
//! fn main(start: Start) {
//!     println!("hello from a domain of {} pages", start.info.nr_pages);
//! }
//! # }
//! ```
//!
//! It is compiled for `x86_64-unknown-none` and linked by the script that this crate brings; the README
//! has the four lines that say so.
//!
//! # What happens
//!
//! Xen enters at what [`entry!`] makes, with `start_info`, on a stack of Xen's. The kernel's own stack
//! is taken, every exception gets a handler, the console is opened, `start_info` is
//! [checked](start_info) field by field, the page below the stack is unmapped, and `main` runs, with
//! upcalls masked. What `main` returns becomes the [verdict], a line `verdict: pass` or
//! `verdict: fail reason="..."`, and the domain powers off. A panic and an exception that nobody handles
//! are reported with registers and callers, and end in `verdict: crash` and in Xen's knowledge that the
//! domain crashed.
//!
//! # Parts
//!
//! What there is once in a kernel is made by [`entry!`], in the kernel's own crate; the rest are parts
//! that a kernel with a boot of its own takes as it likes, as the kernel of this repository does:
//! [`start_info`], [`frame`] and [`trap_stubs!`], the [console's ring](console::ring) and its
//! [stream](console::stream), and `probe`, which reads memory that may not be there.
//!
//! There is one vCPU, and there are no events: who wants more registers callbacks by the crate
//! [`hypercall`]. With the feature `pagetable` the page tables are taken over in one call (`memory`).
#![cfg_attr(not(test), no_std)]

pub mod console;
mod elf;
#[cfg(target_os = "none")]
mod entry;
pub mod frame;
pub mod image;
#[cfg(all(target_os = "none", feature = "pagetable"))]
pub mod memory;
mod once;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
pub mod probe;
pub mod start_info;
pub mod trap;
pub mod verdict;

#[cfg(target_os = "none")]
pub use entry::Start;
pub use log;

#[cfg(target_os = "none")]
#[doc(hidden)]
pub use entry::begin;
pub use hypercall;

/// Prints a line on the console.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => {
        $crate::console::print(::core::format_args!("{}\n", ::core::format_args!($($arg)*)))
    };
}
