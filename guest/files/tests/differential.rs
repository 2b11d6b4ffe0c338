//! Random sequences of calls on the host's Linux and on this crate: every result and every error
//! must be the same.
//!
//! `FILES_STEPS=1000000 cargo test -p guest-files --test differential` goes on for longer, and
//! `FILES_SEED=n` repeats a run.
#![cfg(target_os = "linux")]

mod common;

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use common::{LIMITS, Process, boot, now, number};
use guest_files::{Argument, Drain, Fill, Identity, Opening, SetTime, Time};
use linux_raw_sys::general::{self as linux, pollfd};
use linux_raw_sys::ioctl;
use rustix::event;
use rustix::fs as host;

/// A call, with paths and open files by their numbers in the run.
#[derive(Clone, Debug)]
enum Op {
    Open(String, u32, u32),
    Close(usize),
    Dup(usize),
    Read(usize, usize),
    Write(usize, usize, u8),
    Pread(usize, i64, usize),
    Pwrite(usize, i64, usize, u8),
    Seek(usize, i64, u32),
    Ftruncate(usize, i64),
    Fallocate(usize, u32, i64, i64),
    Setfl(usize, u32),
    Getfl(usize),
    Fstat(usize),
    Mkdir(String, u32),
    Mkfifo(String, u32),
    Rmdir(String),
    Unlink(String),
    Link(String, String, u32),
    Symlink(String, String),
    Rename(String, String, u32),
    Readlink(String),
    Stat(String),
    Lstat(String),
    Access(String, u32),
    Chmod(String, u32),
    Names(String),
    Chown(String, u32, u32, u32),
    Touch(String, bool),
    Chdir(Option<String>),
    Cwd,
    User(u32),
    Pipe,
    PipeSize(usize, usize),
    Waiting(usize),
    Ready(usize),
}

type Answer = core::result::Result<String, i32>;

/// What both sides have of `stat`.
fn show(mode: u32, links: u64, size: i64, user: u32) -> String {
    let kind = mode & linux::S_IFMT;
    let size = if kind == linux::S_IFDIR { 0 } else { size };
    format!("mode {mode:o} links {links} size {size} user {user}")
}

fn bytes(count: usize, seed: u8) -> Vec<u8> {
    (0..count)
        .map(|at| (at as u8).wrapping_mul(7) ^ seed)
        .collect()
}

fn digest(bytes: &[u8]) -> String {
    let mut sum = 0_u64;
    for &byte in bytes {
        sum = sum.wrapping_mul(31).wrapping_add(byte.into());
    }
    format!("{} bytes {sum:x}", bytes.len())
}

/// An argument that points to a number.
struct Int(i32);

impl Argument for Int {
    fn value(&self) -> u64 {
        0
    }
    fn get(&mut self, into: &mut [u8]) -> guest_files::Result<()> {
        into.copy_from_slice(&self.0.to_ne_bytes());
        Ok(())
    }
    fn put(&mut self, bytes: &[u8]) -> guest_files::Result<()> {
        self.0 = i32::from_ne_bytes(bytes.try_into().unwrap());
        Ok(())
    }
}

/// This crate's side.
struct Ours {
    process: Process,
    /// Who runs the test.
    first: Identity,
    open: Vec<Option<i32>>,
}

