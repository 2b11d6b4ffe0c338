//! `vcpu_op`: bringing vCPUs up and down, and where Xen keeps their state (`vcpu.h`).
//!
//! `says(0)` stands for a Xen that answers 0.
//!
//! ```
#![doc = include_str!("says.in")]
//! use hypercall::{Errno, vcpu};
//!
//! assert!(vcpu::is_up(&says(1), 1)?);
//! assert_eq!(vcpu::is_up(&says(-2), 7).unwrap_err().errno, Errno::ENOENT);
//! # Ok::<(), hypercall::XenError>(())
//! ```

use crate::{
    Hypervisor, MachAddr, Op, VirtAddr, XenError,
    abi::{arch::vcpu_guest_context, hvm::vcpu_hvm_context, vcpu},
    instead::check,
};

/// Calls with the address of `arg`.
///
/// # Safety
/// `arg` is null or what `cmd` reads or writes.
#[inline]
unsafe fn op<H: Hypervisor + ?Sized>(
    hv: &H,
    cmd: u32,
    name: &'static str,
    id: u32,
    arg: u64,
) -> Result<u64, XenError> {
    // SAFETY: the caller promises that `arg` is null or what `cmd` reads or writes; Xen touches nothing
    // else.
    let value = unsafe { hv.call(Op::VcpuOp, [cmd as u64, id as u64, arg, 0, 0]) };
    XenError::check(Op::VcpuOp, Some(name), value)
}

/// Gives vCPU `id`, which has not run yet, its first context. `EEXIST` if it has one.
///
/// # Safety
/// What `context` holds is sound for that vCPU: stack, handlers, page tables, entry point.
#[inline]
pub unsafe fn initialise<H: Hypervisor + ?Sized>(
    hv: &H,
    id: u32,
    context: &vcpu_guest_context,
) -> Result<(), XenError> {
    let context = core::ptr::from_ref(context) as u64;
    // SAFETY: Xen reads the context during the call. The caller promises that its stack,
    // handlers, tables and entry point are sound, so that running from it is.
    unsafe { op(hv, vcpu::VCPUOP_initialise, "initialise", id, context) }.map(drop)
}

/// The same in hardware virtualisation.
///
/// # Safety
/// As [`initialise`].
#[inline]
pub unsafe fn initialise_hvm<H: Hypervisor + ?Sized>(
    hv: &H,
    id: u32,
    context: &vcpu_hvm_context,
) -> Result<(), XenError> {
    let context = core::ptr::from_ref(context) as u64;
    // SAFETY: Xen reads the context during the call. The caller promises that its stack, tables and entry
    // point are sound, so that running from it is.
    unsafe { op(hv, vcpu::VCPUOP_initialise, "initialise", id, context) }.map(drop)
}

/// Lets vCPU `id` run from the context it was given. `EINVAL` if it was given none.
///
/// # Safety
/// As [`initialise`].
#[inline]
pub unsafe fn up<H: Hypervisor + ?Sized>(hv: &H, id: u32) -> Result<(), XenError> {
    if let Some(devices) = hv.devices() {
        // SAFETY: the caller's promise.
        return check(Op::VcpuOp, Some("up"), unsafe { devices.up(id) });
    }
    // SAFETY: no memory is passed. The caller promises that the context which the vCPU was given, and
    // now runs from, is sound.
    unsafe { op(hv, vcpu::VCPUOP_up, "up", id, 0) }.map(drop)
}

/// Stops vCPU `id`. For the calling one this returns when another brings it up again.
#[inline]
pub fn down<H: Hypervisor + ?Sized>(hv: &H, id: u32) -> Result<(), XenError> {
    if let Some(devices) = hv.devices() {
        return check(Op::VcpuOp, Some("down"), devices.down(id));
    }
    // SAFETY: no memory is involved.
    unsafe { op(hv, vcpu::VCPUOP_down, "down", id, 0) }.map(drop)
}

/// Whether vCPU `id` is up. `ENOENT` if there is no such vCPU.
#[inline]
pub fn is_up<H: Hypervisor + ?Sized>(hv: &H, id: u32) -> Result<bool, XenError> {
    if let Some(devices) = hv.devices() {
        return check(Op::VcpuOp, Some("is_up"), devices.is_up(id));
    }
    // SAFETY: no memory is involved.
    unsafe { op(hv, vcpu::VCPUOP_is_up, "is_up", id, 0) }.map(|up| up != 0)
}

