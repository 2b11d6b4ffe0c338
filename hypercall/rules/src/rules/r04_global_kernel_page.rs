//! # R4: A global page of the kernel is accepted
//!
//! G together with bit 52 makes Xen complain in its log, on builds that log such things, and is
//! written as it is. Do not set it.
//!
//! **Why.** A translation of the kernel that survives the switch to user mode is there for
//! programs to find. It is the guest's own secret, so Xen warns and lets it be.
//!
//! **Source.** xen/arch/x86/pv/mm.h: `adjust_guest_l1e`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    for flags in [P | G, P | U | G | GUEST_KERNEL] {
        let result = bench.update(slot(&window.l1, 0), entry(page.mfn, flags));
        expect_result!(result, 0, "flags {flags:#x}");
        let found = word(&window.l1, 0) & !FRAME & !AD;
        expect_eq!(found, P | U | G | GUEST_KERNEL, "flags written as {flags:#x}");
    }
    Ok(())
}
