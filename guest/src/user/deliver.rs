//! Signals on their way into a program: its handler is called on its stack, with all that lets it go back.
//!
//! What stands on the stack is Linux' `struct rt_sigframe` (`arch/x86/include/asm/sigframe.h`), in words:
//! where the handler returns to, `struct ucontext` with the registers, `struct siginfo`; above them, at a
//! multiple of 64 bytes, the vector registers as XSAVE or FXSAVE writes them. No crate has these layouts;
//! they are part of the ABI and do not change.

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use linux_raw_sys::general as linux;

use super::access::User;
use super::errno::{Errno, Result, Room};
use super::process;
use super::signal::{self, ABSOLUTE, Action, Effect, Info};
use super::thread::Current;
use crate::task;
use crate::usermode::END;

/// Words below the handler's `siginfo`: where it returns to, and `struct ucontext`.
const CONTEXT: usize = 39;
/// Words of the whole frame.
const FRAME: usize = CONTEXT + 16;
/// Where in the frame: `uc_flags`, `uc_stack`, the registers, the pointer to the vector registers, the mask.
const FLAGS: usize = 1;
const STACK: usize = 3;
const REGISTERS: usize = 6;
const VECTORS: usize = REGISTERS + 23;
const MASK: usize = 38;
/// `UC_SIGCONTEXT_SS` and `UC_STRICT_RESTORE_SS` (`asm/ucontext.h`), and that there are vector registers
/// beyond FXSAVE's (`UC_FP_XSTATE`).
const HAS_SS: u64 = 6;
const HAS_XSTATE: u64 = 1;
/// CS and SS as programs know them under Linux, in the word that has CS, GS, FS and SS.
const SELECTORS: u64 = 0x33 | 0x2b << 48;
/// What a program may use below its stack pointer without moving it.
const RED_ZONE: u64 = 128;

/// Does all that the signals that wait have to do, and has an interrupted system call made again where
/// that is what the program expects.
pub(crate) fn signals(current: &mut Current<'_>) {
    let thread = current.thread;
    while !thread.is_doomed() {
        let Some((number, info)) = signal::take(thread, thread.wanted()) else {
            break;
        };
        let action = thread.process.signals.action(number);
        match action.effect(number) {
            Effect::Nothing => {}
            Effect::End => process::end(&thread.process, signal::killed_by(number)),
            Effect::Stop => {
                process::stop(&thread.process, number);
                task::wait_until(|_| {
                    let goes_on = !process::is_stopped(&thread.process) || thread.is_doomed();
                    goes_on.then_some(())
                });
            }
            Effect::Handler => {
                again(current, Some(action));
                if call(current, number, action, info).is_err() {
                    // There is no stack for it.
                    process::end(&thread.process, signal::killed_by(linux::SIGSEGV));
                }
            }
        }
    }
    again(current, None);
    if let Some(mask) = thread.saved_mask.lock().take() {
        thread.mask.store(mask, Ordering::Relaxed);
    }
}

/// Has the system call that was interrupted made again, unless a handler is called that says otherwise.
fn again(current: &mut Current<'_>, action: Option<Action>) {
    /// Bytes of `syscall`.
    const LENGTH: u64 = 2;
    let interrupted = current.thread.interrupted.swap(0, Ordering::Relaxed);
    let Some(number) = interrupted.checked_sub(1) else {
        return;
    };
    if action.is_none_or(|action| action.has(linux::SA_RESTART)) {
        let frame = current.context.frame_mut();
        frame.rax = number;
        frame.rip -= LENGTH;
        current.context.replaced();
    }
}

