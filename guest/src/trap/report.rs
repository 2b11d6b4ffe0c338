//! The report of an exception nobody handled, and of a panic; both end the domain.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hypercall::Hypervisor;

use linker::symbols;
use xen_pv_rt::trap::backtrace::{Backtrace, Names};

use crate::frame::{Frame, PageFaultCode};
use crate::xen::HV;
use crate::{console, cpu, mm, power, println, verdict};

const PAGE_FAULT: u64 = 14;

/// Functions of this image.
pub(super) const NAMES: Names = |address| symbols::current().find(address);

/// Reports under way. A second one means that reporting itself fails.
static DEPTH: AtomicU32 = AtomicU32::new(0);

/// Makes the next report fail on purpose, to test what happens then.
pub static FAIL_IN_REPORT: AtomicBool = AtomicBool::new(false);

/// Enters a report, or ends the domain if one is under way. No event is taken from here on.
fn enter(what: &str) {
    HV.mask_upcalls();
    power::only_one();
    // Nothing of it is given back, and what is wanted from here on is taken over.
    cpu::here().held.forget();
    match DEPTH.fetch_add(1, Ordering::Relaxed) {
        0 => {
            power::stop_others();
            // SAFETY: the report never returns to whoever holds the console.
            unsafe { console::steal() };
        }
        1 => {
            // SAFETY: neither who holds the console nor the outer report runs again.
            unsafe { console::steal() };
            console::print_panicking("\n");
            console::print(format_args!("\n"));
            println!("double fault: {what} while reporting an earlier failure");
            verdict::crash("double fault");
            power::crash();
        }
        2 => {
            console::print_panicking("triple fault: giving up\n");
            power::crash();
        }
        _ => power::crash(),
    }
}

/// Says which vCPU it is, where there are several.
fn print_vcpu() {
    let (here, running) = (cpu::here().number(), cpu::running());
    if running > 1 {
        println!("on vCPU {here} of {running}; the others are stopped");
    }
}

/// Reports an exception that nobody handled and ends the domain.
pub fn unexpected(frame: &Frame) -> ! {
    let exception = frame.exception();
    enter(exception.mnemonic);
    println!(
        "\nunexpected exception {} ({}), vector {}, error code {:#x}",
        exception.mnemonic, exception.name, frame.vector, frame.error
    );
    print_vcpu();
    println!("{frame}");
    if frame.vector == PAGE_FAULT {
        match super::fault_address() {
            Some(address) => {
                println!(
                    "page fault: {} at {address:#018x}",
                    PageFaultCode(frame.error)
                );
                let walk = |tables: &mm::Tables<mm::Running>, in_use| {
                    println!("{}", tables.walk(address));
                    if in_use {
                        println!("  (the page tables were in use: a change may be half done)");
                    }
                };
                // SAFETY: the report never returns to whoever uses the page tables.
                unsafe { mm::steal(walk) };
            }
            None => {
                println!(
                    "page fault: {}; its address is in shared_info, not mapped yet",
                    PageFaultCode(frame.error)
                );
            }
        }
    }
    println!(
        "backtrace:\n{}",
        Backtrace::from(frame.rip, frame.rbp).with(NAMES)
    );
    if FAIL_IN_REPORT.load(Ordering::Relaxed) {
        // SAFETY: never succeeds: the fault is the point.
        unsafe { core::arch::asm!("ud2") };
    }
    verdict::crash(exception.mnemonic);
    power::crash();
}

/// Reports a panic and ends the domain.
pub fn panic(info: &PanicInfo<'_>) -> ! {
    enter("panic");
    println!("\n{info}");
    print_vcpu();
    let (rsp, rflags): (u64, u64);
    // SAFETY: reads two registers.
    unsafe { core::arch::asm!("mov {}, rsp", "pushfq", "pop {}", out(reg) rsp, out(reg) rflags) };
    println!("  rsp {rsp:016x}  rflags {rflags:08x}");
    println!("backtrace:\n{}", Backtrace::here().with(NAMES));
    verdict::crash("panic");
    power::crash();
}
