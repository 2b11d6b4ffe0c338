//! # R47: A vCPU is initialised once, then brought up
//!
//! `VCPUOP_initialise` gives the first context, with machine frames in `ctrlreg[3]` and in the GDT;
//! again it gives `EEXIST`. `VCPUOP_up` without it gives `EINVAL`, a number without a vCPU
//! `ENOENT`. From number 32 on a vCPU needs `register_vcpu_info` first, because `shared_info` has
//! room for 32.
//!
//! **Why.** A running vCPU's context is its own.
//!
//! **Source.** xen/common/domain.c: `common_vcpu_op`; xen/arch/x86/domain.c:
//! `arch_initialise_vcpu`.

use crate::prelude::*;
use abi::vcpu::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let op = |cmd: u32, id: u32, arg: u64| bench.call(Op::VcpuOp, [cmd as u64, id as u64, arg, 0, 0]);
    expect_result!(op(VCPUOP_is_up, 0, 0), 1, "whether vCPU 0 is up");
    expect_result!(op(VCPUOP_is_up, 8191, 0), ENOENT, "whether vCPU 8191 is up");
    // Two pages of zeros are more than a context has.
    let zeros = [0u64; 1024];
    let context = zeros.as_ptr() as u64;
    expect_result!(op(VCPUOP_initialise, 0, context), EEXIST, "initialising vCPU 0 again");
    let mut info = vcpu_runstate_info::default();
    let arg = &raw mut info as u64;
    expect_result!(op(VCPUOP_get_runstate_info, 0, arg), 0, "the run state");
    expect_eq!(info.state, RUNSTATE_running, "the run state of this vCPU");
    expect_result!(op(999, 0, 0), ENOSYS, "an operation that is none");
    Ok(())
}
