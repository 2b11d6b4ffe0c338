//! A program for Linux that makes system calls, right and wrong: what they come to here must be what they
//! come to there.
//!
//! ```text
//! calls cases                     makes every call of a list, and prints what each came to
//! calls fuzz SEED COUNT           makes so many calls at random, in processes that may die of it
//! calls spawn COUNT               forks, runs itself and waits, so many times
//! calls crowd COUNT               has so many processes at once
//! calls type KEYS PROGRAM...      runs a program in a terminal, types keys there, prints what it shows
//! ```
//!
//! Built for the kernel's own target, as `linux-bench` is: a static ELF file that makes its system calls
//! itself, and so asks for exactly what the list says.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod cases;
#[cfg(target_os = "none")]
mod crowd;
#[cfg(target_os = "none")]
mod fuzz;
#[cfg(target_os = "none")]
mod system;
#[cfg(target_os = "none")]
mod terminal;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym run::start,
);

#[cfg(target_os = "none")]
mod run {
    use core::ffi::CStr;

    use crate::{cases, crowd, fuzz, system, terminal};

    /// Words that are looked at.
    const WORDS: usize = 16;

    /// `stack` is as Linux leaves it: the number of arguments, then a pointer to each.
    pub(crate) extern "C" fn start(stack: *const u64) -> ! {
        // SAFETY: the number of arguments, as the caller has it from Linux.
        let count = unsafe { stack.read() } as usize;
        let mut words = [c""; WORDS];
        for (at, word) in words.iter_mut().enumerate().take(count) {
            // SAFETY: there are as many pointers behind the number.
            let pointer = unsafe { stack.add(1 + at).read() };
            // SAFETY: an argument is a string that ends in a zero byte, there for good.
            *word = unsafe { CStr::from_ptr(core::ptr::with_exposed_provenance(pointer as usize)) };
        }
        let status = act(&words, count.min(WORDS));
        system::exit(status)
    }

    fn act(words: &[&CStr; WORDS], count: usize) -> u64 {
        let text = |at: usize| words[at].to_str().unwrap_or_default();
        let number = |at: usize| text(at).parse::<u64>();
        match (text(1), number(2), number(3)) {
            ("cases", ..) => cases::run(),
            ("fuzz", Ok(seed), Ok(count)) => fuzz::run(seed, count),
            ("spawn", Ok(count), _) => crowd::spawn(words[0], count),
            ("crowd", Ok(count), _) => crowd::crowd(count),
            // What `spawn` runs.
            ("leave", Ok(status), _) => status,
            ("type", ..) if count > 3 => terminal::run(words[2], &words[3..count]),
            _ => {
                system::print(format_args!("calls cases|fuzz|spawn|crowd|type ...\n"));
                2
            }
        }
    }
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    system::print(format_args!("{info}\n"));
    system::exit(3)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!(
        "This runs on the kernel and on the Linux of the tests. Run: cargo xtask test programs"
    );
    std::process::exit(2);
}
