//! The first process of a Linux dom0, or of the kernel: does to pages what the kernel's bench does, by
//! system calls, and what programs do besides, and prints lines of the same form. What is counted is
//! what a program waits for: the system call with everything that its kernel and Xen do for it.
//!
//! Built for the kernel's own target, so that no other toolchain or C library is needed: a static
//! ELF file that makes its system calls itself.
//!
//! - `map` and `unmap` are of a file in memory whose pages exist (`memfd`), so that no page is
//!   allocated, cleared or freed, as with the kernel's; `populate`, `fault` and `munmap` are of
//!   anonymous memory, and include that.
//! - Of `fork` the cost of forking without those pages is taken off.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod operations;
#[cfg(target_os = "none")]
mod processes;
#[cfg(target_os = "none")]
mod system;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    // The number of arguments, the program's name first.
    "mov rdi, [rsp]",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);

#[cfg(target_os = "none")]
extern "C" fn start(arguments: u64) -> ! {
    let refused = operations::run();
    // With an argument it is no machine's only program: who began it judges by its status.
    match refused {
        _ if arguments > 1 => system::exit_group(refused),
        0 => system::print(format_args!("verdict: pass\n")),
        _ => system::print(format_args!("verdict: fail reason=\"{refused} refused\"\n")),
    }
    system::halt()
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    system::print(format_args!("{info}\nverdict: crash reason=\"panic\"\n"));
    system::halt()
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("This is the first process of a Linux to measure. Run: cargo xtask bench --vs linux");
    std::process::exit(2);
}
