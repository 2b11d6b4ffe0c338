//! # R51: Xen may use large pages for the p2m, and only Xen
//!
//! Dom0's and the shim guest's p2m at `INIT_P2M` can come mapped by 2 MiB or 1 GiB pages. Such an
//! entry is there to be read and taken away; writing it back, or any other like it, fails with
//! `EINVAL` (R1). A domU's p2m is mapped by 4 KiB pages.
//!
//! **Why.** The list is large, and Xen, which builds it, knows that the frames are ordinary.
//!
//! **Source.** xen/arch/x86/pv/dom0_build.c: `setup_pv_physmap`; mm.c: `put_data_pages`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let Some(info) = machine.start_info() else {
        skip!("this kernel has not kept start_info");
    };
    let mut table = machine.l4();
    for (level, shift) in [(4, 39), (3, 30), (2, 21)] {
        let slot = MachAddr::of_entry(table, (info.mfn_list >> shift & 511) as usize);
        let Some(value) = machine.table_word(slot) else {
            skip!("the kernel cannot read the tables of its p2m");
        };
        if value & P == 0 {
            skip!("Xen's mapping of the p2m is gone");
        }
        if value & PSE != 0 {
            expect!(level < 4, "PSE in an L4 entry");
            let kind = machine.about().kind;
            expect!(kind != Kind::DomU, "a domU's p2m has a large page");
            // Any change that Xen has to look at will do: taking W away.
            let bench = TestBench::new(machine);
            let result = bench.update(slot, value & !RW);
            expect_result!(result, EINVAL, "writing a large entry");
            return Ok(());
        }
        table = Mfn::truncate((value & FRAME) >> 12);
    }
    Ok(())
}
