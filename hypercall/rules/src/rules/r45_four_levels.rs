//! # R45: A PV guest has four levels
//!
//! Xen runs PV guests on 4-level tables, whatever the CPU can do: addresses have 48 bits, and one
//! that is not canonical for them is refused like one of Xen's.
//!
//! **Why.** Xen itself has four levels, and the guest runs on tables that Xen shares.
//!
//! **Source.** xen/arch/x86/include/asm/config.h: `CONFIG_PAGING_LEVELS`; x86_64/uaccess.h:
//! `__addr_ok`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    for va in [1 << 47, 1 << 56, 0xffff_7fff_ffff_f000, 0xff00_0000_0000_0000] {
        expect_result!(bench.update_va(va, 0, 0), EINVAL, "update_va_mapping of {va:#x}");
    }
    Ok(())
}
