//! Calls about the system, users and limits.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use linux_raw_sys::general as linux;
use linux_raw_sys::system::new_utsname;

use super::{Arguments, Family, calls};
use crate::lock::Lock;
use crate::rank;
use crate::user::errno::{Errno, Result};
use crate::user::pages::PAGE;
use crate::user::process::{self, Process};
use crate::user::thread::Current;
use crate::user::{RELEASE, random};
use crate::{mm, time};

/// The user that all programs are.
fn root(_: &mut Current<'_>, _: Arguments) -> Result<u64> {
    Ok(0)
}

pub(super) const CALLS: Family = calls![
    (linux::__NR_uname, uname),
    (linux::__NR_sethostname, |c, [at, count, ..]| {
        NAMES.lock().host = c.name(at, count)?;
        Ok(0)
    }),
    (linux::__NR_setdomainname, |c, [at, count, ..]| {
        NAMES.lock().domain = c.name(at, count)?;
        Ok(0)
    }),
    (linux::__NR_reboot, reboot),
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
    (linux::__NR_getresuid, three_roots),
    (linux::__NR_getresgid, three_roots),
    (linux::__NR_setuid, only_root),
    (linux::__NR_setgid, only_root),
    (linux::__NR_setreuid, only_root),
    (linux::__NR_setregid, only_root),
    (linux::__NR_setresuid, only_root),
    (linux::__NR_setresgid, only_root),
    // These give who it was.
    (linux::__NR_setfsuid, root),
    (linux::__NR_setfsgid, root),
    (linux::__NR_getgroups, getgroups),
    (linux::__NR_setgroups, |c, [count, at, ..]| {
        let user = c.user();
        let read = |place: usize| user.read(at + 4 * place as u64);
        let settings = &c.thread.process.settings;
        settings.set_groups(count as u32 as usize, read).map(|()| 0)
    }),
    (linux::__NR_capget, capget),
    (linux::__NR_sched_yield, |_, _| {
        crate::task::yield_now();
        Ok(0)
    }),
    (linux::__NR_sched_getaffinity, affinity),
    (linux::__NR_sched_setaffinity, set_affinity),
    (linux::__NR_sched_getscheduler, |c, [number, ..]| {
        c.process(number).map(|_| 0)
    }),
    (linux::__NR_sched_getparam, |c, [number, at, ..]| {
        c.process(number)?;
        c.user().write(at, &0_u32).map(|()| 0)
    }),
    (linux::__NR_sched_get_priority_max, |_, [policy, ..]| {
        ranks(policy).map(|[_, most]| most)
    }),
    (linux::__NR_sched_get_priority_min, |_, [policy, ..]| {
        ranks(policy).map(|[least, _]| least)
    }),
    (linux::__NR_getcpu, |c, [cpu, node, ..]| {
        for (at, number) in [(cpu, crate::cpu::here().number()), (node, 0)] {
            if at != 0 {
                c.user().write(at, &number)?;
            }
        }
        Ok(0)
    }),
    (linux::__NR_getpriority, |c, [kind, number, ..]| {
        let process = c.by_kind(kind, [PRIO_PROCESS, PRIO_GROUP, PRIO_USER], number)?;
        Ok(process.settings.priority.load(Ordering::Relaxed).into())
    }),
    (linux::__NR_setpriority, |c, [kind, number, nice, ..]| {
        let process = c.by_kind(kind, [PRIO_PROCESS, PRIO_GROUP, PRIO_USER], number)?;
        let nice = (nice as i32).clamp(-20, 19);
        let priority = &process.settings.priority;
        priority.store((20 - nice) as u32, Ordering::Relaxed);
        Ok(0)
    }),
    (linux::__NR_ioprio_get, |c, [kind, number, ..]| {
        let process = c.by_kind(kind, IOPRIO, number)?;
        Ok(process
            .settings
            .files_priority
            .load(Ordering::Relaxed)
            .into())
    }),
    (linux::__NR_ioprio_set, |c, [kind, number, priority, ..]| {
        // The class lies above: none, real-time, best effort, idle. The first has no levels.
        let (class, level) = (priority as u32 >> 13, priority as u32 & 0x1fff);
        if class > 3 || (class == 0 && level != 0) {
            return Err(Errno::EINVAL);
        }
        let process = c.by_kind(kind, IOPRIO, number)?;
        let known = &process.settings.files_priority;
        known.store(priority as u32, Ordering::Relaxed);
        Ok(0)
    }),
];

