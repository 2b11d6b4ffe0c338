//! # R69: Assists are known by number
//!
//! `vm_assist` switches one of them on or off, as often as one likes. A number Xen does not have
//! gives `EINVAL`, a command it does not have `ENOSYS`.
//!
//! **Why.** They are bits of the domain, nothing else happens.
//!
//! **Source.** xen/common/domain.c: `do_vm_assist`; asm/config.h: `PV_VM_ASSIST_MASK`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let assist = |cmd: u64, kind: u64| bench.call(Op::VmAssist, [cmd, kind, 0, 0, 0]);
    let writable = abi::xen::VMASST_TYPE_writable_pagetables as u64;
    for _ in 0..2 {
        expect_result!(assist(1, writable), 0, "switching off an assist");
    }
    expect_result!(assist(0, 31), EINVAL, "assist 31");
    expect_result!(assist(0, 64), EINVAL, "assist 64");
    expect_result!(assist(2, writable), ENOSYS, "command 2");
    Ok(())
}
