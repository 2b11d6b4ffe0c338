//! Linux' system calls, as numbers go in and come out.

use core::arch::asm;
use core::fmt::{self, Write};

use linux_raw_sys::general as linux;

/// Makes a system call; returns what is in RAX then.
///
/// Nothing that a call is given may be what this program counts on: what a case points at is its own, and
/// a call at random happens in a process that may die of it.
pub(crate) fn call(number: u32, arguments: &[u64]) -> i64 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = all;
    let result: i64;
    // SAFETY: the registers are those that Linux reads and writes; memory that it writes is the caller's
    // to give, as above.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") u64::from(number) => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// Where something is.
pub(crate) fn at<T: ?Sized>(what: &T) -> u64 {
    core::ptr::from_ref(what).cast::<u8>().expose_provenance() as u64
}

/// Where something is that the call writes.
pub(crate) fn to<T: ?Sized>(what: &mut T) -> u64 {
    core::ptr::from_mut(what).cast::<u8>().expose_provenance() as u64
}

/// Makes a process like this one; 0 in the child. It has this stack as it is, at the same place.
pub(crate) fn fork() -> i64 {
    call(linux::__NR_fork, &[])
}

/// Waits for a child; how it ended, as `wait4` has it, or the error.
pub(crate) fn wait(child: i64) -> i64 {
    let mut status = 0_i32;
    loop {
        match call(linux::__NR_wait4, &[child as u64, to(&mut status), 0, 0]) {
            // EINTR.
            -4 => {}
            error @ ..0 => return error,
            _ => return status.into(),
        }
    }
}

/// Standard output.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let done = call(linux::__NR_write, &[1, at(rest), rest.len() as u64]);
            // A console that refuses is beyond help.
            rest = &rest[usize::try_from(done).map_err(|_| fmt::Error)?..];
        }
        Ok(())
    }
}

/// A line, which goes out in one piece.
struct Line {
    bytes: [u8; 512],
    used: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            *self.bytes.get_mut(self.used).ok_or(fmt::Error)? = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// Prints.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    let mut line = Line {
        bytes: [0; 512],
        used: 0,
    };
    let fits = line.write_fmt(text).is_ok();
    let text = core::str::from_utf8(&line.bytes[..line.used]).unwrap_or("?\n");
    let _ = Console.write_str(text);
    if !fits {
        let _ = Console.write_str("...\n");
    }
}

/// Ends the program.
pub(crate) fn exit(status: u64) -> ! {
    loop {
        call(linux::__NR_exit_group, &[status]);
    }
}
