//! Signals: what a process does about each, which wait, and what is known of them.
//!
//! A signal is a number and one bit in each set. Of one of the first 31 that is sent several times before it
//! is taken the last is kept; the others come as often as they are sent to a process, as Linux has it.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general as linux;

use super::errno::Room;
use super::process::Process;
use super::thread::Thread;
use crate::lock::Lock;
use crate::rank;

/// Signals that there are.
pub(crate) const COUNT: u32 = linux::_NSIG;
/// The handlers that are none (`asm-generic/signal-defs.h`).
pub(crate) const DEFAULT: u64 = 0;
pub(crate) const IGNORE: u64 = 1;

/// Signals that no process may block, ignore or handle.
pub(crate) const ABSOLUTE: u64 = bit(linux::SIGKILL) | bit(linux::SIGSTOP);
/// Signals by which a process stops, by itself.
const STOP: u64 =
    bit(linux::SIGSTOP) | bit(linux::SIGTSTP) | bit(linux::SIGTTIN) | bit(linux::SIGTTOU);
/// Signals that by themselves do nothing.
const HARMLESS: u64 =
    bit(linux::SIGCHLD) | bit(linux::SIGURG) | bit(linux::SIGWINCH) | bit(linux::SIGCONT);

/// A signal's bit in a set.
pub(crate) const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// The status of a process that a signal ended.
pub(crate) const fn killed_by(signal: u32) -> u32 {
    signal
}

/// What a process does about a signal: `struct kernel_sigaction`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Action {
    pub(crate) handler: u64,
    pub(crate) flags: u64,
    pub(crate) restorer: u64,
    pub(crate) mask: u64,
}

/// Words of an [`Action`] as programs have it.
pub(crate) const ACTION: usize = 4;

impl Action {
    /// As a program gives it.
    pub(crate) fn from_words([handler, flags, restorer, mask]: [u64; ACTION]) -> Action {
        Action {
            handler,
            flags,
            restorer,
            mask: mask & !ABSOLUTE,
        }
    }

    /// As a program gets it.
    pub(crate) fn words(self) -> [u64; ACTION] {
        [self.handler, self.flags, self.restorer, self.mask]
    }

    pub(crate) fn has(self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }
}

const _: () = {
    assert!(size_of::<linux::kernel_sigaction>() == ACTION * 8);
    assert!(offset_of!(linux::kernel_sigaction, sa_flags) == 8);
    assert!(offset_of!(linux::kernel_sigaction, sa_restorer) == 16);
    assert!(offset_of!(linux::kernel_sigaction, sa_mask) == 24);
};

/// What happens when a signal is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    End,
    Stop,
    Handler,
}

impl Action {
    /// What it does about a signal.
    pub(crate) fn effect(self, signal: u32) -> Effect {
        match self.handler {
            DEFAULT if bit(signal) & HARMLESS != 0 => Effect::Nothing,
            DEFAULT if bit(signal) & STOP != 0 => Effect::Stop,
            DEFAULT => Effect::End,
            IGNORE => Effect::Nothing,
            _ => Effect::Handler,
        }
    }
}

/// What a handler is told of a signal besides its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    /// Where it comes from: `SI_*`, or what is particular to the signal.
    pub(crate) code: i32,
    /// The two words behind: sender and its user, or an address.
    pub(crate) words: [u64; 2],
}

impl Info {
    /// Sent by a process.
    pub(crate) fn from_process(number: u32, code: i32) -> Info {
        Info {
            code,
            words: [number.into(), 0],
        }
    }

    /// Of a child by its status, as `wait4` has it.
    pub(crate) fn of_status(number: u32, status: u32) -> Info {
        let (low, high) = (status & 0x7f, status >> 8);
        let (code, shown) = match (low, status & 0x80) {
            _ if status == 0xffff => (linux::CLD_CONTINUED, linux::SIGCONT),
            (0x7f, _) => (linux::CLD_STOPPED, high),
            (0, _) => (linux::CLD_EXITED, high),
            (_, 0) => (linux::CLD_KILLED, low),
            _ => (linux::CLD_DUMPED, low),
        };
        Info::of_child(number, code, shown)
    }

