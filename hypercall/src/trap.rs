//! Entry points: `set_trap_table` for exceptions, `set_callbacks` and `callback_op` for the rest.
//!
//! ```
//! use hypercall::VirtAddr;
//! use hypercall::trap::{END, gate};
//!
//! // A breakpoint, which user mode may raise, entered with upcalls masked.
//! let table = [gate(3, VirtAddr::new(0xffff_ffff_8010_0000), 3, true), END];
//! assert_eq!((table[0].vector, table[0].flags), (3, 3 | 1 << 2));
//! ```

use crate::{
    Hypervisor, Op, VirtAddr, XenError,
    abi::{
        arch::{FLAT_KERNEL_CS, trap_info},
        callback,
    },
};

/// A gate: which handler takes `vector`, from which rings `int` may reach it, and whether it is
/// entered with upcalls masked.
#[inline]
pub fn gate(vector: u8, handler: VirtAddr, dpl: u8, mask_events: bool) -> trap_info {
    trap_info {
        vector,
        flags: dpl & 3 | (mask_events as u8) << 2,
        cs: FLAT_KERNEL_CS as u16,
        address: handler.as_u64(),
    }
}

/// The entry that ends a table for [`set_trap_table`].
pub const END: trap_info = trap_info {
    vector: 0,
    flags: 0,
    cs: 0,
    address: 0,
};

/// Registers the gates of `table` up to [`END`]; others stay as they are. A vector without a
/// handler ends the domain when it is raised.
///
/// Fails with `EPERM` for a code selector Xen does not allow, `EFAULT`.
///
/// # Safety
/// `table` contains [`END`], and every handler before it is written for the frame Xen pushes.
#[inline]
pub unsafe fn set_trap_table<H: Hypervisor + ?Sized>(
    hv: &H,
    table: &[trap_info],
) -> Result<(), XenError> {
    debug_assert!(table.iter().any(|trap| trap.address == 0));
    // SAFETY: Xen reads up to the entry whose address is 0, and the caller promises that there
    // is one and that each handler before it is written for the frame that Xen pushes.
    let value = unsafe { hv.call(Op::SetTrapTable, [table.as_ptr() as u64, 0, 0, 0, 0]) };
    XenError::check(Op::SetTrapTable, None, value).map(drop)
}

/// Names the entry points for events, for segment registers that do not load, and for `syscall`
/// from user mode. `EINVAL`/`EFAULT` where one is not canonical.
///
/// # Safety
/// Each is written for the frame Xen pushes.
#[inline]
pub unsafe fn set_callbacks<H: Hypervisor + ?Sized>(
    hv: &H,
    event: VirtAddr,
    failsafe: VirtAddr,
    syscall: VirtAddr,
) -> Result<(), XenError> {
    let args = [event.as_u64(), failsafe.as_u64(), syscall.as_u64(), 0, 0];
    // SAFETY: no memory is passed. The caller promises that each handler is written for the frame that
    // Xen pushes.
    let value = unsafe { hv.call(Op::SetCallbacks, args) };
    XenError::check(Op::SetCallbacks, None, value).map(drop)
}

/// An entry point that can be registered on its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Callback {
    /// Events.
    Event = callback::CALLBACKTYPE_event,
    /// A segment register that did not load.
    Failsafe = callback::CALLBACKTYPE_failsafe,
    /// `syscall` from 64-bit user mode.
    Syscall = callback::CALLBACKTYPE_syscall,
    /// Non-maskable interrupts.
    Nmi = callback::CALLBACKTYPE_nmi,
    /// `sysenter`.
    Sysenter = callback::CALLBACKTYPE_sysenter,
    /// `syscall` from 32-bit user mode.
    Syscall32 = callback::CALLBACKTYPE_syscall32,
}

/// Registers one entry point, entered with upcalls masked if `mask_events`. An event callback is
/// always entered so.
///
/// # Safety
/// `handler` is written for the frame Xen pushes.
#[inline]
pub unsafe fn register_callback<H: Hypervisor + ?Sized>(
    hv: &H,
    which: Callback,
    handler: VirtAddr,
    mask_events: bool,
) -> Result<(), XenError> {
    let flags = if mask_events {
        callback::CALLBACKF_mask_events
    } else {
        0
    };
    let arg = callback::callback_register {
        r#type: which as u16,
        flags,
        address: handler.as_u64(),
    };
    let args = [
        callback::CALLBACKOP_register as u64,
        &raw const arg as u64,
        0,
        0,
        0,
    ];
    // SAFETY: Xen reads `arg` during the call. The caller promises that the handler is written for
    // the frame that Xen pushes.
    let value = unsafe { hv.call(Op::CallbackOp, args) };
    XenError::check(Op::CallbackOp, Some("register"), value).map(drop)
}
