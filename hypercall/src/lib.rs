//! Typed hypercalls for a 64-bit Xen PV guest kernel: the ABI, the trap, one module a hypercall
//! family.
//!
//! # Principles
//!
//! - **One trap.** Every request to Xen goes through [`Hypervisor::call`]; the instruction itself
//!   stands once, in [`call`]. Whoever can answer that one method can stand in for Xen, which is
//!   how this crate is tested on a host.
//! - **A result is looked at.** Every wrapper returns [`Result`] with a [`XenError`] that names the
//!   hypercall, the sub-operation and the errno. Nothing here unwraps, nothing here panics because
//!   Xen said no.
//! - **Numbers are types.** A [`Pfn`] is never an [`Mfn`], and nothing here converts one into the
//!   other: only the owner of the p2m can.
//! - **The ABI keeps Xen's names.** What is under [`abi`] is spelled as in Xen's public headers, so
//!   that either can be found from the other; everything above it is spelled as Rust.
//! - **Safe means safe.** A wrapper is `unsafe` when Xen could, on its word, take memory away from
//!   under safe code: page tables, stacks, trap handlers, descriptor tables.
//!
//! # Layers
//!
//! ```text
//! abi      what Xen's headers say, nothing else
//! call     Hypervisor (the trait), Xen (the trap)
//! error    errno values and what they mean
//! console sched event time vcpu memory version mmu trap descriptor ...   one family each
//! batch    updates collected and sent together
//! lazy     when updates may wait: a pure state machine
//! queue    both, as the page-table path of a vCPU, with guards
//! ```
//!
//! Nothing allocates, nothing needs `std`, nothing depends on how the kernel is laid out. The words
//! are explained in the [`glossary`].
#![cfg_attr(not(test), no_std)]

#[cfg(not(target_arch = "x86_64"))]
compile_error!("Xen PV guests are x86 guests, and this crate knows the 64-bit ABI only");

pub mod abi;
pub mod addr;
pub mod batch;
pub mod call;
pub mod console;
pub mod descriptor;
pub mod error;
pub mod event;
pub mod fifo;
pub mod glossary;
pub mod hvm;
pub mod instead;
pub mod lazy;
pub mod memory;
pub mod mmu;
pub mod multicall;
pub mod physdev;
pub mod queue;
pub mod sched;
pub mod time;
pub mod trap;
pub mod vcpu;
pub mod version;
pub mod vm_assist;

pub use addr::{MachAddr, Mfn, Pfn, PhysAddr};
pub use batch::{Batch, Completion, FlushError, FlushReason, Update};
pub use call::{Hypervisor, Op, Xen};
pub use error::{Errno, XenError};
pub use lazy::{LazyError, LazyMmu, SwitchOut};
pub use mmu::{ExtOp, Level, Scope};
pub use queue::{Access, LazyGuard, Mmu, MmuError, PauseGuard};
pub use x86_64::VirtAddr;
