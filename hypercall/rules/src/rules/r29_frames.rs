//! # R29: What Xen pushes on entry
//!
//! From the lowest address: RCX, R11, the error code if the exception has one, RIP, CS, RFLAGS,
//! RSP, SS. RCX and R11 come first because the way back, `sysret`, destroys them. Xen aligns the
//! end of the frame to 16, so RSP at the handler's first instruction is a multiple of 16 with an
//! error code, and 8 off without.
//!
//! **Why.** Xen enters the guest like an interrupt gate enters a kernel, plus two registers.
//!
//! **Source.** xen/arch/x86/x86_64/entry.S: `create_bounce_frame`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let va = machine.scratch_va();
    let cases = [
        (Cause::Breakpoint, 3, 0),
        (Cause::PageFault(va), 14, 1),
    ];
    for (cause, vector, extra) in cases {
        let Some(entry) = machine.enter(cause, true) else {
            skip!("this machine is not entered");
        };
        let frame = entry.frame;
        expect_eq!(entry.vector, vector, "the vector of {cause:?}");
        expect_eq!((frame[0], frame[1]), entry.rcx_r11, "RCX and R11 of {cause:?}");
        expect_eq!(entry.rsp % 16, if extra == 1 { 0 } else { 8 }, "RSP % 16 of {cause:?}");
        expect_eq!(frame[5 + extra], entry.stack, "RSP in the frame of {cause:?}");
        expect_eq!(frame[3 + extra] & 0xffff, 0xe030, "CS in the frame of {cause:?}");
        let size = (7 + extra as u64) * 8;
        expect_eq!(entry.rsp + size, entry.stack & !15, "the end of the frame of {cause:?}");
        if extra == 1 {
            expect_eq!(frame[2], 0, "the error code of a load from the kernel");
        }
    }
    Ok(())
}
