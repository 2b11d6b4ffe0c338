//! Descriptors, and what can be asked of them.

use linux_raw_sys::general as linux;
use linux_raw_sys::ioctl;

use super::{
    CLOSED, bad, calls, child, close, file, lseek, open, pipe, pipe2, read, say, show, write,
};
use crate::system::{at, call, to};

calls! {
    dup __NR_dup,
    dup2 __NR_dup2,
    dup3 __NR_dup3,
    fcntl __NR_fcntl,
    flock __NR_flock,
    close_range __NR_close_range,
    pipe_old __NR_pipe,
    socketpair __NR_socketpair,
    socket __NR_socket,
}

/// `struct flock`.
#[repr(C)]
#[derive(Debug, Default)]
struct Lock {
    kind: i16,
    whence: i16,
    start: i64,
    length: i64,
    process: i32,
}

pub(super) fn run() {
    // SAFETY: as the list says.
    unsafe {
        let f = file(c"fd", b"12345");
        say("dup", dup([f]));
        say("dup of nothing", dup([CLOSED]));
        say("dup2", dup2([f, 20]));
        say("dup2 to itself", dup2([f, f]));
        say("dup2 of nothing to itself", dup2([CLOSED, CLOSED]));
        say("dup2 too far", dup2([f, 1 << 30]));
        say("dup2 to -1", dup2([f, u64::MAX]));
        say("dup3 to itself", dup3([f, f, 0]));
        say("dup3 of flags", dup3([f, 21, 1]));
        say(
            "dup3 closing at exec",
            dup3([f, 21, linux::O_CLOEXEC.into()]),
        );
        say("its flag", fcntl([21, linux::F_GETFD.into()]));
        say("a shared place", {
            lseek([20, 3, 0]);
            lseek([f, 0, 1])
        });
        say("F_DUPFD", fcntl([f, linux::F_DUPFD.into(), 30]));
        say("F_DUPFD again", fcntl([f, linux::F_DUPFD.into(), 30]));
        say(
            "F_DUPFD below 0",
            fcntl([f, linux::F_DUPFD.into(), u64::MAX]),
        );
        say(
            "F_DUPFD too far",
            fcntl([f, linux::F_DUPFD.into(), 1 << 30]),
        );
        say(
            "F_DUPFD_CLOEXEC",
            fcntl([f, linux::F_DUPFD_CLOEXEC.into(), 40]),
        );
        say("F_SETFD", fcntl([f, linux::F_SETFD.into(), 1]));
        say("F_GETFD", fcntl([f, linux::F_GETFD.into()]));
        say("F_SETFD of more", fcntl([f, linux::F_SETFD.into(), 0xff]));
        say("F_GETFL", fcntl([f, linux::F_GETFL.into()]));
        say(
            "F_SETFL",
            fcntl([
                f,
                linux::F_SETFL.into(),
                u64::from(linux::O_APPEND | linux::O_NONBLOCK),
            ]),
        );
        say("F_GETFL then", fcntl([f, linux::F_GETFL.into()]));
        say(
            "F_SETFL of the way of writing",
            fcntl([f, linux::F_SETFL.into(), 0]),
        );
        say("F_GETFL at last", fcntl([f, linux::F_GETFL.into()]));
        say("fcntl unknown", fcntl([f, 9999]));
        say("fcntl of nothing", fcntl([CLOSED, linux::F_GETFD.into()]));
        say("F_GETOWN", fcntl([f, linux::F_GETOWN.into()]));
        say("close", close([f]));
        say("close again", close([f]));
        say("close -1", close([u64::MAX]));
        say("close_range", close_range([20, 50, 0]));
        say("what it closed", fcntl([30, linux::F_GETFD.into()]));
        say("close_range backwards", close_range([50, 20, 0]));
        say("close_range of flags", close_range([50, 60, 1 << 20]));
        let g = file(c"fd2", b"");
        say("close_range at exec", close_range([g, g, 4]));
        say("its flag", fcntl([g, linux::F_GETFD.into()]));
        pipes();
        locks();
        sockets();
        terminals();
    }
}

