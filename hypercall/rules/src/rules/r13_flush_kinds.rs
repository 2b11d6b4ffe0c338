//! # R13: `update_va_mapping` flushes what it is told, and kind 3 is nothing
//!
//! The low two bits of the flags choose: 0 nothing, 1 the whole TLB, 2 the address. 3 is accepted,
//! returns 0 and flushes nothing. The rest is the scope: 0 this vCPU, 4 all, else the address of a
//! bitmap of vCPUs.
//!
//! **Why.** There is no case for 3 and no check either.
//!
//! **Source.** xen/arch/x86/mm.c: `__do_update_va_mapping`; xen/include/public/xen.h: `UVMF_*`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let (one, two) = (bench.page()?, bench.page()?);
    set_word(&one, 0, 1);
    set_word(&two, 0, 2);
    let kinds = [
        (UVMF_NONE, false),
        (3, false),
        (UVMF_INVLPG | UVMF_LOCAL, true),
        (UVMF_TLB_FLUSH | UVMF_LOCAL, true),
        (UVMF_INVLPG | UVMF_ALL, true),
        (UVMF_TLB_FLUSH | UVMF_ALL, true),
    ];
    for (flags, flushes) in kinds {
        let result = bench.update_va(window.va, entry(one.mfn, READ), UVMF_TLB_FLUSH | UVMF_ALL);
        expect_result!(result, 0, "mapping the first page");
        expect_eq!(machine.read(window.va), Ok(1), "the first page");
        let result = bench.update_va(window.va, entry(two.mfn, READ), flags);
        expect_result!(result, 0, "flags {flags}");
        // A real TLB may forget on its own, so a stale value is certain on the model alone.
        let found = machine.read(window.va);
        if flushes || machine.about().model {
            let expected = if flushes { 2 } else { 1 };
            expect_eq!(found, Ok(expected), "the value seen after flags {flags}");
        }
    }
    Ok(())
}
