//! # R71: The M2P is read-only
//!
//! Xen maps it into every kernel at a place it tells (`XENMEM_machphys_mapping`), which is the
//! start of its part of the address space. Its words are read like memory and never written:
//! a store faults. The words of frames that are nobody's, or Xen's, hold all ones or nonsense.
//!
//! **Why.** All domains share it, and it is changed by hypercall (R58).
//!
//! **Source.** xen/arch/x86/x86_64/mm.c; public/arch-x86/xen-x86_64.h: `MACH2PHYS_VIRT_START`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let page = bench.page()?;
    let map = bench.m2p_range()?;
    expect_eq!(map.v_start, 0xffff_8000_0000_0000, "the start of the M2P");
    expect!(map.v_end > map.v_start, "the M2P ends at {:#x}", map.v_end);
    expect!(page.mfn.as_u64() <= map.max_mfn, "{} has no word", page.mfn);
    let at = map.v_start + page.mfn.as_u64() * 8;
    expect_eq!(machine.read(at), Ok(page.pfn.as_u64()), "the word of {}", page.mfn);
    match machine.write(at, 0) {
        Ok(()) => fail!("a store to the M2P succeeds"),
        Err(fault) => expect!(fault.is_protection(), "fault code {:#x}", fault.code),
    }
    let highest = bench.call(Op::MemoryOp, [2, 0, 0, 0, 0]);
    expect!(highest >= page.mfn.as_u64() as i64, "the highest RAM page is {highest:#x}");
    Ok(())
}