    /// Of a child that ended, stopped or went on.
    pub(crate) fn of_child(number: u32, code: u32, status: u32) -> Info {
        Info {
            code: code as i32,
            words: [number.into(), status.into()],
        }
    }
}

/// A fault of a program's own making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) signal: u32,
    pub(crate) info: Info,
}

impl Fault {
    /// A fault at an address.
    pub(crate) fn new(signal: u32, code: u32, address: u64) -> Fault {
        Fault {
            signal,
            info: Info {
                code: code as i32,
                words: [address, 0],
            },
        }
    }

    /// By the exception (`arch/x86/kernel/traps.c`).
    pub(crate) fn of(vector: u8, rip: u64) -> Fault {
        let kernel = Fault {
            signal: linux::SIGSEGV,
            info: Info {
                code: linux::SI_KERNEL as i32,
                words: [0; 2],
            },
        };
        match vector {
            0 => Fault::new(linux::SIGFPE, linux::FPE_INTDIV, rip),
            1 => Fault::new(linux::SIGTRAP, linux::TRAP_TRACE, rip),
            3 => Fault {
                signal: linux::SIGTRAP,
                ..kernel
            },
            6 => Fault::new(linux::SIGILL, linux::ILL_ILLOPN, rip),
            16 | 19 => Fault::new(linux::SIGFPE, linux::FPE_FLTINV, rip),
            17 => Fault::new(linux::SIGBUS, linux::BUS_ADRALN, 0),
            _ => kernel,
        }
    }
}

/// A thread's stack for handlers that ask for it (`sigaltstack`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    pub(crate) flags: u32,
}

impl Default for Stack {
    fn default() -> Stack {
        Stack {
            start: 0,
            bytes: 0,
            flags: linux::SS_DISABLE,
        }
    }
}

impl Stack {
    /// Whether a stack pointer lies in it.
    pub(crate) fn contains(self, rsp: u64) -> bool {
        self.flags & linux::SS_DISABLE == 0 && rsp > self.start && rsp - self.start <= self.bytes
    }
}

/// The signals of a process.
pub(crate) struct Signals {
    actions: Lock<[Action; COUNT as usize], rank::Signals>,
    pending: AtomicU64,
    infos: Lock<[Info; COUNT as usize], rank::Signals>,
    /// Signals that come as often as they are sent, in their order.
    queue: Lock<Vec<(u32, Info)>, rank::Signals>,
}

/// The first signal that comes as often as it is sent.
const REAL_TIME: u32 = 32;
/// Those of a process that wait at most; what is sent beyond that comes once.
const QUEUE: usize = 1024;

impl Signals {
    /// None, and nothing is done about any.
    pub(crate) fn new() -> Signals {
        Signals {
            actions: Lock::new([Action::default(); COUNT as usize]),
            pending: AtomicU64::new(0),
            infos: Lock::new([Info::default(); COUNT as usize]),
            queue: Lock::new(Vec::new()),
        }
    }

    /// Those of a child: the same actions, and none waits.
    pub(crate) fn duplicate(&self) -> Signals {
        Signals {
            actions: Lock::new(*self.actions.lock()),
            ..Signals::new()
        }
    }

    /// As a new program finds them: what was ignored stays so, the rest is as it was at first.
    pub(crate) fn reset(&self) {
        for action in self.actions.lock().iter_mut() {
            let handler = if action.handler == IGNORE {
                IGNORE
            } else {
                DEFAULT
            };
            *action = Action {
                handler,
                ..Action::default()
            };
        }
    }

    /// What is done about a signal.
    pub(crate) fn action(&self, signal: u32) -> Action {
        self.actions.lock()[signal as usize - 1]
    }

    /// Has something else done about a signal; returns what was done.
    pub(crate) fn set_action(&self, signal: u32, action: Action) -> Action {
        let old = core::mem::replace(&mut self.actions.lock()[signal as usize - 1], action);
        if action.effect(signal) == Effect::Nothing {
            self.forget(bit(signal));
        }
        old
    }

