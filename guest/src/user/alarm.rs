//! A process' alarm: a signal at some time, once or again and again (`alarm`, `setitimer`).

extern crate alloc;

use alloc::sync::Arc;
use alloc::task::Wake;
use core::task::Waker;

use linux_raw_sys::general as linux;

use super::errno::{Errno, Result};
use super::files::now;
use super::process::{self, Process, Target};
use super::signal::Info;
use crate::task::{self, Timer};

/// The time between two signals, at least, in nanoseconds: a program is not to keep a vCPU at its timer.
const SHORTEST: u64 = 100_000;

/// When a process is to be told, and how often, in nanoseconds.
pub(crate) struct Alarm {
    at: u64,
    /// 0 for once.
    interval: u64,
    /// Wakes who tells it; dropped, nobody does.
    _timer: Timer,
}

/// Tells a process, by its number: it may be gone by then.
struct Bell(u32);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        if let Some(process) = process::by_number(self.0) {
            ring(&process);
        }
    }
}

/// An alarm at a time.
fn start(process: &Process, at: u64, interval: u64) -> Result<Alarm> {
    let timer = task::wake_at(at, Waker::from(Arc::new(Bell(process.number))));
    Ok(Alarm {
        at,
        interval,
        _timer: timer.map_err(|_| Errno::ENOMEM)?,
    })
}

/// Tells a process whose time has come; woken before that, it is set anew.
fn ring(process: &Process) {
    let now = now();
    let alarm = process.alarm.lock().take();
    let Some(alarm) = alarm else {
        return;
    };
    let is_due = now >= alarm.at;
    let next = match (is_due, alarm.interval) {
        (false, _) => Some(alarm.at),
        (true, 0) => None,
        (true, interval) => Some(after(alarm.at, interval, now)),
    };
    let interval = alarm.interval;
    drop(alarm);
    // Without memory for the next one it was the last.
    let next = next.and_then(|at| start(process, at, interval).ok());
    *process.alarm.lock() = next;
    if is_due {
        let info = Info {
            code: linux::SI_KERNEL as i32,
            ..Info::default()
        };
        // It may have ended meanwhile.
        let whom = Target::Process(process.number);
        let _ = process::send(process.number, whom, linux::SIGALRM, info);
    }
}

/// The next time of an alarm: those that have passed meanwhile are told by this one.
fn after(at: u64, interval: u64, now: u64) -> u64 {
    let passed = now.saturating_sub(at) / interval;
    let next = interval.saturating_mul(passed + 1);
    at.saturating_add(next).max(now.saturating_add(SHORTEST))
}

/// Sets a process' alarm, or takes it away with 0; what was left of the one before and its interval.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn set(process: &Process, time: u64, interval: u64) -> Result<[u64; 2]> {
    let was = get(process);
    let new = match time {
        0 => None,
        time => Some(start(process, now().saturating_add(time), interval)?),
    };
    let old = core::mem::replace(&mut *process.alarm.lock(), new);
    drop(old);
    Ok(was)
}

/// What is left of a process' alarm, at least a microsecond, and its interval.
pub(crate) fn get(process: &Process) -> [u64; 2] {
    let alarm = process.alarm.lock();
    alarm.as_ref().map_or([0; 2], |alarm| {
        [alarm.at.saturating_sub(now()).max(1000), alarm.interval]
    })
}
