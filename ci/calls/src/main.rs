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
//! It makes its system calls itself, and so asks for exactly what the list says.
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
linux_program::entry!(run::run);

#[cfg(target_os = "none")]
mod run {
    use core::ffi::CStr;

    use linux_program::{Arguments, print};

    use crate::{cases, crowd, fuzz, terminal};

    /// Words that are looked at.
    const WORDS: usize = 16;

    /// Does what the arguments say; returns the status.
    pub(crate) fn run(arguments: Arguments) -> u64 {
        let mut words = [c""; WORDS];
        let count = arguments.len().min(WORDS);
        for (word, argument) in words.iter_mut().zip(arguments) {
            *word = argument;
        }
        act(&words, count)
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
                print(format_args!("calls cases|fuzz|spawn|crowd|type ...\n"));
                2
            }
        }
    }
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    linux_program::print(format_args!("{info}\n"));
    linux_program::exit(3)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!(
        "This runs on the kernel and on the Linux of the tests. Run: cargo xtask test programs"
    );
    std::process::exit(2);
}
