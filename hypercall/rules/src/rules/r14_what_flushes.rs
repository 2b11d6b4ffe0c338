//! # R14: L1 updates never flush, the others always do
//!
//! `mmu_update` of L1 entries leaves every TLB as it is: the guest flushes when it must. After an
//! update of an L2, L3 or L4 entry Xen flushes all vCPUs of the domain, once a hypercall. So upper
//! levels are updated in batches.
//!
//! **Why.** Xen reaches guest tables through a linear map of its own, which hangs from the upper
//! levels and must not go stale.
//!
//! **Source.** xen/arch/x86/mm.c: `do_mmu_update`, `flush_linear_pt`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let (one, two) = (bench.page()?, bench.page()?);
    set_word(&one, 0, 1);
    set_word(&two, 0, 2);
    let map = |page: &crate::Page| bench.update(slot(&window.l1, 0), entry(page.mfn, READ));
    expect_result!(map(&one), 0, "mapping the first page");
    expect_eq!(machine.read(window.va), Ok(1), "the first page");
    expect_result!(map(&two), 0, "mapping the second page");
    if machine.about().model {
        expect_eq!(machine.read(window.va), Ok(1), "the value seen without a flush");
    }
    let other = bench.table_with(&[entry(one.mfn, READ)])?;
    bench.flush();
    expect_eq!(machine.read(window.va), Ok(2), "the second page");
    let result = bench.update(slot(&window.l2, 0), entry(other.mfn, TABLE));
    expect_result!(result, 0, "another L1 table");
    expect_eq!(machine.read(window.va), Ok(1), "the value seen after an L2 update");
    Ok(())
}
