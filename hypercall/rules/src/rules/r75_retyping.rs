//! # R75: An unused page can become anything
//!
//! A zeroed page is a valid table of every level. Once the last use is gone it may become a table
//! of another level, a page of descriptors, or writable, and is looked at afresh. Read-only
//! mappings, as many as one likes, are not in the way of any of it.
//!
//! **Why.** A type is held only while it is used.
//!
//! **Source.** xen/arch/x86/mm.c: `_get_page_type`, typeref 0 → 1.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let table = bench.table()?;
    for index in 0..8 {
        let result = bench.update(slot(&window.l1, index), entry(table.mfn, READ));
        expect_result!(result, 0, "read-only mapping {index}");
    }
    for level in [Level::L1, Level::L2, Level::L3, Level::L1] {
        expect_result!(bench.pin(level, &table), 0, "pinning as {level}");
        expect_result!(bench.unpin(&table), 0, "unpinning as {level}");
    }
    let frames = [table.mfn.as_u64()];
    let result = bench.call(Op::SetGdt, [frames.as_ptr() as u64, 1, 0, 0, 0]);
    let unload = bench.call(Op::SetGdt, [0; 5]);
    expect_result!(result, 0, "as a page of descriptors");
    expect_result!(unload, 0, "unloading it");
    bench.set_writable(&table, true)?;
    set_word(&table, 0, entry(window.l1.mfn, WRITE));
    bench.set_writable(&table, false)?;
    expect!(bench.pin(Level::L1, &table) < 0, "a page with a bad entry was taken for a table");
    // An L4 keeps what Xen wrote into it, and so fits nothing else until it is cleared.
    let root = bench.table()?;
    expect_result!(bench.pin(Level::L4, &root), 0, "pinning as L4");
    expect_result!(bench.unpin(&root), 0, "unpinning as L4");
    expect!(bench.pin(Level::L3, &root) < 0, "a former L4 was taken for an L3 as it is");
    Ok(())
}
