//! # R1: An entry may carry few flags
//!
//! Allowed at every level are P, RW, U, A, D, the available bits 9–11 and 52–62, and NX; at L1
//! also G. Anything else is refused with `EINVAL`: above L1 that means PSE, G, PWT and PCD. There
//! are no large pages for a PV guest.
//!
//! **Why.** Xen answers for every translation a guest can make. A large page would map frames
//! whose types were never looked at; cache bits on tables would alias them.
//!
//! **Source.** xen/arch/x86/mm.c: `base_disallow_mask`, `L1_DISALLOW_MASK` and its like.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    let tables = [
        (slot(&window.l2, 1), "L2"),
        (slot(&window.l3, 1), "L3"),
        (window.root, "L4"),
    ];
    for (slot, level) in tables {
        for bit in [PSE, G, PWT, PCD] {
            let value = entry(window.l1.mfn, TABLE | bit);
            expect_result!(bench.update(slot, value), EINVAL, "{level} with {bit:#x}");
        }
    }
    for bits in [0, D, 0xe00, G, NX, 1 << 53, 1 << 58] {
        let value = entry(page.mfn, READ | bits);
        expect_result!(bench.update(slot(&window.l1, 0), value), 0, "L1 with {bits:#x}");
        let found = word(&window.l1, 0);
        expect_eq!(found & bits & !AD, bits & !AD, "the bits of {value:#x}");
    }
    Ok(())
}
