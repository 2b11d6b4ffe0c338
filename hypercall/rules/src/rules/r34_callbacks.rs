//! # R34: Entry points are registered, or do not exist
//!
//! `set_callbacks` names event, failsafe and syscall entry; `syscall` from 32-bit code, `sysenter`
//! and NMI have `callback_op` alone. All are needed before user mode runs: where there is none,
//! Xen raises #UD, or delivers to address 0. There is no `swapgs` either: Xen exchanges GS on the
//! way. An address that is not canonical gives `EINVAL`, except in `set_callbacks`, which returns 0
//! whatever it did. An unknown type gives `ENOSYS`. Only the NMI's can be taken back.
//!
//! **Why.** `syscall` goes to Xen; where from there is the guest's choice.
//!
//! **Source.** xen/arch/x86/pv/callback.c; x86_64/entry.S: `switch_to_kernel`.

use crate::prelude::*;
use abi::callback::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let register = |kind: u16, address: u64| {
        let arg = callback_register {
            r#type: kind,
            flags: 0,
            address,
        };
        let args = [CALLBACKOP_register as u64, &raw const arg as u64, 0, 0, 0];
        bench.call(Op::CallbackOp, args)
    };
    for kind in [
        CALLBACKTYPE_event,
        CALLBACKTYPE_failsafe,
        CALLBACKTYPE_syscall,
        CALLBACKTYPE_syscall32,
        CALLBACKTYPE_sysenter,
        CALLBACKTYPE_nmi,
    ] {
        expect_result!(register(kind, 1 << 47), EINVAL, "type {kind} at no canonical address");
    }
    expect_result!(register(99, 0), ENOSYS, "type 99");
    let bad = [1 << 47, 1 << 47, 1 << 47, 0, 0];
    expect_result!(bench.call(Op::SetCallbacks, bad), 0, "set_callbacks of bad addresses");
    for (kind, expected) in [(CALLBACKTYPE_event, EINVAL), (99, ENOSYS)] {
        let arg = callback_unregister {
            r#type: kind,
            _unused: 0,
        };
        let args = [CALLBACKOP_unregister as u64, &raw const arg as u64, 0, 0, 0];
        expect_result!(bench.call(Op::CallbackOp, args), expected, "taking back type {kind}");
    }
    Ok(())
}
