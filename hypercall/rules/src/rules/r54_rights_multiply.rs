//! # R54: Rights are those of all levels together
//!
//! A page is writable if RW is set in the entries of all four levels. Xen allows any mixture: a
//! missing RW in an L2 entry makes 2 MiB read-only at once, while the L1 entries below still count
//! as writable mappings. So such a page is not free to become a table.
//!
//! **Why.** Xen counts what L1 entries say, wherever the L1 is linked, or whether at all.
//!
//! **Source.** SDM vol. 3, "Paging"; xen/arch/x86/mm.c: `get_page_from_l1e`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    bench.set_writable(&page, false)?;
    let result = bench.update(slot(&window.l1, 0), entry(page.mfn, WRITE));
    expect_result!(result, 0, "a writable page");
    bench.flush();
    expect_eq!(machine.write(window.va, 1), Ok(()), "a store");
    let result = bench.update(slot(&window.l2, 0), entry(window.l1.mfn, TABLE & !RW));
    expect_result!(result, 0, "an L2 entry without RW");
    match machine.write(window.va, 2) {
        Ok(()) => fail!("a store through an L2 entry without RW succeeds"),
        Err(fault) => expect!(fault.is_protection(), "fault code {:#x}", fault.code),
    }
    expect_eq!(machine.read(window.va), Ok(1), "a load");
    expect_result!(bench.pin(Level::L1, &page), EINVAL, "pinning the page as a table");
    Ok(())
}