impl Ours {
    fn run(&mut self, op: &Op) -> Answer {
        let process = &self.process;
        let calls = process.calls();
        let cwd = linux::AT_FDCWD;
        // A file that was closed is nobody's to ask on either side.
        let slot = |slot: usize| self.open.get(slot).copied().flatten();
        macro_rules! slot {
            ($at:expr) => {
                match slot($at) {
                    Some(file) => file,
                    None => return Err(linux_raw_sys::errno::EBADF as i32),
                }
            };
        }
        let unit = |done: guest_files::Result<()>| number(done).map(|()| String::new());
        let stat = |stat: guest_files::Result<linux::stat>| {
            number(stat).map(|stat| show(stat.st_mode, stat.st_nlink, stat.st_size, stat.st_uid))
        };
        match op {
            Op::Open(path, flags, mode) => {
                let mut opening = Opening::default();
                let file = now(calls.openat(&mut opening, cwd, path.as_bytes(), *flags, *mode));
                let file = number(file)?;
                self.open.push(Some(file));
                Ok("open".into())
            }
            Op::Close(at) => {
                let done = number(calls.close(slot!(*at)));
                if let Some(open) = self.open.get_mut(*at) {
                    *open = None;
                }
                done.map(|()| String::new())
            }
            Op::Dup(at) => {
                let file = number(calls.dup(slot!(*at)))?;
                self.open.push(Some(file));
                Ok("dup".into())
            }
            Op::Read(at, count) => {
                number(process.read(slot!(*at), *count)).map(|bytes| digest(&bytes))
            }
            Op::Write(at, count, seed) => {
                number(process.write(slot!(*at), &bytes(*count, *seed))).map(|n| n.to_string())
            }
            Op::Pread(at, offset, count) => {
                let mut memory = vec![0; *count];
                let mut fill = Fill::new(&mut memory);
                let count = number(now(calls.pread(slot!(*at), *offset, &mut fill)))?;
                Ok(digest(&memory[..count]))
            }
            Op::Pwrite(at, offset, count, seed) => {
                let bytes = bytes(*count, *seed);
                let mut drain = Drain::new(&bytes);
                number(now(calls.pwrite(slot!(*at), *offset, &mut drain))).map(|n| n.to_string())
            }
            Op::Seek(at, offset, whence) => {
                number(now(calls.lseek(slot!(*at), *offset, *whence))).map(|at| at.to_string())
            }
            Op::Ftruncate(at, size) => unit(now(calls.ftruncate(slot!(*at), *size))),
            Op::Fallocate(at, mode, from, count) => {
                unit(now(calls.fallocate(slot!(*at), *mode, *from, *count)))
            }
            Op::Setfl(at, flags) => {
                let mut flags = guest_files::Number((*flags).into());
                let done = calls.fcntl(slot!(*at), linux::F_SETFL, &mut flags);
                number(done).map(|n| n.to_string())
            }
            Op::Getfl(at) => {
                let mut none = guest_files::Number(0);
                let done = calls.fcntl(slot!(*at), linux::F_GETFL, &mut none);
                number(done).map(|n| format!("{n:o}"))
            }
            Op::Fstat(at) => stat(calls.fstat(slot!(*at))),
            Op::Mkdir(path, mode) => unit(calls.mkdirat(cwd, path.as_bytes(), *mode)),
            Op::Mkfifo(path, mode) => {
                unit(calls.mknodat(cwd, path.as_bytes(), linux::S_IFIFO | mode, 0))
            }
            Op::Rmdir(path) => unit(calls.unlinkat(cwd, path.as_bytes(), linux::AT_REMOVEDIR)),
            Op::Unlink(path) => unit(calls.unlinkat(cwd, path.as_bytes(), 0)),
            Op::Link(old, new, flags) => {
                unit(calls.linkat(cwd, old.as_bytes(), cwd, new.as_bytes(), *flags))
            }
            Op::Symlink(target, path) => {
                unit(calls.symlinkat(target.as_bytes(), cwd, path.as_bytes()))
            }
            Op::Rename(old, new, flags) => {
                unit(calls.renameat2(cwd, old.as_bytes(), cwd, new.as_bytes(), *flags))
            }
            Op::Readlink(path) => {
                let mut memory = [0; 4096];
                let mut fill = Fill::new(&mut memory);
                let count = number(calls.readlinkat(cwd, path.as_bytes(), &mut fill))?;
                Ok(String::from_utf8_lossy(&memory[..count]).into_owned())
            }
            Op::Stat(path) => stat(calls.fstatat(cwd, path.as_bytes(), 0)),
            Op::Lstat(path) => {
                stat(calls.fstatat(cwd, path.as_bytes(), linux::AT_SYMLINK_NOFOLLOW))
            }
            Op::Access(path, mode) => {
                unit(calls.faccessat2(&self.first, cwd, path.as_bytes(), *mode, 0))
            }
            Op::Chmod(path, mode) => unit(calls.fchmodat(cwd, path.as_bytes(), *mode, 0)),
            Op::Names(path) => {
                let mut names = number(process.names(path))?;
                names.sort();
                Ok(names.join(" "))
            }
            Op::Chown(path, user, group, flags) => {
                unit(calls.fchownat(cwd, path.as_bytes(), *user, *group, *flags))
            }
            Op::Touch(path, now) => {
                let time = match now {
                    true => SetTime::Now,
                    false => SetTime::To(Time {
                        seconds: 5,
                        nanos: 7,
                    }),
                };
                unit(calls.utimensat(cwd, Some(path.as_bytes()), time, time, 0))
            }
            Op::Chdir(Some(path)) => unit(calls.chdir(path.as_bytes())),
            Op::Chdir(None) => unit(calls.chdir(BASE.as_bytes())),
            Op::Cwd => {
                let mut memory = [0; 4096];
                match calls.getcwd(&mut Fill::new(&mut memory)) {
                    Ok(count) => Ok(String::from_utf8_lossy(&memory[..count - 1]).into_owned()),
                    // It was removed.
                    Err(guest_files::Errno::ENOENT) => Ok("gone".into()),
                    Err(error) => Err(error.number()),
                }
            }
            Op::Pipe => {
                let pair = number(calls.pipe2(linux::O_NONBLOCK))?;
                self.open.extend(pair.map(Some));
                Ok("pipe".into())
            }
            Op::PipeSize(at, size) => {
                let mut size = guest_files::Number(*size as u64);
                let done = calls.fcntl(slot!(*at), linux::F_SETPIPE_SZ, &mut size);
                number(done).map(|size| size.to_string())
            }
            Op::Waiting(at) => {
                let mut count = Int(0);
                number(now(calls.ioctl(slot!(*at), ioctl::FIONREAD, &mut count)))?;
                Ok(count.0.to_string())
            }
            Op::Ready(at) => {
                let mut files = [pollfd {
                    fd: slot!(*at),
                    events: 0xff,
                    revents: 0,
                }];
                number(now(calls.poll(&mut files, Some(0))))?;
                Ok(format!("{:x}", files[0].revents))
            }
            Op::User(0) => {
                self.process.who = self.first.clone();
                Ok(String::new())
            }
            Op::User(user) => {
                self.process.who = Identity {
                    user: *user,
                    group: *user,
                    groups: Vec::new(),
                };
                Ok(String::new())
            }
        }
    }
}

