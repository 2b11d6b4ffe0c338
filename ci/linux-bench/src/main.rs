//! The first process of a Linux dom0, or of the kernel: does to pages what the kernel's bench does, by
//! system calls, and what programs do besides, and prints lines of the same form. What is counted is
//! what a program waits for: the system call with everything that its kernel and Xen do for it.
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
linux_program::entry!(run);

/// Measures. With an argument it is no machine's only program: who began it judges by its status.
#[cfg(target_os = "none")]
fn run(arguments: linux_program::Arguments) -> u64 {
    let refused = operations::run() as u64;
    match refused {
        _ if arguments.len() > 1 => return refused,
        0 => linux_program::print(format_args!("verdict: pass\n")),
        _ => linux_program::print(format_args!("verdict: fail reason=\"{refused} refused\"\n")),
    }
    system::halt()
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    linux_program::print(format_args!("{info}\nverdict: crash reason=\"panic\"\n"));
    system::halt()
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("This is the first process of a Linux to measure. Run: cargo xtask bench --vs linux");
    std::process::exit(2);
}
