//! The entry stub of event upcalls.
//!
//! Xen enters with upcalls masked and a frame like an exception's without error code (rcx, r11,
//! rip, cs, rflags, rsp, ss). The way back is the iret hypercall, which restores the upcall mask
//! from IF of the saved flags and delivers at once what became pending meanwhile: an `iretq` would
//! leave upcalls masked for good.

use core::arch::global_asm;

use hypercall::VirtAddr;
use hypercall::abi::xen::__HYPERVISOR_iret;
use hypercall::trap::{Callback, register_callback};
use marks::init;

use crate::init::initcall;
use crate::options::Options;
use crate::refused::Refused;
use crate::xen::HV;

global_asm!(
    ".pushsection .text.entries, \"ax\", @progbits",
    ".balign 16",
    "event_entry:",
    "    pop rcx",
    "    pop r11",
    // Out of user mode the event waits until whoever runs the program opens upcalls.
    crate::usermode::leave_to!(8, "usermode_interrupted"),
    // What a Rust function may change; the kernel uses no vector registers. Nine words: the stack
    // was 8 off 16, the call needs it aligned.
    "    push rcx",
    "    push r11",
    "    push rax",
    "    push rdi",
    "    push rsi",
    "    push rdx",
    "    push r8",
    "    push r9",
    "    push r10",
    "    cld",
    "    call {handler}",
    "    pop r10",
    "    pop r9",
    "    pop r8",
    "    pop rdx",
    "    pop rsi",
    "    pop rdi",
    "    pop rax",
    "    pop r11",
    "    pop rcx",
    // struct iret_context from below: rax, r11, rcx, flags, and the frame's rip on.
    "    push 0",
    "    push rcx",
    "    push r11",
    "    push rax",
    "    mov eax, {iret}",
    "    syscall",
    "    ud2",
    ".popsection",
    handler = sym handle,
    iret = const __HYPERVISOR_iret,
);

unsafe extern "C" {
    static event_entry: u8;
}

extern "C" fn handle() {
    super::upcall();
}

/// Where the stub is.
pub(crate) fn entry() -> VirtAddr {
    VirtAddr::from_ptr(&raw const event_entry)
}

/// Gives Xen the stub.
#[init]
fn install(_: &Options<'_>) -> Result<(), Refused> {
    let address = entry();
    // SAFETY: the stub is written for the frame of an upcall, saves what it changes, keeps the
    // stack aligned and returns by the iret hypercall; the image is never unmapped.
    Ok(unsafe { register_callback(&HV, Callback::Event, address, true) }?)
}
initcall!("upcalls", Core, after [], needs XEN_TABLES, install);
