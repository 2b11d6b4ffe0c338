//! Memory: page tables, frames, and the operations on them.
//!
//! ```text
//! start_info ─▶ takeover ─▶ tables ── ops, directmap, attributes ──▶ Mmu (queue, lazy mode) ─▶ Xen
//!                             │  entry, fresh      walk, audit
//!                             └─ frames, state ◀── what Xen applied
//! ```
//!
//! All of it is generic over the [`machine::Machine`] below, so that the host can run it against a
//! model of Xen. What belongs to the running kernel alone is in `running`, `pv` and `native`.

mod attributes;
pub mod audit;
pub mod cost;
mod directmap;
mod directory;
pub mod dump;
pub mod entry;
pub mod error;
pub mod frames;
pub mod fresh;
pub mod fuzz;
#[cfg(target_os = "none")]
mod kernel;
pub mod layout;
pub mod levels;
pub mod machine;
pub mod native;
mod ops;
#[cfg(target_os = "none")]
pub mod pv;
mod record;
pub mod regions;
mod release;
#[cfg(target_os = "none")]
pub mod running;
mod space_list;
pub mod spaces;
mod spans;
pub mod state;
pub mod tables;
pub mod takeover;
pub mod walk;

pub use entry::{Flags, Pte, Value};
pub use error::MmError;
#[cfg(target_os = "none")]
pub(crate) use kernel::steal;
#[cfg(target_os = "none")]
pub use kernel::{Current, lazy, pause, try_with, with};
pub use ops::Change;
#[cfg(target_os = "none")]
pub use running::Running;
pub use tables::Tables;
