//! # R58: The M2P of one's own frames is one's own to write
//!
//! `MMU_MACHPHYS_UPDATE` writes the word of the M2P for a frame the guest owns, any value. For
//! another's frame it gives `EINVAL`. Nobody checks that p2m and M2P agree.
//!
//! **Why.** Xen uses the M2P of PV guests for its log messages; the guest's tools and its save
//! image depend on it.
//!
//! **Source.** xen/arch/x86/mm.c: `MMU_MACHPHYS_UPDATE`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let page = bench.page()?;
    let set = |mfn: Mfn, pfn: u64| {
        let request = abi::mmu::mmu_update {
            ptr: mfn.addr().as_u64() | MMU_MACHPHYS_UPDATE as u64,
            val: pfn,
        };
        bench.updates(&[request])
    };
    let old = page.pfn.as_u64();
    expect_eq!(bench.m2p(page.mfn)?, old, "the M2P");
    let changed = set(page.mfn, 0x1234_5678);
    let found = bench.m2p(page.mfn)?;
    let restored = set(page.mfn, old);
    expect_eq!(changed, (0, 1), "changing it");
    expect_eq!(found, 0x1234_5678, "the M2P");
    expect_eq!(restored, (0, 1), "changing it back");
    expect_eq!(set(Mfn::MAX, 0), (EINVAL, 0), "a frame that is none");
    Ok(())
}