fn pipes() {
    // SAFETY: as the list says.
    unsafe {
        let mut ends = [0_i32; 2];
        say("pipe", pipe_old([to(&mut ends)]));
        bad("pipe", |ends| pipe2([ends, 0]));
        say("pipe2 of flags", pipe2([to(&mut ends), 1]));
        say(
            "pipe2",
            pipe2([
                to(&mut ends),
                u64::from(linux::O_CLOEXEC | linux::O_NONBLOCK),
            ]),
        );
        let [r, w] = ends.map(|end| end as u64);
        say(
            "flags of the reading end",
            fcntl([r, linux::F_GETFL.into()]),
        );
        say(
            "flags of the writing end",
            fcntl([w, linux::F_GETFL.into()]),
        );
        let mut count = 0_i32;
        write([w, at(b"abc"), 3]);
        say(
            "FIONREAD",
            call(
                linux::__NR_ioctl,
                &[r, ioctl::FIONREAD.into(), to(&mut count)],
            ),
        );
        show("FIONREAD", count);
        say(
            "FIONBIO",
            call(linux::__NR_ioctl, &[r, ioctl::FIONBIO.into(), at(&0_i32)]),
        );
        say(
            "FIOCLEX",
            call(linux::__NR_ioctl, &[r, ioctl::FIOCLEX.into(), 0]),
        );
        say(
            "unknown ioctl of a pipe",
            call(linux::__NR_ioctl, &[r, 0x1234, 0]),
        );
        child("writing to nobody is a signal", || {
            let [r, w] = pipe(0);
            close([r]);
            write([w, at(b"x"), 1]);
            0
        });
        child("writing to nobody, ignored, is an error", || {
            let ignore = [1_u64, 0, 0, 0];
            call(
                linux::__NR_rt_sigaction,
                &[linux::SIGPIPE.into(), at(&ignore), 0, 8],
            );
            let [r, w] = pipe(0);
            close([r]);
            (-write([w, at(b"x"), 1])) as u64
        });
    }
}

fn locks() {
    // SAFETY: as the list says.
    unsafe {
        let f = file(c"locked", b"0123456789");
        let other = open([at(c"locked"), 2]) as u64;
        say("flock", flock([f, 2]));
        say("flock of another", flock([other, 2 | 4]));
        say("flock shared", flock([f, 1]));
        say("flock shared by another", flock([other, 1 | 4]));
        say("flock up by both", flock([other, 2 | 4]));
        say("flock away", flock([f, 8]));
        say("flock unknown", flock([f, 16]));
        say("flock of nothing", flock([CLOSED, 2]));
        let get = |kind: i16, start: i64, length: i64| {
            let mut lock = Lock {
                kind,
                start,
                length,
                ..Lock::default()
            };
            let result = fcntl([f, linux::F_GETLK.into(), to(&mut lock)]);
            (
                result,
                lock.kind,
                lock.start,
                lock.length,
                lock.process != 0,
            )
        };
        let set = |command: u32, kind: i16, start: i64, length: i64| {
            let lock = Lock {
                kind,
                start,
                length,
                ..Lock::default()
            };
            fcntl([f, command.into(), at(&lock)])
        };
        say("F_SETLK", set(linux::F_SETLK, 1, 2, 4));
        show("F_GETLK of its own", get(1, 0, 10));
        say(
            "F_SETLK of less than nothing",
            set(linux::F_SETLK, 1, -5, 0),
        );
        say("F_SETLK unknown", set(linux::F_SETLK, 9, 0, 0));
        say("F_SETLK backwards", set(linux::F_SETLK, 1, 5, -2));
        bad("F_SETLK", |lock| fcntl([f, linux::F_SETLK.into(), lock]));
        child("F_GETLK of another process'", || {
            show("a lock before", get(1, 0, 2));
            show("a lock in the middle", get(0, 3, 1));
            show("a lock over it", get(1, 0, 0));
            say("F_SETLK against it", set(linux::F_SETLK, 0, 0, 0));
            say("F_SETLK beside it", set(linux::F_SETLK, 1, 7, 0));
            0
        });
        say(
            "F_SETLK of what the child had",
            set(linux::F_SETLK, 1, 0, 0),
        );
        say("F_SETLK splits", set(linux::F_SETLK, 2, 3, 2));
        child("what is left of it", || {
            show("the first part", get(1, 0, 0));
            show("the gap", get(1, 3, 2));
            show("the second part", get(1, 5, 0));
            0
        });
        close([other]);
        child("closing any descriptor gave it back", || {
            show("no lock", get(1, 0, 0));
            0
        });
        let only = open([at(c"locked"), 0]) as u64;
        let lock = Lock {
            kind: 1,
            ..Lock::default()
        };
        say(
            "F_SETLK to write what is open to read",
            fcntl([only, linux::F_SETLK.into(), at(&lock)]),
        );
        let lock = Lock {
            kind: 0,
            ..Lock::default()
        };
        say("F_SETLKW", fcntl([only, linux::F_SETLKW.into(), at(&lock)]));
        say(
            "F_OFD_SETLK",
            fcntl([
                f,
                37,
                at(&Lock {
                    kind: 1,
                    length: 1,
                    ..Lock::default()
                }),
            ]),
        );
    }
}

