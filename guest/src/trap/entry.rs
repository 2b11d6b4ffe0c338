//! The trap entry stubs and the table that tells Xen about them.
//!
//! One stub a vector brings Xen's frame into the shape of [`Frame`] and calls one handler; every
//! return goes by the iret hypercall, the only one that restores the upcall mask together with the
//! interrupted context (`xen/include/public/arch-x86/xen-x86_64.h`, `struct iret_context`).
//! Upcalls are masked by Xen on the way into every gate (flag bit 2), so that nothing interrupts a
//! report. PV has no default gates: a vector without a handler kills the domain, so all are set.

use core::arch::global_asm;

use hypercall::abi::arch::trap_info;
use hypercall::abi::xen::__HYPERVISOR_iret;
use hypercall::trap::{END, gate};
use hypercall::{Hypervisor, VirtAddr, XenError};

use super::saved::call_with_frame;
use crate::frame::{EXCEPTIONS, Frame};

/// Lowest privilege that may raise the vector with `int n`; the kernel itself runs at 3.
const DPL_KERNEL: u8 = 3;

const VECTORS: usize = EXCEPTIONS.len();
const BREAKPOINT: usize = 3;
const OVERFLOW: usize = 4;

global_asm!(
    // A stub is 16 bytes, so that its address follows from its vector.
    ".pushsection .text.entries, \"ax\", @progbits",
    ".balign 16",
    "trap_stubs:",
    ".set vector, 0",
    ".rept {vectors}",
    "    .balign 16",
    "    pop rcx",
    "    pop r11",
    "    .if ({with_error} >> vector) & 1 == 0",
    "    push 0",
    "    .endif",
    "    push vector",
    "    jmp trap_common",
    "    .set vector, vector + 1",
    ".endr",
    "",
    "trap_common:",
    call_with_frame!(),
    // Vector and error code go; what is left from rip up is the tail of struct iret_context.
    "    add rsp, 16",
    "    push 0",
    "    push rcx",
    "    push r11",
    "    push rax",
    "    mov eax, {iret}",
    "    syscall",
    "    ud2",
    ".popsection",
    vectors = const VECTORS,
    with_error = const crate::frame::vectors_with_error(),
    handler = sym handle,
    iret = const __HYPERVISOR_iret,
);

unsafe extern "C" {
    static trap_stubs: [[u8; 16]; VECTORS];
}

/// Called by the stubs with the interrupted context.
extern "C" fn handle(frame: &mut Frame) {
    super::dispatch(frame);
}

fn stub(vector: usize) -> VirtAddr {
    assert!(vector < VECTORS);
    // SAFETY: only the address of an element inside the stub array is taken.
    unsafe { VirtAddr::from_ptr((&raw const trap_stubs).cast::<[u8; 16]>().add(vector)) }
}

/// Has `int vector` from rings up to `dpl` taken as a breakpoint.
///
/// # Errors
/// Xen's refusal.
pub(crate) fn install_breakpoint<H: Hypervisor>(
    hv: &H,
    vector: u8,
    dpl: u8,
) -> Result<(), XenError> {
    // SAFETY: the stub of an exception without error code, which is what `int` pushes.
    unsafe { install_stub(hv, vector, stub(BREAKPOINT), dpl) }
}

/// Gives Xen another handler for one vector.
///
/// # Errors
/// Xen's refusal.
///
/// # Safety
/// `handler` is written for the frame that Xen pushes for that vector, and is never unmapped.
pub(crate) unsafe fn install_stub<H: Hypervisor>(
    hv: &H,
    vector: u8,
    handler: VirtAddr,
    dpl: u8,
) -> Result<(), XenError> {
    let table = [gate(vector, handler, dpl, true), END];
    // SAFETY: the table ends, and the caller promises that the handler is written for what Xen pushes.
    unsafe { hypercall::trap::set_trap_table(hv, &table) }
}

/// The gates of all exceptions.
pub(crate) fn gates() -> [trap_info; VECTORS] {
    core::array::from_fn(|vector| {
        let dpl = if matches!(vector, BREAKPOINT | OVERFLOW) {
            DPL_KERNEL
        } else {
            0
        };
        gate(vector as u8, stub(vector), dpl, true)
    })
}

/// Gives Xen the whole trap table.
///
/// # Errors
/// Xen's refusal.
pub fn install<H: Hypervisor>(hv: &H) -> Result<(), XenError> {
    let mut table = [END; VECTORS + 1];
    table[..VECTORS].copy_from_slice(&gates());
    // SAFETY: every address is a stub of this image that saves all registers, keeps the stack
    // aligned and returns by the iret hypercall; the image is never unmapped.
    unsafe { hypercall::trap::set_trap_table(hv, &table) }
}
