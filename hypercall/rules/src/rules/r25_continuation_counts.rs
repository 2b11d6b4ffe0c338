//! # R25: Bit 31 of a count means the rest of a call
//!
//! A count for `mmu_update` or `mmuext_op` with bit 31 set says that the call was interrupted: the
//! number done is added to the one at the count's address. With bit 31 alone and no list, the call
//! returns its last argument. So a count is below 2^31, and no list is that long.
//!
//! **Why.** Xen keeps the state of an interrupted call in the guest's registers.
//!
//! **Source.** xen/arch/x86/mm.c: `MMU_UPDATE_PREEMPTED`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let page = bench.page()?;
    let list = [request(slot(&page, 0), 1)];
    let mut done = 7u32;
    let count = &raw mut done as u64;
    let args = [list.as_ptr() as u64, 1 | 1 << 31, count, DOMID_SELF as u64, 0];
    expect_result!(bench.call(Op::MmuUpdate, args), 0, "one request and bit 31");
    expect_eq!(done, 8, "the count, 7 before");
    for op in [Op::MmuUpdate, Op::MmuextOp] {
        let args = [0, 1 << 31, 0, 1234, 0];
        expect_result!(bench.call(op, args), 1234, "{op} of bit 31 alone");
    }
    Ok(())
}
