//! Linux' system calls (numbers: `arch/x86/entry/syscalls/syscall_64.tbl`).

use core::arch::asm;

use linux_program::{Refusal, call, checked};

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
                checked(stringify!($name), unsafe { call($number, arguments) })
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
    checked("fork", result)
}

/// How a process is made that runs another program: the number of the call.
#[derive(Clone, Copy)]
pub(crate) enum Spawn {
    Fork = 57,
    Vfork = 58,
}

/// Stops the machine.
pub(crate) fn halt() -> ! {
    const REBOOT: u64 = 169;
    const MAGIC: [u64; 2] = [0xfee1_dead, 672_274_793];
    const HALT: u64 = 0xcdef_0123;
    loop {
        // SAFETY: takes no memory.
        let _ = unsafe { call(REBOOT, [MAGIC[0], MAGIC[1], HALT, 0, 0, 0]) };
    }
}

/// The time-stamp counter, which counts instructions here.
#[inline(always)]
pub(crate) fn tsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}
