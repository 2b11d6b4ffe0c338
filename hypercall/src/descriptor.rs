//! Segments: `set_gdt`, `update_descriptor`, `set_segment_base`, and the kernel stack.
//!
//! Xen keeps the upper part of every GDT (from entry 7168 on), with flat segments whose selectors
//! are `FLAT_*` in [`abi::arch`](crate::abi::arch); a kernel that needs no others needs no GDT.
//!
//! `says(0)` stands for a Xen that answers 0.
//!
//! ```
#![doc = include_str!("says.in")]
//! use hypercall::descriptor;
//!
//! let xen = says(0);
//! // The next FPU instruction traps.
//! descriptor::fpu_taskswitch(&xen, true)?;
//! assert_eq!((xen.asked().0, xen.asked().1[0]), (Op::FpuTaskswitch, 1));
//! # Ok::<(), hypercall::XenError>(())
//! ```

use crate::{Hypervisor, MachAddr, Mfn, Op, VirtAddr, XenError, abi::arch};

/// Pages a guest's own GDT may have.
pub const MAX_GDT_PAGES: usize = arch::FIRST_RESERVED_GDT_PAGE as usize;

/// Which base [`set_segment_base`] sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum SegmentBase {
    /// FS.
    Fs = arch::SEGBASE_FS,
    /// GS of user mode. Xen exchanges the two on entry and exit; there is no `swapgs`.
    GsUser = arch::SEGBASE_GS_USER,
    /// GS of the kernel.
    GsKernel = arch::SEGBASE_GS_KERNEL,
}

/// Loads a GDT of `entries` descriptors from `frames`. Those must be mapped read-only everywhere;
/// while loaded they stay so. None: the GDT is Xen's part alone.
///
/// Fails with `EINVAL` for too many entries, a frame that is mapped writable or is a page table,
/// or a descriptor Xen does not allow.
///
/// # Safety
/// `frames` has a frame for every 512 of `entries`, and every selector in use means the same in the
/// new table.
#[inline]
pub unsafe fn set_gdt<H: Hypervisor + ?Sized>(
    hv: &H,
    frames: &[Mfn],
    entries: u32,
) -> Result<(), XenError> {
    debug_assert!(frames.len() >= (entries as usize).div_ceil(512));
    let args = [frames.as_ptr() as u64, entries as u64, 0, 0, 0];
    // SAFETY: `Mfn` is transparent over the frame number that Xen reads here. The caller promises
    // that there are frames enough for `entries` and that selectors in use mean the same in them.
    let value = unsafe { hv.call(Op::SetGdt, args) };
    XenError::check(Op::SetGdt, None, value).map(drop)
}

/// Writes one descriptor of the GDT or an LDT, by its machine address.
///
/// # Safety
/// If that descriptor is in use, the new one means the same.
#[inline]
pub unsafe fn update_descriptor<H: Hypervisor + ?Sized>(
    hv: &H,
    slot: MachAddr,
    descriptor: u64,
) -> Result<(), XenError> {
    // SAFETY: no pointers are passed. The caller promises that the descriptor, if it is in use, means
    // the same as before.
    let value = unsafe { hv.call(Op::UpdateDescriptor, [slot.as_u64(), descriptor, 0, 0, 0]) };
    XenError::check(Op::UpdateDescriptor, None, value).map(drop)
}

/// Sets a segment base. `EINVAL` if the address is not canonical.
///
/// # Safety
/// Code that addresses memory through that segment finds what it expects at `base`.
#[inline]
pub unsafe fn set_segment_base<H: Hypervisor + ?Sized>(
    hv: &H,
    which: SegmentBase,
    base: u64,
) -> Result<(), XenError> {
    // SAFETY: no pointers are passed. The caller promises that code which uses the segment finds what
    // it expects at the new base.
    let value = unsafe { hv.call(Op::SetSegmentBase, [which as u64, base, 0, 0, 0]) };
    XenError::check(Op::SetSegmentBase, None, value).map(drop)
}

/// Loads `selector` into the user GS, with its base.
///
/// # Safety
/// As [`set_segment_base`].
#[inline]
pub unsafe fn set_user_gs_selector<H: Hypervisor + ?Sized>(
    hv: &H,
    selector: u16,
) -> Result<(), XenError> {
    let args = [arch::SEGBASE_GS_USER_SEL as u64, selector as u64, 0, 0, 0];
    // SAFETY: no pointers are passed. The caller promises that code which uses the segment finds what
    // it expects at the new base.
    let value = unsafe { hv.call(Op::SetSegmentBase, args) };
    XenError::check(Op::SetSegmentBase, None, value).map(drop)
}

/// Names the stack on which Xen enters the kernel from user mode: `top` is its upper end.
///
/// # Safety
/// `top` is the upper end of a mapped, writable stack that nobody else uses, for as long as it is
/// in force. A bad one ends the domain.
#[inline]
pub unsafe fn stack_switch<H: Hypervisor + ?Sized>(hv: &H, top: VirtAddr) -> Result<(), XenError> {
    let args = [arch::FLAT_KERNEL_SS as u64, top.as_u64(), 0, 0, 0];
    // SAFETY: no pointers are dereferenced now. The caller promises that `top` ends a mapped, writable
    // stack of which nobody else makes use, so that the next entry may push there.
    let value = unsafe { hv.call(Op::StackSwitch, args) };
    XenError::check(Op::StackSwitch, None, value).map(drop)
}

/// Sets or clears the virtual CR0.TS, with which the next use of the FPU raises #NM.
#[inline]
pub fn fpu_taskswitch<H: Hypervisor + ?Sized>(hv: &H, set: bool) -> Result<(), XenError> {
    // SAFETY: no memory is involved.
    let value = unsafe { hv.call(Op::FpuTaskswitch, [set as u64, 0, 0, 0, 0]) };
    XenError::check(Op::FpuTaskswitch, None, value).map(drop)
}
