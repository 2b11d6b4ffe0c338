//! Signals: who gets them, when, and what is known of them.

use core::sync::atomic::{AtomicU64, Ordering};

use linux_program::exit;
use linux_raw_sys::general as linux;

use super::{BAD, bad, calls, child, pipe, read, say, show};
use crate::system::{at, call, fork, to, wait};

calls! {
    sigaction __NR_rt_sigaction,
    sigprocmask __NR_rt_sigprocmask,
    sigpending __NR_rt_sigpending,
    sigsuspend __NR_rt_sigsuspend,
    sigtimedwait __NR_rt_sigtimedwait,
    sigqueueinfo __NR_rt_sigqueueinfo,
    sigaltstack __NR_sigaltstack,
    kill __NR_kill,
    tkill __NR_tkill,
    tgkill __NR_tgkill,
    getpid __NR_getpid,
    pause __NR_pause,
    alarm __NR_alarm,
    setitimer __NR_setitimer,
    getitimer __NR_getitimer,
    nanosleep __NR_nanosleep,
}

static CAUGHT: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);
static CODE: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
static STACK: AtomicU64 = AtomicU64::new(0);

core::arch::global_asm!(
    ".globl calls_restore",
    "calls_restore:",
    "mov eax, 15",
    "syscall",
    "ud2",
);

unsafe extern "C" {
    safe fn calls_restore();
}

extern "C" fn caught(signal: u64, info: *const u64, _context: u64) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
    LAST.store(signal, Ordering::Relaxed);
    if !info.is_null() {
        // SAFETY: the kernel's `siginfo_t`, of 16 words.
        let (code, address) = unsafe { (info.add(1).read(), info.add(2).read()) };
        CODE.store(code & 0xffff_ffff, Ordering::Relaxed);
        ADDRESS.store(address, Ordering::Relaxed);
    }
    let here = 0_u8;
    STACK.store(at(&here), Ordering::Relaxed);
}

/// A handler that leaves the process, for signals that come again.
extern "C" fn leaves(_signal: u64, info: *const u64, _context: u64) {
    // SAFETY: the kernel's `siginfo_t`, of 16 words.
    let (code, address) = unsafe { (info.add(1).read(), info.add(2).read()) };
    // Where this program lies is no matter.
    let is_high = address >> 47 != 0;
    show(
        "a fault's code and address",
        (code & 0xffff_ffff, address != 0, is_high),
    );
    exit(44);
}

/// Has a handler for a signal.
fn handle(signal: u32, handler: extern "C" fn(u64, *const u64, u64), flags: u32) -> i64 {
    // SAFETY: as the list says.
    unsafe {
        let action = [
            handler as *const () as u64,
            u64::from(flags | linux::SA_SIGINFO | 0x0400_0000),
            calls_restore as *const () as u64,
            0,
        ];
        sigaction([signal.into(), at(&action), 0, 8])
    }
}

fn count() -> u64 {
    CAUGHT.swap(0, Ordering::Relaxed)
}

fn me() -> u64 {
    // SAFETY: as the list says.
    unsafe { getpid([]) as u64 }
}

const USR1: u32 = linux::SIGUSR1;

fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

pub(super) fn run() {
    actions();
    masks();
    sending();
    handlers();
    faults();
    stacks();
    clocks();
}

fn actions() {
    // SAFETY: as the list says.
    unsafe {
        let mut old = [9_u64; 4];
        say("sigaction", sigaction([USR1.into(), 0, to(&mut old), 8]));
        show("sigaction", old);
        say("sigaction of 0", sigaction([0, 0, to(&mut old), 8]));
        say("sigaction of 65", sigaction([65, 0, to(&mut old), 8]));
        say(
            "sigaction of another size",
            sigaction([USR1.into(), 0, to(&mut old), 4]),
        );
        say("sigaction of SIGKILL", sigaction([9, at(&old), 0, 8]));
        say("a look at SIGKILL", sigaction([9, 0, to(&mut old), 8]));
        bad("sigaction", |new| sigaction([USR1.into(), new, 0, 8]));
        bad("sigaction old", |old| sigaction([USR1.into(), 0, old, 8]));
        say("a handler", handle(USR1, caught, 0));
        sigaction([USR1.into(), 0, to(&mut old), 8]);
        show("its flags and mask", (old[1], old[3]));
    }
}

