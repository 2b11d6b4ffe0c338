//! # R39: The kernel stack is believed until it is needed
//!
//! `stack_switch` accepts any address. When Xen enters the kernel from user mode it pushes the
//! frame there, and ends the domain if that faults or the address is Xen's. Entries from the kernel
//! itself go to the current stack, whatever state that is in: there is no IST, and no double fault.
//!
//! **Why.** Xen has no other stack of the guest's to report the problem on.
//!
//! **Source.** xen/arch/x86/pv/misc-hypercalls.c: `do_stack_switch`; x86_64/entry.S:
//! `create_bounce_frame_bad_sp`, `domain_crash_page_fault_*`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let page = bench.page()?;
    let ss = abi::arch::FLAT_KERNEL_SS as u64;
    // Nothing runs in user mode meanwhile, so the stack named here is never used. The kernel names
    // its own before it goes there.
    for sp in [0, 8, 0xffff_8100_0000_0000, page.va + 4096] {
        let result = bench.call(Op::StackSwitch, [ss, sp, 0, 0, 0]);
        expect_result!(result, 0, "a stack at {sp:#x}");
    }
    Ok(())
}
