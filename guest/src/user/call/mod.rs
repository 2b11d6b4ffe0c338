//! System calls: a table by number, filled by one file for each family.
//!
//! A call is a function of the running thread and six words. What is not in the table is `ENOSYS`, and
//! the log names it once.

mod file;
mod memory;
mod path;
mod poll;
mod process;
mod signal;
mod system;
mod time;
mod wait;

pub(super) use system::host_name;

use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general as linux;
use syscalls::Sysno;

use super::errno::{Errno, RESTART, Result};
use super::pages;
use super::thread::Current;

/// The registers of a call, in order.
pub(super) type Arguments = [u64; 6];

/// What a call is.
type Call = fn(&mut Current<'_>, Arguments) -> Result<u64>;

/// The calls of a family, by number.
type Family = &'static [(u32, Call)];

/// Numbers that have a place in the table.
const NUMBERS: usize = 512;

const FAMILIES: &[Family] = &[
    file::CALLS,
    memory::CALLS,
    path::CALLS,
    poll::CALLS,
    process::CALLS,
    signal::CALLS,
    system::CALLS,
    time::CALLS,
    wait::CALLS,
];

/// A call that there is.
#[derive(Clone, Copy)]
struct Known {
    call: Call,
    /// Whether it has the kernel remember something new.
    remembers: bool,
}

static TABLE: [Option<Known>; NUMBERS] = table();

const fn table() -> [Option<Known>; NUMBERS] {
    let mut table = [None; NUMBERS];
    let mut family = 0;
    while family < FAMILIES.len() {
        let calls = FAMILIES[family];
        let mut i = 0;
        while i < calls.len() {
            let (number, call) = calls[i];
            assert!(table[number as usize].is_none(), "a call has two places");
            table[number as usize] = Some(Known {
                call,
                remembers: remembers(number),
            });
            i += 1;
        }
        family += 1;
    }
    table
}

/// Which unknown calls the log has named, one bit a number.
static NAMED: [AtomicU64; NUMBERS / 64] = [const { AtomicU64::new(0) }; NUMBERS / 64];

/// Makes the call that a program asks for; what it returns is in the program's registers.
pub(super) fn serve(current: &mut Current<'_>) {
    let frame = current.context.frame();
    let number = frame.rax;
    let arguments = [
        frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9,
    ];
    let known = TABLE.get(number as usize).and_then(Option::as_ref);
    let result = match known {
        // What a program asks the kernel to remember is refused before the kernel has too little.
        Some(known) if known.remembers && !pages::is_enough() => Err(Errno::ENOMEM),
        Some(known) => (known.call)(current, arguments),
        None => {
            name(number, current.thread.process.number);
            Err(Errno::ENOSYS)
        }
    };
    let value = match result {
        Ok(value) => value,
        Err(RESTART) => {
            let interrupted = &current.thread.interrupted;
            interrupted.store(number + 1, Ordering::Relaxed);
            error(Errno::EINTR)
        }
        Err(errno) => error(errno),
    };
    current.context.frame_mut().rax = value;
}

/// Whether a call has the kernel remember something new, such as a file or a thread.
const fn remembers(number: u32) -> bool {
    matches!(
        number,
        linux::__NR_clone
            | linux::__NR_clone3
            | linux::__NR_creat
            | linux::__NR_dup
            | linux::__NR_dup2
            | linux::__NR_dup3
            | linux::__NR_epoll_create
            | linux::__NR_epoll_create1
            | linux::__NR_epoll_ctl
            | linux::__NR_eventfd
            | linux::__NR_eventfd2
            | linux::__NR_execve
            | linux::__NR_fork
            | linux::__NR_link
            | linux::__NR_linkat
            | linux::__NR_memfd_create
            | linux::__NR_mkdir
            | linux::__NR_mkdirat
            | linux::__NR_mknod
            | linux::__NR_mknodat
            | linux::__NR_mmap
            | linux::__NR_mount
            | linux::__NR_setgroups
            | linux::__NR_open
            | linux::__NR_openat
            | linux::__NR_pipe
            | linux::__NR_pipe2
            | linux::__NR_rename
            | linux::__NR_renameat
            | linux::__NR_renameat2
            | linux::__NR_socketpair
            | linux::__NR_symlink
            | linux::__NR_symlinkat
            | linux::__NR_timerfd_create
            | linux::__NR_vfork
    )
}

/// An error as a call returns it.
fn error(errno: Errno) -> u64 {
    (-i64::from(errno.number())) as u64
}

/// Names a call that is not known, once.
fn name(number: u64, process: u32) {
    let known = NAMED.get((number / 64) as usize);
    let bit = 1 << (number % 64);
    if known.is_none_or(|word| word.fetch_or(bit, Ordering::Relaxed) & bit != 0) {
        return;
    }
    let name = Sysno::new(number as usize).map_or("no name", |call| call.name());
    log::info!(target: "user", "process {process} asks for system call {number} ({name}), which there is not");
}

/// A descriptor, as it comes in a register.
fn descriptor(word: u64) -> i32 {
    word as i32
}
