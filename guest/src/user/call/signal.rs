//! Calls about signals.

use core::sync::atomic::Ordering;
use core::task::Poll;

use linux_raw_sys::general as linux;

use super::{Arguments, Family, calls};
use crate::user::errno::{Errno, Result};
use crate::user::process::{self, Target};
use crate::user::signal::{self, ABSOLUTE, ACTION, Action, COUNT, Info, Stack};
use crate::user::thread::{self, Current};
use crate::user::{alarm, deliver};

/// Bytes of a set of signals.
const SET: u64 = 8;

pub(super) const CALLS: Family = calls![
    (linux::__NR_rt_sigaction, sigaction),
    (linux::__NR_rt_sigprocmask, sigprocmask),
    (linux::__NR_rt_sigpending, sigpending),
    (linux::__NR_rt_sigsuspend, sigsuspend),
    (linux::__NR_rt_sigreturn, sigreturn),
    (linux::__NR_rt_sigtimedwait, sigtimedwait),
    (linux::__NR_sigaltstack, sigaltstack),
    (linux::__NR_pause, pause),
    (linux::__NR_kill, kill),
    (linux::__NR_rt_sigqueueinfo, sigqueueinfo),
    (
        linux::__NR_rt_tgsigqueueinfo,
        |c, [process, thread, signal, info, ..]| {
            process::thread(Some(process as u32), thread as u32).ok_or(Errno::ESRCH)?;
            sigqueueinfo(c, [process, signal, info, 0, 0, 0])
        },
    ),
    (linux::__NR_alarm, |c, [seconds, ..]| {
        let time = u64::from(seconds as u32) * SECOND;
        let [left, _] = alarm::set(&c.thread.process, time, 0)?;
        // What is left of a second counts as one where it is most of it, or all there is.
        let rest = u64::from(left % SECOND >= SECOND / 2 || (left < SECOND && left > 0));
        Ok(left / SECOND + rest)
    }),
    (linux::__NR_setitimer, |c, [which, new, old, ..]| {
        let words: [u64; 4] = match new {
            0 => [0; 4],
            new => c.user().read(new)?,
        };
        let [interval, value] = [micros(words[0], words[1])?, micros(words[2], words[3])?];
        let was = match which as u32 {
            linux::ITIMER_REAL => alarm::set(&c.thread.process, value, interval)?,
            // How long a process ran nobody counts.
            linux::ITIMER_VIRTUAL | linux::ITIMER_PROF => [0; 2],
            _ => return Err(Errno::EINVAL),
        };
        match old {
            0 => Ok(0),
            old => c.user().write(old, &alarm_words(was)).map(|()| 0),
        }
    }),
    (linux::__NR_getitimer, |c, [which, at, ..]| {
        let now = match which as u32 {
            linux::ITIMER_REAL => alarm::get(&c.thread.process),
            linux::ITIMER_VIRTUAL | linux::ITIMER_PROF => [0; 2],
            _ => return Err(Errno::EINVAL),
        };
        c.user().write(at, &alarm_words(now)).map(|()| 0)
    }),
    (linux::__NR_tkill, |c, [thread, signal, ..]| {
        tgkill(c, None, thread, signal)
    }),
    (linux::__NR_tgkill, |c, [process, thread, signal, ..]| {
        tgkill(c, Some(process as u32), thread, signal)
    }),
];

const SECOND: u64 = 1_000_000_000;

/// Nanoseconds of a `struct timeval`.
fn micros(seconds: u64, micros: u64) -> Result<u64> {
    if (seconds as i64) < 0 || micros >= 1_000_000 {
        return Err(Errno::EINVAL);
    }
    Ok(seconds.saturating_mul(SECOND).saturating_add(micros * 1000))
}

/// What is left and the interval, as a `struct itimerval`.
fn alarm_words([left, interval]: [u64; 2]) -> [u64; 4] {
    let micros = |time: u64| time % SECOND / 1000;
    [
        interval / SECOND,
        micros(interval),
        left / SECOND,
        micros(left),
    ]
}

/// Sends a signal with what a program says of it.
fn sigqueueinfo(current: &mut Current<'_>, [process, signal, at, ..]: Arguments) -> Result<u64> {
    let words: [u64; 4] = current.user().read(at)?;
    let info = Info {
        code: words[1] as i32,
        words: [words[2], words[3]],
    };
    let own = current.thread.process.number;
    // The kernel's own words, and those of `kill`, are said of nobody but oneself.
    if (info.code >= 0 || info.code == linux::SI_TKILL) && process as u32 != own {
        return Err(Errno::EPERM);
    }
    let signal = number(signal)?;
    process::send(own, Target::Process(process as u32), signal, info).map(|()| 0)
}

/// A signal's number, as it comes in a register; 0 is none.
fn number(word: u64) -> Result<u32> {
    match word as u32 {
        number if number <= COUNT => Ok(number),
        _ => Err(Errno::EINVAL),
    }
}

