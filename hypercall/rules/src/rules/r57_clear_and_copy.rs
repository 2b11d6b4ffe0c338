//! # R57: Xen clears and copies pages, but not tables
//!
//! `CLEAR_PAGE` and `COPY_PAGE` write to any frame of the guest's that is free to be writable,
//! mapped or not; one in use as a table gives `EINVAL`, also as the target of a copy. The source
//! of a copy may be anything of the guest's, tables included.
//!
//! **Why.** For the moment of the write the target is a writable page.
//!
//! **Source.** xen/arch/x86/mm.c: `MMUEXT_CLEAR_PAGE`, `MMUEXT_COPY_PAGE`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let (page, other) = (bench.page()?, bench.table()?);
    let clear = |page: &crate::Page| bench.ext(MMUEXT_CLEAR_PAGE, page.mfn.as_u64(), 0);
    let copy = |to: &crate::Page, from: &crate::Page| {
        bench.ext(MMUEXT_COPY_PAGE, to.mfn.as_u64(), from.mfn.as_u64())
    };
    set_word(&page, 511, 5);
    expect_result!(copy(&other, &page), 0, "copying to a page mapped read-only");
    expect_eq!(word(&other, 511), 5, "the word copied");
    expect_result!(clear(&page), 0, "clearing a page");
    expect_eq!(word(&page, 511), 0, "the word cleared");
    expect_result!(clear(&window.l1), EINVAL, "clearing a table");
    expect_result!(copy(&window.l1, &page), EINVAL, "copying to a table");
    expect_result!(copy(&page, &window.l2), 0, "copying a table");
    expect_eq!(word(&page, 0) & FRAME, word(&window.l2, 0) & FRAME, "the entry copied");
    Ok(())
}
