//! The trap entry stubs under Xen, and the table that tells Xen about them.

use hypercall::abi::arch::trap_info;
use hypercall::trap::{END, gate};
use hypercall::{Hypervisor, VirtAddr, XenError};
use xen_pv_rt::trap::{self, STUB, VECTORS};

use crate::frame::Frame;

const BREAKPOINT: usize = 3;

#[cfg(feature = "programs")]
xen_pv_rt::trap_stubs!(trap_stubs, handle, user usermode_left);
#[cfg(not(feature = "programs"))]
xen_pv_rt::trap_stubs!(trap_stubs, handle);

unsafe extern "C" {
    static trap_stubs: [[u8; STUB]; VECTORS];
}

/// Called by the stubs with the interrupted context.
extern "C" fn handle(frame: &mut Frame) {
    super::dispatch(frame);
}

fn stubs() -> VirtAddr {
    VirtAddr::from_ptr(&raw const trap_stubs)
}

/// Has `int vector` from rings up to `dpl` taken as a breakpoint.
///
/// # Errors
/// Xen's refusal.
pub(crate) fn install_breakpoint<H: Hypervisor>(
    hv: &H,
    vector: u8,
    dpl: u8,
) -> Result<(), XenError> {
    // SAFETY: the stub of an exception without error code, which is what `int` pushes.
    unsafe { install_stub(hv, vector, stubs() + (BREAKPOINT * STUB) as u64, dpl) }
}

/// Gives Xen another handler for one vector.
///
/// # Errors
/// Xen's refusal.
///
/// # Safety
/// `handler` is written for the frame that Xen pushes for that vector, and is never unmapped.
pub(crate) unsafe fn install_stub<H: Hypervisor>(
    hv: &H,
    vector: u8,
    handler: VirtAddr,
    dpl: u8,
) -> Result<(), XenError> {
    let table = [gate(vector, handler, dpl, true), END];
    // SAFETY: the table ends, and the caller promises that the handler is written for what Xen pushes.
    unsafe { hypercall::trap::set_trap_table(hv, &table) }
}

/// The gates of all exceptions.
pub(crate) fn gates() -> [trap_info; VECTORS] {
    trap::gates(stubs())
}

/// Gives Xen the whole trap table.
///
/// # Errors
/// Xen's refusal.
pub fn install<H: Hypervisor>(hv: &H) -> Result<(), XenError> {
    // SAFETY: the stubs are those of this image, which is never unmapped.
    unsafe { trap::install(hv, stubs()) }
}
