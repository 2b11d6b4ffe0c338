//! Exceptions: the stubs that Xen calls, and what is said of one that nobody handles.
//!
//! [`trap_stubs!`](crate::trap_stubs!) makes one stub a vector, in the kernel's own crate. Each brings Xen's frame into the
//! shape of [`Frame`] and calls the kernel's one handler; every return goes by the iret hypercall, the
//! only one that restores the upcall mask together with the interrupted context
//! (`xen/include/public/arch-x86/xen-x86_64.h`, `struct iret_context`). Upcalls are masked by Xen on
//! the way into every gate (flag bit 2), so that nothing interrupts a report. PV has no default gates:
//! a vector without a handler kills the domain, so all are set.

#[cfg(target_os = "none")]
pub mod backtrace;
#[cfg(target_os = "none")]
pub mod report;
mod saved;

use hypercall::abi::arch::trap_info;
use hypercall::trap::{END, gate};
use hypercall::{Hypervisor, VirtAddr, XenError};

use crate::frame::{EXCEPTIONS, Frame};

/// How many vectors have a stub: all exceptions.
pub const VECTORS: usize = EXCEPTIONS.len();

/// Bytes of a stub, so that its address follows from its vector.
pub const STUB: usize = 16;

/// Lowest privilege that may raise the vector with `int n`; the kernel itself runs at 3.
const DPL_KERNEL: u8 = 3;

const BREAKPOINT: usize = 3;
const OVERFLOW: usize = 4;

/// What handles all exceptions: it may change the frame, and returns to what it says.
pub type Handler = extern "C" fn(&mut Frame);

/// Makes the stubs of all exceptions for Xen, `[[u8; STUB]; VECTORS]` at a symbol, which call a
/// [`Handler`].
///
/// ```
/// # #[cfg(target_os = "none")] mod kernel {
/// use xen_pv_rt::frame::Frame;
///
/// extern "C" fn handle(frame: &mut Frame) {
///     frame.rip += 1;
/// }
///
/// xen_pv_rt::trap_stubs!(my_stubs, handle);
/// # }
/// ```
///
/// A kernel that runs user mode names where its exceptions go on instead, by a symbol:
/// `trap_stubs!(my_stubs, handle, user my_user_exception)`. Vector and error code are pushed there, above
/// which lies what Xen pushed from RIP on, and all registers are user mode's.
#[macro_export]
macro_rules! trap_stubs {
    ($stubs:ident, $handler:path) => {
        $crate::trap_stubs!($stubs, $handler, before []);
    };
    ($stubs:ident, $handler:path, user $exit:ident) => {
        // Xen gives the kernel's own CS the level 0.
        $crate::trap_stubs!($stubs, $handler, before [
            "    test byte ptr [rsp + 24], 3",
            ::core::concat!("    jnz ", ::core::stringify!($exit)),
        ]);
    };
    ($stubs:ident, $handler:path, before [$($before:expr,)*]) => {
        const _: $crate::trap::Handler = $handler;
        ::core::arch::global_asm!(
            ".pushsection .text.entries, \"ax\", @progbits",
            ".balign 16",
            ::core::concat!(::core::stringify!($stubs), ":"),
            ".set vector, 0",
            ".rept {vectors}",
            "    .balign 16",
            "    pop rcx",
            "    pop r11",
            "    .if ({with_error} >> vector) & 1 == 0",
            "    push 0",
            "    .endif",
            "    push vector",
            ::core::concat!("    jmp ", ::core::stringify!($stubs), "_common"),
            "    .set vector, vector + 1",
            ".endr",
            "",
            ::core::concat!(::core::stringify!($stubs), "_common:"),
            $($before,)*
            $crate::call_with_frame!(),
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
            vectors = const $crate::trap::VECTORS,
            with_error = const $crate::frame::vectors_with_error(),
            handler = sym $handler,
            iret = const $crate::hypercall::abi::xen::__HYPERVISOR_iret,
        );
    };
}

/// The gates of all exceptions, given where the stubs are.
#[must_use]
pub fn gates(stubs: VirtAddr) -> [trap_info; VECTORS] {
    core::array::from_fn(|vector| {
        let dpl = if matches!(vector, BREAKPOINT | OVERFLOW) {
            DPL_KERNEL
        } else {
            0
        };
        let stub = VirtAddr::new_truncate(stubs.as_u64() + (vector * STUB) as u64);
        gate(vector as u8, stub, dpl, true)
    })
}

/// Gives Xen the whole trap table.
///
/// # Errors
/// Xen's refusal.
///
/// # Safety
/// `stubs` are what [`trap_stubs!`](crate::trap_stubs!) made, never unmapped.
pub unsafe fn install<H: Hypervisor>(hv: &H, stubs: VirtAddr) -> Result<(), XenError> {
    let mut table = [END; VECTORS + 1];
    table[..VECTORS].copy_from_slice(&gates(stubs));
    // SAFETY: every address is a stub that saves all registers, keeps the stack aligned and returns by
    // the iret hypercall, as the caller says; the table ends.
    unsafe { hypercall::trap::set_trap_table(hv, &table) }
}