/// Of what `getpriority` and `ioprio_get` are asked: a process, a group, a user.
const PRIO_PROCESS: u64 = linux::PRIO_PROCESS as u64;
const PRIO_GROUP: u64 = linux::PRIO_PGRP as u64;
const PRIO_USER: u64 = linux::PRIO_USER as u64;
const IOPRIO: [u64; 3] = [1, 2, 3];

/// What the system is called.
struct Names {
    host: [u8; FIELD],
    domain: [u8; FIELD],
}

/// Bytes of a name with its 0.
const FIELD: usize = linux_raw_sys::system::__NEW_UTS_LEN as usize + 1;

static NAMES: Lock<Names, rank::Process> = Lock::new(Names {
    host: field("guest"),
    domain: field("(none)"),
});

/// The name of the system as of now.
pub(crate) fn host_name() -> Vec<u8> {
    let host = NAMES.lock().host;
    let end = host.iter().position(|byte| *byte == 0);
    host[..end.unwrap_or(FIELD)].to_vec()
}

const fn field(text: &str) -> [u8; FIELD] {
    let mut field = [0; FIELD];
    let (name, _) = field.split_at_mut(text.len());
    name.copy_from_slice(text.as_bytes());
    field
}

impl Current<'_> {
    /// Reads a name of the system's.
    fn name(&self, at: u64, count: u64) -> Result<[u8; FIELD]> {
        let mut name = [0; FIELD];
        let count = usize::try_from(count as i32).map_err(|_| Errno::EINVAL)?;
        let room = name[..FIELD - 1].get_mut(..count).ok_or(Errno::EINVAL)?;
        self.user().read_bytes(at, room)?;
        Ok(name)
    }

    /// A process by its number; 0 is the caller.
    fn process(&self, number: u64) -> Result<Arc<Process>> {
        match number as u32 {
            0 => Ok(self.thread.process.clone()),
            number => process::by_number(number).ok_or(Errno::ESRCH),
        }
    }

    /// The process that stands for those that are meant: itself, one of its group, or of its user.
    fn by_kind(&self, kind: u64, kinds: [u64; 3], number: u64) -> Result<Arc<Process>> {
        let [one, group, user] = kinds;
        let all_are_meant = number as u32 == 0;
        match kind as u32 {
            kind if u64::from(kind) == one => self.process(number),
            kind if u64::from(kind) == group || u64::from(kind) == user => {
                if all_are_meant {
                    return self.process(0);
                }
                process::by_number(number as u32).ok_or(Errno::ESRCH)
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

/// There is one user.
fn only_root(_: &mut Current<'_>, [a, b, c, ..]: Arguments) -> Result<u64> {
    let is_root = |word: u64| word as u32 == 0 || word as u32 == u32::MAX;
    // Those that have fewer arguments have anything in the others.
    if is_root(a) || (is_root(b) && is_root(c)) {
        return Ok(0);
    }
    Err(Errno::EPERM)
}

fn three_roots(current: &mut Current<'_>, [a, b, c, ..]: Arguments) -> Result<u64> {
    for at in [a, b, c] {
        current.user().write(at, &0_u32)?;
    }
    Ok(0)
}

fn getgroups(current: &mut Current<'_>, [count, at, ..]: Arguments) -> Result<u64> {
    let count = usize::try_from(count as i32).map_err(|_| Errno::EINVAL)?;
    let groups = current.thread.process.settings.groups()?;
    if count != 0 {
        if count < groups.len() {
            return Err(Errno::EINVAL);
        }
        for (place, group) in (at..).step_by(4).zip(&groups) {
            current.user().write(place, group)?;
        }
    }
    Ok(groups.len() as u64)
}

/// What a process may: root may everything.
fn capget(current: &mut Current<'_>, [header, sets, ..]: Arguments) -> Result<u64> {
    /// The versions of the structures (`include/uapi/linux/capability.h`): of the first a set is one word.
    const FIRST: u32 = linux::_LINUX_CAPABILITY_VERSION_1;
    const SECOND: u32 = linux::_LINUX_CAPABILITY_VERSION_2;
    const THIRD: u32 = linux::_LINUX_CAPABILITY_VERSION_3;
    const ALL: u64 = (2 << linux::CAP_LAST_CAP) - 1;
    let user = current.user();
    let words = match user.read::<u32>(header)? {
        FIRST => 1,
        SECOND | THIRD => 2,
        _ => {
            user.write(header, &THIRD)?;
            return if sets == 0 { Ok(0) } else { Err(Errno::EINVAL) };
        }
    };
    let number: u32 = user.read(header + 4)?;
    current.process(number.into())?;
    if sets == 0 {
        return Ok(0);
    }
    for word in 0..words {
        let part = (ALL >> (32 * word)) as u32;
        // Those in effect, those that may be, and those for programs to come.
        for (place, set) in (sets + 12 * word..).step_by(4).zip([part, part, 0]) {
            user.write(place, &set)?;
        }
    }
    Ok(0)
}

/// The ranks that a way of taking turns has, of which there is one here.
fn ranks(policy: u64) -> Result<[u64; 2]> {
    match policy as u32 {
        linux::SCHED_FIFO | linux::SCHED_RR => Ok([1, 99]),
        linux::SCHED_NORMAL | linux::SCHED_BATCH | linux::SCHED_IDLE | linux::SCHED_DEADLINE => {
            Ok([0, 0])
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Ends all programs, and with them the run: `include/uapi/linux/reboot.h`.
fn reboot(_: &mut Current<'_>, [one, two, command, ..]: Arguments) -> Result<u64> {
    const WORD: u32 = 0xfee1_dead;
    const WORDS: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];
    const KEYS: [u32; 2] = [0, 0x89ab_cdef];
    const ENDS: [u32; 3] = [0x0123_4567, 0xcdef_0123, 0x4321_fedc];
    if one as u32 != WORD || !WORDS.contains(&(two as u32)) {
        return Err(Errno::EINVAL);
    }
    let command = command as u32;
    if KEYS.contains(&command) {
        // What Ctrl-Alt-Del does, which nobody can type.
        return Ok(0);
    }
    if !ENDS.contains(&command) {
        return Err(Errno::EINVAL);
    }
    let first = process::by_number(process::FIRST).ok_or(Errno::ESRCH)?;
    process::end(&first, 0);
    Ok(0)
}

fn uname(current: &mut Current<'_>, [at, ..]: Arguments) -> Result<u64> {
    let persona = current.thread.process.personality.load(Ordering::Relaxed);
    /// A persona without what is added to it, and a 32-bit one (`include/uapi/linux/personality.h`).
    const KIND: u32 = 0xff;
    const LINUX32: u32 = 8;
    let machine = match persona & KIND {
        LINUX32 => "i686",
        _ => "x86_64",
    };
    let Names { host, domain } = *NAMES.lock();
    let name = new_utsname {
        sysname: field("Linux").map(|byte| byte as _),
        nodename: host.map(|byte| byte as _),
        release: field(RELEASE).map(|byte| byte as _),
        version: field(concat!("guest ", env!("CARGO_PKG_VERSION"))).map(|byte| byte as _),
        machine: field(machine).map(|byte| byte as _),
        domainname: domain.map(|byte| byte as _),
    };
    current.user().write(at, &name).map(|()| 0)
}

fn getrandom(current: &mut Current<'_>, [at, count, flags, ..]: Arguments) -> Result<u64> {
    let known = linux::GRND_NONBLOCK | linux::GRND_RANDOM | linux::GRND_INSECURE;
    let both = linux::GRND_RANDOM | linux::GRND_INSECURE;
    if flags as u32 & !known != 0 || flags as u32 & both == both {
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

fn prlimit(current: &mut Current<'_>, [number, which, new, old, ..]: Arguments) -> Result<u64> {
    let new: Option<[u64; 2]> = match new {
        0 => None,
        new => Some(current.user().read(new)?),
    };
    let process = current.process(number)?;
    let limit = process.settings.limit(which as u32)?;
    if let Some(new) = new {
        process.settings.set_limit(which as u32, new)?;
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
    (words[4], words[5]) = (total * PAGE, free * PAGE);
    // Processes, in the lower half of a word.
    words[10] = process::count() as u64 & 0xffff;
    // Bytes of a unit of memory, behind what 32-bit programs have.
    words[13] = 1;
    for (place, word) in (at..).step_by(8).zip(&words) {
        current.user().write(place, word)?;
    }
    Ok(0)
}

/// The vCPUs that run, one bit each.
fn running() -> u64 {
    u64::MAX >> (64 - crate::cpu::running().min(64))
}

fn affinity(current: &mut Current<'_>, [number, bytes, at, ..]: Arguments) -> Result<u64> {
    if bytes < 8 || !bytes.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    current.process(number)?;
    current.user().write(at, &running()).map(|()| 8)
}

/// Threads run where there is room, also those that would rather not.
fn set_affinity(current: &mut Current<'_>, [number, bytes, at, ..]: Arguments) -> Result<u64> {
    let mut mask = [0; 8];
    let count = (bytes as u32 as usize).min(mask.len());
    current.user().read_bytes(at, &mut mask[..count])?;
    current.process(number)?;
    if u64::from_le_bytes(mask) & running() == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}