fn sockets() {
    // SAFETY: as the list says.
    unsafe {
        let mut ends = [0_i32; 2];
        say("socketpair", socketpair([1, 1, 0, to(&mut ends)]));
        let [a, b] = ends.map(|end| end as u64);
        say("write a socket", write([a, at(b"hello"), 5]));
        let mut bytes = [0_u8; 16];
        say("read a socket", read([b, to(&mut bytes), 16]));
        say("write back", write([b, at(b"x"), 1]));
        say("lseek of a socket", lseek([a, 0, 0]));
        say(
            "socketpair of an unknown family",
            socketpair([99, 1, 0, to(&mut ends)]),
        );
        say(
            "socketpair of an unknown kind",
            socketpair([1, 77, 0, to(&mut ends)]),
        );
        say(
            "socketpair of a protocol",
            socketpair([1, 1, 9, to(&mut ends)]),
        );
        bad("socketpair", |ends| socketpair([1, 1, 0, ends]));
        close([b]);
        say("read what has no other end", read([a, to(&mut bytes), 16]));
        say("read again", read([a, to(&mut bytes), 16]));
        say("socket of an unknown family", socket([99, 1, 0]));
    }
}

fn terminals() {
    // SAFETY: as the list says.
    unsafe {
        let master = open([at(c"/dev/ptmx"), 2]) as u64;
        let mut number = 0_u32;
        let ask =
            |fd: u64, request: u32, at: u64| call(linux::__NR_ioctl, &[fd, request.into(), at]);
        say("TIOCGPTN", ask(master, ioctl::TIOCGPTN, to(&mut number)));
        let mut path = *b"/dev/pts/0\0";
        path[9] = b'0' + number as u8;
        say("open a locked terminal", open([at(&path), 2 | 0o400]));
        say("TIOCSPTLCK", ask(master, ioctl::TIOCSPTLCK, at(&0_i32)));
        let slave = open([at(&path), 2 | 0o400]) as u64;
        let mut settings = [0_u8; 36];
        say("TCGETS", ask(slave, ioctl::TCGETS, to(&mut settings)));
        show("TCGETS", settings);
        bad("TCGETS", |into| ask(slave, ioctl::TCGETS, into));
        let mut size = [0_u16; 4];
        say("TIOCGWINSZ", ask(slave, ioctl::TIOCGWINSZ, to(&mut size)));
        show("TIOCGWINSZ", size);
        say(
            "TIOCSWINSZ",
            ask(master, ioctl::TIOCSWINSZ, at(&[30_u16, 100, 0, 0])),
        );
        ask(slave, ioctl::TIOCGWINSZ, to(&mut size));
        show("TIOCGWINSZ then", size);
        write([master, at(b"ab\x7fc\n"), 5]);
        let mut bytes = [0_u8; 64];
        say("a line", read([slave, to(&mut bytes), 64]));
        show("a line", &bytes[..3]);
        say("its echo", read([master, to(&mut bytes), 64]));
        show("its echo", &bytes[..9]);
        write([slave, at(b"x\n"), 2]);
        say("what is shown", read([master, to(&mut bytes), 64]));
        show("what is shown", &bytes[..3]);
        say(
            "TIOCGPGRP of no session's",
            ask(slave, ioctl::TIOCGPGRP, to(&mut number)),
        );
        say("TIOCSCTTY of no leader", ask(slave, ioctl::TIOCSCTTY, 0));
        say("unknown ioctl of a terminal", ask(slave, 0x5499, 0));
        close([slave]);
        say(
            "read of a closed terminal",
            read([master, to(&mut bytes), 64]),
        );
        close([master]);
    }
}
