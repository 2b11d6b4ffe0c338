//! # R3: Xen rewrites what it is given
//!
//! A present L1 entry without U becomes U and bit 52, Xen's mark on a page of the kernel. One with
//! U and without bit 52 gains G. Entries of L2 and L3 gain U, those of L4 also A. So an entry does
//! not read as it was written: compare modulo U, G, A, D and bit 52, and never use bit 52.
//!
//! **Why.** The guest's kernel runs in ring 3 like its programs, so all its pages must be user
//! pages. The global bit keeps a program's translations over the way into the kernel and back, and
//! bit 52 keeps the kernel's from being kept.
//!
//! **Source.** xen/arch/x86/pv/mm.h: `adjust_guest_l1e` to `adjust_guest_l4e`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    let cases = [
        (P, P | U | GUEST_KERNEL),
        (P | A | D, P | A | D | U | GUEST_KERNEL),
        (P | U, P | U | G),
        (P | RW | U | A | D, P | RW | U | A | D | G),
        (P | U | GUEST_KERNEL, P | U | GUEST_KERNEL),
        (P | GUEST_KERNEL, P | U | GUEST_KERNEL),
    ];
    for (written, expected) in cases {
        let result = bench.update(slot(&window.l1, 3), entry(page.mfn, written));
        expect_result!(result, 0, "writing flags {written:#x}");
        let found = word(&window.l1, 3) & !FRAME;
        expect_eq!(found, expected, "flags written as {written:#x}");
    }
    let other = bench.table()?;
    let result = bench.update(slot(&window.l2, 1), entry(other.mfn, P));
    expect_result!(result, 0, "an L2 entry with P alone");
    expect_eq!(word(&window.l2, 1) & !FRAME, P | U, "the L2 entry");
    let other = bench.table()?;
    let result = bench.update(slot(&window.l3, 1), entry(other.mfn, P));
    expect_result!(result, 0, "an L3 entry with P alone");
    expect_eq!(word(&window.l3, 1) & !FRAME, P | U, "the L3 entry");
    // Validation of a whole table does the same; an L4 of the test's own shows the last case.
    let l3 = bench.table()?;
    let l4 = bench.table_with(&[entry(l3.mfn, P)])?;
    expect_result!(bench.pin(Level::L4, &l4), 0, "pinning an L4");
    expect_eq!(word(&l4, 0) & !FRAME, P | U | A, "the L4 entry");
    Ok(())
}
