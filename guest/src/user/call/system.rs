//! Calls about the system, users and limits.

use linux_raw_sys::general as linux;
use linux_raw_sys::system::new_utsname;

use super::{Arguments, Family};
use crate::user::errno::{Errno, Result};
use crate::user::files::DESCRIPTORS;
use crate::user::memory::STACK;
use crate::user::thread::Current;
use crate::user::{RELEASE, process, random};
use crate::{mm, time};

/// The user that all programs are.
fn root(_: &mut Current<'_>, _: Arguments) -> Result<u64> {
    Ok(0)
}

pub(super) const CALLS: Family = &[
    (linux::__NR_uname, uname),
    (linux::__NR_getrandom, getrandom),
    (linux::__NR_prlimit64, prlimit),
    (linux::__NR_getrlimit, |c, [which, at, ..]| {
        prlimit(c, [0, which, 0, at, 0, 0])
    }),
    (linux::__NR_setrlimit, |c, [which, at, ..]| {
        prlimit(c, [0, which, at, 0, 0, 0])
    }),
    (linux::__NR_sysinfo, sysinfo),
    (linux::__NR_getuid, root),
    (linux::__NR_geteuid, root),
    (linux::__NR_getgid, root),
    (linux::__NR_getegid, root),
    (linux::__NR_setuid, only_root),
    (linux::__NR_setgid, only_root),
    (linux::__NR_setreuid, only_root),
    (linux::__NR_setregid, only_root),
    (linux::__NR_setresuid, only_root),
    (linux::__NR_setresgid, only_root),
    (linux::__NR_getgroups, root),
    (linux::__NR_setgroups, |_, [count, ..]| {
        if count == 0 { Ok(0) } else { Err(Errno::EPERM) }
    }),
    (linux::__NR_sched_yield, |_, _| {
        crate::task::yield_now();
        Ok(0)
    }),
    (linux::__NR_sched_getaffinity, affinity),
    (linux::__NR_getpriority, |_, _| Ok(20)),
    (linux::__NR_setpriority, root),
];

/// There is one user.
fn only_root(_: &mut Current<'_>, [a, b, c, ..]: Arguments) -> Result<u64> {
    let is_root = |word: u64| word as u32 == 0 || word as u32 == u32::MAX;
    // Those that have fewer arguments have anything in the others.
    if is_root(a) || (is_root(b) && is_root(c)) {
        return Ok(0);
    }
    Err(Errno::EPERM)
}

fn uname(current: &mut Current<'_>, [at, ..]: Arguments) -> Result<u64> {
    let field = |text: &str| {
        let mut field = [0; 65];
        for (to, from) in field.iter_mut().zip(text.bytes()) {
            *to = from as _;
        }
        field
    };
    let name = new_utsname {
        sysname: field("Linux"),
        nodename: field("guest"),
        release: field(RELEASE),
        version: field(concat!("guest ", env!("CARGO_PKG_VERSION"))),
        machine: field("x86_64"),
        domainname: field("(none)"),
    };
    current.user().write(at, &name).map(|()| 0)
}

fn getrandom(current: &mut Current<'_>, [at, count, flags, ..]: Arguments) -> Result<u64> {
    let known = linux::GRND_NONBLOCK | linux::GRND_RANDOM | linux::GRND_INSECURE;
    if flags as u32 & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let mut done = 0;
    while done < count {
        let mut bytes = [0; 256];
        let piece = (count - done).min(256) as usize;
        random::fill(&mut bytes[..piece]);
        let put = current.user().put(at + done, &bytes[..piece]);
        done += put as u64;
        if put < piece {
            break;
        }
        if current.thread.is_interrupted() {
            break;
        }
    }
    if done == 0 && count > 0 {
        Err(Errno::EFAULT)
    } else {
        Ok(done)
    }
}

/// The limits are what they are, and each may be set to what it is or above.
fn prlimit(current: &mut Current<'_>, [number, which, new, old, ..]: Arguments) -> Result<u64> {
    const NONE: u64 = u64::MAX;
    if number != 0 {
        process::family(number as u32)?;
    }
    let limit = match which as u32 {
        linux::RLIMIT_STACK => [STACK, NONE],
        linux::RLIMIT_NOFILE => [DESCRIPTORS.into(); 2],
        linux::RLIMIT_CORE => [0, NONE],
        which if which < linux::RLIM_NLIMITS => [NONE; 2],
        _ => return Err(Errno::EINVAL),
    };
    if new != 0 {
        let _: [u64; 2] = current.user().read(new)?;
    }
    if old != 0 {
        current.user().write(old, &limit)?;
    }
    Ok(0)
}

fn sysinfo(current: &mut Current<'_>, [at, ..]: Arguments) -> Result<u64> {
    let (total, free) = mm::with(|tables| {
        let frames = tables.frames();
        (frames.counts().total, frames.obtainable())
    });
    /// Words of `struct sysinfo`.
    const WORDS: usize = size_of::<linux_raw_sys::system::sysinfo>() / 8;
    let mut words = [0_u64; WORDS];
    words[0] = time::since_start() / 1_000_000_000;
    (words[4], words[5]) = (total, free);
    // Processes, in the lower half of a word.
    words[10] = process::count() as u64 & 0xffff;
    // Bytes of a unit of memory, behind what 32-bit programs have.
    words[13] = 4096;
    for (place, word) in (at..).step_by(8).zip(&words) {
        current.user().write(place, word)?;
    }
    Ok(0)
}

fn affinity(current: &mut Current<'_>, [_, bytes, at, ..]: Arguments) -> Result<u64> {
    if bytes < 8 || !bytes.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let mask = u64::MAX >> (64 - crate::cpu::running().min(64));
    current.user().write(at, &mask).map(|()| 8)
}
