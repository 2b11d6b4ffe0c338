//! Accesses that may fault, and say so instead.
//!
//! Each instruction that is allowed to fault is listed in the linker's exception table with the
//! place to resume at. The trap handler sets the error flag in rax and continues there, so that to
//! the code around it a fault is a value.

use super::frame::Frame;

const PAGE_FAULT: u64 = 14;
const GENERAL_PROTECTION: u64 = 13;

/// Why a probe did not succeed: the fault's vector and error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// 13 (#GP) or 14 (#PF).
    pub vector: u8,
    /// The error code that came with it.
    pub error: u32,
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
            "3:",
            ".pushsection .ex_table, \"a\", @progbits",
            ".balign 16",
            ".quad 2b, 3b",
            ".popsection",
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
            "3:",
            ".pushsection .ex_table, \"a\", @progbits",
            ".balign 16",
            ".quad 2b, 3b",
            ".popsection",
            address = in(reg) address,
            value = in(reg) value,
            inout("rax") 0_u64 => fault,
            options(nostack),
        );
    }
    Fault::unpack(fault)
}

/// Sends a fault of a listed instruction to its place to resume. False if it is not listed.
pub(super) fn resume(frame: &mut Frame) -> bool {
    if !matches!(frame.vector, PAGE_FAULT | GENERAL_PROTECTION) || frame.from_user() {
        return false;
    }
    let listed = linker::exception_table()
        .iter()
        .find(|[at, _]| *at == frame.rip);
    if let Some([_, resume_at]) = listed {
        frame.rip = *resume_at;
        frame.rax = Fault::pack(frame.vector, frame.error);
    }
    listed.is_some()
}
