//! # R8: A cleared entry is zero
//!
//! On a CPU with L1TF, a non-present entry that has address bits makes Xen shadow the domain, with
//! everything slow from then on; a Xen built without shadow paging ends the domain. On other CPUs
//! such an entry is written as it is. Write 0; flags alone do no harm.
//!
//! **Why.** Such CPUs follow the address of a non-present entry speculatively, past every check.
//!
//! **Source.** xen/arch/x86/include/asm/shadow.h: `pv_l1tf_check_pte`; XSA-273.
//!
//! **Kills.** On a CPU with L1TF.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    for value in [0, 0xe00, RW | U | A] {
        let result = bench.update(slot(&window.l1, 0), value);
        expect_result!(result, 0, "a non-present entry {value:#x}");
        expect_eq!(word(&window.l1, 0), value, "the entry");
    }
    let value = entry(page.mfn, RW);
    let result = bench.update(slot(&window.l1, 0), value);
    expect_result!(result, 0, "a non-present entry with an address");
    expect_eq!(word(&window.l1, 0), value, "the entry");
    expect!(machine.read(window.va).is_err(), "it translates");
    Ok(())
}
