//! Linux' system calls (numbers: `arch/x86/entry/syscalls/syscall_64.tbl`).

use core::arch::asm;
use core::fmt::{self, Write};

/// A system call that failed, with the error's number.
pub(crate) struct Refusal(&'static str, i64);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: error {}", self.0, self.1)
    }
}

/// Makes a system call.
///
/// # Safety
/// Pointers among the arguments are good for what the call does with them, and memory that it takes
/// away or changes is not in use.
#[inline(always)]
pub(crate) unsafe fn call(number: u64, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    let result;
    // SAFETY: the registers are those that Linux reads and writes. The caller promises that pointers
    // are good for this call and that memory which it takes away or changes is not in use.
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

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $number:literal ($($argument:ident),*);)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// As [`call`].
            #[inline(always)]
            pub(crate) unsafe fn $name($($argument: u64),*) -> Result<u64, Refusal> {
                let mut arguments = [0; 6];
                let given = [$($argument),*];
                arguments[..given.len()].copy_from_slice(&given);
                // SAFETY: the arguments are the caller's own, and zeros that the call does not read. As
                // `call` demands, the caller promises that pointers among them are good and that memory
                // which is taken away or changed is not in use.
                let result = unsafe { call($number, arguments) };
                if (-4095..0).contains(&result) {
                    return Err(Refusal(stringify!($name), -result));
                }
                Ok(result as u64)
            }
        )*
    };
}

calls! {
    /// Reads.
    read = 0 (file, to, bytes);
    /// Writes.
    write = 1 (file, from, bytes);
    /// Opens a file.
    open = 2 (path, flags, mode);
    /// Closes one.
    close = 3 (file);
    /// Maps memory.
    mmap = 9 (at, bytes, rights, flags, file, offset);
    /// Changes rights.
    mprotect = 10 (at, bytes, rights);
    /// Unmaps memory.
    munmap = 11 (at, bytes);
    /// Moves the end of the heap.
    brk = 12 (end);
    /// Reads from a place.
    pread = 17 (file, to, bytes, at);
    /// Writes to a place.
    pwrite = 18 (file, from, bytes, at);
    /// Makes a pipe.
    pipe = 22 (to);
    /// Moves a mapping.
    mremap = 25 (from, bytes, new_bytes, flags, to);
    /// The process's number: a system call that does next to nothing.
    getpid = 39 (unused);
    /// A second process.
    fork = 57 (unused);
    /// Ends this process.
    exit = 60 (status);
    /// Waits for a process to end.
    wait4 = 61 (process, status, options, usage);
    /// Sets a file's size.
    ftruncate = 77 (file, bytes);
    /// How this process and its children are run.
    personality = 135 (flags);
    /// A file in memory.
    memfd_create = 319 (name, flags);
}

/// Runs a program in a process of its own, which is `vfork`ed or forked; returns the process' number.
///
/// # Safety
/// The words are a path, and lists of arguments and variables.
pub(crate) unsafe fn spawn(by: Spawn, words: [u64; 3]) -> Result<u64, Refusal> {
    let [path, arguments, environment] = words;
    let result: i64;
    // SAFETY: the child of `vfork` runs on this stack until it has another program: so it executes these
    // instructions and no others, and they touch no stack.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov eax, 59",
            "syscall",
            "mov edi, 127",
            "mov eax, 60",
            "syscall",
            "ud2",
            "2:",
            inlateout("rax") by as u64 => result,
            in("rdi") path, in("rsi") arguments, in("rdx") environment,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    if result < 0 {
        return Err(Refusal("fork", -result));
    }
    Ok(result as u64)
}

/// How a process is made that runs another program: the number of the call.
#[derive(Clone, Copy)]
pub(crate) enum Spawn {
    Fork = 57,
    Vfork = 58,
}

/// Standard output.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: Linux reads the text during the call. A console that refuses is beyond help.
        unsafe { call(1, [1, text.as_ptr() as u64, text.len() as u64, 0, 0, 0]) };
        Ok(())
    }
}

/// Prints.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    let _ = Console.write_fmt(text);
}

/// Ends this process.
pub(crate) fn exit_group(status: usize) -> ! {
    const EXIT_GROUP: u64 = 231;
    loop {
        // SAFETY: takes no memory.
        unsafe { call(EXIT_GROUP, [status as u64, 0, 0, 0, 0, 0]) };
    }
}

/// Stops the machine.
pub(crate) fn halt() -> ! {
    const REBOOT: u64 = 169;
    const MAGIC: [u64; 2] = [0xfee1_dead, 672_274_793];
    const HALT: u64 = 0xcdef_0123;
    loop {
        // SAFETY: takes no memory.
        unsafe { call(REBOOT, [MAGIC[0], MAGIC[1], HALT, 0, 0, 0]) };
    }
}

/// The time-stamp counter, which counts instructions here.
#[inline(always)]
pub(crate) fn tsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}
