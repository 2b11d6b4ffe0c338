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
use crate::usermode::Called;

/// The registers of a call, in order.
pub(super) type Arguments = [u64; 6];

/// What a call comes to, and what its program finds in RAX then.
#[derive(Clone, Copy)]
struct Answer {
    value: u64,
    called: Called,
}

impl Answer {
    const fn new(value: u64) -> Answer {
        Answer {
            value,
            called: Called::Returned,
        }
    }
}

/// What a call is. It finds its arguments in the registers.
type Call = fn(&mut Current<'_>) -> Answer;

/// The calls of a family, by number.
type Family = &'static [(u32, Call)];

/// The calls of a family, each a function of the running thread and its arguments by its number.
macro_rules! calls {
    ($(($number:expr, $call:expr $(,)?)),* $(,)?) => {
        &[$(($number, |current| {
            let call: fn(&mut Current<'_>, Arguments) -> Result<u64> = $call;
            super::answer($number, current, call)
        })),*]
    };
}
use calls;

/// Makes a call; what the kernel is asked to remember is refused before it has too little.
#[inline(always)]
fn answer(
    number: u32,
    current: &mut Current<'_>,
    call: fn(&mut Current<'_>, Arguments) -> Result<u64>,
) -> Answer {
    if takes_all_registers(number) && !current.has_all_registers {
        return Answer {
            value: number.into(),
            called: Called::NotServed,
        };
    }
    let frame = current.context.frame();
    let arguments = [
        frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9,
    ];
    let result = match remembers(number) && !pages::is_enough() {
        true => Err(Errno::ENOMEM),
        false => call(current, arguments),
    };
    match result {
        Ok(value) => Answer::new(value),
        Err(RESTART) => {
            let interrupted = &current.thread.interrupted;
            interrupted.store(u64::from(number) + 1, Ordering::Relaxed);
            Answer {
                value: error(Errno::EINTR),
                called: Called::Waits,
            }
        }
        Err(errno) => Answer::new(error(errno)),
    }
}

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

static TABLE: [Call; NUMBERS] = table();

const fn table() -> [Call; NUMBERS] {
    let mut table = [unknown as Call; NUMBERS];
    let mut is_known = [false; NUMBERS];
    let mut family = 0;
    while family < FAMILIES.len() {
        let calls = FAMILIES[family];
        let mut i = 0;
        while i < calls.len() {
            let (number, call) = calls[i];
            assert!(!is_known[number as usize], "a call has two places");
            is_known[number as usize] = true;
            table[number as usize] = call;
            i += 1;
        }
        family += 1;
    }
    table
}

/// Which unknown calls the log has named, one bit a number.
static NAMED: [AtomicU64; NUMBERS / 64] = [const { AtomicU64::new(0) }; NUMBERS / 64];

/// Makes the call that a program asks for; what it returns is in the program's registers.
#[inline(always)]
pub(super) fn serve(current: &mut Current<'_>) -> Called {
    let number = current.context.frame().rax;
    let call = TABLE.get(number as usize).copied().unwrap_or(unknown);
    let answer = call(current);
    current.context.frame_mut().rax = answer.value;
    answer.called
}

/// A call that there is not.
fn unknown(current: &mut Current<'_>) -> Answer {
    name(current.context.frame().rax, current.thread.process.number);
    Answer::new(error(Errno::ENOSYS))
}

/// Whether a call looks at other registers than its arguments, or replaces them.
const fn takes_all_registers(number: u32) -> bool {
    matches!(
        number,
        linux::__NR_clone
            | linux::__NR_clone3
            | linux::__NR_execve
            | linux::__NR_execveat
            | linux::__NR_fork
            | linux::__NR_rt_sigreturn
            | linux::__NR_vfork
    )
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
