//! # R31: `iretq` returns to the kernel, and forgets the mask
//!
//! From a handler back into the kernel, plain `iretq` works once CS has privilege level 3 again;
//! it is cheap, and leaves the upcall mask as the handler left it: the kernel puts that back
//! itself. Back to user mode, and out of an NMI, it takes the iret hypercall, which restores the
//! mask from IF. Its stub in the hypercall page pushes registers itself: jump there, never call.
//!
//! **Why.** No change of privilege is involved, so Xen need not know; the mask is memory, and
//! `iretq` does not write memory.
//!
//! **Source.** xen/arch/x86/pv/iret.c: `do_iret`; pv/hypercall.c: `pv_ring3_init_hypercall_page`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let Some(entry) = machine.enter(Cause::Breakpoint, false) else {
        skip!("this machine is not entered");
    };
    let Some(after) = entry.mask_after_iretq else {
        skip!("this kernel does not return by iretq");
    };
    expect!(after, "a handler set the mask, and iretq cleared it");
    Ok(())
}
