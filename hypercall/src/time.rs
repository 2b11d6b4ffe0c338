//! `set_timer_op` and the periodic timer: when the next `VIRQ_TIMER` comes.
//!
//! `says(0)` stands for a Xen that answers 0.
//!
//! ```
#![doc = include_str!("says.in")]
//! use hypercall::time;
//!
//! let xen = says(0);
//! // At two seconds of Xen's system time.
//! time::set_timer(&xen, 2_000_000_000)?;
//! assert_eq!(xen.asked(), (Op::SetTimerOp, [2_000_000_000, 0, 0, 0, 0]));
//! # Ok::<(), hypercall::XenError>(())
//! ```

use crate::{
    Hypervisor, Op, XenError,
    abi::vcpu::{VCPUOP_set_periodic_timer, VCPUOP_stop_periodic_timer, vcpu_set_periodic_timer},
    instead::check,
};

/// Raises `VIRQ_TIMER` on this vCPU when system time reaches `deadline`, in nanoseconds; at once
/// if it has passed; never for 0, which stops the timer. Replaces an earlier deadline.
#[inline]
pub fn set_timer<H: Hypervisor + ?Sized>(hv: &H, deadline: u64) -> Result<(), XenError> {
    if let Some(devices) = hv.devices() {
        return check(Op::SetTimerOp, None, devices.set_timer(deadline));
    }
    // SAFETY: no memory is involved.
    let value = unsafe { hv.call(Op::SetTimerOp, [deadline, 0, 0, 0, 0]) };
    XenError::check(Op::SetTimerOp, None, value).map(drop)
}

/// Raises `VIRQ_TIMER` on `vcpu`, which must be the calling one, every `period` nanoseconds: at
/// least a millisecond, else `EINVAL`.
#[inline]
pub fn set_periodic<H: Hypervisor + ?Sized>(
    hv: &H,
    vcpu: u32,
    period: u64,
) -> Result<(), XenError> {
    let arg = vcpu_set_periodic_timer { period_ns: period };
    let args = [
        VCPUOP_set_periodic_timer as u64,
        vcpu as u64,
        &raw const arg as u64,
        0,
        0,
    ];
    // SAFETY: Xen reads `arg` during the call.
    let value = unsafe { hv.call(Op::VcpuOp, args) };
    XenError::check(Op::VcpuOp, Some("set_periodic_timer"), value).map(drop)
}

/// Stops the periodic timer of `vcpu`, the calling one. A vCPU starts with one of 100 Hz.
#[inline]
pub fn stop_periodic<H: Hypervisor + ?Sized>(hv: &H, vcpu: u32) -> Result<(), XenError> {
    if hv.devices().is_some() {
        // A machine's timer was never periodic.
        return Ok(());
    }
    let args = [VCPUOP_stop_periodic_timer as u64, vcpu as u64, 0, 0, 0];
    // SAFETY: no memory is involved.
    let value = unsafe { hv.call(Op::VcpuOp, args) };
    XenError::check(Op::VcpuOp, Some("stop_periodic_timer"), value).map(drop)
}
