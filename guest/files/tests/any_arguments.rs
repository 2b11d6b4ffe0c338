//! Calls with any arguments on any kind of file: nothing panics, nothing waits without end, and
//! what was taken is free again.
//!
//! `FILES_CALLS=10000000 cargo test -p guest-files --test any_arguments` makes more of them.

mod common;

use std::sync::Arc;

use common::{Process, TestHost};
use guest_files::{
    Argument, ConsoleDevice, DeviceNumber, Drain, Errno, FileSystem as _, Fill, Limits, MemoryFs,
    Opening, Output, OwnTerminalDevice, Result, SetTime, Sets, System, Terminal, Time, add_device,
    add_memory_devices, add_pseudo_terminals,
};
use linux_raw_sys::general::{self as linux, pollfd};
use linux_raw_sys::ioctl;

struct Screen;

impl Output for Screen {
    fn write(&self, bytes: &[u8]) -> usize {
        bytes.len() / 2
    }
}

/// An argument that is whatever it is, and points to what may not be there.
struct Any(u64, bool);

impl Argument for Any {
    fn value(&self) -> u64 {
        self.0
    }
    fn get(&mut self, into: &mut [u8]) -> Result<()> {
        let bytes = self.0.to_ne_bytes();
        for (at, byte) in into.iter_mut().enumerate() {
            *byte = bytes[at % 8];
        }
        if self.1 { Ok(()) } else { Err(Errno::EFAULT) }
    }
    fn put(&mut self, _bytes: &[u8]) -> Result<()> {
        if self.1 { Ok(()) } else { Err(Errno::EFAULT) }
    }
}

fn number(random: &mut fastrand::Rng) -> i64 {
    match random.u8(..8) {
        0 => i64::MAX - random.i64(0..5),
        1 => i64::MIN + random.i64(0..5),
        2 => -random.i64(0..5),
        3 => 1 << random.u32(0..63),
        4 => random.i64(..),
        5 => random.i64(0..10_000),
        _ => random.i64(0..100),
    }
}

fn path(random: &mut fastrand::Rng) -> Vec<u8> {
    const PARTS: [&[u8]; 14] = [
        b"a", b"b", b"/", b"..", b".", b"dev", b"null", b"full", b"urandom", b"ptmx", b"pts",
        b"console", b"tty", b"0",
    ];
    let mut path = Vec::new();
    for _ in 0..random.usize(0..5) {
        path.extend_from_slice(PARTS[random.usize(..PARTS.len())]);
        path.push(b'/');
    }
    if random.u8(..3) > 0 {
        path.pop();
    }
    if random.u8(..40) == 0 {
        path = vec![random.u8(1..0x7f); random.usize(250..5000)];
    }
    path
}

/// What a call says does not matter here.
fn ignore<T>(_answer: T) {}

/// One call; what it says does not matter, that it comes back does.
fn call(process: &Process, random: &mut fastrand::Rng) {
    let calls = process.calls();
    let file = random.i32(-2..24);
    let cwd = if random.bool() { linux::AT_FDCWD } else { file };
    let (one, two) = (path(random), path(random));
    let (a, b) = (number(random), number(random));
    let bits = a as u32;
    let count = random.usize(0..9000);
    let mut memory = vec![1; count];
    process.began.set(None);
    match random.u8(..40) {
        0..=5 => {
            // Some flags are common, all are possible.
            let flags = [bits, linux::O_RDWR, linux::O_RDWR | linux::O_CREAT];
            let flags = flags[random.usize(..3)] | linux::O_NONBLOCK;
            ignore(calls.openat(&mut Opening::default(), cwd, &one, flags, b as u32));
        }
        6 => ignore(calls.close(file)),
        7 => ignore(calls.read(file, &mut Fill::new(&mut memory))),
        8 => ignore(calls.write(file, &mut Drain::new(&memory))),
        9 => ignore(calls.pread(file, a, &mut Fill::new(&mut memory))),
        10 => ignore(calls.pwrite(file, a, &mut Drain::new(&memory))),
        11 => ignore(calls.lseek(file, a, b as u32 % 8)),
        12 => ignore(calls.ftruncate(file, a)),
        13 => ignore(calls.truncate(&one, a)),
        14 => ignore(calls.fallocate(file, bits % 64, a, b)),
        15 => ignore(calls.getdents64(file, &mut Fill::new(&mut memory))),
        16 => ignore(calls.mkdirat(cwd, &one, bits)),
        17 => ignore(calls.mknodat(cwd, &one, bits, b as u64)),
        18 => ignore(calls.unlinkat(cwd, &one, bits % 1024)),
        19 => ignore(calls.linkat(cwd, &one, file, &two, bits)),
        20 => ignore(calls.symlinkat(&one, cwd, &two)),
        21 => ignore(calls.renameat2(cwd, &one, file, &two, bits % 4)),
        22 => ignore(calls.readlinkat(cwd, &one, &mut Fill::new(&mut memory))),
        23 => ignore(calls.statx(cwd, &one, bits, b as u32)),
        24 => ignore(calls.fchmodat(cwd, &one, bits, 0)),
        25 => ignore(calls.fchownat(cwd, &one, bits, b as u32, 0)),
        26 => {
            let time = SetTime::To(Time {
                seconds: a,
                nanos: 0,
            });
            ignore(calls.utimensat(cwd, Some(&one), time, SetTime::Now, 0));
        }
        27 => ignore(calls.chdir(&one)),
        28 => ignore(calls.getcwd(&mut Fill::new(&mut memory))),
        29 => ignore(calls.fcntl(file, bits % 1100, &mut Any(b as u64, random.bool()))),
        30 => {
            let known = [
                ioctl::TCSETS,
                ioctl::TCSETSF,
                ioctl::TIOCSWINSZ,
                ioctl::TIOCSPGRP,
                ioctl::TIOCSPTLCK,
                ioctl::FIONREAD,
                ioctl::TCXONC,
                ioctl::TIOCSCTTY,
                bits,
            ];
            let request = known[random.usize(..known.len())];
            ignore(calls.ioctl(file, request, &mut Any(b as u64, random.bool())));
        }
        31 => ignore(calls.dup2(file, a as i32)),
        32 => ignore(calls.pipe2(bits & (linux::O_NONBLOCK | linux::O_CLOEXEC))),
        33 => ignore(calls.eventfd2(bits, b as u32 & 0x80801)),
        34 => ignore(calls.timerfd_create(bits % 9, linux::TFD_NONBLOCK)),
        35 => ignore(calls.timerfd_settime(file, bits % 2, a as u64, b as u64)),
        36 => ignore(calls.epoll_create1(0)),
        37 => ignore(calls.epoll_ctl(file, bits % 4, random.i32(0..24), b as u32, 1)),
        38 => {
            let mut left = random.usize(0..4);
            ignore(calls.epoll_wait(file, 8, Some(1), &mut |_| {
                left = left.saturating_sub(1);
                left > 0
            }));
        }
        _ => {
            let mut files = [pollfd {
                fd: file,
                events: a as i16,
                revents: 0,
            }];
            ignore(calls.poll(&mut files, Some(b as u64)));
            let mut set = [a as u64];
            let mut sets = Sets {
                read: Some(&mut set),
                ..Sets::default()
            };
            ignore(calls.select(64, &mut sets, Some(b as u64)));
            ignore(calls.socketpair(bits % 3, b as u32 & 0x803, 0));
            ignore(calls.flock(file, bits % 9));
            ignore(calls.sendfile(file, random.i32(0..24), Some(a), count));
        }
    }
}

