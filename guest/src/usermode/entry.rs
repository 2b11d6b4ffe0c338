//! The instructions by which user mode is entered and left, under Xen and without.
//!
//! Every way out ends at the same place, with vector, error code and what the processor pushes (SDM
//! volume 3, 6.14; Xen: `create_bounce_frame`, `xen/arch/x86/x86_64/entry.S`) at the end of the
//! [`Context`]'s frame. A system call has no error code and pushes what Xen pushes for it, or what is
//! pushed here from the registers that `syscall` leaves.
//!
//! Under Xen the way in is the iret hypercall: it alone changes to the tables of user mode and restores
//! the upcall mask in the same step (`struct iret_context`, `arch-x86/xen-x86_64.h`). There what left user
//! mode is given to the program's server first, on the stack of whoever entered it. That is a C function
//! and so keeps some registers, which go to the context only if it does not go back at once.

use core::arch::{global_asm, naked_asm};
use core::mem::{offset_of, size_of};

use hypercall::abi::arch::VGCF_in_syscall;
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

/// The asm text that pushes the registers which a C function does not keep, and goes to the stack of
/// whoever entered user mode. RBP is among them, and RBX with it: a backtrace goes on with whoever entered.
macro_rules! leave_user_mode {
    () => {
        "push rdi
         push rsi
         push rdx
         push rcx
         push rax
         push r8
         push r9
         push r10
         push r11
         push rbx
         push rbp
         mov rsp, [rsp + {kernel_rsp} - 32]
         mov rbp, [rsp + {kernel_rbp}]
         cld
         mov rdi, [rsp + {server}]"
    };
}

/// The asm text that takes those back which the iret hypercall does not load, with the context in RCX. Below
/// RIP's place the hypercall reads flags, RCX, R11 and RAX.
macro_rules! take_registers {
    () => {
        "mov rcx, [rsp]
         mov rdi, [rcx + {rdi}]
         mov rsi, [rcx + {rsi}]
         mov rdx, [rcx + {rdx}]
         mov r8, [rcx + {r8}]
         mov r9, [rcx + {r9}]
         mov r10, [rcx + {r10}]
         mov rbp, [rcx + {rbp}]"
    };
}

