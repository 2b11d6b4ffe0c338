//! # R52: A pin is a use of its own
//!
//! A pinned table stays a table though nothing refers to it. Unpinning what is not pinned fails
//! with `EINVAL`, whatever the page is; unpinning a table that is still linked takes the pin away
//! and nothing else.
//!
//! **Why.** Without the pin, a table would be validated again every time it is linked.
//!
//! **Source.** xen/arch/x86/mm.c: `MMUEXT_PIN_*`, `MMUEXT_UNPIN_TABLE`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let (page, table) = (bench.page()?, bench.table()?);
    expect_result!(bench.unpin(&page), EINVAL, "unpinning a page");
    expect_result!(bench.unpin(&window.l1), EINVAL, "unpinning a table that is only linked");
    expect_result!(bench.pin(Level::L1, &table), 0, "pinning a table");
    expect!(!machine.set_writable(&table, true), "a pinned table was mapped writable");
    let link = |value| bench.update(slot(&window.l2, 1), value);
    expect_result!(link(entry(table.mfn, TABLE)), 0, "linking it");
    expect_result!(bench.unpin(&table), 0, "unpinning it");
    expect!(!machine.set_writable(&table, true), "a linked table was mapped writable");
    expect_result!(link(0), 0, "unlinking it");
    bench.set_writable(&table, true)
}
