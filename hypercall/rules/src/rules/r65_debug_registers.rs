//! # R65: A breakpoint is the guest's own
//!
//! DR0 to DR3 take addresses that a guest can map; one of Xen's gives `EPERM`. In DR6 and DR7 the
//! upper half must be 0, else `EINVAL`; general detect (DR7 bit 13) gives `EPERM`. A register that
//! does not exist gives `ENODEV`.
//!
//! **Why.** Breakpoints in Xen would hit Xen.
//!
//! **Source.** xen/arch/x86/pv/misc-hypercalls.c: `set_debugreg`; XSA-156.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let set = |register: u64, value: u64| bench.call(Op::SetDebugreg, [register, value, 0, 0, 0]);
    let get = |register: u64| bench.call(Op::GetDebugreg, [register, 0, 0, 0, 0]);
    let old = get(1);
    expect_result!(set(1, 0x1234_5678), 0, "a breakpoint, not enabled");
    expect_result!(get(1), 0x1234_5678, "reading it");
    expect_result!(set(1, old as u64), 0, "putting it back");
    expect_result!(set(0, 0xffff_8300_0000_0000), EPERM, "a breakpoint in Xen");
    expect_result!(set(7, 1 << 13), EPERM, "general detect");
    expect_result!(set(7, 1 << 32), EINVAL, "an upper half in DR7");
    expect_result!(set(8, 0), ENODEV, "DR8");
    expect_result!(get(8), ENODEV, "reading DR8");
    Ok(())
}
