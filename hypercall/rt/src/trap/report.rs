//! What is said of an exception that nobody handles, and of a panic; both end the domain.

use core::arch::asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use super::backtrace::Backtrace;
use crate::frame::{Frame, PageFaultCode};
use crate::{console, power, println, probe, verdict};

const PAGE_FAULT: u64 = 14;

/// Reports under way. A second one means that reporting itself fails.
static DEPTH: AtomicU32 = AtomicU32::new(0);

/// Enters a report, or ends the domain if one is under way.
fn enter(what: &str) {
    match DEPTH.fetch_add(1, Ordering::Relaxed) {
        // SAFETY: the report never returns to whoever holds the console.
        0 => unsafe { console::steal() },
        1 => {
            // SAFETY: neither who holds the console nor the outer report runs again.
            unsafe { console::steal() };
            println!("\ndouble fault: {what} while reporting an earlier failure");
            verdict::crash("double fault");
        }
        _ => {
            console::print_emergency("triple fault: giving up\n");
            power::crash();
        }
    }
}

/// Handles an exception: sends one that is expected to where it says, reports any other and ends the
/// domain. What [`entry!`](crate::entry!) has the stubs call.
pub extern "C" fn handle(frame: &mut Frame) {
    if !probe::resume(frame) {
        unexpected(frame);
    }
}

/// The address that the last page fault was about.
fn fault_address() -> u64 {
    let address;
    // SAFETY: reads a register, which Xen answers for: the processor's own is not the guest's.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

fn unexpected(frame: &Frame) -> ! {
    let (exception, address) = (frame.exception(), fault_address());
    enter(exception.mnemonic);
    println!(
        "\nunexpected exception {} ({}), vector {}, error code {:#x}\n{frame}",
        exception.mnemonic, exception.name, frame.vector, frame.error
    );
    if frame.vector == PAGE_FAULT {
        let code = PageFaultCode(frame.error);
        println!("page fault: {code} at {address:#018x}");
    }
    println!("backtrace:\n{}", Backtrace::from(frame.rip, frame.rbp));
    verdict::crash(exception.mnemonic);
}

/// Reports a panic and ends the domain.
pub fn panic(info: &PanicInfo<'_>) -> ! {
    enter("panic");
    println!("\n{info}");
    println!("backtrace:\n{}", Backtrace::here());
    verdict::crash("panic");
}
