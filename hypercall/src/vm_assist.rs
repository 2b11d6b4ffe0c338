//! `vm_assist`: behaviour of Xen that a guest may switch (`xen.h`, `VMASST_*`).
//!
//! `says(0)` stands for a Xen that answers 0.
//!
//! ```
#![doc = include_str!("says.in")]
//! use hypercall::vm_assist::{self, Assist};
//!
//! // Stores to page tables are to fault.
//! vm_assist::set(&says(0), Assist::WritablePagetables, false)?;
//! # Ok::<(), hypercall::XenError>(())
//! ```

use crate::{Hypervisor, Op, XenError, abi::xen};

/// What can be switched in a 64-bit PV guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Assist {
    /// Emulate stores to page tables. Off, they fault (in a domU; for dom0 Xen emulates anyway).
    WritablePagetables = xen::VMASST_TYPE_writable_pagetables,
    /// IOPL as on hardware: ports are allowed by rings as RFLAGS says.
    ArchitecturalIopl = xen::VMASST_TYPE_architectural_iopl,
    /// Mark a runstate area while it is being updated.
    RunstateUpdateFlag = xen::VMASST_TYPE_runstate_update_flag,
    /// Hide the M2P from user mode.
    M2pStrict = xen::VMASST_TYPE_m2p_strict,
}

/// Switches `assist` on or off. `EINVAL` if Xen does not have it.
#[inline]
pub fn set<H: Hypervisor + ?Sized>(hv: &H, assist: Assist, on: bool) -> Result<(), XenError> {
    let (cmd, name) = match on {
        true => (xen::VMASST_CMD_enable, "enable"),
        false => (xen::VMASST_CMD_disable, "disable"),
    };
    // SAFETY: no memory is involved, and none of these takes a mapping away.
    let value = unsafe { hv.call(Op::VmAssist, [cmd as u64, assist as u64, 0, 0, 0]) };
    XenError::check(Op::VmAssist, Some(name), value).map(drop)
}
