//! # R50: The trap is `syscall`, and an unknown number is `ENOSYS`
//!
//! For a PV guest a hypercall is the `syscall` instruction; the hypercall page is only a wrapper
//! around it, and both Xen and Linux move away from the page. A number, or a sub-operation, that
//! Xen does not know gives `ENOSYS`, in a multicall as well.
//!
//! **Why.** A guest built for a newer Xen can find out and do without.
//!
//! **Source.** xen/arch/x86/pv/hypercall.c: `pv_hypercall`, `pv_do_multicall_call`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let version = abi::version::XENVER_version as u64;
    let result = bench.call(Op::XenVersion, [version, 0, 0, 0, 0]);
    let (major, minor) = machine.about().version;
    expect_result!(result, (major as i64) << 16 | minor as i64, "xen_version");
    let mut calls = [
        entry_for(63, [0; 5]),
        entry_for(u64::MAX, [0; 5]),
        entry_for(Op::XenVersion as u64, [version, 0, 0, 0, 0]),
    ];
    expect_result!(bench.multicall(&mut calls), 0, "the multicall");
    expect_result!(calls[0].result as i64, ENOSYS, "hypercall 63");
    expect_result!(calls[1].result as i64, ENOSYS, "hypercall 2^64 - 1");
    expect_result!(calls[2].result as i64, result, "xen_version in a multicall");
    for (op, cmd) in [(Op::XenVersion, 999), (Op::MemoryOp, 63), (Op::SchedOp, 99)] {
        expect_result!(bench.call(op, [cmd, 0, 0, 0, 0]), ENOSYS, "{op} {cmd}");
    }
    Ok(())
}
