//! # R38: `cli` and `sti` do not touch the mask
//!
//! The guest's interrupt flag is the upcall mask, a byte in memory. `cli`, `sti`, `popf` and `pushf`
//! deal with the real flag, which is set whenever a guest runs and which it cannot change. `hlt`
//! and `SCHEDOP_block` clear the mask before they sleep.
//!
//! **Why.** Flag instructions are too frequent to trap, and some do not trap at all.
//!
//! **Source.** xen/arch/x86/pv/emul-priv-op.c; xen/common/sched/core.c:
//! `vcpu_block_enable_events`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    for mask in [true, false] {
        let Some(after) = machine.mask_after_flag_instruction(mask) else {
            skip!("this machine has no flag instructions");
        };
        expect_eq!(after, mask, "the mask after cli or sti");
    }
    Ok(())
}
