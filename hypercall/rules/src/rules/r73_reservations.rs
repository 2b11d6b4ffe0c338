//! # R73: A domain knows how much memory it has
//!
//! `XENMEM_current_reservation` is at most `XENMEM_maximum_reservation`, and at least the pages of
//! `start_info` unless some were given back. A domain that does not exist gives `ESRCH`.
//!
//! **Why.** Ballooning goes by these numbers.
//!
//! **Source.** xen/common/memory.c: `do_memory_op`.

use crate::prelude::*;
use abi::memory::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let ask = |cmd: u32, domid: u16| {
        bench.call(Op::MemoryOp, [cmd as u64, &raw const domid as u64, 0, 0, 0])
    };
    let current = ask(XENMEM_current_reservation, DOMID_SELF);
    let maximum = ask(XENMEM_maximum_reservation, DOMID_SELF);
    expect!(current > 0, "the domain has {current} pages");
    // All ones: there is no limit, as for dom0.
    expect!(maximum >= current || maximum == -1, "{current} pages, of at most {maximum}");
    let result = ask(XENMEM_current_reservation, 0x6ef0);
    expect_result!(result, ESRCH, "a domain that does not exist");
    Ok(())
}
