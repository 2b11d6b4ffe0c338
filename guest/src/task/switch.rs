//! From one thread's stack to another's.
//!
//! To the compiler it is a call of a C function: what such a function keeps for its caller lies on the
//! stack that is left, the rest nobody expects to find again. The kernel uses no vector registers.

use core::arch::naked_asm;

/// Words that a thread which does not run has on its stack: six registers, and where it goes on.
const SAVED: usize = 7;

/// Goes on where the thread whose stack is at `to` was left, and leaves where this one's is at `from`;
/// returns when somebody goes on here.
///
/// # Safety
/// `to` is what was left of a stack by this function or by [`prepare`], once for each time; `from` can
/// be written. Upcalls are masked: what comes first on the other stack expects it.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn switch(from: *mut u64, to: u64) {
    naked_asm!(
        xen_pv_rt::callee_saved!(push),
        "mov [rdi], rsp",
        "mov rsp, rsi",
        xen_pv_rt::callee_saved!(pop),
        "ret",
    )
}

/// Has a new stack begin with a call of `entry`: what [`switch`] goes on from.
///
/// # Safety
/// Nobody uses the stack whose top this is, and it has room for a page.
pub(super) unsafe fn prepare(top: u64, entry: extern "C" fn() -> !) -> u64 {
    // Where `entry` goes on, and above it where it would return to: nowhere. So the stack is as after
    // a call, and the chain of frame pointers, of which the first is 0, ends there.
    let words: [u64; SAVED + 1] = [0, 0, 0, 0, 0, 0, entry as usize as u64, 0];
    let start = top - size_of_val(&words) as u64;
    // SAFETY: the caller's promise.
    unsafe {
        core::ptr::with_exposed_provenance_mut::<[u64; SAVED + 1]>(start as usize).write(words);
    }
    start
}
