//! User mode: what takes a program out of it, and what of the registers comes back.

use super::context::{Context, PAGE};
use super::pile::Pile;
use super::programs::need_fault_addresses;
use super::{TestResult, Trouble, expect_eq, expect_matches, selftest};
use crate::mm::machine::Machine;
use crate::mm::{self, Flags};
use crate::usermode::{self, Bases, Exit};
use crate::xen::HV;
use hypercall::Hypervisor;

/// Where the program is, and where its data.
const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x60_0000;

/// Where in the code a 32-bit program's calls begin.
const PROGRAM: &[u8] = &[
    0x0f, 0x05, // syscall
    0xc6, 0x00, 0x01, // mov byte [rax], 1
    0x0f, 0x0b, // ud2
    0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, // mov rax, fs:[0]
    0x65, 0x48, 0x8b, 0x1c, 0x25, 8, 0, 0, 0, // mov rbx, gs:[8]
    0x0f, 0x05, // syscall
    0xf4, // hlt
    0x0f, 0x34, // sysenter
];

/// Runs `f` in a space of its own with the program at `CODE` and a page of data.
fn with_program(context: &mut Context, f: impl FnOnce() -> TestResult) -> TestResult {
    context.with_frames(|_, pile| {
        let space = mm::with(|tables| tables.create_space())?;
        let outcome = load(pile, &space).and_then(|()| {
            // SAFETY: nothing in use lies in the user half.
            unsafe { mm::switch_space(&space) }?;
            let outcome = f();
            HV.restore_upcalls(false);
            outcome
        });
        let boot = mm::with(|tables| tables.boot_space());
        // SAFETY: nothing in use lies in the user half.
        unsafe { mm::switch_space(&boot) }?;
        mm::with(|tables| tables.destroy_space(space)).map_err(|refused| refused.error)?;
        outcome
    })
}

fn load(pile: &Pile, space: &mm::spaces::AddressSpace) -> TestResult {
    let mut pfns = pile.pfns();
    let (Some(code), Some(data)) = (pfns.next(), pfns.next()) else {
        return Err(Trouble::error("the test needs two pages"));
    };
    mm::in_space(space, |tables| {
        let memory = tables.machine().memory(code).cast::<u8>();
        // SAFETY: the frame is the test's, and the program fits.
        unsafe { memory.copy_from(PROGRAM.as_ptr(), PROGRAM.len()) };
        // SAFETY: frames and space are the test's.
        unsafe {
            tables
                .map(CODE, core::iter::once(code), Flags::CODE | Flags::USER)?
                .commit(tables)?;
            tables
                .map(DATA, core::iter::once(data), Flags::DATA | Flags::USER)?
                .commit(tables)
        }
    })?;
    Ok(())
}

/// A program makes a system call with arguments in its registers, touches what is not there, executes
/// what is no instruction, and is told from the kernel each time; what it had in the other registers
/// is there afterwards, and what the kernel answers is in its registers.
fn exits(context: &mut Context) -> TestResult {
    need_fault_addresses()?;
    with_program(context, || {
        let mut user = usermode::Context::new(CODE, DATA + PAGE);
        user.frame_mut().rax = 39;
        user.frame_mut().r10 = 0x1234;
        user.frame_mut().r15 = !1;
        expect_eq!(user.run()?, Exit::SystemCall, "the call");
        HV.restore_upcalls(false);
        let frame = user.frame();
        expect_eq!(
            (frame.rax, frame.r10, frame.r15),
            (39, 0x1234, !1),
            "registers"
        );
        expect_eq!((frame.rip, frame.rsp), (CODE + 2, DATA + PAGE), "place");
        user.frame_mut().rax = 0x5000;
        let fault = Exit::PageFault {
            address: 0x5000,
            error: 6,
        };
        expect_eq!(user.run()?, fault, "a write to no page");
        HV.restore_upcalls(false);
        expect_eq!(user.frame().rip, CODE + 2, "the place that faults");
        user.frame_mut().rax = DATA + 64;
        expect_eq!(
            user.run()?,
            Exit::Exception {
                vector: 6,
                error: 0
            },
            "no instruction"
        );
        HV.restore_upcalls(false);
        // SAFETY: the program's page, which is mapped in this space.
        let written =
            unsafe { core::ptr::with_exposed_provenance::<u8>(DATA as usize + 64).read_volatile() };
        expect_eq!(written, 1, "what the program wrote");
        user.frame_mut().rip += 2;
        let bases = Bases {
            fs: DATA,
            gs: DATA + 56,
        };
        bases.load()?;
        expect_eq!(user.run()?, Exit::SystemCall, "the second call");
        HV.restore_upcalls(false);
        let frame = user.frame();
        expect_eq!(frame.rbx & 0xff, 1, "what GS leads to");
        expect_matches!(
            user.run()?,
            Exit::Exception { vector: 13, .. },
            "a privileged instruction"
        );
        HV.restore_upcalls(false);
        user.frame_mut().rip += 1;
        expect_matches!(
            user.run()?,
            Exit::Exception { vector: 6 | 13, .. },
            "sysenter"
        );
        HV.restore_upcalls(false);
        Ok(())
    })
}
selftest!("usermode.exits", exits, &[2], needs EVERYWHERE);

/// A program cannot read the kernel, be it code, memory or the tables of Xen, nor run at an address that
/// is none of its own, whatever its flags and its place are said to be.
fn confined(context: &mut Context) -> TestResult {
    need_fault_addresses()?;
    with_program(context, || {
        for address in [
            confined as *const () as u64,
            mm::layout::DIRECT.start,
            mm::layout::XEN.start,
            mm::layout::HEAP.start,
            !7,
        ] {
            let mut user = usermode::Context::new(CODE + 2, DATA + PAGE);
            user.frame_mut().rax = address;
            expect_matches!(
                user.run()?,
                Exit::PageFault { address: a, error } if a == address && error & 4 != 0,
                "a write to {address:#x}"
            );
            HV.restore_upcalls(false);
            let mut user = usermode::Context::new(address, DATA + PAGE);
            expect_matches!(user.run()?, Exit::PageFault { error, .. } if error & 4 != 0, "a jump to {address:#x}");
            HV.restore_upcalls(false);
        }
        let mut user = usermode::Context::new(CODE, DATA + PAGE);
        user.frame_mut().rflags = !0x100;
        expect_eq!(user.run()?, Exit::SystemCall, "a call with all flags");
        HV.restore_upcalls(false);
        expect_eq!(
            user.frame().rflags & 0x3000,
            0,
            "the level that may use ports"
        );
        Ok(())
    })
}
selftest!("usermode.confined", confined, &[2], needs EVERYWHERE);
