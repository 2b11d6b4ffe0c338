//! # R27: A domain calls itself `DOMID_SELF`
//!
//! In the owner argument of `mmu_update` and `mmuext_op` a domain that does not exist gives
//! `ESRCH`, and so does the caller's own number. Only `DOMID_SELF` means oneself.
//!
//! **Why.** The argument names a foreign domain, and one is not foreign to oneself.
//!
//! **Source.** xen/arch/x86/mm.c: `get_pg_owner` (in xen/common since 4.15).

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let page = bench.page()?;
    let list = [request(slot(&page, 0), 1)];
    let mut domids = [Some(0x6ef0), Some(abi::xen::DOMID_INVALID), None];
    if bench.kind() == Kind::Dom0 {
        domids[2] = Some(0);
    }
    for domid in domids.into_iter().flatten() {
        let result = bench.updates_for(&list, domid);
        expect_eq!(result.0, ESRCH, "mmu_update for domain {domid:#x}");
        let op = [ext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0)];
        let args = [op.as_ptr() as u64, 1, 0, domid as u64, 0];
        expect_result!(bench.call(Op::MmuextOp, args), ESRCH, "mmuext_op for domain {domid:#x}");
    }
    expect_eq!(bench.updates(&list), (0, 1), "mmu_update for DOMID_SELF");
    Ok(())
}
