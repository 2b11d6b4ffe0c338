//! `memory_op`: reservations, maps, the M2P (`memory.h`).
//!
//! `says(0)` stands for a Xen that answers 0.
//!
//! ```
#![doc = include_str!("says.in")]
//! use hypercall::memory;
//!
//! // Pages that the domain has.
//! assert_eq!(memory::current_reservation(&says(32768))?, 32768);
//! # Ok::<(), hypercall::XenError>(())
//! ```

use crate::{
    Hypervisor, Mfn, Op, Pfn, XenError,
    abi::{memory, xen::DOMID_SELF},
};

/// Calls with the address of `arg`, and returns the value.
///
/// # Safety
/// `arg` is null or what `cmd` reads and writes, and what it refers to is as well.
#[inline]
unsafe fn op<H: Hypervisor + ?Sized>(
    hv: &H,
    cmd: u32,
    name: &'static str,
    arg: u64,
) -> Result<u64, XenError> {
    // SAFETY: the caller promises that `arg`, and what it refers to, is what `cmd` reads and writes;
    // Xen touches nothing else.
    let value = unsafe { hv.call(Op::MemoryOp, [cmd as u64, arg, 0, 0, 0]) };
    XenError::check(Op::MemoryOp, Some(name), value)
}

/// Where Xen maps the M2P for this guest, first and one past the last virtual address, and the
/// highest machine frame it covers.
#[inline]
pub fn machphys_mapping<H: Hypervisor + ?Sized>(
    hv: &H,
) -> Result<memory::xen_machphys_mapping, XenError> {
    let mut map = memory::xen_machphys_mapping::default();
    let arg = &raw mut map as u64;
    // SAFETY: Xen writes `map` during the call.
    unsafe { op(hv, memory::XENMEM_machphys_mapping, "machphys_mapping", arg) }?;
    Ok(map)
}

/// The highest machine frame of the host's RAM.
#[inline]
pub fn maximum_ram_page<H: Hypervisor + ?Sized>(hv: &H) -> Result<u64, XenError> {
    // SAFETY: no memory is involved.
    unsafe { op(hv, memory::XENMEM_maximum_ram_page, "maximum_ram_page", 0) }
}

/// Pages this domain has.
#[inline]
pub fn current_reservation<H: Hypervisor + ?Sized>(hv: &H) -> Result<u64, XenError> {
    pages(
        hv,
        memory::XENMEM_current_reservation,
        "current_reservation",
    )
}

/// Pages this domain may have; `u64::MAX` where there is no limit.
#[inline]
pub fn maximum_reservation<H: Hypervisor + ?Sized>(hv: &H) -> Result<u64, XenError> {
    pages(
        hv,
        memory::XENMEM_maximum_reservation,
        "maximum_reservation",
    )
}

/// Asks for a number of pages of this domain, by one of the two commands above.
#[inline]
fn pages<H: Hypervisor + ?Sized>(hv: &H, cmd: u32, name: &'static str) -> Result<u64, XenError> {
    let domid = DOMID_SELF;
    let arg = &raw const domid as u64;
    // SAFETY: Xen reads `domid` during the call.
    unsafe { op(hv, cmd, name, arg) }
}

/// The domain's E820 map, into `buffer`; the part that was filled.
#[inline]
pub fn memory_map<'b, H: Hypervisor + ?Sized>(
    hv: &H,
    buffer: &'b mut [memory::e820entry],
) -> Result<&'b [memory::e820entry], XenError> {
    let mut arg = memory::xen_memory_map {
        nr_entries: buffer.len() as u32,
        buffer: buffer.as_mut_ptr(),
    };
    let address = &raw mut arg as u64;
    // SAFETY: Xen reads and writes `arg`, and writes at most `nr_entries` of `buffer`.
    unsafe { op(hv, memory::XENMEM_memory_map, "memory_map", address) }?;
    Ok(&buffer[..(arg.nr_entries as usize).min(buffer.len())])
}

/// Gives `frames` back to Xen; says how many it took, from the front.
///
/// # Safety
/// Nothing refers to those frames any more: no mapping, no table. Xen may hand them to another
/// domain at once.
#[inline]
pub unsafe fn decrease_reservation<H: Hypervisor + ?Sized>(
    hv: &H,
    frames: &[Mfn],
) -> Result<usize, XenError> {
    // SAFETY: the caller's promise.
    unsafe { decrease_reservation_by(hv, 0, frames) }
}

/// As [`decrease_reservation`], for 2^`order` frames from each of the `frames` on, which is a multiple of
/// that; says how many of the `frames`. Under PV frames that lie side by side are seldom one extent.
///
/// # Safety
/// As [`decrease_reservation`], for all of them.
#[inline]
pub unsafe fn decrease_reservation_by<H: Hypervisor + ?Sized>(
    hv: &H,
    order: u32,
    frames: &[Mfn],
) -> Result<usize, XenError> {
    // `Mfn` is transparent over the number Xen reads; it does not write for this call.
    let arg = memory::xen_memory_reservation {
        extent_order: order,
        ..reservation(frames.as_ptr().cast_mut().cast(), frames.len())
    };
    let address = &raw const arg as u64;
    // SAFETY: Xen reads `arg` and the list, during the call. The caller promises that nobody uses
    // the frames any more.
    unsafe {
        op(
            hv,
            memory::XENMEM_decrease_reservation,
            "decrease_reservation",
            address,
        )
    }
    .map(|done| done as usize)
}

/// Asks for a page for each pseudo-physical frame in `frames`, and puts its machine frame in its
/// place; says how many were had, from the front.
#[inline]
pub fn populate_physmap<H: Hypervisor + ?Sized>(
    hv: &H,
    frames: &mut [u64],
) -> Result<usize, XenError> {
    let arg = reservation(frames.as_mut_ptr(), frames.len());
    let address = &raw const arg as u64;
    // SAFETY: Xen reads `arg`, and reads and writes the list, during the call. New memory takes
    // nothing from anyone.
    unsafe {
        op(
            hv,
            memory::XENMEM_populate_physmap,
            "populate_physmap",
            address,
        )
    }
    .map(|done| done as usize)
}

/// Puts `shared_info` in the place of `frame`, for a guest whose frames are translated: a PV guest
/// finds it in `start_info`. The memory that was there goes back to Xen.
///
/// # Safety
/// Nobody uses the frame's memory, and who reaches it from now on knows what it is.
#[inline]
pub unsafe fn place_shared_info<H: Hypervisor + ?Sized>(
    hv: &H,
    frame: Pfn,
) -> Result<(), XenError> {
    let arg = memory::xen_add_to_physmap {
        domid: DOMID_SELF,
        size: 0,
        space: memory::XENMAPSPACE_shared_info,
        idx: 0,
        gpfn: frame.as_u64(),
    };
    let arg = &raw const arg as u64;
    // SAFETY: Xen reads `arg` during the call; the caller gives the frame away.
    unsafe { op(hv, memory::XENMEM_add_to_physmap, "add_to_physmap", arg) }.map(drop)
}

fn reservation(extent_start: *mut u64, len: usize) -> memory::xen_memory_reservation {
    memory::xen_memory_reservation {
        extent_start,
        nr_extents: len as u64,
        extent_order: 0,
        mem_flags: 0,
        domid: DOMID_SELF,
    }
}
