//! The instructions by which user mode is entered and left, under Xen and without.
//!
//! Every way out ends at the same place, with vector, error code and what the processor pushes (SDM
//! volume 3, 6.14; Xen: `create_bounce_frame`, `xen/arch/x86/x86_64/entry.S`) at the end of the
//! [`Context`]'s frame. A system call has no error code and pushes what Xen pushes for it, or what is
//! pushed here from the registers that `syscall` leaves.
//!
//! Under Xen the way in is the iret hypercall: it alone changes to the tables of user mode and restores
//! the upcall mask in the same step (`struct iret_context`, `arch-x86/xen-x86_64.h`).

use core::arch::{global_asm, naked_asm};
use core::mem::{offset_of, size_of};

use hypercall::abi::xen::__HYPERVISOR_iret;
use hypercall::trap::{Callback, register_callback};
use hypercall::{VirtAddr, XenError};
use marks::{init, native};

use super::Context;
use crate::frame::Frame;
use crate::init::initcall;
use crate::options::Options;
use crate::refused::Refused;
use crate::subarch;
use crate::xen::HV;

/// Stands for a vector where a system call was made.
pub(super) const SYSTEM_CALL: u64 = 0x100;
/// Stands for a vector where an event waits.
pub(super) const UPCALL: u64 = 0x101;
/// #UD, which is what system calls end in that are none of a 64-bit program.
const INVALID_OPCODE: u64 = 6;

global_asm!(
    ".pushsection .text.entries, \"ax\", @progbits",
    ".balign 16",
    "usermode_system_call:",
    "    pop rcx",
    "    pop r11",
    "    push 0",
    "    push {system_call}",
    "    jmp usermode_left",
    "",
    // `syscall` of 32-bit code, and `sysenter`: no program of this kernel's has a use for them.
    ".balign 16",
    "usermode_refused:",
    "    pop rcx",
    "    pop r11",
    "    push 0",
    "    push {invalid_opcode}",
    "    jmp usermode_left",
    "",
    "usermode_interrupted:",
    "    push 0",
    "    push {upcall}",
    "",
    "usermode_left:",
    xen_pv_rt::push_frame!(),
    "    mov rsp, [rsp + {kernel_rsp}]",
    "    cld",
    xen_pv_rt::callee_saved!(pop),
    "    ret",
    ".popsection",
    "",
    ".pushsection .native.text, \"ax\", @progbits",
    ".balign 16",
    "native_usermode_system_call:",
    "    swapgs",
    "    mov gs:[{scratch}], rsp",
    "    mov rsp, gs:[{user_top}]",
    "    push {ss}",
    "    push gs:[{scratch}]",
    "    push r11",
    "    push {cs}",
    "    push rcx",
    "    push 0",
    "    push {system_call}",
    "    jmp usermode_left",
    "",
    "native_usermode_left:",
    "    swapgs",
    "    jmp usermode_left",
    ".popsection",
    system_call = const SYSTEM_CALL,
    upcall = const UPCALL,
    invalid_opcode = const INVALID_OPCODE,
    kernel_rsp = const offset_of!(Context, kernel_rsp),
    scratch = const crate::cpu::SCRATCH,
    user_top = const crate::cpu::USER_TOP,
    ss = const super::native::USER_SS,
    cs = const super::native::USER_CS,
);

unsafe extern "C" {
    static usermode_system_call: u8;
    static usermode_refused: u8;
    static native_usermode_system_call: u8;
}

/// Where `syscall` leads without Xen.
#[native]
pub(super) fn native_system_call() -> u64 {
    (&raw const native_usermode_system_call) as u64
}

/// Enters user mode, and returns when something takes it out.
///
/// # Safety
/// The context's frame is one of user mode. Upcalls are masked, and entries from user mode push at the
/// end of this context's frame.
#[inline]
pub(super) unsafe fn enter(context: &mut Context) {
    let context = &raw mut *context;
    if subarch::is_pv() {
        // SAFETY: the caller's promise.
        unsafe { enter_by_xen(context) };
    } else {
        // SAFETY: the caller's promise.
        unsafe { enter_by_processor(context) };
    }
}

/// The asm text that leaves the kernel's stack where the context has a place for it, and takes the context's
/// registers: RSP is behind them in its frame.
macro_rules! leave_kernel {
    () => {
        concat!(
            xen_pv_rt::callee_saved!(push),
            "mov [rdi + {kernel_rsp}], rsp\n",
            "mov rsp, rdi\n",
            xen_pv_rt::pop_frame!(),
        )
    };
}

/// # Safety
/// As [`enter`], under Xen.
#[unsafe(naked)]
unsafe extern "C" fn enter_by_xen(context: *mut Context) {
    naked_asm!(
        leave_kernel!(),
        // Above are RIP and what follows it. Of the error code's place on down the hypercall reads the
        // flags, which stand in the vector's place, RCX, R11 and RAX.
        "add rsp, 16",
        "push [rsp - 16]",
        "push rcx",
        "push r11",
        "push rax",
        "mov eax, {iret}",
        "syscall",
        "ud2",
        kernel_rsp = const offset_of!(Context, kernel_rsp),
        iret = const __HYPERVISOR_iret,
    )
}

/// # Safety
/// As [`enter`], on a processor that is the kernel's own.
#[unsafe(naked)]
unsafe extern "C" fn enter_by_processor(context: *mut Context) {
    naked_asm!(
        leave_kernel!(),
        "add rsp, 16",
        "swapgs",
        "iretq",
        kernel_rsp = const offset_of!(Context, kernel_rsp),
    )
}

/// Tells Xen where system calls on this vCPU lead.
///
/// # Errors
/// Xen's refusal.
pub(crate) fn install() -> Result<(), XenError> {
    // Whatever was told in another life of this vCPU, Xen knows no more.
    let here = crate::cpu::here();
    here.set_user_top(0);
    here.note_bases(None);
    let calls = [
        (Callback::Syscall, &raw const usermode_system_call),
        (Callback::Syscall32, &raw const usermode_refused),
        (Callback::Sysenter, &raw const usermode_refused),
    ];
    for (which, stub) in calls {
        let stub = VirtAddr::from_ptr(stub);
        // SAFETY: the stub is written for a frame without an error code; the image is never unmapped.
        unsafe { register_callback(&HV, which, stub, true) }?;
    }
    Ok(())
}

/// Tells Xen where system calls on the boot vCPU lead.
#[init]
fn begin(_: &Options<'_>) -> Result<(), Refused> {
    Ok(install()?)
}
initcall!("usermode", Core, after [], needs XEN_TABLES, begin);

const _: () = {
    assert!(offset_of!(Context, frame) == 0);
    assert!(offset_of!(Context, kernel_rsp) == size_of::<Frame>());
};
