//! A kernel that runs as a 64-bit Xen PV guest.
//!
//! # Principles
//!
//! - **Xen owns the page tables; we ask.** Not one entry is written except through
//!   [`mm`], which sends it to Xen in batches and knows what Xen will refuse before asking.
//! - **Arrows go down**: `guest/rooms.txt` lists the modules from the ground up, and a test holds that
//!   none names one that stands above it; what must call upwards is handed in (a trait, a table of
//!   handlers). Data flows one way: `start_info` → [`xen_pv_rt::start_info::BootInfo`] → p2m → typed levels →
//!   batcher → hypercall.
//! - **Numbers are types.** Pseudo-physical and machine frames, entries of each level: mixing them
//!   does not compile, and a large page cannot be expressed.
//! - **What another side wrote is checked**: `start_info`, the command line, ring indices.
//! - **A run ends with a verdict.** One line says pass, fail or crash; a kernel that cannot go on
//!   says why, where, and with what callers, and tells Xen that it crashed.
//!
//! The library is compiled for the host as well, where everything that needs no Xen is tested.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(
    not(all(feature = "check", feature = "programs")),
    allow(
        dead_code,
        unused_imports,
        reason = "some of it only the checks use, or programs"
    )
)]

pub mod address_map;
pub mod apic_ids;
pub mod areas;
#[cfg(target_os = "none")]
mod balloon;
#[cfg(target_os = "none")]
mod before;
pub mod boot;
#[cfg(target_os = "none")]
mod booted;
#[cfg(target_os = "none")]
mod capability;
#[cfg(all(target_os = "none", feature = "check"))]
mod check;
#[cfg(target_os = "none")]
mod checks;
pub mod console;
#[cfg(target_os = "none")]
mod control;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod ended;
#[cfg(target_os = "none")]
pub mod entry;
#[cfg(target_os = "none")]
mod event;
pub mod foreign;
#[cfg(target_os = "none")]
mod heap;
mod here;
#[cfg(target_os = "none")]
mod init;
#[cfg(target_os = "none")]
mod init_memory;
pub mod lock;
pub mod mm;
pub mod monitor;
pub mod options;
#[cfg(target_os = "none")]
mod pc;
#[cfg(target_os = "none")]
pub mod power;
pub mod rank;
#[cfg(all(target_os = "none", feature = "check"))]
mod refusals;
#[cfg(target_os = "none")]
mod refused;
#[cfg(target_os = "none")]
mod runstate;
pub mod selection;
#[cfg(target_os = "none")]
mod shared;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod stack;
pub mod subarch;
#[cfg(target_os = "none")]
mod suspend;
#[cfg(target_os = "none")]
mod task;
#[cfg(target_os = "none")]
mod tested;
#[cfg(target_os = "none")]
mod time;
pub mod trap;
#[cfg(all(target_os = "none", feature = "programs"))]
mod user;
#[cfg(all(target_os = "none", feature = "programs"))]
mod usermode;
#[cfg(all(target_os = "none", not(feature = "programs")))]
#[path = "usermode/none.rs"]
mod usermode;
pub mod verdict;
#[cfg(target_os = "none")]
mod xen;
#[cfg(target_os = "none")]
mod xenstore;

// Below all rooms: what this kernel shares with others that run under Xen.
use xen_pv_rt::start_info;
#[cfg(target_os = "none")]
use xen_pv_rt::{frame, probe};