#[test]
fn nothing_that_a_program_says_makes_the_kernel_panic() {
    let count: u64 =
        std::env::var("FILES_CALLS").map_or(200_000, |value| value.parse().expect("a number"));
    for seed in 0..count.div_ceil(10_000) {
        let mut random = fastrand::Rng::with_seed(seed);
        let host = Arc::new(TestHost::default());
        let limits = Limits {
            pages: 64,
            inodes: 64,
        };
        let root = MemoryFs::new(host.clone(), DeviceNumber::new(0, 2), limits, 0o755).unwrap();
        let system = System::new(host.clone(), root.clone());
        let terminal = Terminal::new(host.clone(), Arc::new(Screen));
        let own = Arc::new(OwnTerminalDevice::default());
        own.add(&terminal);
        add_memory_devices(&system).unwrap();
        add_pseudo_terminals(&system, &own).unwrap();
        let console = Arc::new(ConsoleDevice(terminal.clone()));
        add_device(&system, "console", 0o666, DeviceNumber::new(5, 1), console).unwrap();
        let before = root.inodes_used();
        let mut process = Process::first(system, host.clone());
        process.limit = 24;
        for step in 0..10_000 {
            call(&process, &mut random);
            if step % 16 == 0 {
                terminal.type_in(&[random.u8(..), random.u8(..)], None);
                host.advance(step * 1_000_000_000);
            }
            host.timers.lock().unwrap().truncate(50);
            host.signals.lock().unwrap().clear();
        }
        // What is open holds what has no name any more; nothing else does.
        process.calls().close_range(0, u32::MAX, 0).unwrap();
        process.calls().chdir(b"/").unwrap();
        let usage = root.usage();
        assert!(usage.free_inodes <= usage.inodes && usage.free <= usage.blocks);
        empty(&process, "");
        assert!(
            root.inodes_used() <= before,
            "{} of {before}",
            root.inodes_used()
        );
        assert_eq!(root.pages_used(), 0, "seed {seed}");
    }
}

/// Removes all that is in a directory, but for `/dev/pts`, which something is mounted on, wherever
/// it is by now.
fn empty(process: &Process, path: &str) {
    let calls = process.calls();
    for name in process.names(&format!("{path}/")).unwrap_or_default() {
        let path = format!("{path}/{name}");
        let removed = calls.unlinkat(linux::AT_FDCWD, path.as_bytes(), 0);
        if removed == Err(Errno::EISDIR) {
            let removed = calls.unlinkat(linux::AT_FDCWD, path.as_bytes(), linux::AT_REMOVEDIR);
            if removed == Err(Errno::ENOTEMPTY) {
                empty(process, &path);
                ignore(calls.unlinkat(linux::AT_FDCWD, path.as_bytes(), linux::AT_REMOVEDIR));
            }
        }
    }
}
