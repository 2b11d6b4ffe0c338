//! Who is who, how processes end, and what they run.

use core::ffi::CStr;

use linux_program::exit;
use linux_raw_sys::general as linux;

use super::{BAD, HERE, bad, calls, child, close, file, open, pipe, read, say, show, write};
use crate::system::{at, call, fork, to, wait};

calls! {
    wait4 __NR_wait4,
    waitid __NR_waitid,
    getpid __NR_getpid,
    gettid __NR_gettid,
    getppid __NR_getppid,
    getpgid __NR_getpgid,
    getpgrp __NR_getpgrp,
    getsid __NR_getsid,
    setpgid __NR_setpgid,
    setsid __NR_setsid,
    execve __NR_execve,
    execveat __NR_execveat,
    clone __NR_clone,
    clone3 __NR_clone3,
    arch_prctl __NR_arch_prctl,
    prctl __NR_prctl,
    futex __NR_futex,
    set_tid_address __NR_set_tid_address,
    set_robust_list __NR_set_robust_list,
    kill __NR_kill,
}

pub(super) fn run() {
    waiting();
    groups();
    programs();
    clones();
    control();
    futexes();
}

fn waiting() {
    // SAFETY: as the list says.
    unsafe {
        let mut status = 0_i32;
        say(
            "wait4 without children",
            wait4([u64::MAX, to(&mut status), 0, 0]),
        );
        say("wait4 of a stranger", wait4([1, to(&mut status), 0, 0]));
        say(
            "wait4 of flags",
            wait4([u64::MAX, to(&mut status), 1 << 20, 0]),
        );
        child("exit has eight bits", || 0x1234);
        child("killed", || {
            kill([getpid([]) as u64, linux::SIGKILL.into()]) as u64
        });
        child("aborted", || {
            kill([getpid([]) as u64, linux::SIGABRT.into()]) as u64
        });
        let [r, w] = pipe(0);
        let one = fork();
        if one == 0 {
            read([r, to(&mut status), 1]);
            exit(3);
        }
        say(
            "wait4 without hanging",
            wait4([u64::MAX, to(&mut status), linux::WNOHANG.into(), 0]),
        );
        say("stop", kill([one as u64, linux::SIGSTOP.into()]));
        say(
            "wait4 for a stop",
            i64::from(wait4([one as u64, to(&mut status), linux::WUNTRACED.into(), 0]) == one),
        );
        show("stopped", status);
        kill([one as u64, linux::SIGCONT.into()]);
        say(
            "wait4 for going on",
            i64::from(wait4([one as u64, to(&mut status), linux::WCONTINUED.into(), 0]) == one),
        );
        show("went on", status);
        write([w, at(b"x"), 1]);
        bad("wait4", |at| {
            let child = fork();
            if child == 0 {
                exit(0);
            }
            wait4([child as u64, at, 0, 0])
        });
        say(
            "wait4 into nothing",
            i64::from(wait4([one as u64, 0, 0, 0]) == one),
        );
        let one = fork();
        if one == 0 {
            exit(9);
        }
        let mut info = [0_u32; 32];
        let ended = linux::WEXITED;
        say(
            "waitid and keep",
            waitid([
                1,
                one as u64,
                to(&mut info),
                u64::from(ended | linux::WNOWAIT),
                0,
            ]),
        );
        show("waitid", (info[0], info[2], info[3] == one as u32, info[5]));
        say(
            "waitid",
            waitid([1, one as u64, to(&mut info), ended.into(), 0]),
        );
        say(
            "waitid again",
            waitid([1, one as u64, to(&mut info), ended.into(), 0]),
        );
        say("waitid for nothing", waitid([0, 0, to(&mut info), 0, 0]));
        say(
            "waitid of an unknown kind",
            waitid([9, 0, to(&mut info), ended.into(), 0]),
        );
        let mut usage = [7_u64; 18];
        let one = fork();
        if one == 0 {
            exit(1);
        }
        say(
            "wait4 with usage",
            i64::from(wait4([one as u64, to(&mut status), 0, to(&mut usage)]) == one),
        );
        show("usage", usage[17] < 100);
        child("a child that is not waited for", || {
            let ignore = [1_u64, 0, 0, 0];
            call(
                linux::__NR_rt_sigaction,
                &[linux::SIGCHLD.into(), at(&ignore), 0, 8],
            );
            let one = fork();
            if one == 0 {
                exit(0);
            }
            (-wait(one)) as u64
        });
        child("a child's child", || {
            if fork() == 0 {
                exit(0);
            }
            11
        });
    }
}

