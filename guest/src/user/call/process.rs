//! Calls about processes and threads.

extern crate alloc;

use alloc::format;
use alloc::sync::Arc;
use core::cell::Cell;
use core::sync::atomic::Ordering;

use guest_files::Opening;
use linux_raw_sys::general as linux;

use super::path::HERE;
use super::{Arguments, Family, calls, descriptor};
use crate::user::errno::{Errno, Result};
use crate::user::exec::{self, ARGUMENTS};
use crate::user::files::Mapped;
use crate::user::futex;
use crate::user::memory::Content;
use crate::user::pages::PAGE;
use crate::user::process::{self, New};
use crate::user::signal;
use crate::user::thread::{Current, Thread};
use crate::user::traffic::{Work, counted};
use crate::usermode::{Bases, Context, END};

pub(super) const CALLS: Family = calls![
    (linux::__NR_fork, |c, _| {
        clone(c, &Clone::new(linux::SIGCHLD))
    }),
    (linux::__NR_vfork, |c, _| {
        let flags = linux::CLONE_VM | linux::CLONE_VFORK;
        clone(c, &Clone::new(flags | linux::SIGCHLD))
    }),
    (
        linux::__NR_clone,
        |c, [flags, stack, parent, child, tls, _]| {
            let what = Clone {
                flags: flags as u32 & !linux::CSIGNAL,
                signal: flags as u32 & linux::CSIGNAL,
                stack,
                parent,
                child,
                tls,
            };
            clone(c, &what)
        },
    ),
    (linux::__NR_clone3, clone3),
    (
        linux::__NR_execve,
        |c, [path, arguments, environment, ..]| {
            execve(c, [HERE, path, arguments, environment, 0, 0])
        },
    ),
    (linux::__NR_execveat, execve),
    (linux::__NR_exit, exit),
    (linux::__NR_exit_group, exit_group),
    (linux::__NR_getpid, |c, _| {
        Ok(c.thread.process.number.into())
    }),
    (linux::__NR_gettid, |c, _| Ok(c.thread.number.into())),
    (linux::__NR_getppid, |c, _| {
        Ok(process::family(c.thread.process.number)?.parent.into())
    }),
    (linux::__NR_getpgrp, |c, _| {
        Ok(process::family(c.thread.process.number)?.group.into())
    }),
    (linux::__NR_getpgid, |c, [number, ..]| {
        Ok(process::family(c.meant(number))?.group.into())
    }),
    (linux::__NR_getsid, |c, [number, ..]| {
        Ok(process::family(c.meant(number))?.session.into())
    }),
    (linux::__NR_setpgid, setpgid),
    (linux::__NR_setsid, |c, _| {
        Ok(process::set_session(&c.thread.process)?.into())
    }),
    (linux::__NR_set_tid_address, |c, [at, ..]| {
        c.thread.clear_at_end.store(at, Ordering::Relaxed);
        Ok(c.thread.number.into())
    }),
    (linux::__NR_set_robust_list, |c, [head, bytes, ..]| {
        if bytes as usize != size_of::<linux::robust_list_head>() {
            return Err(Errno::EINVAL);
        }
        c.thread.robust.store(head, Ordering::Relaxed);
        Ok(0)
    }),
    (linux::__NR_arch_prctl, arch_prctl),
    (linux::__NR_prctl, prctl),
    (linux::__NR_personality, |c, [what, ..]| {
        // What there is not is remembered as well, as under Linux.
        let personality = &c.thread.process.personality;
        Ok(match what as u32 {
            u32::MAX => personality.load(Ordering::Relaxed),
            what => personality.swap(what, Ordering::Relaxed),
        }
        .into())
    }),
    (linux::__NR_futex, futex),
];

impl Current<'_> {
    /// The process that a call means: 0 is the caller.
    fn meant(&self, number: u64) -> u32 {
        match number as u32 {
            0 => self.thread.process.number,
            number => number,
        }
    }
}

/// What `clone` is asked for.
struct Clone {
    flags: u32,
    /// What the parent gets when the child ends.
    signal: u32,
    /// The upper end of the child's stack; 0 for the parent's.
    stack: u64,
    /// Where the child's number goes, in the parent's memory and in the child's.
    parent: u64,
    child: u64,
    tls: u64,
}

