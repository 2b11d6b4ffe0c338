//! `physdev_op`: I/O privilege (`physdev.h`).
//!
//! `says(0)` stands for a Xen that answers 0.
//!
//! ```
#![doc = include_str!("says.in")]
//! use hypercall::physdev;
//!
//! let xen = says(0);
//! // Ports are the kernel's, which runs in ring 3.
//! physdev::set_iopl(&xen, 3)?;
//! assert_eq!(xen.asked().0, Op::PhysdevOp);
//! # Ok::<(), hypercall::XenError>(())
//! ```

use crate::{Hypervisor, Op, XenError, abi::physdev};

/// Lets the kernel execute port instructions from privilege level `iopl` on, for those ports the
/// domain owns. A PV kernel is ring 1 for this: 1 is enough. `EINVAL` above 3.
#[inline]
pub fn set_iopl<H: Hypervisor + ?Sized>(hv: &H, iopl: u32) -> Result<(), XenError> {
    let arg = physdev::physdev_set_iopl { iopl };
    let args = [
        physdev::PHYSDEVOP_set_iopl as u64,
        &raw const arg as u64,
        0,
        0,
        0,
    ];
    // SAFETY: Xen reads `arg` during the call.
    let value = unsafe { hv.call(Op::PhysdevOp, args) };
    XenError::check(Op::PhysdevOp, Some("set_iopl"), value).map(drop)
}
