//! Accesses that may fault, and say so instead.
//!
//! Each instruction that is allowed to fault is listed in the linker's exception table with the
//! place to resume at. The trap handler sets the error flag in rax and continues there, so that to
//! the code around it a fault is a value.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::frame::{Frame, PageFaultCode};

const PAGE_FAULT: u64 = 14;
const GENERAL_PROTECTION: u64 = 13;

/// Why a probe did not succeed: the fault's vector and error code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// 13 (#GP) or 14 (#PF).
    pub vector: u8,
    /// The error code that came with it.
    pub error: u32,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if u64::from(self.vector) == PAGE_FAULT {
            return write!(f, "page fault: {}", PageFaultCode(self.error.into()));
        }
        write!(f, "#GP, error code {:#x}", self.error)
    }
}

/// The asm text behind an instruction with the label `2` that may fault: where it does, the exception table
/// goes on from here on.
#[doc(hidden)]
#[macro_export]
macro_rules! goes_on_behind {
    () => {
        ::core::concat!(
            "3:\n",
            ".pushsection .ex_table, \"a\", @progbits\n",
            ".balign 16\n",
            ".quad 2b, 3b\n",
            ".popsection",
        )
    };
}

impl Fault {
    /// Faults travel in one register: bit 63 set, vector and error code below.
    fn pack(vector: u64, error: u64) -> u64 {
        1 << 63 | vector << 32 | error & 0xffff_ffff
    }

    fn unpack(word: u64) -> Result<(), Fault> {
        if word == 0 {
            return Ok(());
        }
        Err(Fault {
            vector: (word >> 32) as u8,
            error: word as u32,
        })
    }
}

/// Reads 8 bytes at `address`.
///
/// # Errors
/// The fault that the read raised.
pub fn read(address: u64) -> Result<u64, Fault> {
    let (value, fault): (u64, u64);
    // SAFETY: a read has no effect on memory the compiler knows of; if it faults, the exception
    // table makes it continue behind the instruction with the fault in rax.
    unsafe {
        core::arch::asm!(
            "2: mov {value}, [{address}]",
            crate::goes_on_behind!(),
            address = in(reg) address,
            value = out(reg) value,
            inout("rax") 0_u64 => fault,
            options(nostack, readonly),
        );
    }
    Fault::unpack(fault).map(|()| value)
}

/// Writes 8 bytes at `address`.
///
/// # Errors
/// The fault that the write raised; nothing was written then.
///
/// # Safety
/// If the address can be written, it must be the caller's to write.
pub unsafe fn write(address: u64, value: u64) -> Result<(), Fault> {
    let fault: u64;
    // SAFETY: the caller owns what is at `address` if it can be written at all; if it faults, the
    // exception table makes it continue behind the instruction with the fault in rax.
    unsafe {
        core::arch::asm!(
            "2: mov [{address}], {value}",
            crate::goes_on_behind!(),
            address = in(reg) address,
            value = in(reg) value,
            inout("rax") 0_u64 => fault,
            options(nostack),
        );
    }
    Fault::unpack(fault)
}

/// Where [`execute`] is about to go, or 0.
static TARGET: AtomicU64 = AtomicU64::new(0);

/// Calls the code at `address`.
///
/// # Errors
/// The fault that the first fetch raised.
///
/// # Safety
/// If there is code that can be executed, it is a `ret`.
pub unsafe fn execute(address: u64) -> Result<(), Fault> {
    let fault: u64;
    TARGET.store(address, Ordering::Relaxed);
    // SAFETY: a `ret` comes straight back. If the fetch faults, `resume` returns from the call,
    // with the fault in rax.
    unsafe {
        core::arch::asm!(
            "call {address}",
            address = in(reg) address,
            inout("rax") 0_u64 => fault,
        );
    }
    TARGET.store(0, Ordering::Relaxed);
    Fault::unpack(fault)
}

/// Returns from a call whose target cannot be executed. False if that is not what faulted.
fn return_from_call(frame: &mut Frame) -> bool {
    if frame.rip == 0 || frame.rip != TARGET.load(Ordering::Relaxed) {
        return false;
    }
    // SAFETY: the faulting instruction was not executed, so the return address that the call in
    // `execute` pushed is still on top of the interrupted stack.
    frame.rip = unsafe { *core::ptr::with_exposed_provenance(frame.rsp as usize) };
    frame.rsp += 8;
    true
}

/// Sends a fault of a listed instruction to its place to resume. False if it is not listed.
pub fn resume(frame: &mut Frame) -> bool {
    if !matches!(frame.vector, PAGE_FAULT | GENERAL_PROTECTION) || frame.from_user() {
        return false;
    }
    let listed = crate::image::exception_table()
        .iter()
        .find(|[at, _]| *at == frame.rip);
    let handled = match listed {
        Some([_, resume_at]) => {
            frame.rip = *resume_at;
            true
        }
        None => return_from_call(frame),
    };
    if handled {
        frame.rax = Fault::pack(frame.vector, frame.error);
    }
    handled
}
