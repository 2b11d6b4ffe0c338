//! # R41: The first tables differ by builder
//!
//! The tool stack lays a domU's tables out by level, from the root down, with L1 flags 027; Xen
//! builds those of dom0 and of the shim's guest as it goes, with 067 (D set). Bit 52 is in all.
//! So a kernel walks from the root and compares neither flags nor order.
//!
//! **Why.** Two programs build domains, and the ABI promises the mapping, not the tables.
//!
//! **Source.** tools/libs/guest/xg_dom_x86.c: `setup_pgtables_pv`; xen/arch/x86/pv/dom0_build.c:
//! `L1_PROT`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let Some(flags) = machine.initial_flags() else {
        skip!("this kernel has not looked at its first tables");
    };
    let dirty = match machine.about().kind {
        Kind::DomU => 0,
        Kind::Dom0 | Kind::Shim => D,
    };
    let expected = GUEST_KERNEL | P | RW | U | A;
    // A domU's page may have been written to before it was looked at.
    let found = flags & if dirty == 0 { !D } else { !0 };
    expect_eq!(found, expected | dirty, "flags of the initial mapping");
    Ok(())
}