/// The host's side: all paths are relative to a directory.
struct Theirs {
    top: String,
    first: OwnedFd,
    base: OwnedFd,
    open: Vec<Option<OwnedFd>>,
}

impl Theirs {
    fn run(&mut self, op: &Op) -> Answer {
        let base = self.base.as_fd();
        let number = |error: rustix::io::Errno| error.raw_os_error();
        let stat = |stat: rustix::io::Result<host::Stat>| {
            stat.map(|stat| show(stat.st_mode, stat.st_nlink, stat.st_size, stat.st_uid))
                .map_err(number)
        };
        let unit = |done: rustix::io::Result<()>| done.map(|()| String::new()).map_err(number);
        let oflags = host::OFlags::from_bits_retain;
        let mode_of = host::Mode::from_bits_retain;
        macro_rules! slot {
            ($at:expr) => {
                match self.open.get(*$at).and_then(Option::as_ref) {
                    Some(file) => file.as_fd(),
                    None => return Err(linux_raw_sys::errno::EBADF as i32),
                }
            };
        }
        match op {
            Op::Open(path, flags, mode) => {
                let file = host::openat(base, path, oflags(*flags), mode_of(*mode));
                self.open.push(Some(file.map_err(number)?));
                Ok("open".into())
            }
            Op::Close(at) => {
                let there = self.open.get_mut(*at).and_then(Option::take);
                there
                    .map(|_| String::new())
                    .ok_or(linux_raw_sys::errno::EBADF as i32)
            }
            Op::Dup(at) => {
                let file = rustix::io::dup(slot!(at)).map_err(number)?;
                self.open.push(Some(file));
                Ok("dup".into())
            }
            Op::Read(at, count) => {
                let mut memory = vec![0; *count];
                let count = rustix::io::read(slot!(at), &mut memory).map_err(number)?;
                Ok(digest(&memory[..count]))
            }
            Op::Write(at, count, seed) => rustix::io::write(slot!(at), &bytes(*count, *seed))
                .map(|n| n.to_string())
                .map_err(number),
            Op::Pread(at, offset, count) => {
                let mut memory = vec![0; *count];
                let read = rustix::io::pread(slot!(at), &mut memory, *offset as u64);
                let count = read.map_err(number)?;
                Ok(digest(&memory[..count]))
            }
            Op::Pwrite(at, offset, count, seed) => {
                rustix::io::pwrite(slot!(at), &bytes(*count, *seed), *offset as u64)
                    .map(|n| n.to_string())
                    .map_err(number)
            }
            Op::Seek(at, offset, whence) => {
                let to = match *whence {
                    linux::SEEK_SET => host::SeekFrom::Start(*offset as u64),
                    linux::SEEK_CUR => host::SeekFrom::Current(*offset),
                    linux::SEEK_END => host::SeekFrom::End(*offset),
                    linux::SEEK_DATA => host::SeekFrom::Data(*offset as u64),
                    _ => host::SeekFrom::Hole(*offset as u64),
                };
                host::seek(slot!(at), to)
                    .map(|at| at.to_string())
                    .map_err(number)
            }
            Op::Ftruncate(at, size) => unit(host::ftruncate(slot!(at), *size as u64)),
            Op::Fallocate(at, mode, from, count) => unit(host::fallocate(
                slot!(at),
                host::FallocateFlags::from_bits_retain(*mode),
                *from as u64,
                *count as u64,
            )),
            Op::Setfl(at, flags) => host::fcntl_setfl(slot!(at), oflags(*flags))
                .map(|()| "0".into())
                .map_err(number),
            Op::Getfl(at) => host::fcntl_getfl(slot!(at))
                .map(|flags| format!("{:o}", flags.bits()))
                .map_err(number),
            Op::Fstat(at) => stat(host::fstat(slot!(at))),
            Op::Mkdir(path, mode) => unit(host::mkdirat(base, path, mode_of(*mode))),
            Op::Mkfifo(path, mode) => unit(host::mknodat(
                base,
                path,
                host::FileType::Fifo,
                mode_of(*mode),
                0,
            )),
            Op::Rmdir(path) => unit(host::unlinkat(base, path, host::AtFlags::REMOVEDIR)),
            Op::Unlink(path) => unit(host::unlinkat(base, path, host::AtFlags::empty())),
            Op::Link(old, new, flags) => {
                let flags = host::AtFlags::from_bits_retain(*flags);
                unit(host::linkat(base, old, base, new, flags))
            }
            Op::Symlink(target, path) => unit(host::symlinkat(target, base, path)),
            Op::Rename(old, new, flags) => {
                let flags = host::RenameFlags::from_bits_retain(*flags);
                unit(host::renameat_with(base, old, base, new, flags))
            }
            Op::Readlink(path) => host::readlinkat(base, path, Vec::new())
                .map(|target| target.to_string_lossy().into_owned())
                .map_err(number),
            Op::Stat(path) => stat(host::statat(base, path, host::AtFlags::empty())),
            Op::Lstat(path) => stat(host::statat(base, path, host::AtFlags::SYMLINK_NOFOLLOW)),
            Op::Access(path, mode) => unit(host::accessat(
                base,
                path,
                host::Access::from_bits_retain(*mode),
                host::AtFlags::empty(),
            )),
            Op::Chmod(path, mode) => unit(host::chmodat(
                base,
                path,
                mode_of(*mode),
                host::AtFlags::empty(),
            )),
            Op::Names(path) => self.names(base, path).map_err(number),
            Op::Chown(path, user, group, flags) => {
                let id = |id: u32| (id != u32::MAX).then_some(id);
                unit(host::chownat(
                    base,
                    path,
                    id(*user).map(host::Uid::from_raw),
                    id(*group).map(host::Gid::from_raw),
                    host::AtFlags::from_bits_retain(*flags),
                ))
            }
            Op::Touch(path, now) => {
                let time = host::Timespec {
                    tv_sec: if *now { 0 } else { 5 },
                    tv_nsec: if *now { linux::UTIME_NOW.into() } else { 7 },
                };
                let times = host::Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                unit(host::utimensat(base, path, &times, host::AtFlags::empty()))
            }
            Op::Chdir(path) => {
                let directory = host::OFlags::PATH | host::OFlags::DIRECTORY;
                let none = host::Mode::empty();
                let found = match path {
                    Some(path) => host::openat(base, path, directory, none),
                    None => self.first.try_clone().map_err(|_| rustix::io::Errno::IO),
                };
                self.base = found.map_err(number)?;
                Ok(String::new())
            }
            Op::Cwd => {
                use std::os::fd::AsRawFd as _;
                let link = format!("/proc/self/fd/{}", self.base.as_raw_fd());
                let path = std::fs::read_link(link).unwrap();
                let path = path.to_str().unwrap();
                Ok(match path.ends_with(" (deleted)") {
                    true => "gone".into(),
                    false => path.strip_prefix(&self.top).unwrap().into(),
                })
            }
            Op::Pipe => {
                let flags = rustix::pipe::PipeFlags::NONBLOCK;
                let (from, to) = rustix::pipe::pipe_with(flags).map_err(number)?;
                self.open.extend([from, to].map(Some));
                Ok("pipe".into())
            }
            Op::PipeSize(at, size) => rustix::pipe::fcntl_setpipe_size(slot!(at), *size)
                .map(|size| size.to_string())
                .map_err(number),
            Op::Waiting(at) => rustix::io::ioctl_fionread(slot!(at))
                .map(|count| (count as i32).to_string())
                .map_err(number),
            Op::Ready(at) => {
                let file = slot!(at);
                let all = event::PollFlags::from_bits_retain(0xff);
                let mut files = [event::PollFd::from_borrowed_fd(file, all)];
                event::poll(&mut files, Some(&event::Timespec::default())).map_err(number)?;
                Ok(format!("{:x}", files[0].revents().bits()))
            }
            Op::User(user) => {
                self.become_user(*user);
                Ok(String::new())
            }
        }
    }

