//! # R49: The 4.17 shim loses fault addresses under emulated SVM
//!
//! In the shim of Xen 4.17, on QEMU's emulated SVM, `vcpu_info.arch.cr2` reads 0 for the guest's
//! page faults, and Xen itself does not know the address either: stores to tables are not emulated
//! (R16) even with the assist. The shim of 4.20 delivers it, as every other Xen does. A test that
//! needs fault addresses in a shim uses 4.20.
//!
//! **Why.** The address is lost between the outer Xen's and the CPU emulator's idea of CR2.
//!
//! **Source.** Seen, not read; xen/arch/x86/traps.c: `do_page_fault` for where it should come from.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let about = machine.about();
    if about.kind != Kind::Shim || about.model {
        skip!("this is no shim");
    }
    let va = machine.scratch_va() + 0x2230;
    let Some(entry) = machine.enter(Cause::PageFault(va), true) else {
        skip!("this machine is not entered");
    };
    expect_eq!(entry.vector, 14, "the vector");
    let lost = about.version < (4, 18);
    // On hardware even the old shim has the address.
    expect!(entry.cr2 == va || lost && entry.cr2 == 0, "the fault address is {:#x}", entry.cr2);
    Ok(())
}