fn groups() {
    // SAFETY: as the list says.
    unsafe {
        child("getppid", || u64::from(getppid([]) <= 1));
        child("setsid", || {
            let me = getpid([]);
            let first = setsid([]) == me;
            say("setsid of a leader", setsid([]));
            say("setpgid of a leader", setpgid([0, 0]));
            u64::from(first && getsid([0]) == me && getpgrp([]) == me)
        });
        child("setpgid", || {
            let first = setpgid([0, 0]);
            say("setsid of a group's leader", setsid([]));
            (first + i64::from(getpgid([0]) == getpid([]))) as u64
        });
        child("a stopped group whose keeper ends", || {
            prctl([36, 1, 0, 0, 0]);
            let keeper = fork();
            if keeper == 0 {
                setsid([]);
                let stopped = fork();
                if stopped == 0 {
                    setpgid([0, 0]);
                    kill([getpid([]) as u64, linux::SIGSTOP.into()]);
                    exit(3);
                }
                wait4([stopped as u64, 0, linux::WUNTRACED.into(), 0]);
                exit(0);
            }
            wait4([keeper as u64, 0, 0, 0]);
            let mut status = 99_u32;
            // It is not waited for: nobody would wake it.
            for _ in 0..100 {
                let pause = [0_u64, 10_000_000];
                call(linux::__NR_nanosleep, &[at(&pause), 0]);
                if wait4([u64::MAX, to(&mut status), linux::WNOHANG.into(), 0]) != 0 {
                    break;
                }
            }
            u64::from(status)
        });
        say("setpgid below 0", setpgid([0, u64::MAX]));
        say("setpgid of nobody", setpgid([99_999, 0]));
        say("setpgid to nobody's", setpgid([0, 99_999]));
        say("getpgid of nobody", getpgid([99_999]));
        say("getpgid below 0", getpgid([u64::MAX]));
        say("getsid of nobody", getsid([99_999]));
        say("gettid", i64::from(gettid([]) == getpid([])));
    }
}

/// Runs a file in a child; says how that ended.
fn execute(name: &str, path: &CStr, arguments: &[u64]) {
    // SAFETY: as the list says.
    unsafe {
        child(name, || (-execve([at(path), at(arguments), 0])) as u64);
    }
}

