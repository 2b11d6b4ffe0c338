//! # R11: `update_va_mapping` needs an L1 table
//!
//! It finds the entry in the current tables. Where they have no L1 table for the address, or the
//! address is Xen's, it fails with `EINVAL`; it allocates nothing.
//!
//! **Why.** Xen has no memory of the guest's to make tables of.
//!
//! **Source.** xen/arch/x86/mm.c: `__do_update_va_mapping`; xen/arch/x86/pv/mm.c: `map_guest_l1e`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let page = bench.page()?;
    let value = entry(page.mfn, READ);
    let va = machine.scratch_va();
    expect_result!(bench.update_va(va, value, 0), EINVAL, "an address without tables");
    let window = bench.window()?;
    expect_result!(bench.update_va(va, value, 0), 0, "an address with tables");
    expect_eq!(word(&window.l1, 0) & FRAME, page.mfn.addr().as_u64(), "the entry's frame");
    expect_result!(bench.update_va(va + (1 << 21), value, 0), EINVAL, "an empty L2 entry");
    expect_result!(bench.update_va(0xffff_8000_0000_0000, 0, 0), EINVAL, "Xen's address");
    Ok(())
}
