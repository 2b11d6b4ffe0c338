//! # R61: A bad bitmap of vCPUs fails late
//!
//! Flushes of several vCPUs take the address of a bitmap, of as many words as the domain may have
//! vCPUs. If it cannot be read, `mmuext_op` gives `EINVAL`; `update_va_mapping` gives `EFAULT`
//! **after it has written the entry**. Bits beyond the last vCPU do nothing.
//!
//! **Why.** The flush comes after the update, and nothing undoes an update.
//!
//! **Source.** xen/arch/x86/mm.c: `vcpumask_to_pcpumask`, `__do_update_va_mapping`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    let all = [u64::MAX; 128];
    let bitmap = all.as_ptr() as u64;
    for cmd in [MMUEXT_TLB_FLUSH_MULTI, MMUEXT_INVLPG_MULTI] {
        expect_result!(bench.ext(cmd, window.va, bitmap), 0, "operation {cmd}, all vCPUs");
        expect_result!(bench.ext(cmd, window.va, BAD_POINTER), EINVAL, "operation {cmd}");
    }
    let value = entry(page.mfn, READ);
    let result = bench.update_va(window.va, value, UVMF_INVLPG | UVMF_MULTI | bitmap);
    expect_result!(result, 0, "update_va_mapping, all vCPUs");
    let result = bench.update_va(window.va + 4096, value, UVMF_INVLPG | BAD_POINTER);
    expect_result!(result, EFAULT, "update_va_mapping, a bad bitmap");
    expect_eq!(word(&window.l1, 1) & FRAME, value & FRAME, "the entry, written all the same");
    // An address that no guest can map has nothing to flush.
    for cmd in [MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_ALL] {
        expect_result!(bench.ext(cmd, BAD_POINTER, 0), 0, "operation {cmd} of Xen's address");
    }
    Ok(())
}