    /// Has the host judge this thread's calls as another user's; only root can.
    fn become_user(&self, user: u32) {
        if rustix::process::geteuid().is_root() {
            // SAFETY: it changes only whom this thread's calls on files are judged as.
            unsafe {
                libc::setfsgid(user);
                libc::setfsuid(user);
            }
        }
    }

    fn names(&self, base: BorrowedFd<'_>, path: &str) -> rustix::io::Result<String> {
        let flags = host::OFlags::RDONLY | host::OFlags::DIRECTORY;
        let file = host::openat(base, path, flags, host::Mode::empty())?;
        let mut memory = Vec::with_capacity(4096);
        let mut directory = host::RawDir::new(&file, memory.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = directory.next() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names.join(" "))
    }
}

fn path(random: &mut fastrand::Rng) -> String {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let mut path = String::new();
    for part in 0..random.usize(1..=4) {
        if part > 0 {
            path.push_str(if random.u8(..20) == 0 { "//" } else { "/" });
        }
        path.push_str(match random.u8(..24) {
            0 => ".",
            1 | 2 if part > 0 => "..",
            _ => NAMES[random.usize(..NAMES.len())],
        });
        if random.bool() {
            break;
        }
    }
    match random.u8(..24) {
        0 => path.push('/'),
        1 => path.push_str("/."),
        2 => path.push_str("/.."),
        3 if random.u8(..8) == 0 => path = ".".into(),
        4 if random.u8(..8) == 0 => path.clear(),
        5 if random.u8(..8) == 0 => {
            let _ = write!(path, "/{}", "x".repeat(random.usize(254..=257)));
        }
        _ => {}
    }
    path
}

