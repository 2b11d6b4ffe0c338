//! # R35: A GDT is read-only, and at most 14 pages
//!
//! `set_gdt` takes up to 7168 entries in frames that nothing maps writable and that are no tables;
//! `EINVAL` else, and the old GDT stays. From entry 7168 on the GDT is Xen's, with flat segments
//! that always work: e033 is 64-bit code, e02b data.
//!
//! **Why.** A descriptor could open a way into ring 0; Xen checks each one and lets nobody write
//! them behind its back.
//!
//! **Source.** xen/arch/x86/pv/descriptor-tables.c: `pv_set_gdt`; public/arch-x86/xen.h.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let set = |page: &crate::Page, entries: u64| {
        let frames = [page.mfn.as_u64(); 16];
        bench.call(Op::SetGdt, [frames.as_ptr() as u64, entries, 0, 0, 0])
    };
    let page = bench.page()?;
    expect_result!(set(&page, 512), EINVAL, "a page mapped writable");
    bench.set_writable(&page, false)?;
    expect_result!(set(&page, 7169), EINVAL, "7169 entries");
    expect_result!(set(&page, 7168), 0, "7168 entries");
    expect!(!machine.set_writable(&page, true), "a page of the GDT was mapped writable");
    let table = bench.table()?;
    expect_result!(bench.pin(Level::L1, &table), 0, "pinning a table");
    let result = set(&table, 1);
    let unload = bench.call(Op::SetGdt, [0; 5]);
    expect_result!(result, EINVAL, "a page table");
    expect_result!(unload, 0, "no GDT of the guest's");
    expect_result!(bench.call(Op::SetGdt, [BAD_POINTER, 1, 0, 0, 0]), EFAULT, "a bad list");
    bench.set_writable(&page, true)?;
    // A long mode descriptor of ring 0 is lowered, a TSS refused, and with it the page.
    for (descriptor, expected) in [(0x00af_9b00_0000_ffff, 0), (0x0000_8900_0000_0067, EINVAL)] {
        set_word(&page, 1, descriptor);
        bench.set_writable(&page, false)?;
        let result = set(&page, 512);
        expect_result!(bench.call(Op::SetGdt, [0; 5]), 0, "unloading");
        expect_result!(result, expected, "a page with {descriptor:#018x}");
        bench.set_writable(&page, true)?;
    }
    Ok(())
}
