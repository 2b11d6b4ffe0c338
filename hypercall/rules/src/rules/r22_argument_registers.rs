//! # R22: Argument registers do not survive a hypercall
//!
//! RDI, RSI, RDX, R10 and R8, as far as the hypercall takes them, are undefined afterwards, like
//! RCX and R11, which `syscall` itself changes. A debug Xen overwrites them; a release one mostly
//! leaves them alone, and changes them where a call is interrupted and goes on.
//!
//! **Why.** A continuation passes its arguments in them.
//!
//! **Source.** xen/arch/x86/pv/hypercall.c: `clobber_regs`; xen/common/… `hypercall_create_continuation`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let args = [abi::version::XENVER_version as u64, 0, 3, 4, 5];
    let Some(after) = machine.registers_after(Op::XenVersion as u64, args) else {
        skip!("this machine has no registers to look at");
    };
    let kept = after[0] == args[0] && after[1] == args[1];
    expect_eq!(kept, !machine.about().debug, "RDI and RSI after the call survive");
    expect_eq!(after[4], args[4], "R8, which the call does not take");
    Ok(())
}
