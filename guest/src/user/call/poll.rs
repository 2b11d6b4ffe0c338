//! Calls that wait for several files at once, and files that exist to be waited for.

extern crate alloc;

use alloc::vec::Vec;
use core::task::Poll;

use guest_files::{Calls, Sets};
use linux_raw_sys::general as linux;

use super::{Arguments, Family, calls, descriptor};
use crate::user::errno::{Errno, RESTART, Result, Room};
use crate::user::files::{DESCRIPTORS, now};
use crate::user::thread::Current;

pub(super) const CALLS: Family = calls![
    (linux::__NR_poll, |c, [at, count, time, ..]| {
        poll(c, at, count, milliseconds(time))
    }),
    (linux::__NR_ppoll, |c, [at, count, time, mask, bytes, _]| {
        let (timeout, began) = (timeout(c, time)?, now());
        set_mask(c, mask, bytes)?;
        let found = poll(c, at, count, timeout);
        tell_left(c, time, timeout, began, NANO);
        found
    }),
    (linux::__NR_select, select),
    (linux::__NR_pselect6, pselect),
    (linux::__NR_epoll_create, |c, [size, ..]| {
        if size as i32 <= 0 {
            return Err(Errno::EINVAL);
        }
        number(c.now(|calls| calls.epoll_create1(0)))
    }),
    (linux::__NR_epoll_create1, |c, [flags, ..]| {
        number(c.now(|calls| calls.epoll_create1(flags as u32)))
    }),
    (linux::__NR_epoll_ctl, epoll_ctl),
    (linux::__NR_epoll_wait, |c, [set, at, most, time, ..]| {
        epoll_wait(c, set, at, most, milliseconds(time))
    }),
    (
        linux::__NR_epoll_pwait,
        |c, [set, at, most, time, mask, bytes]| {
            set_mask(c, mask, bytes)?;
            epoll_wait(c, set, at, most, milliseconds(time))
        },
    ),
    (linux::__NR_eventfd, |c, [count, ..]| {
        number(c.now(|calls| calls.eventfd2(count as u32, 0)))
    }),
    (linux::__NR_eventfd2, |c, [count, flags, ..]| {
        number(c.now(|calls| calls.eventfd2(count as u32, flags as u32)))
    }),
    (linux::__NR_timerfd_create, |c, [clock, flags, ..]| {
        number(c.now(|calls| calls.timerfd_create(clock as u32, flags as u32)))
    }),
    (linux::__NR_timerfd_settime, timerfd_settime),
    (linux::__NR_timerfd_gettime, |c, [timer, at, ..]| {
        let told = c.now(|calls| calls.timerfd_gettime(descriptor(timer)))?;
        c.user().write(at, &timer_words(told)).map(|()| 0)
    }),
    (
        linux::__NR_socketpair,
        |c, [family, kind, protocol, at, ..]| {
            let ends =
                c.now(|calls| calls.socketpair(family as u32, kind as u32, protocol as u32))?;
            let written = c.user().write(at, &ends);
            if written.is_err() {
                for end in ends {
                    c.now(|calls| calls.close(end))?;
                }
            }
            written.map(|()| 0)
        },
    ),
    // There are no sockets but pairs.
    (linux::__NR_socket, |_, _| Err(Errno::EAFNOSUPPORT)),
];

/// A descriptor as a result.
fn number(result: Result<i32>) -> Result<u64> {
    result.map(|number| number as u64)
}

/// Nanoseconds, or for ever.
fn milliseconds(time: u64) -> Option<u64> {
    let time = u64::try_from(time as i32).ok()?;
    Some(time * 1_000_000)
}

/// The time that a call is given, or for ever.
fn timeout(current: &Current<'_>, at: u64) -> Result<Option<u64>> {
    match at {
        0 => Ok(None),
        at => current.time(at).map(Some),
    }
}

/// Has another mask while it waits, if one is given.
fn set_mask(current: &Current<'_>, at: u64, bytes: u64) -> Result<()> {
    if at != 0 {
        if bytes != size_of::<u64>() as u64 {
            return Err(Errno::EINVAL);
        }
        let mask: u64 = current.user().read(at)?;
        current.with_mask(mask);
    }
    Ok(())
}

/// Nanoseconds of the lesser part of a time: of a `struct timespec`, and of a `struct timeval`.
const NANO: u64 = 1;
const MICRO: u64 = 1000;

/// Writes what is left of the time that a call was given to where that stood.
fn tell_left(current: &Current<'_>, at: u64, timeout: Option<u64>, began: u64, unit: u64) {
    let Some(timeout) = timeout.filter(|_| at != 0) else {
        return;
    };
    let left = timeout.saturating_sub(now().saturating_sub(began));
    let words = [left / 1_000_000_000, left % 1_000_000_000 / unit];
    // A time that cannot be written was meant to stay as it is.
    let _ = current.user().write(at, &words);
}

/// A call that waits and is never made again by itself.
fn waiting<R>(current: &Current<'_>, f: impl FnMut(&Calls<'_>) -> Poll<Result<R>>) -> Result<R> {
    match current.waiting(f) {
        Err(RESTART) => Err(Errno::EINTR),
        result => result,
    }
}

