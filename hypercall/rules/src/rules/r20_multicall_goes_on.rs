//! # R20: A multicall goes on, and returns 0
//!
//! Every entry has its own result; one that fails does not stop those after it, and the call
//! itself returns 0. `EFAULT` is for a list that cannot be read. A multicall in a multicall is
//! refused: that entry's result is `EINVAL`.
//!
//! **Why.** The entries need not have anything to do with each other.
//!
//! **Source.** xen/common/multicall.c: `do_multicall`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    let map = |va, page: &crate::Page, flags| {
        let value = entry(page.mfn, flags);
        entry_for(Op::UpdateVaMapping as u64, [va, value, 0, 0, 0])
    };
    let mut inner = [map(window.va + 0x3000, &page, READ)];
    let nested = [inner.as_mut_ptr() as u64, 1, 0, 0, 0];
    let mut calls = [
        map(window.va, &page, READ),
        map(window.va + 0x1000, &window.l1, WRITE),
        entry_for(Op::Multicall as u64, nested),
        map(window.va + 0x2000, &page, READ),
    ];
    expect_result!(bench.multicall(&mut calls), 0, "the multicall");
    for (index, expected) in [0, EBUSY, EINVAL, 0].into_iter().enumerate() {
        expect_result!(calls[index].result as i64, expected, "entry {index}");
    }
    expect!(word(&window.l1, 2) & P != 0, "the last entry was not done");
    expect_eq!(word(&window.l1, 3), 0, "the nested entry");
    expect_result!(bench.call(Op::Multicall, [BAD_POINTER, 1, 0, 0, 0]), EFAULT, "a bad list");
    expect_result!(bench.multicall(&mut []), 0, "an empty list");
    Ok(())
}
