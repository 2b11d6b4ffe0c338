//! # R72: What a PV guest is told it can do
//!
//! The first word of the feature map has `mmu_pt_update_preserve_ad` set, `writable_page_tables`
//! and `auto_translated_physmap` clear, and `dom0` exactly in dom0. Asking for a word that does not
//! exist gives `EINVAL`. Pages have 4096 bytes (asked with a null argument).
//!
//! **Why.** The same calls serve guests of every type.
//!
//! **Source.** xen/common/kernel.c: `XENVER_get_features`; public/features.h.

use crate::prelude::*;
use abi::{features::*, version::*};

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let ask = |submap_idx: u32| {
        let mut info = xen_feature_info {
            submap_idx,
            submap: 0,
        };
        let arg = &raw mut info as u64;
        let result = bench.call(Op::XenVersion, [XENVER_get_features as u64, arg, 0, 0, 0]);
        (result, info.submap)
    };
    let (result, map) = ask(0);
    expect_result!(result, 0, "the first word");
    let has = |bit: u32| map >> bit & 1 != 0;
    expect!(has(XENFEAT_mmu_pt_update_preserve_ad), "no PRESERVE_AD in {map:#x}");
    expect!(!has(XENFEAT_writable_page_tables), "writable page tables in {map:#x}");
    expect!(!has(XENFEAT_auto_translated_physmap), "a translated physmap in {map:#x}");
    expect_eq!(has(XENFEAT_dom0), bench.kind() == Kind::Dom0, "dom0 in {map:#x}");
    expect_result!(ask(99).0, EINVAL, "word 99");
    let pagesize = bench.call(Op::XenVersion, [XENVER_pagesize as u64, 0, 0, 0, 0]);
    expect_result!(pagesize, 4096, "the page size");
    Ok(())
}
