//! `sched_op`: giving the CPU away, for a moment or for good (`sched.h`).
//!
//! `says(0)` stands for a Xen that answers 0.
//!
//! ```
#![doc = include_str!("says.in")]
//! use hypercall::sched::{self, Shutdown};
//!
//! let xen = says(0);
//! sched::shutdown(&xen, Shutdown::Poweroff)?;
//! assert_eq!(xen.asked().0, Op::SchedOp);
//! # Ok::<(), hypercall::XenError>(())
//! ```

use crate::{
    Errno, Hypervisor, Mfn, Op, XenError,
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

/// How a domain goes on that was suspended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resumed {
    /// As another domain, restored from what was saved: all its frames have other machine numbers, and
    /// nothing that it has registered or bound stands any more.
    Restored,
    /// As the same, with all that it had: the tools gave up, or were to let it go on.
    Cancelled,
}

/// Freezes the domain, so that Xen's tools can save it; returns when it goes on. Only for vCPU 0, with
/// every other down and upcalls masked.
///
/// `start_info` is the machine frame of a page that is laid out as such: in it are the pseudo-physical
/// frames of the rings of console and xenstore, and a restored domain finds there what a new one is
/// told of `shared_info`, these rings and their ports (`xg_sr_restore_x86_pv.c`). Present entries of
/// page tables name frames of the domain's memory and no others, or the tools do not save it.
///
/// Fails with `EINVAL` where Xen cannot.
///
/// # Safety
/// After [`Resumed::Restored`] nobody uses a machine number from before.
#[inline]
pub unsafe fn suspend<H: Hypervisor + ?Sized>(
    hv: &H,
    start_info: Mfn,
) -> Result<Resumed, XenError> {
    // SAFETY: the caller uses no machine number from before. The tools look for the frame where a third
    // argument would be.
    unsafe { freeze(hv, start_info.as_u64()) }
}

/// The same for a guest whose frames are translated (HVM, PVH). They keep their numbers; rings of console
/// and xenstore are emptied, and their ports are parameters of the restored domain's platform
/// (`xg_sr_restore_x86_hvm.c`). Where `shared_info` was placed there is memory then.
/// A PV guest that calls this is not saved: the tools do not find what it must tell them.
///
/// Fails with `EINVAL` where Xen cannot.
#[inline]
pub fn suspend_translated<H: Hypervisor + ?Sized>(hv: &H) -> Result<Resumed, XenError> {
    // SAFETY: such a guest has no machine numbers. A PV guest goes on with all that it had: the tools save
    // none whose third argument is the frame of somebody else.
    unsafe { freeze(hv, 0) }
}

/// Has Xen freeze the domain, and says how it goes on.
///
/// # Safety
/// After [`Resumed::Restored`] nobody uses a machine number from before.
unsafe fn freeze<H: Hypervisor + ?Sized>(hv: &H, third: u64) -> Result<Resumed, XenError> {
    let arg = sched::sched_shutdown {
        reason: sched::SHUTDOWN_suspend,
    };
    let (command, address) = (sched::SCHEDOP_shutdown as u64, &raw const arg as u64);
    // SAFETY: Xen reads `arg` during the call. What changes meanwhile are machine numbers, and the
    // caller promises to use none from before.
    let value = unsafe { hv.call(Op::SchedOp, [command, address, third, 0, 0]) };
    Ok(
        match XenError::check(Op::SchedOp, Some("shutdown"), value)? {
            0 => Resumed::Restored,
            _ => Resumed::Cancelled,
        },
    )
}

/// Ends the domain. Returns only where it was refused. For [`Shutdown::Suspend`] there is [`suspend`].
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
