//! # R7: Every page of the kernel is a user page
//!
//! An entry of the kernel's own mapping has U at every level, whatever was written. With one L4
//! for both modes a program reads and writes the kernel; what keeps them apart is a second L4 for
//! user mode, in which the kernel is not mapped.
//!
//! **Why.** Both run in ring 3; ring 0 is Xen's, and a 64-bit CPU has no segment limits to keep
//! rings 1 and 2 out of Xen.
//!
//! **Source.** xen/include/public/arch-x86/xen-x86_64.h; xen/arch/x86/pv/mm.h.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let page = bench.page()?;
    let mut table = machine.l4();
    for shift in [39, 30, 21, 12] {
        let index = (page.va >> shift & 511) as usize;
        let Some(value) = machine.table_word(MachAddr::of_entry(table, index)) else {
            skip!("the kernel cannot read its own tables");
        };
        expect!(value & P != 0, "{:#x} is not mapped", page.va);
        expect!(value & U != 0, "an entry of the kernel is {value:#x}");
        if value & PSE != 0 && shift > 12 {
            break;
        }
        table = Mfn::truncate((value & FRAME) >> 12);
    }
    Ok(())
}
