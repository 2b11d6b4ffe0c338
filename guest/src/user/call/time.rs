//! Calls about time.

use core::task::Poll;

use linux_raw_sys::general as linux;

use super::{Arguments, Family, calls};
use crate::task;
use crate::user::errno::{Errno, Result};
use crate::user::files;
pub(super) use crate::user::files::now;
use crate::user::thread::{self, Current, Thread};

const NANOS: u64 = 1_000_000_000;

pub(super) const CALLS: Family = calls![
    (linux::__NR_clock_gettime, clock_gettime),
    (linux::__NR_clock_getres, clock_getres),
    (linux::__NR_gettimeofday, gettimeofday),
    (linux::__NR_time, time),
    (linux::__NR_nanosleep, |c, [request, left, ..]| {
        let time = c.time(request)?;
        sleep(c, now().saturating_add(time), left)
    }),
    (linux::__NR_clock_nanosleep, clock_nanosleep),
    (linux::__NR_times, times),
    (linux::__NR_getrusage, |c, [whose, at, ..]| {
        const OWN: i32 = linux::RUSAGE_SELF as i32;
        const THREAD: i32 = linux::RUSAGE_THREAD as i32;
        let used = match whose as i32 {
            OWN => c.thread.process.usage.words(task::running()),
            linux::RUSAGE_CHILDREN => c.thread.process.children_usage.words(0),
            THREAD => c.thread.usage.words(task::running()),
            _ => return Err(Errno::EINVAL),
        };
        c.user().write(at, &used).map(|()| 0)
    }),
];

/// When the kernel's clock will be what a time of day is now.
pub(super) fn of_wall(wall: u64) -> u64 {
    now().saturating_add(wall.saturating_sub(files::wall()))
}

/// A clock's time.
fn read(thread: &Thread, clock: u64) -> Result<u64> {
    match clock as u32 {
        linux::CLOCK_REALTIME | linux::CLOCK_REALTIME_COARSE | linux::CLOCK_TAI => {
            Ok(files::wall())
        }
        linux::CLOCK_MONOTONIC
        | linux::CLOCK_MONOTONIC_RAW
        | linux::CLOCK_MONOTONIC_COARSE
        | linux::CLOCK_BOOTTIME => Ok(now()),
        linux::CLOCK_PROCESS_CPUTIME_ID => Ok(thread.process.usage.time(task::running())),
        linux::CLOCK_THREAD_CPUTIME_ID => Ok(thread.usage.time(task::running())),
        _ => Err(Errno::EINVAL),
    }
}

/// Seconds and nanoseconds.
fn parts(time: u64) -> [u64; 2] {
    [time / NANOS, time % NANOS]
}

impl Current<'_> {
    /// Reads a time.
    ///
    /// # Errors
    /// `EFAULT`, `EINVAL` for one that there is not.
    pub(super) fn time(&self, at: u64) -> Result<u64> {
        let [seconds, nanos]: [u64; 2] = self.user().read(at)?;
        if seconds as i64 >= 0 && nanos < NANOS {
            return Ok(seconds.saturating_mul(NANOS).saturating_add(nanos));
        }
        Err(Errno::EINVAL)
    }
}

fn clock_gettime(current: &mut Current<'_>, [clock, at, ..]: Arguments) -> Result<u64> {
    let time = parts(read(current.thread, clock)?);
    current.user().write(at, &time).map(|()| 0)
}

fn clock_getres(current: &mut Current<'_>, [clock, at, ..]: Arguments) -> Result<u64> {
    read(current.thread, clock)?;
    if at != 0 {
        current.user().write(at, &[0_u64, 1])?;
    }
    Ok(0)
}

fn gettimeofday(current: &mut Current<'_>, [at, zone, ..]: Arguments) -> Result<u64> {
    let [seconds, nanos] = parts(files::wall());
    if at != 0 {
        current.user().write(at, &[seconds, nanos / 1000])?;
    }
    if zone != 0 {
        current.user().write(zone, &0_u64)?;
    }
    Ok(0)
}

fn time(current: &mut Current<'_>, [at, ..]: Arguments) -> Result<u64> {
    let [seconds, _] = parts(files::wall());
    if at != 0 {
        current.user().write(at, &seconds)?;
    }
    Ok(seconds)
}

/// Sleeps up to a time on the kernel's clock; what was left when a signal came goes to `left`. However soon
/// that time comes, others have their turn: who waits for them by naps would else keep them from running.
fn sleep(current: &mut Current<'_>, deadline: u64, left: u64) -> Result<u64> {
    task::yield_now();
    let slept = thread::wait_until_time(current.thread, deadline, |_| Poll::<Result<()>>::Pending);
    if slept.is_ok() {
        return Ok(0);
    }
    if left != 0 {
        let time = parts(deadline.saturating_sub(now()));
        current.user().write(left, &time)?;
    }
    Err(Errno::EINTR)
}

fn clock_nanosleep(
    current: &mut Current<'_>,
    [clock, flags, request, left, ..]: Arguments,
) -> Result<u64> {
    let base = read(current.thread, clock)?;
    if clock as u32 == linux::CLOCK_THREAD_CPUTIME_ID {
        return Err(Errno::EOPNOTSUPP);
    }
    let time = current.time(request)?;
    let is_absolute = flags as u32 & linux::TIMER_ABSTIME != 0;
    let wait = if is_absolute {
        time.saturating_sub(base)
    } else {
        time
    };
    sleep(
        current,
        now().saturating_add(wait),
        if is_absolute { 0 } else { left },
    )
}

fn times(current: &mut Current<'_>, [at, ..]: Arguments) -> Result<u64> {
    /// Ticks a second, as `AT_CLKTCK` says.
    const TICK: u64 = NANOS / 100;
    if at != 0 {
        let process = &current.thread.process;
        let own = process.usage.time(task::running()) / TICK;
        let children = process.children_usage.time(0) / TICK;
        current.user().write(at, &[own, 0, children, 0])?;
    }
    Ok(now() / TICK)
}
