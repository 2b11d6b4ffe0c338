//! # R60: A frame of somebody else is refused, and how says whose
//!
//! In an L1 entry: another domain's or Xen's frame gives `EBUSY`; a frame that is no RAM `EPERM`
//! unless the domain owns the device (dom0 does, and gets an uncached mapping); as an entry that
//! points at a table, all of them give `EINVAL`.
//!
//! **Why.** RAM is a matter of ownership, devices are a matter of permission.
//!
//! **Source.** xen/arch/x86/mm.c: `get_page_from_l1e`, `get_page_and_type_from_mfn`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    // What the current L4 names in a slot of Xen's is a frame of Xen's.
    let Some(xen) = machine.table_word(MachAddr::of_entry(machine.l4(), 261)) else {
        skip!("the kernel cannot read its L4");
    };
    expect!(xen & P != 0, "slot 261 of the L4 is empty");
    let xen = Mfn::truncate((xen & FRAME) >> 12);
    let result = bench.update(slot(&window.l1, 0), entry(xen, READ));
    expect_result!(result, EBUSY, "mapping {xen} of Xen's");
    // Machine frame 0x100 is below 1 MiB... or rather, 0xa0 is: the old video memory.
    let device = Mfn::truncate(0xa0);
    let result = bench.update(slot(&window.l1, 0), entry(device, READ));
    let dom0 = bench.kind() == Kind::Dom0;
    expect_result!(result, if dom0 { 0 } else { EPERM }, "mapping video memory");
    if dom0 {
        expect_eq!(word(&window.l1, 0) & (PWT | PCD), PWT | PCD, "the cache bits");
        expect_result!(bench.update(slot(&window.l1, 0), 0), 0, "unmapping it");
    }
    for mfn in [xen, device] {
        let result = bench.update(slot(&window.l2, 1), entry(mfn, TABLE));
        expect_result!(result, EINVAL, "{mfn} as a table");
        expect_result!(bench.update(MachAddr::of_entry(mfn, 0), 0), EINVAL, "writing to {mfn}");
    }
    Ok(())
}