fn flags(random: &mut fastrand::Rng) -> u32 {
    let mut flags = [
        linux::O_RDONLY,
        linux::O_WRONLY,
        linux::O_RDWR,
        linux::O_RDWR,
    ][random.usize(..4)];
    for (flag, one_in) in [
        (linux::O_CREAT, 2),
        (linux::O_EXCL, 8),
        (linux::O_TRUNC, 5),
        (linux::O_APPEND, 4),
        (linux::O_DIRECTORY, 10),
        (linux::O_NOFOLLOW, 8),
        (linux::O_PATH, 20),
    ] {
        if random.u8(..one_in) == 0 {
            flags |= flag;
        }
    }
    // Nobody opens the other side of a FIFO here, and `O_EXCL` without `O_CREAT` means nothing.
    flags | linux::O_NONBLOCK
}

/// The directory in which all of it is.
const BASE: &str = "/x/y/z/w/base";

/// Users that calls are made as, besides root.
const USERS: [u32; 2] = [1000, 1001];

fn op(random: &mut fastrand::Rng, open: usize, user: &mut u32) -> Op {
    const MODES: [u32; 5] = [0o644, 0o755, 0, 0o4755, 0o1777];
    let mode = MODES[random.usize(..MODES.len())];
    let offset = match random.u8(..6) {
        0 => random.i64(0..40_000),
        1 => -random.i64(0..50),
        2 => random.i64(0..5) * 4096,
        _ => random.i64(0..300),
    };
    let count = match random.u8(..5) {
        0 => random.usize(..10_000),
        1 => 0,
        _ => random.usize(..200),
    };
    let at = random.usize(open.saturating_sub(6)..=open);
    let seed = random.u8(..);
    match random.u8(..62) {
        0..=6 => Op::Open(path(random), flags(random), mode),
        7 => Op::Close(at),
        8 => Op::Dup(at),
        9 | 10 => Op::Read(at, count),
        11..=13 => Op::Write(at, count, seed),
        14 => Op::Pread(at, offset, count),
        15 | 16 => Op::Pwrite(at, offset, count, seed),
        17 | 18 => Op::Seek(at, offset, random.u32(0..3)),
        19 => Op::Ftruncate(at, offset),
        20 => {
            let modes = [
                0,
                linux::FALLOC_FL_KEEP_SIZE,
                linux::FALLOC_FL_PUNCH_HOLE | linux::FALLOC_FL_KEEP_SIZE,
                linux::FALLOC_FL_PUNCH_HOLE,
            ];
            let mode = modes[random.usize(..modes.len())];
            Op::Fallocate(at, mode, offset, count as i64)
        }
        21 => Op::Setfl(
            at,
            linux::O_NONBLOCK | if random.bool() { linux::O_APPEND } else { 0 },
        ),
        22 => Op::Getfl(at),
        23 => Op::Fstat(at),
        24..=27 => Op::Mkdir(path(random), mode),
        28 => Op::Mkfifo(path(random), mode),
        29 | 30 => Op::Rmdir(path(random)),
        31 | 32 => Op::Unlink(path(random)),
        33 | 34 => {
            let follow = random.u8(..4) == 0;
            let flags = if follow { linux::AT_SYMLINK_FOLLOW } else { 0 };
            Op::Link(path(random), path(random), flags)
        }
        35 | 36 => Op::Symlink(path(random), path(random)),
        37..=39 => {
            let flags = [0, 0, 0, linux::RENAME_NOREPLACE, linux::RENAME_EXCHANGE];
            let flags = flags[random.usize(..flags.len())];
            Op::Rename(path(random), path(random), flags)
        }
        40 => Op::Readlink(path(random)),
        41 => Op::Stat(path(random)),
        42 => Op::Lstat(path(random)),
        43 => Op::Access(path(random), random.u32(0..9)),
        44 => Op::Chmod(path(random), mode),
        45 => Op::Names(path(random)),
        46 | 47 => {
            let ids = [0, USERS[0], USERS[1], u32::MAX];
            let flags = [0, 0, linux::AT_SYMLINK_NOFOLLOW];
            Op::Chown(
                path(random),
                ids[random.usize(..4)],
                ids[random.usize(..4)],
                flags[random.usize(..3)],
            )
        }
        48 => Op::Touch(path(random), random.bool()),
        // Whether someone else may enter is not what opening a directory's path asks.
        49 if *user == 0 && rustix::process::geteuid().is_root() => {
            let path = path(random);
            Op::Chdir((!path.contains("..")).then_some(path))
        }
        50 => Op::Cwd,
        51 | 52 => Op::Pipe,
        53 => Op::PipeSize(at, [1, 4096, 8192, 65_536, 200_000][random.usize(..5)]),
        54 | 55 => Op::Waiting(at),
        56 | 57 => Op::Ready(at),
        58 => Op::Write(at, random.usize(..70_000), seed),
        59 => Op::Read(at, random.usize(..70_000)),
        _ if *user != 0 && random.u8(..4) > 0 => Op::Stat(path(random)),
        _ => {
            let can_change = rustix::process::geteuid().is_root();
            *user = match random.u8(..3) {
                0 if *user == 0 && can_change => USERS[random.usize(..2)],
                _ => 0,
            };
            Op::User(*user)
        }
    }
}

