//! Calls that wait for children.

use core::task::Poll;

use linux_raw_sys::general as linux;

use super::{Arguments, Family, calls};
use crate::user::errno::{Errno, Result};
use crate::user::process::{self, For, Found, Which};
use crate::user::signal::Info;
use crate::user::thread::{self, Current};
use crate::user::usage::Usage;

pub(super) const CALLS: Family = calls![(linux::__NR_wait4, wait4), (linux::__NR_waitid, waitid)];

fn wait4(current: &mut Current<'_>, [number, at, options, usage, ..]: Arguments) -> Result<u64> {
    let (number, options) = (number as i32, options as u32);
    let known = linux::WNOHANG
        | linux::WUNTRACED
        | linux::WCONTINUED
        | linux::__WNOTHREAD
        | linux::__WCLONE
        | linux::__WALL;
    if options & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let which = match number {
        -1 => Which::Any,
        0 => Which::Group(0),
        1.. => Which::Process(number as u32),
        _ => Which::Group(number.unsigned_abs()),
    };
    let what = For {
        ends: true,
        stops: options & linux::WUNTRACED != 0,
        continues: options & linux::WCONTINUED != 0,
        keep: false,
    };
    let Some(found) = look(current, which, what, options & linux::WNOHANG == 0)? else {
        return Ok(0);
    };
    if at != 0 {
        current.user().write(at, &found.status)?;
    }
    write_usage(current, usage, &found)?;
    Ok(found.process.number.into())
}

/// Waits for a child, and says what became of it as a signal would.
fn waitid(
    current: &mut Current<'_>,
    [kind, number, to, options, usage, _]: Arguments,
) -> Result<u64> {
    const ALL: u64 = 0;
    const ONE: u64 = 1;
    const GROUP: u64 = 2;
    let options = options as u32;
    let wanted = linux::WEXITED | linux::WSTOPPED | linux::WCONTINUED;
    let known = wanted
        | linux::WNOHANG
        | linux::WNOWAIT
        | linux::__WNOTHREAD
        | linux::__WCLONE
        | linux::__WALL;
    if options & !known != 0 || options & wanted == 0 {
        return Err(Errno::EINVAL);
    }
    let which = match (kind, number as i32) {
        (ALL, _) => Which::Any,
        (ONE, 1..) => Which::Process(number as u32),
        (GROUP, 0..) => Which::Group(number as u32),
        _ => return Err(Errno::EINVAL),
    };
    let what = For {
        ends: options & linux::WEXITED != 0,
        stops: options & linux::WSTOPPED != 0,
        continues: options & linux::WCONTINUED != 0,
        keep: options & linux::WNOWAIT != 0,
    };
    let found = look(current, which, what, options & linux::WNOHANG == 0)?;
    let mut info = [0_u64; 16];
    if let Some(found) = &found {
        let told = Info::of_status(found.process.number, found.status);
        info[0] = linux::SIGCHLD.into();
        info[1] = u64::from(told.code as u32);
        info[2..4].copy_from_slice(&told.words);
    }
    if to != 0 {
        for (place, word) in (to..).step_by(8).zip(&info) {
            current.user().write(place, word)?;
        }
    }
    if let Some(found) = &found {
        write_usage(current, usage, found)?;
    }
    Ok(0)
}

/// Looks for a child of which there is something to tell, and waits for that or not.
fn look(current: &Current<'_>, which: Which, what: For, waits: bool) -> Result<Option<Found>> {
    let process = &current.thread.process;
    if waits {
        let wait = |waker: &_| process::wait(process, which, what, waker);
        return thread::wait(current.thread, wait).map(Some);
    }
    match process::wait(process, which, what, current.thread.waker()) {
        Poll::Ready(found) => found.map(Some),
        Poll::Pending => Ok(None),
    }
}

/// What a child used, and those of its children that it waited for.
fn write_usage(current: &Current<'_>, at: u64, found: &Found) -> Result<()> {
    if at == 0 {
        return Ok(());
    }
    let all = Usage::default();
    for used in [&found.process.usage, &found.process.children_usage] {
        all.add(used);
    }
    current.user().write(at, &all.words(0))
}
