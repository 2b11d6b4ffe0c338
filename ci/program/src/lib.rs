//! What programs for Linux that make their system calls themselves have in common: how they begin and end,
//! the call, and what they print.
//!
//! They are built for the kernel's own target, so that no other toolchain or C library is needed: static
//! ELF files that ask for exactly what they say.
#![no_std]

use core::arch::asm;
use core::ffi::{CStr, c_char};
use core::fmt::{self, Write};

use linux_raw_sys::general::{__NR_exit_group, __NR_write};

/// Has a program begin with a function that takes its [`Arguments`] and returns its status.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        ::core::arch::global_asm!(
            ".globl _start",
            "_start:",
            "xor ebp, ebp",
            "mov rdi, rsp",
            "and rsp, -16",
            "call {start}",
            "ud2",
            start = sym start,
        );

        extern "C" fn start(stack: *const u64) -> ! {
            // SAFETY: the stack as Linux leaves it, which the instructions above hand on.
            let arguments = unsafe { $crate::Arguments::on(stack) };
            $crate::exit($main(arguments))
        }
    };
}

/// The arguments of a program, its name first.
#[derive(Clone, Debug)]
pub struct Arguments {
    next: *const *const c_char,
    left: usize,
}

impl Arguments {
    /// Those on the stack that a program begins with.
    ///
    /// # Safety
    /// `stack` is as Linux leaves it: the number of arguments, then a pointer to each, for as long as the
    /// program runs.
    #[must_use]
    pub unsafe fn on(stack: *const u64) -> Arguments {
        Arguments {
            next: stack.wrapping_add(1).cast(),
            // SAFETY: the number is there, by this function's contract.
            left: unsafe { stack.read() } as usize,
        }
    }
}

impl Iterator for Arguments {
    type Item = &'static CStr;

    fn next(&mut self) -> Option<&'static CStr> {
        self.left = self.left.checked_sub(1)?;
        // SAFETY: one of the pointers that are left, as was promised when this was made; an argument is a
        // string that ends in a zero byte, there for good.
        let argument = unsafe { CStr::from_ptr(self.next.read()) };
        self.next = self.next.wrapping_add(1);
        Some(argument)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Arguments {}

/// A system call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was asked for.
    pub call: &'static str,
    /// The error's number.
    pub errno: i64,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: error {}", self.call, self.errno)
    }
}

/// Makes a system call; returns what is in RAX then.
///
/// # Safety
/// Pointers among the arguments are good for what the call does with them, and memory that it takes away
/// or changes is not in use.
#[inline(always)]
#[must_use]
pub unsafe fn call(number: u64, [a, b, c, d, e, f]: [u64; 6]) -> i64 {
    let result;
    // SAFETY: the registers are those that Linux reads and writes. The caller promises that pointers are
    // good for this call and that memory which it takes away or changes is not in use.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// What a call came to.
///
/// # Errors
/// Its result is one of the numbers that stand for errors.
#[inline(always)]
pub fn checked(call: &'static str, result: i64) -> Result<u64, Refusal> {
    match result {
        -4095..0 => Err(Refusal {
            call,
            errno: -result,
        }),
        _ => Ok(result as u64),
    }
}

/// What goes to standard output, in pieces as long as there is room for.
struct Output {
    bytes: [u8; 512],
    used: usize,
}

impl Output {
    fn send(&mut self) -> fmt::Result {
        let mut rest = &self.bytes[..self.used];
        while !rest.is_empty() {
            let words = [1, rest.as_ptr() as u64, rest.len() as u64, 0, 0, 0];
            // SAFETY: Linux reads the bytes during the call.
            let done = unsafe { call(__NR_write.into(), words) };
            rest = &rest[usize::try_from(done).map_err(|_| fmt::Error)?..];
        }
        self.used = 0;
        Ok(())
    }
}

impl Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.used == self.bytes.len() {
                self.send()?;
            }
            self.bytes[self.used] = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// Prints: a line in one piece, if it is no longer than 512 bytes.
pub fn print(text: fmt::Arguments<'_>) {
    let mut output = Output {
        bytes: [0; 512],
        used: 0,
    };
    // A console that refuses is beyond help.
    let _ = output.write_fmt(text).and_then(|()| output.send());
}

/// Ends the program.
pub fn exit(status: u64) -> ! {
    loop {
        // SAFETY: takes no memory.
        let _ = unsafe { call(__NR_exit_group.into(), [status, 0, 0, 0, 0, 0]) };
    }
}