fn programs() {
    // SAFETY: as the list says.
    unsafe {
        let words = [at(c"sh"), at(c"-c"), at(c"exit 5"), 0];
        execute("exec", c"/bin/busybox", &words);
        execute("exec what is not there", c"/bin/none", &words);
        execute("exec a directory", c"/bin", &words);
        execute("exec nothing", c"", &words);
        close([file(c"plain", b"#!/bin/sh\nexit 6\n")]);
        execute("exec what may not be run", c"plain", &words);
        let script = |name: &CStr, text: &[u8]| {
            close([file(name, text)]);
            call(linux::__NR_chmod, &[at(name), 0o755]);
        };
        script(c"script", b"#!/bin/sh\nexit 6\n");
        execute("exec a script", c"script", &words);
        script(c"script2", b"#! /bin/sh -e \nfalse\nexit 6\n");
        execute("exec a script with an argument", c"script2", &words);
        script(c"script3", b"#!\n");
        execute("exec a script of nobody", c"script3", &words);
        script(c"script4", b"#!/bin/none\n");
        execute("exec a script of what is not there", c"script4", &words);
        script(c"script5", b"#!script5\n");
        execute("exec a script of itself", c"script5", &words);
        script(c"script6", b"#!/bin/sh");
        execute(
            "exec a script without an end of line",
            c"script6",
            &[at(c"x"), 0],
        );
        script(c"empty", b"");
        execute("exec an empty file", c"empty", &words);
        script(c"elf", b"\x7fELF\x02\x01\x01 and nothing else that would make sense to anybody at all, or would it?");
        execute("exec half of a program", c"elf", &words);
        execute("exec below a file", c"script/x", &words);
        child("exec at bad addresses", || {
            bad("exec", |path| execve([path, 0, 0]));
            bad("exec arguments", |list| {
                execve([at(c"/bin/busybox"), list, 0])
            });
            bad("exec environment", |list| {
                execve([at(c"/bin/busybox"), 0, list])
            });
            let list = [BAD[0], 0];
            say(
                "exec a bad argument",
                execve([at(c"/bin/busybox"), at(&list), 0]),
            );
            0
        });
        child("exec with much", || {
            let long = core::hint::black_box([b'y'; 140_000]);
            let list = [at(c"true"), at(&long), 0];
            (-execve([at(c"/bin/busybox"), at(&list), 0])) as u64
        });
        child("exec closes", || {
            let kept = open([at(c"plain"), 0]);
            let closed = open([at(c"plain"), linux::O_CLOEXEC.into()]);
            let words = [at(c"sh"), at(c"-c"), at(c"ls /proc/self/fd | wc -l"), 0];
            let _ = (kept, closed);
            let path = [at(c"PATH=/bin"), 0];
            (-execve([at(c"/bin/busybox"), at(&words), at(&path)])) as u64
        });
        child("exec keeps the mask and what is ignored", || {
            let ignore = [1_u64, 0, 0, 0];
            call(
                linux::__NR_rt_sigaction,
                &[linux::SIGUSR1.into(), at(&ignore), 0, 8],
            );
            call(
                linux::__NR_rt_sigprocmask,
                &[0, at(&(1_u64 << (linux::SIGUSR2 - 1))), 0, 8],
            );
            let words = [
                at(c"sh"),
                at(c"-c"),
                at(c"kill -USR1 $$; kill -USR2 $$; exit 4"),
                0,
            ];
            (-execve([at(c"/bin/busybox"), at(&words), 0])) as u64
        });
        let busybox = open([at(c"/bin/busybox"), 0]) as u64;
        child("execveat by descriptor", || {
            (-execveat([busybox, at(c""), at(&words), 0, linux::AT_EMPTY_PATH.into()])) as u64
        });
        child("execveat of no path", || {
            (-execveat([busybox, at(c""), at(&words), 0, 0])) as u64
        });
        child("execveat", || {
            (-execveat([HERE, at(c"/bin/busybox"), at(&words), 0, 0])) as u64
        });
    }
}

fn clones() {
    // SAFETY: as the list says.
    unsafe {
        let mut number = 0_u32;
        let fork_flags = u64::from(linux::SIGCHLD);
        let made = clone([
            fork_flags | u64::from(linux::CLONE_PARENT_SETTID),
            0,
            to(&mut number),
            0,
            0,
        ]);
        if made == 0 {
            exit(2);
        }
        say("clone", wait(made));
        show("its number", number == made as u32);
        say(
            "clone a thread without memory",
            clone([linux::CLONE_THREAD.into(), 0, 0, 0, 0]),
        );
        say(
            "clone signals without memory",
            clone([linux::CLONE_SIGHAND.into(), 0, 0, 0, 0]),
        );
        say("clone3 too small", clone3([at(&[0_u64; 8]), 8]));
        say("clone3 too large", clone3([at(&[0_u64; 8]), 1 << 20]));
        bad("clone3", |at| clone3([at, 64]));
        let wrong = [0_u64, 0, 0, 0, 1000, 0, 0, 0];
        say("clone3 of no signal", clone3([at(&wrong), 64]));
        let wrong = [0_u64, 0, 0, 0, 17, 0, 4096, 0];
        say("clone3 of no stack", clone3([at(&wrong), 64]));
        let right = [0_u64, 0, 0, 0, 17, 0, 0, 0];
        let made = clone3([at(&right), 64]);
        if made == 0 {
            exit(8);
        }
        say("clone3", wait(made));
        child("vfork", || {
            let mut there = 0_u64;
            let here = to(&mut there);
            let status: i64;
            // The child has the parent's stack, writes one word of its own and ends.
            core::arch::asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                "mov qword ptr [r12], 5",
                "mov edi, 6",
                "mov eax, 60",
                "syscall",
                "2:",
                inout("rax") u64::from(linux::__NR_vfork) => status,
                in("r12") here,
                out("rdi") _, out("rcx") _, out("r11") _,
            );
            say("vfork", wait(status));
            // The word that the child wrote.
            core::ptr::read_volatile(&raw const there)
        });
        thread();
    }
}

