//! # R46: A periodic timer of 100 Hz runs by default
//!
//! Every vCPU starts with one; a kernel that wants its own timer stops it. A period below a
//! millisecond gives `EINVAL`. Timers are set by the vCPU they belong to: for another, `EINVAL`.
//!
//! **Why.** Early guests had no other clock.
//!
//! **Source.** xen/common/domain.c, common/sched: `VCPUOP_*_timer`; public/vcpu.h.

use crate::prelude::*;
use abi::vcpu::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let short = vcpu_set_periodic_timer { period_ns: 999_999 };
    let arg = &raw const short as u64;
    let op = |cmd: u32, arg: u64| bench.call(Op::VcpuOp, [cmd as u64, 0, arg, 0, 0]);
    expect_result!(op(VCPUOP_set_periodic_timer, arg), EINVAL, "a period below a millisecond");
    expect_result!(op(VCPUOP_stop_periodic_timer, 0), 0, "stopping the timer");
    expect_result!(bench.call(Op::SetTimerOp, [0; 5]), 0, "no deadline");
    Ok(())
}
