//! # R26: What is passed by address must be mapped
//!
//! Xen reads and writes arguments through the guest's own tables, those of the kernel's CR3. An
//! address that is not mapped there, or is Xen's, gives `EFAULT`. A mapping that exists only in
//! the guest's queue does not help.
//!
//! **Why.** Xen runs on the guest's tables and copies like the guest would.
//!
//! **Source.** xen/arch/x86/include/asm/guest_access.h, xen/arch/x86/usercopy.c.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let try_with = |address: u64| {
        let args = [address, 1, 0, DOMID_SELF as u64, 0];
        (bench.call(Op::MmuUpdate, args), bench.call(Op::MmuextOp, args))
    };
    expect_eq!(try_with(BAD_POINTER), (EFAULT, EFAULT), "lists at an address of Xen's");
    if machine.about().model {
        // The model's pointers are the host's.
        return Ok(());
    }
    let va = machine.scratch_va();
    expect_eq!(try_with(va), (EFAULT, EFAULT), "lists at an address without tables");
    let window = bench.window()?;
    expect_eq!(try_with(va), (EFAULT, EFAULT), "lists at an address that is not mapped");
    let page = bench.page()?;
    set_word(&page, 0, slot(&page, 2).as_u64());
    set_word(&page, 1, 5);
    let result = bench.update_va(window.va, entry(page.mfn, READ), UVMF_INVLPG);
    expect_result!(result, 0, "mapping the list");
    let args = [va, 1, 0, DOMID_SELF as u64, 0];
    expect_result!(bench.call(Op::MmuUpdate, args), 0, "a list in a page mapped read-only");
    expect_eq!(word(&page, 2), 5, "the word it wrote");
    Ok(())
}
