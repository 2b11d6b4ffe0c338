//! Memory: what binds the page tables ([`pagetable`]) to this kernel.
//!
//! The machine that they live on (`running`), the layout of the address space, and what all of the kernel
//! reaches them by (`kernel`).

#[cfg(target_os = "none")]
mod kernel;
pub mod layout;
pub mod levels;
#[cfg(target_os = "none")]
pub(crate) mod processor;
#[cfg(target_os = "none")]
pub mod running;

#[cfg(target_os = "none")]
pub use kernel::{
    Current, in_space, in_space_at_hand, lazy, pause, switch_space, try_with, with, with_all,
};
#[cfg(target_os = "none")]
pub(crate) use kernel::{Room, all_frames, exchange, join, let_go, make_room, set_machine, steal};
pub use pagetable::{
    Change, Flags, MmError, Pte, Tables, Value, audit, balloon, cost, entry, error, frames, fresh,
    fuzz, machine, mapping, memory, spaces, state, tables, takeover, user, walk,
};
#[cfg(target_os = "none")]
pub use running::Running;
