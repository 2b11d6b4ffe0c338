//! # R74: An entry is replaced in one step
//!
//! A present entry can be overwritten by another one, of any frame; it need not be cleared first.
//! What the old one held is given up after the new one is written: the old frame is free at once,
//! if this was its last use. An update that is refused leaves the entry as it was.
//!
//! **Why.** There is no moment at which the address is not mapped.
//!
//! **Source.** xen/arch/x86/mm.c: `mod_l1_entry` to `mod_l4_entry`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let (one, two) = (bench.table()?, bench.table()?);
    let map = |value| bench.update(slot(&window.l1, 0), value);
    expect_result!(map(entry(one.mfn, WRITE)), 0, "mapping the first page writable");
    expect_result!(bench.pin(Level::L1, &one), EINVAL, "pinning it");
    let before = word(&window.l1, 0);
    expect_result!(map(entry(window.l2.mfn, WRITE)), EBUSY, "replacing it by a table");
    expect_eq!(word(&window.l1, 0), before, "the entry");
    expect_result!(map(entry(two.mfn, WRITE)), 0, "replacing it by the second page");
    expect_result!(bench.pin(Level::L1, &one), 0, "pinning the first page");
    // Upper levels alike: the old table is an ordinary page again.
    let link = |page: &crate::Page| bench.update(slot(&window.l2, 1), entry(page.mfn, TABLE));
    let other = bench.table()?;
    expect_result!(link(&other), 0, "linking a table");
    expect_result!(link(&one), 0, "replacing it");
    bench.set_writable(&other, true)
}