fn masks() {
    // SAFETY: as the list says.
    unsafe {
        let mut set = 0_u64;
        say(
            "sigprocmask",
            sigprocmask([0, at(&bit(USR1)), to(&mut set), 8]),
        );
        show("it was", set);
        say("sigprocmask unknown", sigprocmask([7, at(&set), 0, 8]));
        say(
            "sigprocmask unknown of nothing",
            sigprocmask([7, 0, to(&mut set), 8]),
        );
        say(
            "sigprocmask of another size",
            sigprocmask([0, at(&set), 0, 16]),
        );
        bad("sigprocmask", |new| sigprocmask([0, new, 0, 8]));
        bad("sigprocmask old", |old| sigprocmask([0, 0, old, 8]));
        sigprocmask([2, at(&u64::MAX), 0, 8]);
        sigprocmask([0, 0, to(&mut set), 8]);
        show("what cannot be blocked", !set);
        sigprocmask([2, at(&bit(USR1)), 0, 8]);
        handle(USR1, caught, 0);
        say("kill oneself", kill([me(), USR1.into()]));
        say("twice", kill([me(), USR1.into()]));
        show("none came", count());
        say("sigpending", sigpending([to(&mut set), 8]));
        show("sigpending", set);
        bad("sigpending", |into| sigpending([into, 8]));
        let mut info = [0_u32; 32];
        say(
            "sigtimedwait",
            sigtimedwait([at(&bit(USR1)), to(&mut info), 0, 8]),
        );
        show(
            "sigtimedwait",
            (info[0], info[2] as i32, u64::from(info[4]) == me()),
        );
        let short = [0_u64, 1_000_000];
        say(
            "sigtimedwait again",
            sigtimedwait([at(&bit(USR1)), to(&mut info), at(&short), 8]),
        );
        say(
            "sigtimedwait of a wrong time",
            sigtimedwait([at(&bit(USR1)), 0, at(&[0_u64, u64::MAX]), 8]),
        );
        bad("sigtimedwait", |set| sigtimedwait([set, 0, 0, 8]));
        kill([me(), USR1.into()]);
        sigprocmask([1, at(&bit(USR1)), 0, 8]);
        show("one came", count());
        kill([me(), linux::SIGCONT.into()]);
        show("what is ignored is not pending", {
            sigpending([to(&mut set), 8]);
            set
        });
        let real = 35_u32;
        handle(real, caught, 0);
        sigprocmask([0, at(&bit(real)), 0, 8]);
        for _ in 0..3 {
            kill([me(), real.into()]);
        }
        sigprocmask([1, at(&bit(real)), 0, 8]);
        show("a real-time signal comes as often as it is sent", count());
    }
}

fn sending() {
    // SAFETY: as the list says.
    unsafe {
        say("kill with 0", kill([me(), 0]));
        say("kill of nobody", kill([99_999, 0]));
        say("kill of a group of nobody", kill([-99_999_i64 as u64, 0]));
        say("kill with 65", kill([me(), 65]));
        say("kill below 0", kill([me(), u64::MAX]));
        say("tkill of 0", tkill([0, 0]));
        say("tkill of nobody", tkill([99_999, 0]));
        say("tgkill", tgkill([me(), me(), 0]));
        say("tgkill of another's thread", tgkill([1, me(), 0]));
        say("tgkill of 0", tgkill([0, me(), 0]));
        handle(USR1, caught, 0);
        say("tgkill oneself", tgkill([me(), me(), USR1.into()]));
        show("what came", (count(), CODE.load(Ordering::Relaxed) as i32));
        let mut info = [0_u32; 32];
        info[0] = USR1;
        info[2] = -1_i32 as u32;
        info[6] = 77;
        say("sigqueue", sigqueueinfo([me(), USR1.into(), at(&info)]));
        show(
            "what came of it",
            (count(), CODE.load(Ordering::Relaxed) as i32),
        );
        bad("sigqueue", |info| sigqueueinfo([me(), USR1.into(), info]));
        child("terminated", || {
            kill([me(), linux::SIGTERM.into()]);
            0
        });
        child("what ends by nature", || {
            for signal in [
                linux::SIGCHLD,
                linux::SIGURG,
                linux::SIGWINCH,
                linux::SIGCONT,
            ] {
                kill([me(), signal.into()]);
            }
            for signal in [
                linux::SIGHUP,
                linux::SIGALRM,
                linux::SIGUSR2,
                linux::SIGIO,
                linux::SIGQUIT,
                40,
            ] {
                let one = fork();
                if one == 0 {
                    kill([me(), signal.into()]);
                    exit(0);
                }
                show("a signal", (signal, wait(one)));
            }
            5
        });
    }
}

