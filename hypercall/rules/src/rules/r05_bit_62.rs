//! # R5: Bit 62 of an L1 entry is debug Xen's
//!
//! A release Xen leaves bit 62 to the guest. A debug one marks mappings of grants with it, and
//! refuses a guest's entry that has it with `EINVAL`. So it is not the guest's to use.
//!
//! **Why.** Debug builds catch grants that are unmapped behind the grant table's back.
//!
//! **Source.** xen/arch/x86/include/asm/x86_64/page.h: `_PAGE_GNTTAB`; mm.c: `L1_DISALLOW_MASK`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    let expected = if machine.about().debug { EINVAL } else { 0 };
    let result = bench.update(slot(&window.l1, 0), entry(page.mfn, READ | 1 << 62));
    expect_result!(result, expected, "bit 62 at L1");
    let other = bench.table()?;
    let result = bench.update(slot(&window.l2, 1), entry(other.mfn, TABLE | 1 << 62));
    expect_result!(result, 0, "bit 62 at L2");
    Ok(())
}
