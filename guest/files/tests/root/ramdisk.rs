//! Ramdisks: what Linux takes is taken, what is damaged is refused by name and place, and no
//! damage whatever makes the reader fail otherwise.

use std::io::Write as _;

use crate::common::{LIMITS, Process, boot, now, number};
use guest_files::{Drain, Errno, Limits, Problem, Refusal, unpack, unpack_lasting};
use linux_raw_sys::general as linux;

/// A file of an archive.
struct File<'a> {
    name: &'a str,
    mode: u32,
    data: &'a [u8],
    inode: u32,
    links: u32,
    device: (u32, u32),
}

const PLAIN: File<'static> = File {
    name: "file",
    mode: linux::S_IFREG | 0o644,
    data: b"",
    inode: 0,
    links: 1,
    device: (0, 0),
};

fn file<'a>(name: &'a str, data: &'a [u8]) -> File<'a> {
    File {
        name,
        data,
        ..PLAIN
    }
}

fn directory(name: &str) -> File<'_> {
    File {
        name,
        mode: linux::S_IFDIR | 0o755,
        ..PLAIN
    }
}

fn symlink<'a>(name: &'a str, target: &'a str) -> File<'a> {
    File {
        name,
        mode: linux::S_IFLNK | 0o777,
        data: target.as_bytes(),
        ..PLAIN
    }
}

