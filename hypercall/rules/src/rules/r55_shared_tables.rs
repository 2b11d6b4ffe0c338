//! # R55: A table can be linked in many places
//!
//! A validated table is linked again without another look at its entries, within one address space
//! or in several; a change of an entry shows in all of them. It must be the same level everywhere.
//!
//! **Why.** Types belong to frames, not to addresses.
//!
//! **Source.** xen/arch/x86/mm.c: `_get_page_type`, the fully validated case.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    set_word(&page, 0, 7);
    for index in [1, 2, 511] {
        let result = bench.update(slot(&window.l2, index), entry(window.l1.mfn, TABLE));
        expect_result!(result, 0, "linking an L1 table at L2 entry {index}");
    }
    let result = bench.update(slot(&window.l1, 3), entry(page.mfn, READ));
    expect_result!(result, 0, "mapping a page");
    bench.flush();
    for index in [0, 1, 2, 511] {
        let va = window.va + (index << 21) + 0x3000;
        expect_eq!(machine.read(va), Ok(7), "the page through L2 entry {index}");
    }
    let result = bench.update(slot(&window.l3, 1), entry(window.l1.mfn, TABLE));
    expect_result!(result, EINVAL, "linking the L1 table in an L3");
    Ok(())
}
