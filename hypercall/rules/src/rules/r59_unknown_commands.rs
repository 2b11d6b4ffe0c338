//! # R59: An unknown command in a list is `ENOSYS`, and stops it
//!
//! The low three bits of a request's address are its command. 0 to 3 exist for `mmu_update` (3,
//! `NO_TRANSLATE`, is 0 to a PV guest); 4 to 7 give `ENOSYS`. So does an operation `mmuext_op`
//! does not know.
//!
//! **Why.** New commands can be probed for.
//!
//! **Source.** xen/arch/x86/mm.c: the default cases of `do_mmu_update` and `do_mmuext_op`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let page = bench.page()?;
    for (cmd, expected) in [(0, 0), (2, 0), (3, 0), (4, ENOSYS), (5, ENOSYS), (7, ENOSYS)] {
        let mut request = request(slot(&page, 1), cmd);
        request.ptr |= cmd;
        expect_result!(bench.updates(&[request]).0, expected, "command {cmd}");
    }
    let flush = ext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
    let unknown = ext(999, 0, 0);
    expect_eq!(bench.exts(&[flush, unknown, flush]), (ENOSYS, 1), "operation 999");
    Ok(())
}
