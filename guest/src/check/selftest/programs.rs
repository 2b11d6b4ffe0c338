//! Programs: small ones of a few instructions each, which say by their status whether they found what
//! Linux promises. The runner counts what they leave behind: nothing.

extern crate alloc;

use alloc::vec::Vec;
use core::arch::global_asm;
use core::fmt::Write;

use heapless::String;
use linux_raw_sys::general as linux;

use super::context::need_frames;
use super::{Context, TestResult, Trouble, expect_eq, selftest};
use crate::ended::Ended;
use crate::{mm, stack};
use crate::{user, usermode};
use xen_pv_rt::start_info::ConsoleInfo;

/// Where a program is put.
const BASE: u64 = 0x40_0000;
/// Frames that a small program and its child need, with those that programs leave to the kernel.
const FRAMES: u64 = 512;
/// Bytes of the headers before its code.
const HEADERS: u64 = 64 + 56;

/// Declares a program: its instructions. Behind them is its end: from the label `9` on as a failure, from
/// `8` on with the status that is in EDI.
macro_rules! program {
    ($name:ident, $label:literal, $($line:expr),* $(, ; $($constant:ident = $value:expr),*)?) => {
        global_asm!(
            ".pushsection .rodata",
            concat!($label, "_start:"),
            $($line,)*
            "9:",
            "mov edi, 1",
            "8:",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            concat!($label, "_end:"),
            ".popsection",
            exit = const linux_raw_sys::general::__NR_exit_group,
            $($($constant = const $value,)*)?
        );

        /// Its instructions.
        fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!($label, "_start")]
                static START: u8;
                #[link_name = concat!($label, "_end")]
                static END: u8;
            }
            let (start, end) = (&raw const START, &raw const END);
            // SAFETY: the two labels enclose constants of the image.
            unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
        }
    };
}

pub(super) use program;

/// A program file: one segment, readable and executable, that has the headers and the code.
pub(super) fn file(code: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let size = HEADERS + code.len() as u64;
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2_u16, 62] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1_u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    // A loadable segment, readable and executable.
    for half in [1_u32, 5] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 4096] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(code);
    file
}

