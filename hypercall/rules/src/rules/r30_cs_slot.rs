//! # R30: The CS slot also holds the upcall mask
//!
//! Bits 32 to 39 of the word with CS are the upcall mask as it was before the entry. CS of the
//! kernel is pushed as e030, with privilege level 0, although the kernel runs on e033. IF in the
//! pushed RFLAGS is the mask, inverted.
//!
//! **Why.** The mask is the guest's interrupt flag, so it is saved where a handler can put it back;
//! level 0 is how a kernel tells an entry from itself from one from a program.
//!
//! **Source.** xen/arch/x86/x86_64/entry.S: `create_bounce_frame`; public/arch-x86/xen.h:
//! `saved_upcall_mask`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    for masked in [true, false] {
        let Some(entry) = machine.enter(Cause::Breakpoint, masked) else {
            skip!("this machine is not entered");
        };
        expect_eq!(entry.mask.0, masked, "the mask before");
        let cs = entry.frame[3];
        expect_eq!(cs & 0xffff, 0xe030, "CS");
        expect_eq!(cs >> 32 & 0xff, masked as u64, "the saved mask");
        expect_eq!(entry.frame[4] >> 9 & 1, !masked as u64, "IF in RFLAGS");
    }
    Ok(())
}