/// Has the program go on in a handler.
fn call(current: &mut Current<'_>, number: u32, action: Action, info: Info) -> Result<()> {
    let (thread, user) = (current.thread, User(&current.memory));
    if !action.has(linux::SA_RESTORER) {
        return Err(Errno::EFAULT);
    }
    let frame = *current.context.frame();
    let stack = *thread.stack.lock();
    let on_own = action.has(linux::SA_ONSTACK)
        && stack.flags & linux::SS_DISABLE == 0
        && !stack.contains(frame.rsp);
    let top = if on_own {
        stack.start + stack.bytes
    } else {
        frame.rsp.wrapping_sub(RED_ZONE)
    };
    let (vectors, has_xstate) = thread.extended(|extended| {
        extended.save();
        extended.for_frame().map_err(|_| Errno::ENOMEM)
    })?;
    let vectors_at = top.checked_sub(vectors.len() as u64).ok_or(Errno::EFAULT)? & !63;
    user.write_bytes(vectors_at, &vectors)?;
    // As after a call: 8 off 16.
    let at = (vectors_at
        .checked_sub(FRAME as u64 * 8)
        .ok_or(Errno::EFAULT)?
        & !15)
        - 8;
    let mask = thread.mask.load(Ordering::Relaxed);
    let mut words = [0; FRAME];
    words[0] = action.restorer;
    words[FLAGS] = HAS_SS | if has_xstate { HAS_XSTATE } else { 0 };
    words[STACK..STACK + 3].copy_from_slice(&[stack.start, stack.flags.into(), stack.bytes]);
    let fault = match number {
        linux::SIGSEGV | linux::SIGBUS => info.words[0],
        _ => 0,
    };
    words[REGISTERS..VECTORS + 1].copy_from_slice(&[
        frame.r8,
        frame.r9,
        frame.r10,
        frame.r11,
        frame.r12,
        frame.r13,
        frame.r14,
        frame.r15,
        frame.rdi,
        frame.rsi,
        frame.rbp,
        frame.rbx,
        frame.rdx,
        frame.rax,
        frame.rcx,
        frame.rsp,
        frame.rip,
        frame.rflags,
        SELECTORS,
        frame.error,
        0,
        mask,
        fault,
        vectors_at,
    ]);
    words[MASK] = thread.saved_mask.lock().take().unwrap_or(mask);
    words[CONTEXT] = u64::from(number);
    words[CONTEXT + 1] = u64::from(info.code as u32);
    words[CONTEXT + 2..CONTEXT + 4].copy_from_slice(&info.words);
    if number == linux::SIGCHLD || info.code <= 0 {
        // Here the first word is a process and its user, the second a status.
        words[CONTEXT + 2] = info.words[0] & 0xffff_ffff;
    }
    for (place, word) in (at..).step_by(8).zip(&words) {
        user.write(place, word)?;
    }
    let mut blocked = mask | action.mask;
    if !action.has(linux::SA_NODEFER) {
        blocked |= signal::bit(number);
    }
    thread.mask.store(blocked & !ABSOLUTE, Ordering::Relaxed);
    if action.has(linux::SA_RESETHAND) {
        thread.process.signals.set_action(number, Action::default());
    }
    let frame = current.context.frame_mut();
    frame.rip = action.handler;
    frame.rsp = at;
    frame.rax = 0;
    frame.rdi = number.into();
    frame.rsi = at + CONTEXT as u64 * 8;
    frame.rdx = at + FLAGS as u64 * 8;
    // Handlers expect the direction flag clear, and to run in one go.
    frame.rflags &= !0x500;
    current.context.replaced();
    Ok(())
}

/// Goes back to where a handler was called (`rt_sigreturn`): what RAX then has.
///
/// # Errors
/// `EFAULT`; the program is to be ended.
pub(crate) fn go_back(current: &mut Current<'_>) -> Result<u64> {
    let (thread, user) = (current.thread, User(&current.memory));
    // The handler's return has taken the first word.
    let at = current.context.frame().rsp.wrapping_sub(8);
    let mut words = [0; CONTEXT];
    for (place, word) in (at..).step_by(8).zip(&mut words) {
        *word = user.read(place)?;
    }
    let vectors_at = words[VECTORS];
    if vectors_at != 0 {
        let bytes = thread.extended(|extended| extended.for_frame().map(|(bytes, _)| bytes.len()));
        let bytes = bytes.map_err(|_| Errno::ENOMEM)?;
        let mut vectors = Vec::new();
        vectors.room(bytes)?;
        vectors.resize(bytes, 0);
        user.read_bytes(vectors_at, &mut vectors)?;
        thread.extended(|extended| {
            extended.take_from_frame(&vectors);
            extended.restore();
        });
    }
    thread
        .mask
        .store(words[MASK] & !ABSOLUTE, Ordering::Relaxed);
    let frame = current.context.frame_mut();
    let registers = &words[REGISTERS..];
    let targets = [
        &mut frame.r8,
        &mut frame.r9,
        &mut frame.r10,
        &mut frame.r11,
        &mut frame.r12,
        &mut frame.r13,
        &mut frame.r14,
        &mut frame.r15,
        &mut frame.rdi,
        &mut frame.rsi,
        &mut frame.rbp,
        &mut frame.rbx,
        &mut frame.rdx,
        &mut frame.rax,
        &mut frame.rcx,
        &mut frame.rsp,
        &mut frame.rip,
        &mut frame.rflags,
    ];
    for (target, value) in targets.into_iter().zip(registers) {
        *target = *value;
    }
    if frame.rip >= END {
        return Err(Errno::EFAULT);
    }
    let rax = frame.rax;
    current.context.replaced();
    Ok(rax)
}