/// A thread that writes a word, and whose end is waited for.
fn thread() {
    // SAFETY: as the list says.
    unsafe {
        child("an orphan's heir is told as of any child", || {
            prctl([36, 1, 0, 0, 0]);
            let one = fork();
            if one == 0 {
                if clone([linux::SIGUSR1.into(), 0, 0, 0, 0]) == 0 {
                    call(linux::__NR_nanosleep, &[at(&[0_u64, 20_000_000]), 0]);
                    exit(0);
                }
                exit(0);
            }
            (wait(one) + wait(-1)) as u64
        });
        child("a signal that there is none of, for a child's end", || {
            let one = clone([231, 0, 0, 0, 0]);
            if one == 0 {
                exit(6);
            }
            let mut status = 0_i32;
            let all: u64 = linux::__WALL.into();
            let found = wait4([u64::MAX, to(&mut status), all, 0]) == one;
            u64::from(found) + status as u64 / 256
        });
        child("a thread", || {
            let stack = core::hint::black_box([0_u64; 1024]);
            let mut words = [0_u32, 1];
            let top = (at(&stack) + 8192) & !15;
            let word = to(&mut words);
            let flags = linux::CLONE_VM
                | linux::CLONE_FS
                | linux::CLONE_FILES
                | linux::CLONE_SIGHAND
                | linux::CLONE_THREAD
                | linux::CLONE_SYSVSEM
                | linux::CLONE_CHILD_CLEARTID;
            let made: i64;
            // The thread has a stack of its own, writes one word and ends.
            core::arch::asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                "mov dword ptr [r12], 42",
                "xor edi, edi",
                "mov eax, 60",
                "syscall",
                "2:",
                inout("rax") u64::from(linux::__NR_clone) => made,
                in("rdi") u64::from(flags), in("rsi") top, in("rdx") 0, in("r10") word + 4, in("r8") 0,
                in("r12") word,
                out("rcx") _, out("r11") _,
            );
            if made <= 0 {
                return 1;
            }
            loop {
                // The kernel clears it.
                let there = core::ptr::read_volatile(&raw const words[1]);
                if there == 0 {
                    break;
                }
                futex([word + 4, 0, there.into(), 0]);
            }
            // The thread wrote it.
            core::ptr::read_volatile(&raw const words[0]).into()
        });
    }
}

