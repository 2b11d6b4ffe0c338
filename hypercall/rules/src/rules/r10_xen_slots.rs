//! # R10: L4 slots 256 to 271 are Xen's
//!
//! An update of such a slot fails with `EINVAL`, whatever the value. When an L4 is validated, Xen
//! writes its own entries there, over whatever the guest left. So a copy of an L4 may contain them
//! or not, and a guest never writes them.
//!
//! **Why.** Xen is mapped in every address space of the guest, and the guest must not say where.
//!
//! **Source.** xen/arch/x86/mm.c: `mod_l4_entry`, `init_xen_l4_slots`; asm/config.h for the layout.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let l3 = bench.table()?;
    let l4 = bench.table()?;
    expect_result!(bench.pin(Level::L4, &l4), 0, "pinning an empty L4");
    for index in [256, 257, 258, 264, 271] {
        for value in [0, entry(l3.mfn, TABLE)] {
            let result = bench.update(slot(&l4, index), value);
            expect_result!(result, EINVAL, "slot {index} with {value:#x}");
        }
    }
    expect!(word(&l4, 258) & P != 0, "Xen's linear slot is empty");
    expect!(word(&l4, 261) & P != 0, "Xen's own slot is empty");
    for index in [255, 272] {
        let result = bench.update(slot(&l4, index), entry(l3.mfn, TABLE));
        expect_result!(result, 0, "slot {index}");
    }
    // What was there before validation does not survive it.
    let other = bench.page()?;
    set_word(&other, 260, entry(l3.mfn, TABLE));
    bench.set_writable(&other, false)?;
    expect_result!(bench.pin(Level::L4, &other), 0, "pinning an L4 with a slot of Xen's in use");
    expect!(word(&other, 260) & FRAME != l3.mfn.addr().as_u64(), "the guest's value survived");
    Ok(())
}
