//! # R41: The first tables differ by builder
//!
//! The tool stack lays a domU's tables out by level, from the root down; Xen builds those of dom0
//! and of the shim's guest as it goes, a lower table before the one that points at it. L1 flags are
//! 027 and bit 52 in all of them; where Xen has written through the mapping, to the image for
//! example, D is set (067). So a kernel walks from the root and compares neither flags nor order.
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
    let expected = GUEST_KERNEL | P | RW | U | A;
    expect_eq!(flags & !D, expected, "flags of the initial mapping, but for D");
    Ok(())
}