/// One file as the format has it.
fn encode(file: &File<'_>, sum: Option<u32>) -> Vec<u8> {
    let mut bytes = match sum {
        Some(_) => b"070702".to_vec(),
        None => b"070701".to_vec(),
    };
    for field in [
        file.inode,
        file.mode,
        7,
        8,
        file.links,
        1_000_000,
        file.data.len() as u32,
        0,
        0,
        file.device.0,
        file.device.1,
        file.name.len() as u32 + 1,
        sum.unwrap_or(0),
    ] {
        write!(bytes, "{field:08X}").unwrap();
    }
    bytes.extend(file.name.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(file.data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn archive(files: &[File<'_>]) -> Vec<u8> {
    let mut bytes: Vec<u8> = files.iter().flat_map(|file| encode(file, None)).collect();
    bytes.extend(encode(&file("TRAILER!!!", b""), None));
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::GzBuilder::new()
        .filename("root.cpio")
        .comment("made by a test")
        .extra(*b"some")
        .write(Vec::new(), flate2::Compression::default());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn refusal(ramdisk: &[u8]) -> Refusal {
    unpack(&boot(LIMITS).system, ramdisk).expect_err("a damaged ramdisk is taken")
}

#[test]
fn all_kinds_of_files_come_out_as_they_went_in() {
    let process = boot(LIMITS);
    let long = vec![0x5a; 10_000];
    let contents = unpack(
        &process.system,
        &archive(&[
            directory("."),
            directory("bin"),
            file("./bin/busybox", &long),
            symlink("bin/sh", "busybox"),
            File {
                name: "console",
                mode: linux::S_IFCHR | 0o600,
                device: (5, 1),
                ..PLAIN
            },
        ]),
    )
    .unwrap();
    assert_eq!((contents.archives, contents.names), (1, 5));
    assert_eq!(process.contents("/bin/sh").unwrap(), long);
    let cwd = linux::AT_FDCWD;
    let stat = process.calls().fstatat(cwd, b"/bin/busybox", 0).unwrap();
    assert_eq!((stat.st_mode, stat.st_uid, stat.st_gid), (0o100_644, 7, 8));
    assert_eq!(stat.st_mtime, 1_000_000);
    // What comes into a directory does not change when it says it was changed.
    let stat = process.calls().fstatat(cwd, b"/bin", 0).unwrap();
    assert_eq!((stat.st_mode, stat.st_mtime), (0o40_755, 1_000_000));
    let stat = process.calls().fstatat(cwd, b"/console", 0).unwrap();
    assert_eq!((stat.st_mode, stat.st_rdev), (0o20_600, 0x501));
}

#[test]
fn archives_follow_one_another_packed_or_not() {
    let process = boot(LIMITS);
    let mut ramdisk = archive(&[file("first", b"1"), file("both", b"longer")]);
    ramdisk.extend([0; 512]);
    ramdisk.extend(gzip(
        &[
            archive(&[file("second", b"2")]),
            archive(&[file("third", b"3")]),
        ]
        .concat(),
    ));
    ramdisk.extend(archive(&[file("both", b"new")]));
    let contents = unpack(&process.system, &ramdisk).unwrap();
    assert_eq!((contents.archives, contents.names), (4, 5));
    for (name, data) in [
        ("/first", "1"),
        ("/second", "2"),
        ("/third", "3"),
        ("/both", "new"),
    ] {
        assert_eq!(process.contents(name).unwrap(), data.as_bytes(), "{name}");
    }
}

#[test]
fn packed_data_larger_than_the_window_comes_out_whole() {
    let process = boot(LIMITS);
    let mut random = fastrand::Rng::with_seed(1);
    let data: Vec<u8> = (0..300_000).map(|_| random.u8(..16)).collect();
    unpack(&process.system, &gzip(&archive(&[file("data", &data)]))).unwrap();
    assert_eq!(process.contents("/data").unwrap(), data);
}

#[test]
fn names_of_one_inode_are_one_file() {
    let process = boot(LIMITS);
    let named = |name, data| File {
        name,
        data,
        inode: 9,
        links: 2,
        ..PLAIN
    };
    unpack(
        &process.system,
        &archive(&[named("a", b""), named("b", b"data")]),
    )
    .unwrap();
    assert_eq!(process.contents("/a").unwrap(), b"data");
    let stat = process.calls().fstatat(linux::AT_FDCWD, b"/b", 0).unwrap();
    assert_eq!(stat.st_nlink, 2);
    // Another archive counts its inodes anew.
    unpack(&process.system, &archive(&[named("c", b"other")])).unwrap();
    assert_eq!(process.contents("/a").unwrap(), b"data");
}

#[test]
fn names_that_lead_out_are_refused_by_name() {
    for name in ["/etc/passwd", "../out", "a/../../out", "a/..", ".."] {
        let refusal = refusal(&archive(&[directory("a"), file(name, b"x")]));
        assert_eq!(refusal.problem, Problem::NamePath, "{name}");
        assert_eq!(refusal.name, name.as_bytes());
    }
    // A link that leads there is no way out either: its root is this one.
    let process = boot(LIMITS);
    unpack(
        &process.system,
        &archive(&[symlink("up", "../../.."), file("up/file", b"x")]),
    )
    .unwrap();
    assert_eq!(process.contents("/file").unwrap(), b"x");
}

#[test]
fn damage_is_refused_with_its_place() {
    let good = archive(&[file("a", b"abcd"), file("b", b"")]);
    let first = encode(&file("a", b"abcd"), None).len() as u64;

    let mut bad = good.clone();
    bad[first as usize] = b'1';
    let magic = refusal(&bad);
    assert_eq!((magic.problem, magic.at), (Problem::Magic, first + 110));

    let mut bad = good.clone();
    bad[6] = b'+';
    assert_eq!(refusal(&bad).problem, Problem::Digits);

    let mut bad = good.clone();
    bad[94..102].copy_from_slice(b"FFFFFFFF");
    assert_eq!(refusal(&bad).problem, Problem::NameSize(u32::MAX));

    let mut bad = good.clone();
    bad[111] = b'x';
    assert_eq!(refusal(&bad).problem, Problem::NameEnd);

    let mut bad = good.clone();
    bad[54..62].copy_from_slice(b"FFFFFFFF");
    let size = refusal(&bad);
    assert_eq!(size.problem, Problem::Truncated);
    assert_eq!(size.name, b"a");

    assert_eq!(
        refusal(&good[..first as usize + 20]).problem,
        Problem::Truncated
    );
    assert_eq!(
        refusal(b"\xfd7zXZ").to_string(),
        "ramdisk: archive 1, byte 0: neither a cpio archive (newc) nor gzip begins with what xz does"
    );
    let mut packed = gzip(&good);
    let end = packed.len();
    packed[end - 6] ^= 1;
    assert_eq!(refusal(&packed).problem, Problem::GzipSum);
    assert_eq!(refusal(&gzip(&good)[..60]).problem, Problem::Truncated);
    assert_eq!(refusal(b"\x1f\x8b\x09").problem, Problem::GzipHeader);

    let odd = File {
        mode: linux::S_IFDIR,
        data: b"data",
        ..PLAIN
    };
    assert_eq!(refusal(&archive(&[odd])).problem, Problem::Size(4));
    let odd = File { mode: 0, ..PLAIN };
    assert_eq!(refusal(&archive(&[odd])).problem, Problem::Mode(0));
    let long = "x".repeat(256);
    let refused = refusal(&archive(&[file(&long, b"")]));
    assert_eq!(refused.problem, Problem::Refused(Errno::ENAMETOOLONG));
    let refused = refusal(&archive(&[file("no/directory", b"")]));
    assert_eq!(refused.problem, Problem::Refused(Errno::ENOENT));
}

/// What one call comes to, on a file of either kind, and what the file is then.
fn step(process: &Process, file: i32, random: &mut fastrand::Rng) -> String {
    let at = random.i64(0..20_000);
    let calls = process.calls();
    let came_to = match random.u8(..8) {
        0 => format!("{:?}", process.read(file, 5000)),
        1 => {
            let bytes = [at as u8; 3000];
            let mut bytes = Drain::new(&bytes[..random.usize(..3000)]);
            format!("{:?}", number(now(calls.pwrite(file, at, &mut bytes))))
        }
        2 => format!("{:?}", number(now(calls.ftruncate(file, at)))),
        3 => {
            let mode = [0, linux::FALLOC_FL_KEEP_SIZE, 3, 0x10][random.usize(..4)];
            let allocated = now(calls.fallocate(file, mode, at, 1 + at / 2));
            format!("{:?}", number(allocated))
        }
        4 => {
            let whence = [linux::SEEK_DATA, linux::SEEK_HOLE][random.usize(..2)];
            format!("{:?}", number(now(calls.lseek(file, at, whence))))
        }
        5 => format!("{:?}", number(now(calls.ftruncate(file, 0)))),
        _ => {
            // As who maps it does.
            let inode = process.descriptors.get(file).unwrap().place.inode.clone();
            let page = inode.page(at as u64 / 4096, random.bool());
            format!("{:?}", page.map(|page| page.is_some()))
        }
    };
    let stat = calls.fstat(file).unwrap();
    format!("{came_to} {} {}", stat.st_size, stat.st_blocks)
}

#[test]
fn bytes_that_are_kept_where_they_lie_are_a_file_as_any() {
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..300 {
        let data: Vec<u8> = (0..random.usize(1..14_000))
            .map(|_| random.u8(..))
            .collect();
        let ramdisk: &[u8] = Vec::leak(archive(&[file("a", &data)]));
        let (kept, copied) = (boot(LIMITS), boot(LIMITS));
        unpack_lasting(&kept.system, ramdisk).unwrap();
        unpack(&copied.system, ramdisk).unwrap();
        assert_eq!(kept.contents("/a").unwrap(), data);
        let open = |process: &Process| process.open("/a", linux::O_RDWR, 0).unwrap();
        let (a, b) = (open(&kept), open(&copied));
        for _ in 0..random.usize(..8) {
            let seed = random.u64(..);
            let came_to = step(&kept, a, &mut fastrand::Rng::with_seed(seed));
            let as_copied = step(&copied, b, &mut fastrand::Rng::with_seed(seed));
            assert_eq!(came_to, as_copied, "round {round}");
            assert_eq!(kept.contents("/a"), copied.contents("/a"), "round {round}");
        }
        let used = |process: &Process| process.calls().statfs(b"/").unwrap().f_bfree;
        assert_eq!(used(&kept), used(&copied));
    }
}

#[test]
fn sums_of_bytes_are_compared() {
    let data = file("a", b"abc");
    let sum = u32::from(b'a') + u32::from(b'b') + u32::from(b'c');
    for (said, taken) in [(sum, true), (sum + 1, false)] {
        let mut bytes = encode(&data, Some(said));
        bytes.extend(archive(&[]));
        let done = unpack(&boot(LIMITS).system, &bytes);
        assert_eq!(done.is_ok(), taken, "{done:?}");
        if let Err(refusal) = done {
            assert_eq!(
                (refusal.problem, &refusal.name[..]),
                (Problem::Sum, &b"a"[..])
            );
        }
    }
}

#[test]
fn what_does_not_fit_is_no_space() {
    let process = boot(Limits {
        pages: 2,
        inodes: 3,
    });
    let refused = unpack(&process.system, &archive(&[file("a", &[1; 9000])])).unwrap_err();
    assert_eq!(refused.problem, Problem::Refused(Errno::ENOSPC));
    let many = [file("a", b""), file("b", b""), file("c", b"")];
    let refused = unpack(&process.system, &archive(&many)).unwrap_err();
    assert_eq!(refused.problem, Problem::Refused(Errno::ENOSPC));
}

/// `FILES_MUTANTS=1000000` has more of them.
#[test]
fn no_damage_makes_it_panic_or_go_on_for_ever() {
    let count: u64 = std::env::var("FILES_MUTANTS").map_or(20_000, |value| value.parse().unwrap());
    let plain = archive(&[
        directory("."),
        directory("bin"),
        file("bin/a", &[7; 5000]),
        symlink("bin/sh", "a"),
        File {
            name: "l1",
            inode: 3,
            links: 2,
            data: b"x",
            ..PLAIN
        },
        File {
            name: "l2",
            inode: 3,
            links: 2,
            ..PLAIN
        },
        File {
            name: "fifo",
            mode: linux::S_IFIFO | 0o600,
            ..PLAIN
        },
    ]);
    let packed = gzip(&plain);
    let limits = Limits {
        pages: 100,
        inodes: 50,
    };
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..count {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = if random.u8(..4) == 0 {
            packed.clone()
        } else {
            plain.clone()
        };
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..6) {
                0 => bytes[at] ^= 1 << random.u8(..8),
                1 => bytes[at] = b"0123456789abcdefF/.\0"[random.usize(..20)],
                2 => bytes.truncate(at.max(1)),
                3 => {
                    let to = random.usize(at..bytes.len());
                    let part = bytes[at..to].to_vec();
                    bytes.splice(at..at, part);
                }
                4 => drop(bytes.drain(at..random.usize(at..bytes.len()))),
                _ => bytes[at] = random.u8(..),
            }
            if bytes.is_empty() {
                break;
            }
        }
        match unpack(&boot(limits).system, &bytes) {
            Ok(_) => taken += 1,
            Err(refusal) => {
                refused += 1;
                assert!(!refusal.to_string().is_empty());
            }
        }
    }
    // Damage that only changes data is none to the reader.
    assert!(
        taken > count / 50 && refused > count / 4,
        "{taken} {refused}"
    );
}
