//! # R53: A validation that fails leaves nothing behind
//!
//! One bad entry and the table is refused, with `EINVAL` or what the entry itself gives. What the
//! entries before it had taken is given up again, so the table and everything it names are as free
//! as before. Only the bits that Xen adds to entries (R3) may stay in them.
//!
//! **Why.** Half a table is none.
//!
//! **Source.** xen/arch/x86/mm.c: `promote_l1_table` to `promote_l4_table`, the failure paths.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let (page, inner) = (bench.page()?, bench.table()?);
    // A table that would map another table writable.
    let bad = bench.table_with(&[entry(page.mfn, WRITE), entry(window.l1.mfn, WRITE)])?;
    expect_result!(bench.pin(Level::L1, &bad), EBUSY, "an L1 that maps a table writable");
    // One level up: a good L1, then the bad one.
    let above = bench.table_with(&[entry(inner.mfn, TABLE), entry(bad.mfn, TABLE)])?;
    let result = bench.pin(Level::L2, &above);
    expect!(result < 0, "an L2 with a bad L1 gave {result}");
    for table in [&inner, &bad, &above] {
        bench.set_writable(table, true)?;
    }
    // The page, which the bad table mapped writable for a moment, can become a table.
    set_word(&page, 0, 0);
    bench.set_writable(&page, false)?;
    expect_result!(bench.pin(Level::L1, &page), 0, "pinning what the bad table mapped");
    let flags = bench.table_with(&[entry(page.mfn, TABLE | PSE)])?;
    expect_result!(bench.pin(Level::L2, &flags), EINVAL, "an L2 with a large page");
    Ok(())
}
