//! The page tables of a Xen PV kernel, from those that Xen hands it to those it ends with.
//!
//! ```text
//! start of day ─▶ takeover ─▶ tables ── ops, directmap, attributes ──▶ Mmu (queue, lazy mode) ─▶ Xen
//!                               │  entry, fresh      walk, audit
//!                               └─ frames, state ◀── what Xen applied
//! ```
//!
//! All of it is generic over the [`machine::Machine`] below, which knows frame numbers and memory,
//! and over the [`layout::Layout`] that comes with it: so it serves any kernel, and the host runs it
//! against a model of Xen.
//!
//! What there is once for a domain is in its [`Domain`]; what each vCPU has of its own, its queue first,
//! in its [`Tables`]. A kernel implements `Machine` and `Layout`, keeps the one `Domain` in a static and
//! `Tables` where it finds them, and begins with [`takeover::Initial::survey`].
#![cfg_attr(not(test), no_std)]

mod attributes;
pub mod audit;
pub mod balloon;
pub mod cost;
mod directmap;
mod directory;
pub mod domain;
pub mod entry;
pub mod error;
pub mod frames;
pub mod fresh;
pub mod fuzz;
pub mod layout;
mod lengthen;
pub mod locks;
pub mod machine;
pub mod mapping;
pub mod memory;
pub mod native;
mod ops;
mod pin;
pub mod pv;
mod record;
mod release;
mod renumber;
mod short;
mod space_list;
pub mod spaces;
mod spans;
pub mod state;
pub mod tables;
pub mod takeover;
pub mod user;
pub mod walk;
pub mod window;

pub use domain::Domain;
pub use entry::{Flags, Pte, Value};
pub use error::MmError;
pub use ops::Change;
pub use tables::Tables;
