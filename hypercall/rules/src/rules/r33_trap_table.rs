//! # R33: A trap table has no defaults
//!
//! Each entry names a vector, a handler, in bits 0–1 of its flags the least privileged ring that
//! may reach it by `int`, and in bit 2 whether upcalls are masked on entry. The kernel is ring 3,
//! so `int n` from it needs 3 there; else it gets #GP. A vector without a handler ends the domain
//! when it is raised. The table ends with an address of 0; a null table takes all handlers away.
//!
//! On Xen 4.20 `int n` from 64-bit code gives #GP whatever the gate says; on 4.17 it works. Newer
//! ones decode the instruction first, and as far as can be read forget to say that it is 64-bit
//! code, so decoding fails. Vectors 3 and 4 have instructions of their own and work everywhere.
//!
//! **Why.** It is the guest's IDT, and Xen delivers what hardware would.
//!
//! **Source.** xen/arch/x86/pv/callback.c: `do_set_trap_table`; pv/traps.c: `pv_inject_event`;
//! pv/emul-priv-op.c: `pv_emulate_sw_interrupt`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let table = [
        abi::arch::trap_info {
            vector: 200,
            flags: 0,
            cs: 0,
            address: 1 << 47,
        },
        hypercall::trap::END,
    ];
    let result = bench.call(Op::SetTrapTable, [table.as_ptr() as u64, 0, 0, 0, 0]);
    expect_result!(result, EINVAL, "a handler at an address that is not canonical");
    let result = bench.call(Op::SetTrapTable, [BAD_POINTER, 0, 0, 0, 0]);
    expect_result!(result, EFAULT, "a table that cannot be read");
    let end = [hypercall::trap::END];
    let result = bench.call(Op::SetTrapTable, [end.as_ptr() as u64, 0, 0, 0, 0]);
    expect_result!(result, 0, "an empty table");
    for (dpl, vector) in [(3, 0x81), (0, 13)] {
        let Some(entry) = machine.enter(Cause::Interrupt(0x81, dpl), true) else {
            return Ok(());
        };
        if machine.about().version >= (4, 18) && entry.vector == 13 {
            continue;
        }
        expect_eq!(entry.vector, vector, "int 0x81 through a gate of DPL {dpl} gave vector");
    }
    Ok(())
}
