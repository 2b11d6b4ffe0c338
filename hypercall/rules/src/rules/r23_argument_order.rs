//! # R23: Arguments go in RDI, RSI, RDX, R10, R8
//!
//! The number is in RAX, and the result comes back there. The fourth argument is in R10, because
//! `syscall` destroys RCX; the fifth in R8, not R9 as in some bindings.
//!
//! **Why.** It is the C calling convention with the one change that `syscall` forces.
//!
//! **Source.** xen/include/public/arch-x86/xen-x86_64.h; xen/arch/x86/pv/hypercall.c: `pv_hypercall`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let page = bench.page()?;
    // Each argument in turn decides: the list, its length, the count's address, the domain.
    let list = [request(slot(&page, 0), 1), request(slot(&page, 1), 2)];
    let mut done = 0u32;
    let mut args = [list.as_ptr() as u64, 1, &raw mut done as u64, DOMID_SELF as u64, u64::MAX];
    expect_result!(bench.call(Op::MmuUpdate, args), 0, "one request");
    expect_eq!((done, word(&page, 0), word(&page, 1)), (1, 1, 0), "count and words");
    args[3] = abi::xen::DOMID_INVALID as u64;
    expect_result!(bench.call(Op::MmuUpdate, args), ESRCH, "a domain that is none");
    args = [BAD_POINTER, 1, 0, DOMID_SELF as u64, 0];
    expect_result!(bench.call(Op::MmuUpdate, args), EFAULT, "a list that is none");
    Ok(())
}
