//! `sched_op`: giving the CPU away, for a moment or for good (`sched.h`).

use crate::{
    Errno, Hypervisor, Op, XenError,
    abi::{event::evtchn_port_t, sched},
    instead::check,
};

/// Why a domain ends; the tool stack decides what follows (`on_poweroff`, `on_reboot`, …).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Shutdown {
    /// Done.
    Poweroff = sched::SHUTDOWN_poweroff,
    /// Again, please.
    Reboot = sched::SHUTDOWN_reboot,
    /// Frozen, to be saved or migrated.
    Suspend = sched::SHUTDOWN_suspend,
    /// Broken.
    Crash = sched::SHUTDOWN_crash,
    /// The watchdog fired.
    Watchdog = sched::SHUTDOWN_watchdog,
    /// A fresh start in place.
    SoftReset = sched::SHUTDOWN_soft_reset,
}

/// Lets another vCPU run; returns when it is this one's turn again.
#[inline]
pub fn r#yield<H: Hypervisor + ?Sized>(hv: &H) -> Result<(), XenError> {
    if let Some(devices) = hv.devices() {
        devices.pause();
        return Ok(());
    }
    // SAFETY: no memory is involved.
    let value = unsafe { hv.call(Op::SchedOp, [sched::SCHEDOP_yield as u64, 0, 0, 0, 0]) };
    XenError::check(Op::SchedOp, Some("yield"), value).map(drop)
}

/// Unmasks upcalls and sleeps until an event comes, with no gap between the two: the `sti; hlt` of
/// a PV guest. Afterwards upcalls are unmasked.
#[inline]
pub fn block<H: Hypervisor + ?Sized>(hv: &H) -> Result<(), XenError> {
    // SAFETY: no memory is involved.
    let value = unsafe { hv.call(Op::SchedOp, [sched::SCHEDOP_block as u64, 0, 0, 0, 0]) };
    XenError::check(Op::SchedOp, Some("block"), value).map(drop)
}

/// Sleeps until one of `ports` is pending or system time reaches `deadline` (ns, 0: never),
/// whether or not events are masked. At most 128 ports.
#[inline]
pub fn poll<H: Hypervisor + ?Sized>(
    hv: &H,
    ports: &[evtchn_port_t],
    deadline: u64,
) -> Result<(), XenError> {
    if let Some(devices) = hv.devices() {
        let answer = devices.poll(ports, deadline);
        return check(Op::SchedOp, Some("poll"), answer);
    }
    let poll = sched::sched_poll {
        ports: ports.as_ptr().cast_mut(),
        nr_ports: ports.len() as u32,
        timeout: deadline,
    };
    let args = [sched::SCHEDOP_poll as u64, &raw const poll as u64, 0, 0, 0];
    // SAFETY: Xen reads `poll` and the ports it names during the call, and writes neither.
    let value = unsafe { hv.call(Op::SchedOp, args) };
    XenError::check(Op::SchedOp, Some("poll"), value).map(drop)
}

/// Ends the domain, or freezes it for [`Shutdown::Suspend`]. Returns only where it was refused, or
/// where a suspended domain resumed.
///
/// Fails with `EINVAL` for a reason Xen does not know.
#[inline]
pub fn shutdown<H: Hypervisor + ?Sized>(hv: &H, reason: Shutdown) -> Result<(), XenError> {
    if let Some(devices) = hv.devices() {
        devices.shutdown(reason);
        return check(Op::SchedOp, Some("shutdown"), Err(Errno::ENODEV));
    }
    let arg = sched::sched_shutdown {
        reason: reason as u32,
    };
    let args = [
        sched::SCHEDOP_shutdown as u64,
        &raw const arg as u64,
        0,
        0,
        0,
    ];
    // SAFETY: Xen reads `arg` during the call.
    let value = unsafe { hv.call(Op::SchedOp, args) };
    XenError::check(Op::SchedOp, Some("shutdown"), value).map(drop)
}