/// An archive (cpio, newc) with one file, `/t`.
pub(super) fn archive(file: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, data) in [("t\0", 0o100_755_u32, file), ("TRAILER!!!\0", 0, &[])] {
        let mut header = String::<110>::new();
        let fields = [
            1,
            mode,
            0,
            0,
            1,
            0,
            data.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32,
            0,
        ];
        // As long as a header is.
        let _ = header.push_str("070701");
        for field in fields {
            let _ = write!(header, "{field:08x}");
        }
        for part in [header.as_bytes(), name.as_bytes()] {
            archive.extend_from_slice(part);
        }
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// Skips a test where no program can be run.
pub(super) fn need_fault_addresses() -> TestResult {
    match usermode::has_fault_addresses() {
        true => Ok(()),
        false => Err(Trouble::skip("page faults come without their address")),
    }
}

/// Runs a program, and says with what status it ended, as `wait4` has it.
fn status(code: &[u8]) -> Result<u32, Trouble> {
    need_fault_addresses()?;
    mm::with(|tables| need_frames(tables, FRAMES))?;
    let archive = archive(&file(code));
    let ended = user::run_from(&archive, ConsoleInfo::Hypervisor, "/t", b"");
    stack::trim_all()?;
    ended.map(Ended::status).map_err(Trouble::error)
}

/// Fails unless a program ends by itself with 0.
pub(super) fn expect_good(code: &[u8]) -> TestResult {
    expect_eq!(status(code)?, 0, "the program's status");
    Ok(())
}

program!(
    forks,
    "program_forks",
    // A word of the stack that the child changes, and the parent does not see.
    "push 7",
    "mov eax, {fork}",
    "syscall",
    "test eax, eax",
    "js 9f",
    "jz 5f",
    "mov ebx, eax",
    "mov edi, -1",
    "lea rsi, [rsp - 64]",
    "xor edx, edx",
    "xor r10d, r10d",
    "mov eax, {wait4}",
    "syscall",
    "cmp eax, ebx",
    "jne 9f",
    "cmp dword ptr [rsp - 64], 0x2900",
    "jne 9f",
    "cmp qword ptr [rsp], 7",
    "jne 9f",
    // There is none any more.
    "mov eax, {wait4}",
    "syscall",
    "cmp rax, -{echild}",
    "jne 9f",
    "xor edi, edi",
    "jmp 8f",
    "5:",
    "mov qword ptr [rsp], 8",
    "mov edi, 41",
    "jmp 8f",
    ;
    fork = linux::__NR_fork,
    wait4 = linux::__NR_wait4,
    echild = linux_raw_sys::errno::ECHILD
);

/// A child has a copy of its parent's memory, and its parent learns its status, once.
fn fork(_: &mut Context) -> TestResult {
    expect_good(forks())
}
selftest!("programs.fork", fork, needs EVERYWHERE);

program!(
    reads_kernel,
    "program_reads_kernel",
    "mov rax, 0xffff888000000000",
    "mov rax, [rax]",
    "xor edi, edi",
    "jmp 8f"
);

program!(
    passes_kernel,
    "program_passes_kernel",
    // A kernel address, one that is none, and one whose end is the kernel's, as memory to write to.
    "mov r12, 0xffff888000000000",
    "call 2f",
    "mov r12, 0x8000000000000000",
    "call 2f",
    "mov r12, 0x00007ffffffffff8",
    "call 2f",
    "mov r12, 0xfffffffffffffff8",
    "call 2f",
    "xor edi, edi",
    "jmp 8f",
    "2:",
    "mov rdi, r12",
    "mov eax, {uname}",
    "syscall",
    "cmp rax, -{efault}",
    "jne 9f",
    "mov rdi, r12",
    "mov esi, 64",
    "xor edx, edx",
    "mov eax, {getrandom}",
    "syscall",
    "cmp rax, -{efault}",
    "jne 9f",
    "ret",
    ;
    uname = linux::__NR_uname,
    getrandom = linux::__NR_getrandom,
    efault = linux_raw_sys::errno::EFAULT
);

/// What a program reads of the kernel's ends it, and no call reads or writes there for it.
fn kernel(_: &mut Context) -> TestResult {
    expect_eq!(
        status(reads_kernel())?,
        linux::SIGSEGV,
        "the end of one that reads the kernel"
    );
    expect_good(passes_kernel())
}
selftest!("programs.kernel", kernel, needs EVERYWHERE);

program!(
    handles,
    "program_handles",
    // struct kernel_sigaction: handler, flags (SA_SIGINFO and SA_RESTORER), restorer, mask.
    "push 0",
    "lea rax, [rip + 7f]",
    "push rax",
    "push 0x04000004",
    "lea rax, [rip + 6f]",
    "push rax",
    "mov edi, {segv}",
    "mov rsi, rsp",
    "xor edx, edx",
    "mov r10d, 8",
    "mov eax, {sigaction}",
    "syscall",
    "test rax, rax",
    "jnz 9f",
    "mov r15d, 0x1234",
    "mov eax, 0x5678",
    "mov ecx, 0x5008",
    "movq xmm3, rcx",
    // The handler makes this one succeed.
    "mov byte ptr [rcx], 1",
    "cmp r15d, 0x1234",
    "jne 9f",
    "cmp eax, 0x5678",
    "jne 9f",
    "movq rdx, xmm3",
    "cmp edx, 0x5008",
    "jne 9f",
    "xor edi, edi",
    "jmp 8f",
    // The handler: signal, siginfo, ucontext. It goes on behind the instruction of three bytes.
    "6:",
    "cmp edi, {segv}",
    "jne 9f",
    "cmp qword ptr [rsi + 16], 0x5008",
    "jne 9f",
    "add qword ptr [rdx + 168], 3",
    "xor r15d, r15d",
    "xorps xmm3, xmm3",
    "ret",
    "7:",
    "mov eax, {sigreturn}",
    "syscall",
    ;
    segv = linux::SIGSEGV,
    sigaction = linux::__NR_rt_sigaction,
    sigreturn = linux::__NR_rt_sigreturn
);

/// A handler is told of a fault and where it was, and the program goes on with all its registers, as the
/// handler left them in its frame.
fn handler(_: &mut Context) -> TestResult {
    expect_good(handles())
}
selftest!("programs.handler", handler, needs EVERYWHERE);

program!(
    hog,
    "program_hog",
    "mov eax, {fork}",
    "syscall",
    "test eax, eax",
    "js 9f",
    "jz 5f",
    "mov ebx, eax",
    // struct timespec: 5 ms.
    "push 5000000",
    "push 0",
    "mov rdi, rsp",
    "xor esi, esi",
    "mov eax, {nanosleep}",
    "syscall",
    "mov edi, ebx",
    "mov esi, 9",
    "mov eax, {kill}",
    "syscall",
    "mov edi, ebx",
    "mov rsi, rsp",
    "xor edx, edx",
    "xor r10d, r10d",
    "mov eax, {wait4}",
    "syscall",
    "cmp dword ptr [rsp], 9",
    "jne 9f",
    "xor edi, edi",
    "jmp 8f",
    // All flags that a program can have: the alignment check among them, and the direction.
    "5:",
    "push 0x240cd7",
    "popfq",
    "3:",
    "mov eax, {getpid}",
    "syscall",
    "mov ecx, 10000",
    "4:",
    "dec ecx",
    "jnz 4b",
    "jmp 3b",
    ;
    fork = linux::__NR_fork,
    nanosleep = linux::__NR_nanosleep,
    kill = linux::__NR_kill,
    wait4 = linux::__NR_wait4,
    getpid = linux::__NR_getpid
);

/// A program that never waits does not keep the processor from others, whatever its flags are, and is
/// killed.
fn preempted(_: &mut Context) -> TestResult {
    if crate::time::monotonic().is_none() {
        return Err(Trouble::skip("no clock"));
    }
    expect_good(hog())
}
selftest!("programs.preempted", preempted, needs EVERYWHERE);

program!(
    maps,
    "program_maps",
    // Two pages, the second of which is then taken away, and comes back with what it had.
    "xor edi, edi",
    "mov esi, 0x2000",
    "mov edx, 3",
    "mov r10d, 0x22",
    "mov r8d, -1",
    "xor r9d, r9d",
    "mov eax, {mmap}",
    "syscall",
    "mov rbx, rax",
    "mov qword ptr [rbx + 0x1000], 77",
    "lea rdi, [rbx + 0x1000]",
    "mov esi, 0x1000",
    "xor edx, edx",
    "mov eax, {mprotect}",
    "syscall",
    "test rax, rax",
    "jnz 9f",
    // Nobody reads it now, not even the kernel.
    "lea rdi, [rbx + 0x1000]",
    "mov eax, {uname}",
    "syscall",
    "cmp rax, -{efault}",
    "jne 9f",
    "lea rdi, [rbx + 0x1000]",
    "mov esi, 0x1000",
    "mov edx, 1",
    "mov eax, {mprotect}",
    "syscall",
    "cmp qword ptr [rbx + 0x1000], 77",
    "jne 9f",
    // It grows, wherever there is room.
    "lea rdi, [rbx + 0x1000]",
    "mov esi, 0x1000",
    "mov edx, 0x500000",
    "mov r10d, 1",
    "mov eax, {mremap}",
    "syscall",
    "mov r12, rax",
    "cmp qword ptr [r12], 77",
    "jne 9f",
    "cmp qword ptr [r12 + 0x4ff000], 0",
    "jne 9f",
    // Gone.
    "mov rdi, r12",
    "mov esi, 0x500000",
    "mov eax, {munmap}",
    "syscall",
    "mov rdi, r12",
    "mov eax, {uname}",
    "syscall",
    "cmp rax, -{efault}",
    "jne 9f",
    // The heap grows and shrinks; the stack grows by itself.
    "xor edi, edi",
    "mov eax, {brk}",
    "syscall",
    "mov r13, rax",
    "lea rdi, [r13 + 0x3000]",
    "mov eax, {brk}",
    "syscall",
    "mov byte ptr [r13 + 0x2fff], 1",
    "mov rdi, r13",
    "mov eax, {brk}",
    "syscall",
    "cmp rax, r13",
    "jne 9f",
    "mov byte ptr [rsp - 0x100000], 1",
    // A terabyte that nobody touches costs no time.
    "xor edi, edi",
    "mov rsi, 0x10000000000",
    "mov edx, 3",
    "mov r10d, 0x22",
    "mov r8d, -1",
    "xor r9d, r9d",
    "mov eax, {mmap}",
    "syscall",
    "mov rdi, rax",
    "mov rsi, 0x10000000000",
    "xor edx, edx",
    "mov eax, {mprotect}",
    "syscall",
    "test rax, rax",
    "jnz 9f",
    // Writable code there is none.
    "xor edi, edi",
    "mov esi, 0x1000",
    "mov edx, 7",
    "mov r10d, 0x22",
    "mov r8d, -1",
    "xor r9d, r9d",
    "mov eax, {mmap}",
    "syscall",
    "cmp rax, -{eacces}",
    "jne 9f",
    "xor edi, edi",
    "jmp 8f",
    ;
    mmap = linux::__NR_mmap,
    mprotect = linux::__NR_mprotect,
    mremap = linux::__NR_mremap,
    munmap = linux::__NR_munmap,
    brk = linux::__NR_brk,
    uname = linux::__NR_uname,
    efault = linux_raw_sys::errno::EFAULT,
    eacces = linux_raw_sys::errno::EACCES
);

/// What a program maps, protects, moves and unmaps is as it asked for.
fn memory(_: &mut Context) -> TestResult {
    expect_good(maps())
}
selftest!("programs.memory", memory, needs EVERYWHERE);

/// A file that is no program, and none at all, are refused, and leave nothing.
fn refused(_: &mut Context) -> TestResult {
    need_fault_addresses()?;
    mm::with(|tables| need_frames(tables, FRAMES))?;
    let archive =
        archive(b"\x7fELF but no more than that, and so nothing that could ever be run..........");
    for path in ["/t", "/nothing"] {
        let ended = user::run_from(&archive, ConsoleInfo::Hypervisor, path, b"");
        if ended.is_ok() {
            return Err(Trouble::fail(format_args!("{path} was run")));
        }
    }
    stack::trim_all()?;
    Ok(())
}
selftest!("programs.refused", refused, needs EVERYWHERE);
