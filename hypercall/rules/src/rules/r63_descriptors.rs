//! # R63: A descriptor is checked and lowered
//!
//! `update_descriptor` takes code and data segments, and sets their privilege level to 3; a
//! descriptor that is not present may be anything. Of system segments only call gates into the
//! guest's own code are allowed: no LDT, no TSS. A slot that is not aligned, in a table, or not the
//! guest's gives `EINVAL`; in an ordinary page it is a store.
//!
//! **Why.** Everything in ring 3, and no way out of it.
//!
//! **Source.** xen/arch/x86/pv/descriptor-tables.c: `check_descriptor`, `do_update_descriptor`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    let update = |at: u64, value: u64| bench.call(Op::UpdateDescriptor, [at, value, 0, 0, 0]);
    let at = slot(&page, 1).as_u64();
    let cases = [
        (0x00cf_9300_0000_ffff, Some(0x00cf_f300_0000_ffff)),
        (0x00af_fb00_0000_ffff, Some(0x00af_fb00_0000_ffff)),
        (0x1234_0000_5678_9abc, Some(0x1234_0000_5678_9abc)),
        (0x0000_8900_0000_0067, None),
        (0x0000_8200_0000_0000, None),
        (0x0000_8e00_0000_0000, None),
    ];
    for (value, expected) in cases {
        set_word(&page, 1, 0);
        let result = update(at, value);
        expect_result!(result, if expected.is_some() { 0 } else { EINVAL }, "{value:#018x}");
        expect_eq!(word(&page, 1), expected.unwrap_or(0), "{value:#018x} as written");
    }
    expect_result!(update(at + 4, 0), EINVAL, "a slot that is not aligned");
    expect_result!(update(slot(&window.l1, 0).as_u64(), 0), EINVAL, "a slot in a table");
    expect_result!(update(0xa_0000, 0), EINVAL, "a slot in video memory");
    Ok(())
}