fn poll(current: &mut Current<'_>, at: u64, count: u64, timeout: Option<u64>) -> Result<u64> {
    /// Bytes of a `struct pollfd`, and where in it the events are that were found.
    const EACH: u64 = size_of::<linux::pollfd>() as u64;
    const FOUND: u64 = core::mem::offset_of!(linux::pollfd, revents) as u64;
    if count > DESCRIPTORS.into() {
        return Err(Errno::EINVAL);
    }
    let mut files = Vec::new();
    files.room(count as usize)?;
    for place in (0..count).map(|i| at + i * EACH) {
        files.push(current.user().read::<linux::pollfd>(place)?);
    }
    let found = waiting(current, |calls| calls.poll(&mut files, timeout))?;
    for (i, file) in (0..).zip(&files) {
        let bits = file.revents as u16;
        current.user().write(at + i * EACH + FOUND, &bits)?;
    }
    Ok(found as u64)
}

fn select(
    current: &mut Current<'_>,
    [count, reads, writes, others, time, _]: Arguments,
) -> Result<u64> {
    let timeout = match time {
        0 => None,
        at => {
            let [seconds, micros]: [u64; 2] = current.user().read(at)?;
            if (seconds as i64) < 0 || (micros as i64) < 0 {
                return Err(Errno::EINVAL);
            }
            let nanos = micros.saturating_mul(1000);
            Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
        }
    };
    let began = now();
    let found = select_for(current, count, [reads, writes, others], timeout);
    tell_left(current, time, timeout, began, MICRO);
    found
}

fn pselect(
    current: &mut Current<'_>,
    [count, reads, writes, others, time, mask]: Arguments,
) -> Result<u64> {
    let (timeout, began) = (timeout(current, time)?, now());
    if mask != 0 {
        let [at, bytes]: [u64; 2] = current.user().read(mask)?;
        set_mask(current, at, bytes)?;
    }
    let found = select_for(current, count, [reads, writes, others], timeout);
    tell_left(current, time, timeout, began, NANO);
    found
}

fn select_for(
    current: &mut Current<'_>,
    count: u64,
    places: [u64; 3],
    timeout: Option<u64>,
) -> Result<u64> {
    /// Words of a set of as many as `select` can have.
    const WORDS: usize = linux::__FD_SETSIZE as usize / 64;
    if (count as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let count = (count as usize).min(linux::__FD_SETSIZE as usize);
    let words = count.div_ceil(64);
    let mut sets = [[0_u64; WORDS]; 3];
    for (set, at) in sets.iter_mut().zip(places).filter(|(_, at)| *at != 0) {
        for (word, place) in set[..words].iter_mut().zip((at..).step_by(8)) {
            *word = current.user().read(place)?;
        }
    }
    let [reads, writes, others] = &mut sets;
    let mut asked = Sets {
        read: Some(reads),
        write: Some(writes),
        except: Some(others),
    };
    let found = waiting(current, |calls| calls.select(count, &mut asked, timeout))?;
    for (set, at) in sets.iter().zip(places).filter(|(_, at)| *at != 0) {
        for (word, place) in set[..words].iter().zip((at..).step_by(8)) {
            current.user().write(place, word)?;
        }
    }
    Ok(found as u64)
}

/// Bytes of a `struct epoll_event`, which is packed: 32 bits of events, then 64 of the program's.
const EVENT: u64 = 12;

fn epoll_ctl(current: &mut Current<'_>, [set, operation, fd, at, ..]: Arguments) -> Result<u64> {
    let (mut events, mut data) = (0_u32, 0_u64);
    if operation as u32 != linux::EPOLL_CTL_DEL {
        events = current.user().read(at)?;
        data = current.user().read(at + 4)?;
    }
    current.now(|calls| {
        let (set, fd) = (descriptor(set), descriptor(fd));
        calls.epoll_ctl(set, operation as u32, fd, events, data)
    })?;
    Ok(0)
}

fn epoll_wait(
    current: &mut Current<'_>,
    set: u64,
    at: u64,
    most: u64,
    timeout: Option<u64>,
) -> Result<u64> {
    let most = usize::try_from(most as i32).map_err(|_| Errno::EINVAL)?;
    let mut told = Vec::new();
    let found = waiting(current, |calls| {
        calls.epoll_wait(descriptor(set), most, timeout, &mut |event| {
            let has_room = told.try_reserve(1).is_ok();
            if has_room {
                told.push(event);
            }
            has_room
        })
    })?;
    for (i, event) in (0..).zip(&told) {
        let place = at + i * EVENT;
        current.user().write(place, &event.events)?;
        current.user().write(place + 4, &event.data)?;
    }
    Ok(found as u64)
}

/// What a timer has left and its interval, as a `struct itimerspec`.
fn timer_words((left, interval): (u64, u64)) -> [u64; 4] {
    const NANOS: u64 = 1_000_000_000;
    [
        interval / NANOS,
        interval % NANOS,
        left / NANOS,
        left % NANOS,
    ]
}

fn timerfd_settime(
    current: &mut Current<'_>,
    [timer, flags, new, old, ..]: Arguments,
) -> Result<u64> {
    let (interval, value) = (current.time(new)?, current.time(new + 16)?);
    let was = current
        .now(|calls| calls.timerfd_settime(descriptor(timer), flags as u32, value, interval))?;
    if old != 0 {
        current.user().write(old, &timer_words(was))?;
    }
    Ok(0)
}