fn check_set(bytes: u64) -> Result<()> {
    if bytes == SET {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

fn sigaction(current: &mut Current<'_>, [signal, new, old, bytes, ..]: Arguments) -> Result<u64> {
    check_set(bytes)?;
    let signal = number(signal)?;
    if signal == 0 || (new != 0 && signal::bit(signal) & ABSOLUTE != 0) {
        return Err(Errno::EINVAL);
    }
    let signals = &current.thread.process.signals;
    let was = signals.action(signal);
    if new != 0 {
        let words: [u64; ACTION] = current.user().read(new)?;
        signals.set_action(signal, Action::from_words(words));
    }
    if old != 0 {
        current.user().write(old, &was.words())?;
    }
    Ok(0)
}

fn sigprocmask(current: &mut Current<'_>, [how, new, old, bytes, ..]: Arguments) -> Result<u64> {
    check_set(bytes)?;
    let mask = &current.thread.mask;
    let was = mask.load(Ordering::Relaxed);
    if new != 0 {
        let set: u64 = current.user().read(new)?;
        let now = match how as u32 {
            linux::SIG_BLOCK => was | set,
            linux::SIG_UNBLOCK => was & !set,
            linux::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        };
        mask.store(now & !ABSOLUTE, Ordering::Relaxed);
    }
    if old != 0 {
        current.user().write(old, &was)?;
    }
    Ok(0)
}

fn sigpending(current: &mut Current<'_>, [at, bytes, ..]: Arguments) -> Result<u64> {
    check_set(bytes)?;
    let thread = current.thread;
    let pending = thread.pending.load(Ordering::Acquire) | thread.process.signals.pending();
    let blocked = thread.mask.load(Ordering::Relaxed);
    current.user().write(at, &(pending & blocked)).map(|()| 0)
}

impl Current<'_> {
    /// Has another mask until a signal was taken, or the call is over.
    pub(super) fn with_mask(&self, mask: u64) {
        let now = &self.thread.mask;
        let was = now.swap(mask & !ABSOLUTE, Ordering::Relaxed);
        self.thread.saved_mask.lock().get_or_insert(was);
    }
}

fn sigsuspend(current: &mut Current<'_>, [at, bytes, ..]: Arguments) -> Result<u64> {
    check_set(bytes)?;
    let mask: u64 = current.user().read(at)?;
    current.with_mask(mask);
    pause(current, [0; 6])
}

fn pause(current: &mut Current<'_>, _: Arguments) -> Result<u64> {
    let _ = thread::wait::<()>(current.thread, |_| Poll::Pending);
    Err(Errno::EINTR)
}

fn sigreturn(current: &mut Current<'_>, _: Arguments) -> Result<u64> {
    let gone = deliver::go_back(current);
    if gone.is_err() {
        process::end(&current.thread.process, signal::killed_by(linux::SIGSEGV));
    }
    gone
}

/// Waits for one of a set of signals, which is then taken.
fn sigtimedwait(current: &mut Current<'_>, [set, info, time, bytes, ..]: Arguments) -> Result<u64> {
    check_set(bytes)?;
    let set: u64 = current.user().read(set)?;
    let deadline = match time {
        0 => u64::MAX,
        time => super::time::now().saturating_add(current.time(time)?),
    };
    let thread = current.thread;
    // Those of the set are taken although they are blocked.
    let mask = thread.mask.load(Ordering::Relaxed);
    current.with_mask(mask & !set);
    let waited = thread::wait_until_time(thread, deadline, |_| Poll::<Result<()>>::Pending);
    let taken = signal::take(thread, set);
    let saved = thread.saved_mask.lock().take();
    thread.mask.store(saved.unwrap_or(mask), Ordering::Relaxed);
    let Some((number, told)) = taken else {
        return Err(match waited {
            Ok(None) => Errno::EAGAIN,
            _ => Errno::EINTR,
        });
    };
    if info != 0 {
        let mut words = [0_u64; 16];
        words[0] = number.into();
        words[1] = u64::from(told.code as u32);
        words[2..4].copy_from_slice(&told.words);
        for (place, word) in (info..).step_by(8).zip(&words) {
            current.user().write(place, word)?;
        }
    }
    Ok(number.into())
}

fn sigaltstack(current: &mut Current<'_>, [new, old, ..]: Arguments) -> Result<u64> {
    let thread = current.thread;
    let rsp = current.context.frame().rsp;
    let was = *thread.stack.lock();
    let on_it = was.contains(rsp);
    if new != 0 {
        let [start, flags, bytes]: [u64; 3] = current.user().read(new)?;
        let flags = flags as u32;
        if on_it {
            return Err(Errno::EPERM);
        }
        let stack = match flags {
            linux::SS_DISABLE => Stack::default(),
            0 | linux::SS_ONSTACK if bytes < linux::MINSIGSTKSZ.into() => {
                return Err(Errno::ENOMEM);
            }
            0 | linux::SS_ONSTACK => Stack {
                start,
                bytes,
                flags: 0,
            },
            _ => return Err(Errno::EINVAL),
        };
        *thread.stack.lock() = stack;
    }
    if old != 0 {
        let flags = if on_it { linux::SS_ONSTACK } else { was.flags };
        current
            .user()
            .write(old, &[was.start, flags.into(), was.bytes])?;
    }
    Ok(0)
}

fn kill(current: &mut Current<'_>, [target, signal, ..]: Arguments) -> Result<u64> {
    let signal = number(signal)?;
    let process = current.thread.process.number;
    let target = match target as i32 {
        -1 => Target::All,
        0 => Target::Group(process::family(process)?.group),
        number @ 1.. => Target::Process(number as u32),
        group => Target::Group(group.unsigned_abs()),
    };
    let info = Info::from_process(process, linux::SI_USER as i32);
    process::send(process, target, signal, info).map(|()| 0)
}

fn tgkill(current: &Current<'_>, process: Option<u32>, number_: u64, signal: u64) -> Result<u64> {
    let signal = number(signal)?;
    if number_ as i32 <= 0 || process == Some(0) {
        return Err(Errno::EINVAL);
    }
    let thread = process::thread(process, number_ as u32).ok_or(Errno::ESRCH)?;
    let own = current.thread.process.number;
    if signal != 0 && !process::spares(&thread.process, own, signal) {
        signal::send_to_thread(&thread, signal);
    }
    Ok(0)
}