fn handlers() {
    // SAFETY: as the list says.
    unsafe {
        handle(USR1, caught, 0);
        handle(linux::SIGUSR2, caught, 0);
        child("sigsuspend", || {
            sigprocmask([0, at(&bit(USR1)), 0, 8]);
            kill([me(), USR1.into()]);
            let result = sigsuspend([at(&0_u64), 8]);
            let mut mask = 0_u64;
            sigprocmask([0, 0, to(&mut mask), 8]);
            show("sigsuspend", (result, count(), mask));
            0
        });
        bad("sigsuspend", |set| sigsuspend([set, 8]));
        child("once", || {
            handle(USR1, caught, linux::SA_RESETHAND);
            kill([me(), USR1.into()]);
            show("the first", count());
            kill([me(), USR1.into()]);
            0
        });
        interrupted("a read that a signal ends", 0);
        interrupted("a read that goes on", linux::SA_RESTART);
        child("a sleep that a signal ends", || {
            let parent = me();
            let one = fork();
            if one == 0 {
                nanosleep([at(&[0_u64, 50_000_000]), 0]);
                kill([parent, USR1.into()]);
                exit(0);
            }
            let mut left = [0_u64; 2];
            let result = nanosleep([at(&[5_u64, 0]), to(&mut left)]);
            show("a sleep", (result, left[0], count()));
            wait(one);
            0
        });
        child("pause", || {
            let parent = me();
            let one = fork();
            if one == 0 {
                nanosleep([at(&[0_u64, 50_000_000]), 0]);
                kill([parent, USR1.into()]);
                exit(0);
            }
            let result = pause([]);
            show("pause", (result, count()));
            wait(one);
            0
        });
        child("registers come back", || {
            let found: u64;
            let number = me();
            // A system call; its registers are named.
            core::arch::asm!(
                "mov r12, 0x1234",
                "movq xmm7, r12",
                "syscall",
                "movq r13, xmm7",
                "add r12, r13",
                inout("rax") u64::from(linux::__NR_kill) => _,
                in("rdi") number, in("rsi") u64::from(USR1),
                out("r12") found, out("r13") _, out("rcx") _, out("r11") _, out("xmm7") _,
            );
            show("registers", (found, count()));
            0
        });
    }
}

/// A read of a pipe that nobody writes before a signal comes.
fn interrupted(name: &str, flags: u32) {
    // SAFETY: as the list says.
    unsafe {
        child(name, || {
            handle(USR1, caught, flags);
            let [r, w] = pipe(0);
            let parent = me();
            let one = fork();
            if one == 0 {
                nanosleep([at(&[0_u64, 50_000_000]), 0]);
                kill([parent, USR1.into()]);
                nanosleep([at(&[0_u64, 50_000_000]), 0]);
                call(linux::__NR_write, &[w, at(b"late"), 4]);
                exit(0);
            }
            let result = read([r, to(&mut [0_u8; 8]), 8]);
            show(name, (result, count()));
            wait(one);
            0
        });
    }
}

