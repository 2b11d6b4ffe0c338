//! # R12: `mmu_update` of an ordinary page is a store
//!
//! A request whose target is no table in use succeeds and writes the word, without a check of the
//! value. This hides a pin that was forgotten: nothing complains until the table is used. On a page
//! of descriptors it fails with `EINVAL`, as it does on a frame that is not the guest's.
//!
//! **Why.** A guest may write its own memory; Xen needs no opinion on how.
//!
//! **Source.** xen/arch/x86/mm.c: `do_mmu_update`, the cases after the tables.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let page = bench.page()?;
    expect_result!(bench.update(slot(&page, 7), u64::MAX), 0, "a page mapped writable");
    expect_eq!(word(&page, 7), u64::MAX, "the word");
    let read_only = bench.table()?;
    expect_result!(bench.update(slot(&read_only, 7), 0x1234), 0, "a page mapped read-only");
    expect_eq!(word(&read_only, 7), 0x1234, "the word");
    let gdt = bench.table()?;
    let frames = [gdt.mfn.as_u64()];
    let result = bench.call(Op::SetGdt, [frames.as_ptr() as u64, 512, 0, 0, 0]);
    expect_result!(result, 0, "loading an empty GDT");
    let result = bench.update(slot(&gdt, 0), 0);
    let unload = bench.call(Op::SetGdt, [0; 5]);
    expect_result!(result, EINVAL, "a page of descriptors");
    expect_result!(unload, 0, "unloading the GDT");
    expect_result!(bench.update(slot(&gdt, 0), 0), 0, "the page afterwards");
    Ok(())
}
