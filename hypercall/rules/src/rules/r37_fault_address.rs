//! # R37: The fault address is in `vcpu_info`
//!
//! A kernel cannot read CR2. Xen writes the address of a page fault to `vcpu_info.arch.cr2`, before
//! it enters the handler; a second fault overwrites it. Bit 2 of the error code is the guest's own
//! view: clear for a fault of the kernel, though it runs in ring 3.
//!
//! **Why.** Reading CR2 would trap; memory is cheaper.
//!
//! **Source.** xen/arch/x86/pv/traps.c: `pv_inject_event`; public/arch-x86/xen.h: `arch_vcpu_info`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    if lab_is_r49(machine) {
        skip!("R49 is about the fault address in this shim");
    }
    let va = machine.scratch_va() + 0x1238;
    let Some(entry) = machine.enter(Cause::PageFault(va), true) else {
        skip!("this machine is not entered");
    };
    expect_eq!(entry.vector, 14, "the vector");
    expect_eq!(entry.cr2, va, "the fault address");
    expect_eq!(entry.frame[2] & 4, 0, "the user bit of the error code");
    Ok(())
}

fn lab_is_r49(machine: &dyn Machine) -> bool {
    let about = machine.about();
    about.kind == Kind::Shim && about.version < (4, 18) && !about.model
}
