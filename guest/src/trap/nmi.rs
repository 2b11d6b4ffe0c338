//! Non-maskable interrupts, by which somebody outside asks where a vCPU is that does not answer
//! (`xl trigger DOMAIN nmi VCPU`): it says so, and goes on.
//!
//! One comes at any instruction, with upcalls masked or not and whatever is locked; Xen lets no second one
//! in before the iret hypercall (`async_exception_cleanup`, `xen/arch/x86/pv/iret.c`). So the console is
//! taken only where that needs no waiting for who was interrupted. Where the report must go without, the
//! next one says where it was.

use core::sync::atomic::{AtomicU64, Ordering};

use xen_pv_rt::trap::backtrace::Backtrace;

use super::report::NAMES;
use crate::frame::Frame;
use crate::{console, cpu};

/// Its vector (SDM volume 3, table 6-1).
pub(crate) const VECTOR: u64 = 2;

/// Where one was of which nothing could be said; 0 for none.
static UNSAID: AtomicU64 = AtomicU64::new(0);

/// Says where this vCPU is: in the kernel, or in a program, of whose stack nothing is read.
pub(crate) fn report(frame: &Frame, in_kernel: bool) {
    let number = cpu::here().number();
    let before = UNSAID.swap(0, Ordering::Relaxed);
    let said = match in_kernel {
        true => console::print_if_free(format_args!(
            "\nnmi: vCPU {number} is here\n{frame}\nbacktrace:\n{}\n",
            Backtrace::from(frame.rip, frame.rbp).with(NAMES)
        )),
        false => console::print_if_free(format_args!(
            "\nnmi: vCPU {number} is here, in a program\n{frame}\n"
        )),
    };
    if !said {
        UNSAID.store(frame.rip, Ordering::Relaxed);
    } else if before != 0 {
        console::print_if_free(format_args!(
            "nmi: one before came as the console was in use, at {before:#018x}\n"
        ));
    }
}
