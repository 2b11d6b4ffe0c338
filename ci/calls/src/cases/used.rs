//! What processes use, and what is not theirs for ever: a file that is run, what lies behind a file's end,
//! the first process.

use linux_raw_sys::general as linux;

use super::{PAGE, calls, child, close, file, mmap, open, say, show};
use crate::system::{at, call, fork, to, wait};

calls! {
    execve __NR_execve,
    fchmod __NR_fchmod,
    ftruncate __NR_ftruncate,
    truncate __NR_truncate,
    getrusage __NR_getrusage,
    clock_gettime __NR_clock_gettime,
    nanosleep __NR_nanosleep,
    wait4 __NR_wait4,
    kill __NR_kill,
}

const MILLI: u64 = 1_000_000;
/// Clocks: of all, and of how long this process ran.
const MONOTONIC: u64 = linux::CLOCK_MONOTONIC as u64;
const RAN: u64 = linux::CLOCK_PROCESS_CPUTIME_ID as u64;
/// Whose use: the process', its children's.
const OWN: u64 = 0;
const CHILDREN: u64 = u64::MAX;

pub(super) fn run() {
    times();
    busy();
    cut();
    first();
}

fn clock(clock: u64) -> u64 {
    let mut time = [0_u64; 2];
    // SAFETY: as the list says.
    unsafe { clock_gettime([clock, to(&mut time)]) };
    time[0] * 1000 * MILLI + time[1]
}

/// Does nothing else for a while.
fn burn() {
    let end = clock(MONOTONIC) + 100 * MILLI;
    while clock(MONOTONIC) < end {}
}

/// Microseconds that somebody ran, and pages touched first.
fn used(whose: u64) -> [u64; 2] {
    let mut usage = [0_u64; 18];
    // SAFETY: as the list says.
    unsafe { getrusage([whose, to(&mut usage)]) };
    told(&usage)
}

fn told(usage: &[u64; 18]) -> [u64; 2] {
    let time = |at: usize| usage[at] * 1_000_000 + usage[at + 1];
    [time(0) + time(2), usage[8]]
}

fn times() {
    // SAFETY: as the list says.
    unsafe {
        let (before, ran) = (used(OWN), clock(RAN));
        burn();
        let after = used(OWN);
        show("time that is used is counted", after[0] > before[0]);
        show("and by a clock", clock(RAN) - ran > 10 * MILLI);
        let ran = clock(RAN);
        nanosleep([at(&[0_u64, 200 * MILLI]), 0]);
        show("but not asleep", clock(RAN) - ran < 100 * MILLI);
        let (rights, flags) = (linux::PROT_READ | linux::PROT_WRITE, 0x22_u64);
        let start = mmap([0, 8 * PAGE, rights.into(), flags, u64::MAX, 0]) as u64;
        for page in 0..8 {
            put(start + page * PAGE, 1);
        }
        show(
            "pages that are touched are counted",
            used(OWN)[1] > after[1],
        );
        let before = used(CHILDREN)[0];
        let one = fork();
        if one == 0 {
            burn();
            linux_program::exit(0);
        }
        let (mut status, mut usage) = (0_i32, [0_u64; 18]);
        wait4([one as u64, to(&mut status), 0, to(&mut usage)]);
        show("a child's as it is waited for", told(&usage)[0] > 0);
        show("and afterwards", used(CHILDREN)[0] > before);
    }
}

/// What is run is written by nobody, and what somebody writes is not run.
fn busy() {
    // SAFETY: as the list says.
    unsafe {
        let own = at(c"/proc/self/exe");
        say(
            "open what runs, to write",
            open([own, linux::O_WRONLY.into(), 0]),
        );
        say(
            "open what runs, to cut it",
            open([own, linux::O_TRUNC.into(), 0]),
        );
        say("truncate what runs", truncate([own, 10]));
        let read = open([own, 0, 0]);
        show("open what runs, to read", read > 0);
        close([read as u64]);
        let path = c"busy";
        let written = file(path, b"no program");
        fchmod([written, 0o755]);
        let run = || {
            let words = [at(path), 0_u64];
            execve([at(path), at(&words), at(&words[1])])
        };
        say("run what is written", run());
        close([written]);
        say("run it then", run());
    }
}

/// What is cut off a file is nobody's any more.
fn cut() {
    // SAFETY: as the list says.
    unsafe {
        let cut = file(c"cut", b"");
        ftruncate([cut, 3 * PAGE]);
        let map = |flags: u32| {
            let rights = linux::PROT_READ | linux::PROT_WRITE;
            mmap([0, 3 * PAGE, rights.into(), flags.into(), cut, 0]) as u64
        };
        let (shared, own) = (map(linux::MAP_SHARED), map(linux::MAP_PRIVATE));
        for page in 0..3 {
            put(shared + page * PAGE, 7);
        }
        put(own + 2 * PAGE, 8);
        let one = get(own + PAGE);
        show("before", (one, get(own + 2 * PAGE)));
        let waits = fork();
        if waits == 0 {
            // Mapped by another process, which is asleep as it happens.
            nanosleep([at(&[0_u64, 100 * MILLI]), 0]);
            linux_program::exit(get(shared + PAGE).into());
        }
        say("cut", ftruncate([cut, 10]));
        show("what is left", (get(shared), get(shared + 100)));
        child("behind the end", || get(shared + PAGE).into());
        child("behind the end of a private one", || get(own + PAGE).into());
        child("what was written there", || get(own + 2 * PAGE).into());
        child("write behind the end", || {
            put(shared + 2 * PAGE, 1);
            0
        });
        say("by another process", wait(waits));
        say("longer again", ftruncate([cut, 3 * PAGE]));
        show("what is there", (get(shared + PAGE), get(own + 2 * PAGE)));
        call(linux::__NR_unlink, &[at(c"cut")]);
        close([cut]);
    }
}

/// Nobody ends the first process.
fn first() {
    // SAFETY: as the list says.
    unsafe {
        say(
            "terminate the first process",
            kill([1, linux::SIGTERM.into()]),
        );
        say("kill the first process", kill([1, linux::SIGKILL.into()]));
        nanosleep([at(&[0_u64, 10 * MILLI]), 0]);
        say("is it there", kill([1, 0]));
    }
}

fn put(at: u64, byte: u8) {
    // SAFETY: a page that a case mapped, or one whose absence it is about.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(at as usize).write_volatile(byte) };
}

fn get(at: u64) -> u8 {
    // SAFETY: a page that a case mapped, or one whose absence it is about.
    unsafe { core::ptr::with_exposed_provenance::<u8>(at as usize).read_volatile() }
}
