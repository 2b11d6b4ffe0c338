//! # R28: An LDT is page-aligned and has at most 8192 entries; no user tables is a choice
//!
//! `SET_LDT` with more entries, or at an address that is not page-aligned or is Xen's, gives
//! `EINVAL`; 0 entries take the LDT away. `NEW_USER_BASEPTR` with frame 0 takes the user tables
//! away, and is legal at any time in the kernel. Returning to user mode without any is not.
//!
//! **Why.** Xen maps the LDT's pages, one by one when they are used.
//!
//! **Source.** xen/arch/x86/mm.c: `MMUEXT_SET_LDT`, `MMUEXT_NEW_USER_BASEPTR`; pv/iret.c.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let va = machine.scratch_va();
    let set = |address: u64, entries: u64| bench.ext(MMUEXT_SET_LDT, address, entries);
    expect_result!(set(va, 8193), EINVAL, "8193 entries");
    expect_result!(set(va + 8, 1), EINVAL, "an address that is not aligned");
    expect_result!(set(0xffff_8000_0000_0000, 1), EINVAL, "an address of Xen's");
    // Nothing is looked at before a selector is loaded.
    expect_result!(set(va, 8192), 0, "8192 entries");
    expect_result!(set(va + 8, 0), 0, "no entries, whatever the address");
    for _ in 0..2 {
        expect_result!(bench.ext(MMUEXT_NEW_USER_BASEPTR, 0, 0), 0, "no user tables");
    }
    Ok(())
}