fn control() {
    // SAFETY: as the list says.
    unsafe {
        let mut word = 0_u64;
        say("arch_prctl unknown", arch_prctl([0x9999, 0]));
        say("arch_prctl sets FS", arch_prctl([0x1002, at(&word)]));
        say("arch_prctl gets FS", arch_prctl([0x1003, to(&mut word)]));
        show("FS", word == at(&word));
        say(
            "arch_prctl sets FS to the kernel's",
            arch_prctl([0x1002, BAD[3]]),
        );
        say(
            "arch_prctl sets GS to no address",
            arch_prctl([0x1001, BAD[2]]),
        );
        bad("arch_prctl", |into| arch_prctl([0x1003, into]));
        let mut name = [1_u8; 16];
        say(
            "PR_SET_NAME",
            prctl([15, at(c"a very long name indeed"), 0, 0, 0]),
        );
        say("PR_GET_NAME", prctl([16, to(&mut name), 0, 0, 0]));
        show("PR_GET_NAME", core::str::from_utf8(&name));
        bad("PR_SET_NAME", |name| prctl([15, name, 0, 0, 0]));
        say("prctl unknown", prctl([9999, 0, 0, 0, 0]));
        say("PR_GET_DUMPABLE", prctl([3, 0, 0, 0, 0]));
        say("PR_SET_DUMPABLE", prctl([4, 0, 0, 0, 0]));
        say("PR_GET_DUMPABLE then", prctl([3, 0, 0, 0, 0]));
        say("PR_SET_DUMPABLE unknown", prctl([4, 7, 0, 0, 0]));
        say("PR_SET_PDEATHSIG", prctl([1, 15, 0, 0, 0]));
        let mut signal = 0_u32;
        say("PR_GET_PDEATHSIG", prctl([2, to(&mut signal), 0, 0, 0]));
        show("PR_GET_PDEATHSIG", signal);
        say("PR_SET_PDEATHSIG unknown", prctl([1, 99, 0, 0, 0]));
        say("PR_GET_NO_NEW_PRIVS", prctl([39, 0, 0, 0, 0]));
        say("PR_SET_NO_NEW_PRIVS", prctl([38, 1, 0, 0, 0]));
        say("PR_GET_NO_NEW_PRIVS then", prctl([39, 0, 0, 0, 0]));
        say("PR_SET_NO_NEW_PRIVS back", prctl([38, 0, 0, 0, 0]));
        say("PR_SET_CHILD_SUBREAPER", prctl([36, 1, 0, 0, 0]));
        say("PR_CAPBSET_READ", prctl([23, 0, 0, 0, 0]));
        say("PR_CAPBSET_READ unknown", prctl([23, 99, 0, 0, 0]));
        say("PR_GET_SECCOMP", prctl([21, 0, 0, 0, 0]));
        say(
            "set_tid_address",
            i64::from(set_tid_address([to(&mut signal)]) == gettid([])),
        );
        say("set_robust_list", set_robust_list([at(&[0_u64; 3]), 24]));
        say(
            "set_robust_list too small",
            set_robust_list([at(&[0_u64; 3]), 8]),
        );
        set_tid_address([0]);
        set_robust_list([0, 24]);
    }
}

fn futexes() {
    // SAFETY: as the list says.
    unsafe {
        let mut word = 7_u32;
        let here = to(&mut word);
        let short = [0_u64, 1_000_000];
        say("futex wakes nobody", futex([here, 1, 1]));
        say("futex of another value", futex([here, 0, 6, 0]));
        say("futex times out", futex([here, 0, 7, at(&short)]));
        say(
            "futex of a wrong time",
            futex([here, 0, 7, at(&[0_u64, 1_000_000_000])]),
        );
        say(
            "futex of a time below 0",
            futex([here, 0, 7, at(&[u64::MAX, 0])]),
        );
        say("futex at an odd place", futex([here + 1, 0, 7, 0]));
        bad("futex", |word| futex([word, 0, 7, at(&short)]));
        bad("futex wakes", |word| futex([word, 1, 1]));
        bad("futex time", |time| futex([here, 0, 7, time]));
        say("futex unknown", futex([here, 99, 7, 0]));
        say("futex of no bits", futex([here, 9, 7, at(&short), 0, 0]));
        say("futex of bits", futex([here, 9, 7, at(&[0_u64, 1]), 0, 1]));
        say("futex requeues nobody", futex([here, 3, 1, 1, here, 0]));
        say(
            "futex compares and requeues",
            futex([here, 4, 1, 1, here, 6]),
        );
        say("futex wakes none of bits", futex([here, 10, 1, 0, 0, 0]));
    }
}
