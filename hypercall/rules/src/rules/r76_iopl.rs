//! # R76: I/O privilege is a number from 0 to 3
//!
//! `PHYSDEVOP_set_iopl` above 3 gives `EINVAL`. The kernel counts as ring 1, so from 1 on it may
//! execute port instructions, which then reach the ports that the domain owns and fault on others.
//!
//! **Why.** In truth the kernel is in ring 3, and Xen emulates each of them.
//!
//! **Source.** xen/arch/x86/physdev.c: `PHYSDEVOP_set_iopl`; pv/emul-priv-op.c: `guest_io_okay`.

use crate::prelude::*;
use abi::physdev::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let arg = physdev_set_iopl { iopl: 4 };
    let args = [PHYSDEVOP_set_iopl as u64, &raw const arg as u64, 0, 0, 0];
    expect_result!(bench.call(Op::PhysdevOp, args), EINVAL, "level 4");
    Ok(())
}
