//! # R19: A list of updates stops at the first that fails
//!
//! `mmu_update` and `mmuext_op` carry out their requests in order, stop at the first that is
//! refused and return its error; those before it stay done. How many that were is written to the
//! count's address, 32 bits, on success and on failure. The address may be null.
//!
//! **Why.** What follows may depend on what failed.
//!
//! **Source.** xen/arch/x86/mm.c: `do_mmu_update`, `do_mmuext_op`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    let good = |index| request(slot(&window.l1, index), entry(page.mfn, READ));
    let bad = request(slot(&window.l1, 1), entry(window.l1.mfn, WRITE));
    expect_eq!(bench.updates(&[good(0), bad, good(2)]), (EBUSY, 1), "result and count");
    expect!(word(&window.l1, 0) & P != 0, "the first was not done");
    expect_eq!(word(&window.l1, 1), 0, "the second");
    expect_eq!(word(&window.l1, 2), 0, "the third");
    expect_eq!(bench.updates(&[good(0), good(1), good(2)]), (0, 3), "result and count");
    expect_eq!(bench.updates(&[]), (0, 0), "an empty list");
    let flush = ext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
    let bad = ext(MMUEXT_UNPIN_TABLE, page.mfn.as_u64(), 0);
    expect_eq!(bench.exts(&[flush, flush, bad, flush]), (EINVAL, 2), "mmuext_op");
    let list = [good(3)];
    let args = [list.as_ptr() as u64, 1, 0, DOMID_SELF as u64, 0];
    expect_result!(bench.call(Op::MmuUpdate, args), 0, "without a count");
    Ok(())
}
