//! # R2: Cache bits are for domains with devices
//!
//! PWT, PCD and PAT in an L1 entry are refused with `EINVAL`, unless the domain has I/O memory or
//! ports of its own, as dom0 has.
//!
//! **Why.** Two mappings of one frame that are cached differently are incoherent; Xen has to clean
//! up after those who make them, and allows it only to those who need it.
//!
//! **Source.** xen/arch/x86/mm.c: `l1_disallow_mask`; XSA-402.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    let expected = match bench.kind() {
        Kind::Dom0 => 0,
        Kind::DomU | Kind::Shim => EINVAL,
    };
    // Read-only mappings, so that nothing incoherent is ever written.
    for bits in [PWT, PCD, PWT | PCD, PSE] {
        let value = entry(page.mfn, READ | bits);
        let result = bench.update(slot(&window.l1, 0), value);
        expect_result!(result, expected, "L1 with {bits:#x}");
    }
    Ok(())
}