    /// Those that wait.
    pub(crate) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Acquire)
    }

    /// Has one wait, unless nothing is done about it and nobody blocks it.
    pub(crate) fn add(&self, signal: u32, info: Info, blocked: bool) -> bool {
        if self.action(signal).effect(signal) == Effect::Nothing && !blocked {
            return false;
        }
        if signal >= REAL_TIME {
            let mut queue = self.queue.lock();
            if queue.len() < QUEUE && queue.room(1).is_ok() {
                queue.push((signal, info));
            }
        }
        self.infos.lock()[signal as usize - 1] = info;
        self.pending.fetch_or(bit(signal), Ordering::AcqRel);
        true
    }

    /// Those of a set wait no longer.
    pub(crate) fn forget(&self, set: u64) {
        self.pending.fetch_and(!set, Ordering::AcqRel);
        let mut queue = self.queue.lock();
        queue.retain(|(signal, _)| bit(*signal) & set == 0);
    }

    /// Takes one that waits.
    fn take(&self, signal: u32) -> Option<Info> {
        let was = self.pending.fetch_and(!bit(signal), Ordering::AcqRel);
        if was & bit(signal) == 0 {
            return None;
        }
        let mut queue = self.queue.lock();
        let mut waiting = (0..queue.len()).filter(|place| queue[*place].0 == signal);
        let (first, more) = (waiting.next(), waiting.next().is_some());
        if more {
            self.pending.fetch_or(bit(signal), Ordering::AcqRel);
        }
        let queued = first.map(|place| queue.remove(place).1);
        drop(queue);
        Some(queued.unwrap_or_else(|| self.infos.lock()[signal as usize - 1]))
    }
}

/// Takes the next signal of a set for a thread, one of its own first.
pub(crate) fn take(thread: &Thread, set: u64) -> Option<(u32, Info)> {
    let first = |bits: u64| (bits != 0).then(|| bits.trailing_zeros() + 1);
    if let Some(signal) = first(thread.pending.load(Ordering::Acquire) & set) {
        thread.pending.fetch_and(!bit(signal), Ordering::AcqRel);
        let fault = thread.fault.lock().take_if(|fault| fault.signal == signal);
        let sent = Info::from_process(thread.process.number, linux::SI_TKILL);
        return Some((signal, fault.map_or(sent, |fault| fault.info)));
    }
    let signal = first(thread.process.signals.pending() & set)?;
    let info = thread.process.signals.take(signal)?;
    Some((signal, info))
}

/// Gives a thread the signal for what it did wrong; one that it blocks or ignores ends it.
pub(crate) fn raise(thread: &Arc<Thread>, fault: Fault) {
    let signals = &thread.process.signals;
    let blocked = thread.mask.load(Ordering::Relaxed) & bit(fault.signal) != 0;
    if blocked || signals.action(fault.signal).handler == IGNORE {
        signals.set_action(fault.signal, Action::default());
        thread.mask.fetch_and(!bit(fault.signal), Ordering::Relaxed);
    }
    *thread.fault.lock() = Some(fault);
    thread.pending.fetch_or(bit(fault.signal), Ordering::AcqRel);
}

/// Sends a signal to one thread.
pub(crate) fn send_to_thread(thread: &Arc<Thread>, signal: u32) {
    let action = thread.process.signals.action(signal);
    let blocked = thread.mask.load(Ordering::Relaxed) & bit(signal) != 0;
    if blocked || action.effect(signal) != Effect::Nothing {
        thread.pending.fetch_or(bit(signal), Ordering::AcqRel);
        thread.wake();
    }
}

/// Sends a signal to a process, of which these are the threads.
pub(crate) fn send(process: &Process, threads: &[Arc<Thread>], signal: u32, info: Info) {
    if bit(signal) & STOP != 0 {
        process.signals.forget(bit(linux::SIGCONT));
    }
    if signal == linux::SIGCONT {
        process.signals.forget(STOP);
    }
    let blocks = |thread: &Arc<Thread>| thread.mask.load(Ordering::Relaxed) & bit(signal) != 0;
    if process
        .signals
        .add(signal, info, threads.iter().all(blocks))
        || signal == linux::SIGCONT
    {
        threads.iter().for_each(|thread| thread.wake());
    }
}