impl Clone {
    fn new(flags: u32) -> Clone {
        Clone {
            flags: flags & !linux::CSIGNAL,
            signal: flags & linux::CSIGNAL,
            stack: 0,
            parent: 0,
            child: 0,
            tls: 0,
        }
    }

    fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }
}

fn clone3(current: &mut Current<'_>, [at, bytes, ..]: Arguments) -> Result<u64> {
    /// Bytes of the first version of the structure, of which later ones add what is 0 here.
    const FIRST: u64 = linux::CLONE_ARGS_SIZE_VER0 as u64;
    if bytes > PAGE {
        return Err(Errno::E2BIG);
    }
    if bytes < FIRST {
        return Err(Errno::EINVAL);
    }
    let mut words = [0_u64; 8];
    for (word, place) in words.iter_mut().zip((at..).step_by(8)) {
        *word = current.user().read(place)?;
    }
    for place in at + FIRST..at + bytes {
        if current.user().read::<u8>(place)? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    let [flags, _, child, parent, signal, stack, stack_bytes, tls] = words;
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    let has = |flag| flags & flag != 0;
    let is_wrong = signal > signal::COUNT.into()
        || has(linux::CSIGNAL | linux::CLONE_DETACHED)
        || has(linux::CLONE_THREAD | linux::CLONE_PARENT) && signal != 0
        || (stack == 0) != (stack_bytes == 0)
        || stack.checked_add(stack_bytes).is_none_or(|end| end > END);
    if is_wrong {
        return Err(Errno::EINVAL);
    }
    let what = Clone {
        flags,
        signal: signal as u32,
        stack: stack + stack_bytes,
        parent,
        child,
        tls,
    };
    clone(current, &what)
}

/// Makes a process or a thread.
fn clone(current: &mut Current<'_>, what: &Clone) -> Result<u64> {
    const THREAD: u32 =
        linux::CLONE_THREAD | linux::CLONE_SIGHAND | linux::CLONE_VM | linux::CLONE_FILES;
    const NAMESPACES: u32 = linux::CLONE_NEWNS
        | linux::CLONE_NEWPID
        | linux::CLONE_NEWNET
        | linux::CLONE_NEWUSER
        | linux::CLONE_NEWIPC
        | linux::CLONE_NEWUTS
        | linux::CLONE_NEWCGROUP;
    if what.flags & NAMESPACES != 0 || what.has(linux::CLONE_PIDFD) {
        return Err(Errno::EINVAL);
    }
    // Handlers lie in memory; and nobody gives a child to his own parent here.
    let handlers_alone = what.has(linux::CLONE_SIGHAND) && !what.has(linux::CLONE_VM);
    if handlers_alone || what.has(linux::CLONE_PARENT) {
        return Err(Errno::EINVAL);
    }
    let mut context = current.context.duplicate();
    context.frame_mut().rax = 0;
    if what.stack != 0 {
        context.frame_mut().rsp = what.stack;
    }
    if what.has(linux::CLONE_THREAD) {
        if !what.has(THREAD) {
            return Err(Errno::EINVAL);
        }
        return new_thread(current, what, context);
    }
    new_process(current, what, context)
}

/// Gives a new thread what it was asked for to have.
fn furnish(what: &Clone, thread: &Thread) -> Result<()> {
    if what.has(linux::CLONE_SETTLS) {
        if what.tls >= END {
            return Err(Errno::EPERM);
        }
        let bases = Bases {
            fs: what.tls,
            ..thread.bases()
        };
        thread.set_bases(bases);
    }
    if what.has(linux::CLONE_CHILD_CLEARTID) {
        thread.clear_at_end.store(what.child, Ordering::Relaxed);
    }
    Ok(())
}

fn new_thread(current: &mut Current<'_>, what: &Clone, context: Context) -> Result<u64> {
    let parent = current.thread;
    let thread = process::add_thread(&parent.process, |number| {
        parent.duplicate(number, parent.process.clone())
    })?;
    let number = thread.number;
    let started = furnish(what, &thread).and_then(|()| {
        if what.has(linux::CLONE_PARENT_SETTID) {
            current.user().write(what.parent, &number)?;
        }
        if what.has(linux::CLONE_CHILD_SETTID) {
            current.user().write(what.child, &number)?;
        }
        // A thread has no stack for signals of its own yet.
        *thread.stack.lock() = Default::default();
        thread.start(context)
    });
    match started {
        Ok(()) => Ok(number.into()),
        Err(e) => {
            process::thread_ended(&thread);
            Err(e)
        }
    }
}

fn new_process(current: &mut Current<'_>, what: &Clone, context: Context) -> Result<u64> {
    let parent = current.thread;
    let borrows = what.has(linux::CLONE_VM);
    if borrows && !what.has(linux::CLONE_VFORK) {
        // Two processes with one memory are two threads here.
        return Err(Errno::EINVAL);
    }
    let memory = if borrows {
        current.memory.clone()
    } else {
        Arc::new(current.memory.duplicate()?)
    };
    let files = parent.process.files().ok_or(Errno::EBADF)?;
    let files = match what.has(linux::CLONE_FILES) {
        true => files,
        false => Arc::new(files.fork()?),
    };
    let view = match what.has(linux::CLONE_FS) {
        true => parent.process.view.clone(),
        false => Arc::new(parent.process.view.fork()),
    };
    let new = New {
        parent: Some(&parent.process),
        memory,
        files,
        view,
        borrows: what.has(linux::CLONE_VFORK),
        end_signal: what.signal,
    };
    let child = process::create(new, |number, process| parent.duplicate(number, process))?;
    let number = child.number;
    let started = furnish(what, &child).and_then(|()| {
        if what.has(linux::CLONE_PARENT_SETTID) {
            current.user().write(what.parent, &number)?;
        }
        if what.has(linux::CLONE_CHILD_SETTID) {
            child.set_at_start.store(what.child, Ordering::Relaxed);
        }
        child.start(context)
    });
    if let Err(e) = started {
        process::withdraw(&child);
        return Err(e);
    }
    if what.has(linux::CLONE_VFORK) {
        // Whatever signal comes meanwhile waits, unless the process ends.
        let child = child.process.clone();
        crate::task::wait_until(|waker| {
            (child.borrows(waker).is_ready() || parent.is_doomed()).then_some(())
        });
    }
    Ok(number.into())
}

/// Runs another program in this process.
fn execve(
    current: &mut Current<'_>,
    [directory, path, arguments, environment, flags, _]: Arguments,
) -> Result<u64> {
    let flags = flags as u32;
    if flags & !(linux::AT_EMPTY_PATH | linux::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = current.path(path)?;
    let by_descriptor = path.is_empty() && flags & linux::AT_EMPTY_PATH != 0;
    let named = if by_descriptor {
        format!("/dev/fd/{}", directory as i32).into_bytes()
    } else {
        path.into_vec()
    };
    let with = exec::Arguments {
        arguments: current.user().read_strings(arguments, ARGUMENTS)?,
        environment: current.user().read_strings(environment, ARGUMENTS)?,
        path: named,
    };
    let no_follow = match flags & linux::AT_SYMLINK_NOFOLLOW {
        0 => 0,
        _ => linux::O_NOFOLLOW,
    };
    let is_first = Cell::new(true);
    let open = |path: &[u8]| {
        let is_first = is_first.replace(false);
        let file = if is_first && by_descriptor {
            current.now(|calls| calls.descriptors.get(descriptor(directory)))?
        } else {
            let flags = linux::O_RDONLY | if is_first { no_follow } else { 0 };
            let mut opening = Opening::default();
            current.waiting(|calls| {
                calls.open_file(&mut opening, descriptor(directory), path, flags, 0)
            })?
        };
        check_executable(&file)?;
        Ok(Arc::new(Mapped::to_run(file)?) as Arc<dyn Content>)
    };
    let (file, with) = exec::interpret(with, open)?;
    let thread = current.thread;
    process::end_other_threads(thread);
    let fixed = thread.process.personality.load(Ordering::Relaxed) & exec::ADDR_NO_RANDOMIZE != 0;
    let loaded = counted(Work::Exec, || exec::load(&file, &with, !fixed));
    let (memory, start) = match loaded {
        Ok(loaded) => loaded,
        Err(e) => {
            current.memory.enter()?;
            return Err(e);
        }
    };
    let memory = Arc::new(memory);
    // What the thread asked for at its end lies in memory that it has no more.
    thread.robust.store(0, Ordering::Relaxed);
    thread.clear_at_end.store(0, Ordering::Relaxed);
    let process = &thread.process;
    drop(process.set_memory(Some(memory.clone())));
    current.memory = memory;
    process.give_back_memory();
    process.set_name(&with.path);
    process.note_program(file.place(), &with.arguments);
    process::executed(process);
    process.signals.reset();
    *thread.stack.lock() = Default::default();
    thread.set_bases(Bases::default());
    thread.load_fresh();
    if let Some(files) = process.files() {
        files.exec();
    }
    *current.context = Context::new(start.rip, start.rsp);
    Ok(0)
}

/// Whether a file may be run.
///
/// # Errors
/// `EACCES`.
fn check_executable(file: &guest_files::OpenFile) -> Result<()> {
    let inode = file.place.inode.attributes();
    let is_file = inode.kind == guest_files::Kind::File;
    // Even for the one who may everything somebody must be allowed to.
    if !is_file || inode.mode & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    Ok(())
}

fn exit(current: &mut Current<'_>, [status, ..]: Arguments) -> Result<u64> {
    let thread = current.thread;
    if process::is_only_thread(thread) {
        return exit_group(current, [status, 0, 0, 0, 0, 0]);
    }
    thread.doom();
    Ok(0)
}

fn exit_group(current: &mut Current<'_>, [status, ..]: Arguments) -> Result<u64> {
    process::end(&current.thread.process, (status as u32 & 0xff) << 8);
    Ok(0)
}

fn setpgid(current: &mut Current<'_>, [number, group, ..]: Arguments) -> Result<u64> {
    let number = current.meant(number);
    let group = match group as i32 {
        0 => number,
        1.. => group as u32,
        _ => return Err(Errno::EINVAL),
    };
    process::set_group(&current.thread.process, number, group).map(|()| 0)
}

fn arch_prctl(current: &mut Current<'_>, [what, at, ..]: Arguments) -> Result<u64> {
    /// `asm/prctl.h`, which the crate of Linux' numbers leaves out.
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    let thread = current.thread;
    let mut bases = thread.bases();
    match what {
        SET_FS | SET_GS if at >= END => return Err(Errno::EPERM),
        SET_FS => bases.fs = at,
        SET_GS => bases.gs = at,
        GET_FS => return current.user().write(at, &bases.fs).map(|()| 0),
        GET_GS => return current.user().write(at, &bases.gs).map(|()| 0),
        _ => return Err(Errno::EINVAL),
    }
    thread.set_bases(bases);
    bases.load().map_err(|_| Errno::EPERM)?;
    Ok(0)
}

fn prctl(current: &mut Current<'_>, [what, argument, second, ..]: Arguments) -> Result<u64> {
    use linux_raw_sys::prctl as numbers;
    /// What a process that may everything may do (`CAP_LAST_CAP`).
    const LAST: u64 = linux::CAP_LAST_CAP as u64;
    let process = &current.thread.process;
    let settings = &process.settings;
    let known = |capability: u64| match capability {
        0..=LAST => Ok(1),
        _ => Err(Errno::EINVAL),
    };
    match what as u32 {
        numbers::PR_SET_NAME => {
            let mut name = [0; 16];
            if current.user().take(argument, &mut name) == 0 {
                return Err(Errno::EFAULT);
            }
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(15);
            process.set_name(&name[..end.min(15)]);
        }
        numbers::PR_GET_NAME => {
            let mut name = [0; 16];
            let known = process.name.lock().clone();
            name[..known.len()].copy_from_slice(&known);
            current.user().write_bytes(argument, &name)?;
        }
        numbers::PR_SET_PDEATHSIG => {
            let signal = u32::try_from(argument).map_err(|_| Errno::EINVAL)?;
            if signal > signal::COUNT {
                return Err(Errno::EINVAL);
            }
            settings.parent_ended.store(signal, Ordering::Relaxed);
        }
        numbers::PR_GET_PDEATHSIG => {
            let signal = settings.parent_ended.load(Ordering::Relaxed);
            current.user().write(argument, &signal)?;
        }
        numbers::PR_SET_DUMPABLE if argument > 1 => return Err(Errno::EINVAL),
        numbers::PR_SET_DUMPABLE => settings.dumpable.store(argument as u32, Ordering::Relaxed),
        numbers::PR_GET_DUMPABLE => return Ok(settings.dumpable.load(Ordering::Relaxed).into()),
        numbers::PR_SET_NO_NEW_PRIVS if argument != 1 => return Err(Errno::EINVAL),
        numbers::PR_SET_NO_NEW_PRIVS => settings.no_new_privileges.store(true, Ordering::Relaxed),
        numbers::PR_GET_NO_NEW_PRIVS => {
            return Ok(settings.no_new_privileges.load(Ordering::Relaxed).into());
        }
        numbers::PR_SET_CHILD_SUBREAPER => {
            settings.inherits.store(argument != 0, Ordering::Relaxed);
        }
        numbers::PR_GET_CHILD_SUBREAPER => {
            let inherits = settings.inherits.load(Ordering::Relaxed);
            current.user().write(argument, &u32::from(inherits))?;
        }
        numbers::PR_CAPBSET_READ => return known(argument),
        numbers::PR_CAP_AMBIENT => match argument as u32 {
            numbers::PR_CAP_AMBIENT_IS_SET => return known(second).map(|_| 0),
            numbers::PR_CAP_AMBIENT_CLEAR_ALL => {}
            _ => return Err(Errno::EINVAL),
        },
        numbers::PR_GET_SECCOMP | numbers::PR_GET_KEEPCAPS | numbers::PR_GET_SECUREBITS => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn futex(
    current: &mut Current<'_>,
    [at, what, value, time, at2, value3]: Arguments,
) -> Result<u64> {
    let flags = linux::FUTEX_PRIVATE_FLAG | linux::FUTEX_CLOCK_REALTIME;
    let (operation, by_wall) = (
        what as u32 & !flags,
        what as u32 & linux::FUTEX_CLOCK_REALTIME != 0,
    );
    let (thread, memory) = (current.thread, &current.memory);
    // A word that processes could share must be there; one of its own may be anywhere.
    if at >= END || what as u32 & linux::FUTEX_PRIVATE_FLAG == 0 {
        let _: u32 = current.user().read(at & !3)?;
    }
    let value = value as u32;
    match operation {
        linux::FUTEX_WAIT | linux::FUTEX_WAIT_BITSET => {
            let bits = match operation {
                linux::FUTEX_WAIT => !0,
                _ => value3 as u32,
            };
            let deadline = match time {
                0 => None,
                time => {
                    let time = current.time(time)?;
                    Some(match (operation, by_wall) {
                        (linux::FUTEX_WAIT, _) => super::time::now().saturating_add(time),
                        (_, true) => super::time::of_wall(time),
                        (_, false) => time,
                    })
                }
            };
            futex::wait(thread, memory, at, value, bits, deadline).map(|()| 0)
        }
        linux::FUTEX_WAKE => Ok(futex::wake(memory, at, value, !0)?.into()),
        linux::FUTEX_WAKE_BITSET => Ok(futex::wake(memory, at, value, value3 as u32)?.into()),
        linux::FUTEX_REQUEUE | linux::FUTEX_CMP_REQUEUE => {
            if operation == linux::FUTEX_CMP_REQUEUE
                && current.user().read::<u32>(at)? != value3 as u32
            {
                return Err(Errno::EAGAIN);
            }
            let woken = futex::wake(memory, at, value, !0)?;
            let moved = futex::requeue(memory, at, at2, time as u32)?;
            Ok((woken + moved).into())
        }
        _ => Err(Errno::ENOSYS),
    }
}
