//! # R56: A base pointer needs an L4, and loading it flushes
//!
//! `NEW_BASEPTR` validates the frame as an L4 if it is none yet; a frame of another type gives
//! `EINVAL`. It flushes the vCPU's TLB even if the same table is loaded again. It also takes the
//! LDT away when the table changes. `NEW_USER_BASEPTR` loads nothing at once and flushes nothing.
//!
//! **Why.** It is a write to CR3, and Xen must know what CR3 points at.
//!
//! **Source.** xen/arch/x86/mm.c: `new_guest_cr3`, `write_ptbase`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let (one, two) = (bench.page()?, bench.page()?);
    set_word(&one, 0, 1);
    set_word(&two, 0, 2);
    for cmd in [MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR] {
        expect_result!(bench.ext(cmd, window.l1.mfn.as_u64(), 0), EINVAL, "an L1 table, {cmd}");
        expect_result!(bench.ext(cmd, one.mfn.as_u64(), 0), EINVAL, "a writable page, {cmd}");
    }
    let map = |page: &crate::Page| bench.update(slot(&window.l1, 0), entry(page.mfn, READ));
    expect_result!(map(&one), 0, "mapping the first page");
    expect_eq!(machine.read(window.va), Ok(1), "the first page");
    expect_result!(map(&two), 0, "mapping the second page");
    let l4 = machine.l4();
    let result = bench.ext(MMUEXT_NEW_BASEPTR, l4.as_u64(), 0);
    expect_result!(result, 0, "loading the same table");
    expect_eq!(machine.read(window.va), Ok(2), "the second page");
    expect_eq!(machine.l4(), l4, "the table that is loaded");
    Ok(())
}
