//! Programs with one frame more of memory each time: whatever frame is the one that is not there, for a
//! program that is begun, maps, moves, forks, runs another and ends, it is told so or ended, and nothing is
//! lost.

extern crate alloc;

use alloc::vec::Vec;
use core::arch::global_asm;

use linux_raw_sys::general as linux;
use xen_pv_rt::start_info::ConsoleInfo;

use super::context::Context;
use super::pile::Pile;
use super::programs::{self, program};
use super::{TestResult, Trouble, selftest};
use crate::ended::Ended;
use crate::mm::frames::FrameError;
use crate::mm::{self, MmError, Tables};
use crate::{stack, user};

program!(
    tries,
    "program_tries",
    // Run by its own child, it has a second argument and nothing to do.
    "cmp qword ptr [rsp], 1",
    "jne 7f",
    "xor edi, edi",
    "mov esi, 0x10000",
    "mov edx, 3",
    "mov r10d, 0x22",
    "mov r8d, -1",
    "xor r9d, r9d",
    "mov eax, {mmap}",
    "syscall",
    "cmp rax, -4096",
    "ja 4f",
    "mov rbx, rax",
    "mov ecx, 16",
    "mov rdi, rbx",
    "2:",
    "mov byte ptr [rdi], 1",
    "add rdi, 0x1000",
    "dec ecx",
    "jnz 2b",
    "mov rdi, rbx",
    "mov esi, 0x10000",
    "mov edx, 0x500000",
    "mov r10d, 1",
    "mov eax, {mremap}",
    "syscall",
    "cmp rax, -4096",
    "ja 4f",
    "mov rbx, rax",
    "cmp byte ptr [rbx + 0xf000], 1",
    "jne 9f",
    "mov byte ptr [rbx + 0x4ff000], 1",
    "mov eax, {fork}",
    "syscall",
    "test eax, eax",
    "js 4f",
    "jz 5f",
    // Written by one of the two first: a copy of page and table.
    "mov byte ptr [rbx], 2",
    "mov edi, -1",
    "lea rsi, [rsp - 64]",
    "xor edx, edx",
    "xor r10d, r10d",
    "mov eax, {wait4}",
    "syscall",
    "cmp dword ptr [rsp - 64], 0",
    "jne 4f",
    "mov rdi, rbx",
    "mov esi, 0x500000",
    "mov eax, {munmap}",
    "syscall",
    "test eax, eax",
    "jnz 4f",
    "7:",
    "xor edi, edi",
    "jmp 8f",
    "4:",
    "mov edi, 2",
    "jmp 8f",
    "5:",
    "mov byte ptr [rbx + 0x1000], 3",
    "mov eax, 0x742f",
    "push rax",
    "mov rdi, rsp",
    "push 0",
    "push rdi",
    "push rdi",
    "mov rsi, rsp",
    "xor edx, edx",
    "mov eax, {execve}",
    "syscall",
    "mov edi, 2",
    "jmp 8f",
    ;
    mmap = linux::__NR_mmap,
    mremap = linux::__NR_mremap,
    munmap = linux::__NR_munmap,
    fork = linux::__NR_fork,
    execve = linux::__NR_execve,
    wait4 = linux::__NR_wait4
);

/// An archive with the program.
pub(super) fn archive() -> Vec<u8> {
    programs::archive(&programs::file(tries()))
}

/// What the program says if something was refused.
pub(super) const REFUSED: u32 = 2 << 8;
/// Ended for want of memory.
pub(super) const KILLED: u32 = linux::SIGKILL;

/// Runs the program while the last of all memory is in a pile, from which one frame more comes each time,
/// until it has all that it wants.
fn starved(context: &mut Context) -> TestResult {
    programs::need_fault_addresses()?;
    let archive = archive();
    // What is kept for the next program, such as room on the heap, is there from now on.
    let with_enough = user::run_from(&archive, ConsoleInfo::Hypervisor, "/t", b"");
    match with_enough.map(Ended::status) {
        Ok(0) => {}
        Ok(REFUSED) => return Err(Trouble::skip("no frames for it can be had")),
        other => {
            return Err(Trouble::fail(format_args!(
                "with enough memory: {other:x?}"
            )));
        }
    }
    stack::trim_all()?;
    let mut pile = Pile::new();
    let taken = mm::with(|tables| {
        loop {
            match tables.alloc_frame() {
                Ok(frame) => pile.push(tables, frame),
                Err(MmError::Frame(FrameError::OutOfMemory)) => return Ok(()),
                Err(other) => return Err(Trouble::error(other)),
            }
        }
    });
    let outcome = taken.and_then(|()| rounds(context, &archive, &mut pile));
    let trimmed = stack::trim_all();
    mm::with(|tables| pile.free(tables))?;
    trimmed?;
    outcome
}
selftest!("programs.starved", starved, needs EVERYWHERE);

/// Runs it with more and more.
fn rounds(context: &mut Context, archive: &[u8], pile: &mut Pile) -> TestResult {
    /// Frames that it never wants together.
    const MOST: usize = 2048;
    let [mut not_begun, mut refused, mut killed] = [0; 3];
    for frames in 0..MOST {
        let ended = user::run_from(archive, ConsoleInfo::Hypervisor, "/t", b"");
        stack::trim_all()?;
        mm::with_all(Tables::audit).map_err(Trouble::error)?;
        match ended.map(Ended::status) {
            Ok(0) => {
                context.note(format_args!(
                    "({frames} frames; {not_begun} times not begun, {refused} refused, {killed} ended)"
                ));
                return Ok(());
            }
            Ok(REFUSED) => refused += 1,
            Ok(KILLED) => killed += 1,
            Err(_) => not_begun += 1,
            Ok(other) => {
                return Err(Trouble::fail(format_args!(
                    "with {frames} frames it ends with {other:#x}"
                )));
            }
        }
        mm::with(|tables| match pile.pop() {
            Some(frame) => tables.free_frame(frame),
            None => Ok(()),
        })?;
    }
    Err(Trouble::fail(format_args!("{MOST} frames are not enough")))
}
