//! User mode on a processor that is the kernel's own: `syscall`, segments, and the stack that the task
//! state names.
//!
//! `syscall` loads fixed selectors and the address in LSTAR, and clears the flags in SFMASK; the stack
//! stays the program's, which is why the entry finds its own through GS (SDM volume 2, SYSCALL).

use marks::native;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::{FsBase, KernelGsBase, LStar, Msr, SFMask};
use x86_64::registers::rflags::RFlags;
use x86_64::registers::xcontrol::{XCr0, XCr0Flags};

use super::entry;
use crate::cpu;

/// The segments of user mode, as the kernel's table of descriptors has them behind the kernel's two.
pub(crate) const USER_SS: u64 = 3 << 3 | 3;
pub(crate) const USER_CS: u64 = 4 << 3 | 3;
/// The kernel's own.
const KERNEL_CS: u64 = 1 << 3;

/// `IA32_STAR`, which the crate writes only together with what it takes the selectors to be.
const STAR: u32 = 0xc000_0081;

/// CS and SS of user mode.
pub(crate) fn selectors() -> (u64, u64) {
    (USER_CS, USER_SS)
}

/// Says where this processor finds the stack for entries from user mode (RSP0 of the task state).
///
/// # Safety
/// It is such a word, and stays it.
#[native]
pub(crate) unsafe fn set_stack_word(word: *mut u64) {
    cpu::here().set_task_stack(word);
}

/// Has entries from user mode push below `top`.
pub(super) fn set_stack(top: u64) {
    let word = cpu::here().task_stack();
    if !word.is_null() {
        // SAFETY: RSP0 of the task state in use, by `set_stack_word`'s contract; not always aligned.
        unsafe { word.write_unaligned(top) };
    }
}

/// Has FS and, in user mode, GS lead to these addresses, both of which are canonical.
pub(super) fn set_bases(fs: u64, gs: u64) {
    FsBase::write(VirtAddr::new_truncate(fs));
    KernelGsBase::write(VirtAddr::new_truncate(gs));
}

/// Has system calls on this processor enter the kernel, and lets programs use the vector registers.
#[native]
pub(crate) fn install() {
    // What `sysret` would load is 8 and 16 behind the upper selector; the way back does without it.
    let star = KERNEL_CS << 32 | (USER_SS - 8) << 48;
    let masked = RFlags::INTERRUPT_FLAG
        | RFlags::DIRECTION_FLAG
        | RFlags::TRAP_FLAG
        | RFlags::ALIGNMENT_CHECK
        | RFlags::NESTED_TASK;
    // SAFETY: the selectors are those of the kernel's segments, and the entry is written for what
    // `syscall` leaves.
    unsafe {
        Msr::new(STAR).write(star);
        LStar::write(VirtAddr::new_truncate(entry::native_system_call()));
        SFMask::write(masked);
        Efer::update(|flags| flags.insert(EferFlags::SYSTEM_CALL_EXTENSIONS));
        // The kernel itself uses no vector register.
        Cr0::update(|flags| {
            flags.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
            flags.insert(Cr0Flags::MONITOR_COPROCESSOR | Cr0Flags::NUMERIC_ERROR);
        });
        Cr4::update(|flags| flags.insert(Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE));
    }
    if super::fpu::has_xsave() {
        // SAFETY: the processor has XSAVE, and says which of these states.
        unsafe {
            Cr4::update(|flags| flags.insert(Cr4Flags::OSXSAVE));
            let vectors = XCr0Flags::X87 | XCr0Flags::SSE | XCr0Flags::AVX;
            let known = XCr0Flags::from_bits_truncate(super::fpu::supported());
            XCr0::write((vectors & known) | XCr0Flags::X87 | XCr0Flags::SSE);
        }
    }
}
