//! Xen's public ABI for 64-bit PV guests, by header, in Xen's own spelling.
//!
//! Types and constants come from `xen-sys` where that is right. It is generated for interface
//! version 0 and lacks several headers, so the rest is defined here beside it, for the latest
//! interface version. Invariant: every layout and every constant re-exported or defined here is
//! compared with Debian's headers by `tests/abi_headers.rs`.
//!
//! Nothing here does anything. Unchanged names, C's included, make these modules searchable
//! against `xen/include/public`.
#![allow(
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    reason = "spelled as in Xen's headers"
)]

/// A domain's number.
pub type domid_t = u16;

pub mod arch;
pub mod callback;
pub mod console;
pub mod elfnote;
pub mod event;
pub mod features;
pub mod hvm;
pub mod memory;
pub mod mmu;
pub mod multicall;
pub mod physdev;
pub mod sched;
pub mod shared_info;
pub mod start_info;
pub mod vcpu;
pub mod version;
pub mod xen;