/// Runs one sequence on both, and says where they part.
fn sequence(seed: u64, steps: usize) {
    let first = Identity {
        user: rustix::process::geteuid().as_raw(),
        group: rustix::process::getegid().as_raw(),
        groups: rustix::process::getgroups()
            .unwrap()
            .into_iter()
            .map(host::Gid::as_raw)
            .collect(),
    };
    let mut random = fastrand::Rng::with_seed(seed);
    // In memory, as ours: ext4 has other ideas of holes.
    let temporary = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let top = temporary.path().to_str().unwrap().to_owned();
    let nested = format!("{top}{BASE}");
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&top, everyone).unwrap();
    std::fs::create_dir_all(&nested).unwrap();
    let directory = host::OFlags::RDONLY | host::OFlags::DIRECTORY;
    let base = host::open(&nested, directory, host::Mode::empty()).unwrap();
    let mut theirs = Theirs {
        top,
        first: base.try_clone().unwrap(),
        base,
        open: Vec::new(),
    };
    let mut process = boot(LIMITS);
    for path in ["/x", "/x/y", "/x/y/z", "/x/y/z/w", "/x/y/z/w/base"] {
        let made = process
            .calls()
            .mkdirat(linux::AT_FDCWD, path.as_bytes(), 0o755);
        made.unwrap();
    }
    process.calls().chdir(BASE.as_bytes()).unwrap();
    for path in ["/x", "/x/y", "/x/y/z", "/x/y/z/w", BASE] {
        let owned =
            process
                .calls()
                .fchownat(linux::AT_FDCWD, path.as_bytes(), first.user, first.group, 0);
        owned.unwrap();
    }
    process.who = first.clone();
    let mut ours = Ours {
        first,
        process,
        open: Vec::new(),
    };
    let mut before = Vec::new();
    let mut user = 0;
    for _ in 0..steps {
        let op = op(&mut random, ours.open.len(), &mut user);
        let (our, their) = (ours.run(&op), theirs.run(&op));
        before.push(format!("{op:?} -> {their:?}"));
        if our != their {
            theirs.become_user(0);
            let from = before.len().saturating_sub(400);
            panic!(
                "seed {seed}, call {}: {op:?}\nLinux {their:?}\nours  {our:?}\nbefore:\n{}",
                before.len(),
                before[from..].join("\n")
            );
        }
    }
    theirs.become_user(0);
}

#[test]
fn random_calls_have_the_same_results_on_linux() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
    };
    if !std::path::Path::new("/dev/shm").is_dir() {
        println!("not compared: the host has no files in memory at /dev/shm");
        return;
    }
    let steps = number("FILES_STEPS", 20_000);
    let first = number("FILES_SEED", 1);
    rustix::process::umask(host::Mode::from_bits_retain(0o022));
    for seed in first..first + steps.div_ceil(500) {
        sequence(seed, 500);
    }
}