/// Sends an NMI to vCPU `id`.
#[inline]
pub fn send_nmi<H: Hypervisor + ?Sized>(hv: &H, id: u32) -> Result<(), XenError> {
    // SAFETY: no memory is involved.
    unsafe { op(hv, vcpu::VCPUOP_send_nmi, "send_nmi", id, 0) }.map(drop)
}

/// How long vCPU `id` has spent in each state.
#[inline]
pub fn runstate<H: Hypervisor + ?Sized>(
    hv: &H,
    id: u32,
) -> Result<vcpu::vcpu_runstate_info, XenError> {
    let mut info = vcpu::vcpu_runstate_info::default();
    let arg = &raw mut info as u64;
    // SAFETY: Xen writes `info` during the call.
    unsafe {
        op(
            hv,
            vcpu::VCPUOP_get_runstate_info,
            "get_runstate_info",
            id,
            arg,
        )
    }?;
    Ok(info)
}

/// Whether vCPU `id` executes instructions: one that was told to stop may do so for a moment more.
#[inline]
pub fn is_running<H: Hypervisor + ?Sized>(hv: &H, id: u32) -> Result<bool, XenError> {
    if let Some(devices) = hv.devices() {
        return check(Op::VcpuOp, Some("is_running"), devices.is_running(id));
    }
    Ok(runstate(hv, id)?.state == vcpu::RUNSTATE_running)
}

/// Moves the `vcpu_info` of vCPU `id` to machine address `place`, once in its life; within a page.
/// vCPUs from 32 on need it before they come up.
///
/// # Safety
/// From now on Xen writes the 64 bytes at `place`.
#[inline]
pub unsafe fn register_vcpu_info<H: Hypervisor + ?Sized>(
    hv: &H,
    id: u32,
    place: MachAddr,
) -> Result<(), XenError> {
    let arg = vcpu::vcpu_register_vcpu_info {
        mfn: place.frame().as_u64(),
        offset: place.page_offset() as u32,
        rsvd: 0,
    };
    let arg = &raw const arg as u64;
    // SAFETY: Xen reads `arg` during the call; the caller gives the place away.
    unsafe {
        op(
            hv,
            vcpu::VCPUOP_register_vcpu_info,
            "register_vcpu_info",
            id,
            arg,
        )
    }
    .map(drop)
}

/// Where Xen keeps something of a vCPU up to date: 8 bytes aligned, within a page if it is named by its
/// machine address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaPlace {
    /// Xen writes there by whichever tables the vCPU runs with, and not where they map nothing.
    Virtual(VirtAddr),
    /// Xen writes there whatever the vCPU does; from Xen 4.18 on (`ENOSYS` else).
    Machine(MachAddr),
}

/// Has Xen keep at `place` how long vCPU `id` has spent in each state, instead of where it did before.
///
/// # Safety
/// From now on Xen writes a [`vcpu_runstate_info`](vcpu::vcpu_runstate_info) there.
#[inline]
pub unsafe fn register_runstate<H: Hypervisor + ?Sized>(
    hv: &H,
    id: u32,
    place: AreaPlace,
) -> Result<(), XenError> {
    let (cmd, addr) = match place {
        AreaPlace::Virtual(va) => (vcpu::VCPUOP_register_runstate_memory_area, va.as_u64()),
        AreaPlace::Machine(at) => (vcpu::VCPUOP_register_runstate_phys_area, at.as_u64()),
    };
    let arg = vcpu::vcpu_register_runstate_memory_area { addr };
    let arg = &raw const arg as u64;
    // SAFETY: Xen reads `arg` during the call; the caller gives the place away.
    unsafe { op(hv, cmd, "register_runstate", id, arg) }.map(drop)
}

/// Has Xen keep at `place` the clock of vCPU `id`, as well as in its `vcpu_info`, and instead of where it
/// did before.
///
/// # Safety
/// From now on Xen writes a [`vcpu_time_info`](crate::abi::shared_info::vcpu_time_info) there.
#[inline]
pub unsafe fn register_time<H: Hypervisor + ?Sized>(
    hv: &H,
    id: u32,
    place: AreaPlace,
) -> Result<(), XenError> {
    let (cmd, addr) = match place {
        AreaPlace::Virtual(va) => (vcpu::VCPUOP_register_vcpu_time_memory_area, va.as_u64()),
        AreaPlace::Machine(at) => (vcpu::VCPUOP_register_vcpu_time_phys_area, at.as_u64()),
    };
    let arg = vcpu::vcpu_register_time_memory_area { addr };
    let arg = &raw const arg as u64;
    // SAFETY: Xen reads `arg` during the call; the caller gives the place away.
    unsafe { op(hv, cmd, "register_time", id, arg) }.map(drop)
}
