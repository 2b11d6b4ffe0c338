//! # R9: While it is counted, a page has one type
//!
//! A frame is a page table of one level, a page of descriptors, or writable; while somebody uses
//! it as one it cannot become another. Mapping a table writable fails with `EBUSY`. Using a page
//! that is mapped writable, or is a table of another level, as a table fails with `EINVAL`. So does
//! a second pin.
//!
//! **Why.** This is what keeps a guest from writing its own page tables.
//!
//! **Source.** xen/arch/x86/mm.c: `_get_page_type`, `get_page_from_l1e`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let writable = entry(window.l1.mfn, WRITE);
    expect_result!(bench.update(slot(&window.l1, 0), writable), EBUSY, "mapping a table writable");
    expect_result!(bench.update_va(window.va, writable, 0), EBUSY, "update_va_mapping of a table");
    let page = bench.page()?;
    expect_result!(bench.pin(Level::L1, &page), EINVAL, "pinning a page mapped writable");
    let result = bench.update(slot(&window.l2, 1), entry(page.mfn, TABLE));
    expect_result!(result, EINVAL, "linking a page mapped writable");
    bench.set_writable(&page, false)?;
    expect_result!(bench.pin(Level::L1, &page), 0, "pinning it read-only");
    expect_result!(bench.pin(Level::L1, &page), EINVAL, "pinning it twice");
    expect_result!(bench.pin(Level::L2, &page), EINVAL, "pinning it at another level");
    let result = bench.update(slot(&window.l3, 1), entry(page.mfn, TABLE));
    expect_result!(result, EINVAL, "linking it at another level");
    expect!(!machine.set_writable(&page, true), "a pinned table was mapped writable");
    expect_result!(bench.unpin(&page), 0, "unpinning it");
    bench.set_writable(&page, true)
}