fn faults() {
    // SAFETY: as the list says.
    unsafe {
        let read = |address: u64| {
            let byte = core::ptr::with_exposed_provenance::<u8>(address as usize).read_volatile();
            u64::from(byte)
        };
        for signal in [
            linux::SIGSEGV,
            linux::SIGILL,
            linux::SIGFPE,
            linux::SIGTRAP,
            linux::SIGBUS,
        ] {
            handle(signal, leaves, 0);
        }
        child("told of nothing there", || read(BAD[0]));
        child("told of the last page", || read(BAD[1]));
        child("told of the kernel's", || read(BAD[3]));
        child("told of no address", || read(BAD[2]));
        child("told of a right", || {
            let page = super::mmap([0, 4096, 0, 0x22, u64::MAX, 0]) as u64;
            read(page)
        });
        child("told of no instruction", || {
            core::arch::asm!("ud2");
            0
        });
        child("a fault while blocked", || {
            sigprocmask([0, at(&bit(linux::SIGSEGV)), 0, 8]);
            read(BAD[0])
        });
        child("a fault while ignored", || {
            sigaction([linux::SIGSEGV.into(), at(&[1_u64, 0, 0, 0]), 0, 8]);
            read(BAD[0])
        });
        child("no stack for a handler", || {
            core::arch::asm!("mov rsp, 0x100", "ud2");
            0
        });
        child("a return from no handler", || {
            call(linux::__NR_rt_sigreturn, &[]) as u64
        });
        for signal in [
            linux::SIGSEGV,
            linux::SIGILL,
            linux::SIGFPE,
            linux::SIGTRAP,
            linux::SIGBUS,
        ] {
            sigaction([signal.into(), at(&[0_u64, 0, 0, 0]), 0, 8]);
        }
    }
}

fn stacks() {
    // SAFETY: as the list says.
    unsafe {
        let mut old = [9_u64; 3];
        say("sigaltstack", sigaltstack([0, to(&mut old)]));
        show("sigaltstack", (old[0], old[1] as u32, old[2]));
        let stack = core::hint::black_box([0_u64; 2048]);
        say(
            "sigaltstack too small",
            sigaltstack([at(&[at(&stack), 0, 100]), 0]),
        );
        say(
            "sigaltstack of flags",
            sigaltstack([at(&[at(&stack), 8, 16_384]), 0]),
        );
        bad("sigaltstack", |new| sigaltstack([new, 0]));
        bad("sigaltstack old", |old| sigaltstack([0, old]));
        say("a stack", sigaltstack([at(&[at(&stack), 0, 16_384]), 0]));
        handle(USR1, caught, linux::SA_ONSTACK);
        kill([me(), USR1.into()]);
        let was = STACK.load(Ordering::Relaxed);
        show(
            "a handler there",
            (count(), (at(&stack)..at(&stack) + 16_384).contains(&was)),
        );
        handle(USR1, caught, 0);
        kill([me(), USR1.into()]);
        let was = STACK.load(Ordering::Relaxed);
        show(
            "a handler elsewhere",
            (count(), (at(&stack)..at(&stack) + 16_384).contains(&was)),
        );
        say("no stack", sigaltstack([at(&[0_u64, 2, 0]), 0]));
    }
}

fn clocks() {
    // SAFETY: as the list says.
    unsafe {
        handle(linux::SIGALRM, caught, 0);
        say("alarm", alarm([100]));
        say("alarm off", alarm([0]).clamp(99, 100));
        let mut timer = [0_u64; 4];
        say("setitimer", setitimer([0, at(&[0_u64, 0, 0, 20_000]), 0]));
        say("pause for it", pause([]));
        show("it came", (count(), LAST.load(Ordering::Relaxed)));
        say("getitimer", getitimer([0, to(&mut timer)]));
        show("getitimer", timer);
        say(
            "setitimer of a wrong time",
            setitimer([0, at(&[0_u64, 0, 0, 1_000_000]), 0]),
        );
        say("setitimer unknown", setitimer([9, at(&timer), 0]));
        bad("setitimer", |new| setitimer([0, new, 0]));
    }
}
