//! # R44: Machine frames follow no order
//!
//! Nothing can be said about the machine frame of one page from that of another; a debug Xen even
//! reverses dom0's on purpose. The M2P is the inverse of the p2m for every page.
//!
//! **Why.** A host's free memory is scattered, and debug builds catch who forgets it.
//!
//! **Source.** xen/arch/x86/pv/dom0_build.c, under `NDEBUG`; public/arch-x86/xen-x86_64.h:
//! `machine_to_phys_mapping`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    for _ in 0..8 {
        let page = bench.page()?;
        expect_eq!(bench.m2p(page.mfn)?, page.pfn.as_u64(), "the M2P for {}", page.mfn);
    }
    Ok(())
}
