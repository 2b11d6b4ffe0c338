//! # R17: Linear page tables are not to be relied on
//!
//! An entry that maps a table of its own level makes the tables show up as pages. Xen allows it
//! read-only, for a table that maps itself or one that is validated already; but a Xen may be
//! built or started without (`pv-linear-pt=false`), and then refuses with `EINVAL`. Writable it is
//! always refused.
//!
//! **Why.** It needs counts of its own to be safe, was the cause of several advisories, and today's
//! kernels do without.
//!
//! **Source.** xen/arch/x86/mm.c: `define_get_linear_pagetable`; XSA-240.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let l4 = bench.table()?;
    expect_result!(bench.pin(Level::L4, &l4), 0, "pinning an empty L4");
    let result = bench.update(slot(&l4, 5), entry(l4.mfn, TABLE));
    expect_result!(result, EINVAL, "a writable linear entry");
    let result = bench.update(slot(&l4, 5), entry(l4.mfn, READ));
    expect!(result == 0 || result == EINVAL, "a read-only linear entry gave {result}");
    if result == 0 {
        expect_result!(bench.update(slot(&l4, 5), 0), 0, "taking it out");
    }
    Ok(())
}
