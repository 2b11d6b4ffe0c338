//! # R6: NX works, and Xen does not use it for you
//!
//! NX is accepted at every level where CPUID has it, and the CPU honours it. The initial mapping
//! has it nowhere: all of it can be written and executed until the kernel changes that.
//!
//! **Why.** NX takes rights away from the guest alone, so Xen has nothing to check.
//!
//! **Source.** xen/arch/x86/mm.c: `base_disallow_mask`; tools/libs/guest/xg_dom_x86.c: `lvl_prot`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    if let Some(flags) = machine.initial_flags() {
        expect_eq!(flags & (RW | NX), RW, "RW and NX of the initial mapping");
    }
    let window = bench.window()?;
    let page = bench.page()?;
    // `ret`, all over.
    set_word(&page, 0, 0xc3c3_c3c3_c3c3_c3c3);
    let result = bench.update_va(window.va, entry(page.mfn, READ), UVMF_INVLPG);
    expect_result!(result, 0, "mapping without NX");
    match machine.execute(window.va) {
        None => skip!("this machine cannot execute a test's page"),
        Some(Err(fault)) => fail!("a page without NX does not execute: code {:#x}", fault.code),
        Some(Ok(())) => {}
    }
    let result = bench.update_va(window.va, entry(page.mfn, READ | NX), UVMF_INVLPG);
    expect_result!(result, 0, "mapping with NX");
    match machine.execute(window.va) {
        Some(Err(fault)) => expect!(fault.code & 0x10 != 0, "fault code {:#x}", fault.code),
        _ => fail!("a page with NX executes"),
    }
    Ok(())
}