global_asm!(
    ".pushsection .text.entries, \"ax\", @progbits",
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
    "    jmp usermode_left",
    "",
    ".balign 16",
    "usermode_system_call:",
    "    pop rcx",
    "    pop r11",
    // In the error code's place, where the hypercall reads it.
    "    push {in_system_call}",
    "    push {system_call}",
    leave_user_mode!(),
    "    call [rsp + {called}]",
    "    test eax, eax",
    "    js 4f",
    take_registers!(),
    // The hypercall loads RCX and R11 as `syscall` left them, and reads neither.
    "    lea rsp, [rcx + {rdi}]",
    "    push [rcx + {rax}]",
    "    mov eax, {iret}",
    "    syscall",
    "    ud2",
    "",
    ".balign 16",
    "usermode_left:",
    leave_user_mode!(),
    "    call [rsp + {left}]",
    "    test eax, eax",
    "    js 4f",
    take_registers!(),
    "    lea rsp, [rcx + {rip}]",
    "    push 0",
    "    push [rcx + {rcx}]",
    "    push [rcx + {r11}]",
    "    push [rcx + {rax}]",
    "    mov eax, {iret}",
    "    syscall",
    "    ud2",
    "",
    "4:",
    "    mov rcx, [rsp]",
    "    mov [rcx + {r12}], r12",
    "    mov [rcx + {r13}], r13",
    "    mov [rcx + {r14}], r14",
    "    mov [rcx + {r15}], r15",
    "usermode_stays_left:",
    "    add rsp, {callee_saved}",
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
    "    jmp 2f",
    "",
    "native_usermode_left:",
    "    swapgs",
    "2:",
    xen_pv_rt::push_frame!(),
    "    mov rsp, [rsp + {kernel_rsp}]",
    "    cld",
    "    mov eax, {not_served}",
    "    jmp usermode_stays_left",
    ".popsection",
    system_call = const SYSTEM_CALL,
    upcall = const UPCALL,
    invalid_opcode = const INVALID_OPCODE,
    kernel_rsp = const offset_of!(Context, kernel_rsp),
    kernel_rbp = const offset_of!(Left, rbp),
    server = const offset_of!(Left, server),
    called = const offset_of!(Left, called),
    left = const offset_of!(Left, left),
    in_system_call = const VGCF_in_syscall,
    callee_saved = const offset_of!(Left, r15),
    not_served = const NOT_SERVED,
    iret = const __HYPERVISOR_iret,
    rdi = const offset_of!(Frame, rdi),
    rsi = const offset_of!(Frame, rsi),
    rdx = const offset_of!(Frame, rdx),
    rcx = const offset_of!(Frame, rcx),
    rax = const offset_of!(Frame, rax),
    r8 = const offset_of!(Frame, r8),
    r9 = const offset_of!(Frame, r9),
    r10 = const offset_of!(Frame, r10),
    r11 = const offset_of!(Frame, r11),
    r12 = const offset_of!(Frame, r12),
    r13 = const offset_of!(Frame, r13),
    r14 = const offset_of!(Frame, r14),
    r15 = const offset_of!(Frame, r15),
    rbp = const offset_of!(Frame, rbp),
    rip = const offset_of!(Frame, rip),
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

/// What is called with the server when user mode was left under Xen: 0 where the program goes back there at
/// once, or one of the values below.
pub(super) type OnLeft = unsafe extern "C" fn(server: *mut ()) -> i32;

/// What is called when user mode was left.
#[derive(Clone, Copy)]
pub(super) struct OnExit {
    /// By a system call.
    pub(super) called: OnLeft,
    /// By something else.
    pub(super) left: OnLeft,
}

/// Nothing was done yet about what took the program out of user mode.
pub(super) const NOT_SERVED: i32 = -1;
/// It was served, and the program goes on by the long way.
pub(super) const SERVED: i32 = -2;

/// What is on the kernel's stack while user mode runs.
#[repr(C)]
struct Left {
    context: *mut Context,
    server: *mut (),
    left: OnLeft,
    called: OnLeft,
    aligned: u64,
    r15: u64,
    others: [u64; 4],
    rbp: u64,
    back: u64,
}

const _: () = {
    // The stack is aligned for the call as it was for that of whoever entered.
    assert!(size_of::<Left>().is_multiple_of(16));
    // What `leave_user_mode` pushes last.
    assert!(offset_of!(Frame, rbp) == 32);
    // What the hypercall reads between RAX and RIP.
    assert!(offset_of!(Frame, rip) - offset_of!(Frame, rdi) == 24);
};

/// Where `syscall` leads without Xen.
#[native]
pub(super) fn native_system_call() -> u64 {
    (&raw const native_usermode_system_call) as u64
}

/// Enters user mode, and returns when it is left for longer, with what a function of `exit` returned.
///
/// # Safety
/// The context's frame is one of user mode. Upcalls are masked, and entries from user mode push at the
/// end of this context's frame. The functions of `exit` may be called with the server. Where one returns 0
/// upcalls are masked, entries push there, and the registers in the frame are as they were left, but for
/// RAX.
#[inline]
pub(super) unsafe fn enter(context: *mut Context, server: *mut (), exit: OnExit) -> i32 {
    let OnExit { called, left } = exit;
    if subarch::is_pv() {
        // SAFETY: the caller's promise.
        unsafe { enter_by_xen(context, server, left, called) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { enter_by_processor(context, server, left, called) }
    }
}

/// The asm text that leaves the kernel's stack where the context has a place for it, and takes the context's
/// registers: RSP is behind them in its frame.
macro_rules! leave_kernel {
    () => {
        concat!(
            xen_pv_rt::callee_saved!(push),
            "push rcx\npush rcx\npush rdx\npush rsi\npush rdi\n",
            "mov [rdi + {kernel_rsp}], rsp\n",
            "mov rsp, rdi\n",
            xen_pv_rt::pop_frame!(),
        )
    };
}

/// # Safety
/// As [`enter`], under Xen.
#[unsafe(naked)]
unsafe extern "C" fn enter_by_xen(
    context: *mut Context,
    server: *mut (),
    left: OnLeft,
    called: OnLeft,
) -> i32 {
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
unsafe extern "C" fn enter_by_processor(
    context: *mut Context,
    server: *mut (),
    left: OnLeft,
    called: OnLeft,
) -> i32 {
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
