//! # R15: Accessed and dirty are lost unless asked for
//!
//! `MMU_NORMAL_PT_UPDATE` and `update_va_mapping` write the value as it is: A and D bits that the
//! CPU set meanwhile are gone. `MMU_PT_UPDATE_PRESERVE_AD` keeps them.
//!
//! **Why.** The guest computed its value from one it read earlier; in between another vCPU may
//! have used the page.
//!
//! **Source.** xen/arch/x86/pv/mm.h: `update_intpte`; `XENFEAT_mmu_pt_update_preserve_ad`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    let clean = entry(page.mfn, P | RW | U);
    for (cmd, kept) in [(MMU_PT_UPDATE_PRESERVE_AD, AD), (MMU_NORMAL_PT_UPDATE, 0)] {
        expect_result!(bench.update(slot(&window.l1, 0), clean), 0, "a clean entry");
        bench.flush();
        expect_eq!(machine.write(window.va, 1), Ok(()), "a store");
        expect_eq!(word(&window.l1, 0) & AD, AD, "A and D after the store");
        let mut request = request(slot(&window.l1, 0), clean);
        request.ptr |= cmd as u64;
        expect_eq!(bench.updates(&[request]), (0, 1), "command {cmd}");
        expect_eq!(word(&window.l1, 0) & AD, kept, "A and D after command {cmd}");
    }
    Ok(())
}
