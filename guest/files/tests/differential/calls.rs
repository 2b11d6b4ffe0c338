//! The calls that are compared, made at random.

use std::fmt::Write as _;

use linux_raw_sys::general as linux;

/// A call, with paths and open files by their numbers in the run.
#[derive(Clone, Debug)]
pub(super) enum Op {
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

/// Users that calls are made as, besides root.
const USERS: [u32; 2] = [1000, 1001];

pub(super) fn op(random: &mut fastrand::Rng, open: usize, user: &mut u32) -> Op {
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
