//! # R36: On #NM, Xen has cleared TS already
//!
//! `fpu_taskswitch(1)` makes the next use of the FPU raise #NM. When the handler runs, TS is clear:
//! it need not be cleared, and clearing it costs a hypercall for nothing.
//!
//! **Why.** Xen switches the FPU lazily itself, and takes the same exception first.
//!
//! **Source.** xen/arch/x86/pv/misc-hypercalls.c: `do_fpu_taskswitch`; traps.c:
//! `do_device_not_available`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    expect_result!(bench.call(Op::FpuTaskswitch, [0; 5]), 0, "clearing TS");
    expect_result!(bench.call(Op::FpuTaskswitch, [1, 0, 0, 0, 0]), 0, "setting TS");
    let entry = machine.enter(Cause::Fpu, true);
    let clear = bench.call(Op::FpuTaskswitch, [0; 5]);
    expect_result!(clear, 0, "clearing TS");
    let Some(entry) = entry else {
        skip!("this machine is not entered");
    };
    // The hook sets TS itself; that it came back at all shows that the handler needed no clts.
    expect_eq!(entry.vector, 7, "the vector");
    Ok(())
}
