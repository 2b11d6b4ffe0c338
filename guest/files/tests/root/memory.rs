//! Files in memory: what programs see of them that no comparison with the host shows, and that
//! everything they held is free again.

use std::sync::Arc;

use crate::common::{LIMITS, Process, TestHost, boot, now};
use guest_files::{
    Caller as _, DeviceNumber, Drain, Errno, FileSystem as _, Fill, Held, Limits, MemoryFs, Number,
    Result, SetTime, System, Time,
};
use linux_raw_sys::general as linux;

const CWD: i32 = linux::AT_FDCWD;

/// A process, and its root for a look at what is used.
fn limited(pages: u64, inodes: u64) -> (Process, Arc<MemoryFs>) {
    let host = Arc::new(TestHost::default());
    let limits = Limits { pages, inodes };
    let root = MemoryFs::new(host.clone(), DeviceNumber::new(0, 2), limits, 0o755).unwrap();
    let system = System::new(host.clone(), root.clone());
    (Process::first(system, host), root)
}

#[test]
fn what_does_not_fit_is_no_space_and_what_goes_is_free_again() {
    let (process, root) = limited(4, 10);
    let calls = process.calls();
    process.make("/a", &[1; 3 * 4096]);
    let b = process
        .open("/b", linux::O_CREAT | linux::O_RDWR, 0o600)
        .unwrap();
    // As much as fits is written, and only the next write fails.
    assert_eq!(process.write(b, &[2; 8192]), Ok(4096));
    assert_eq!(process.write(b, &[2; 8192]), Err(Errno::ENOSPC));
    assert_eq!(now(calls.fallocate(b, 0, 4096, 1)), Err(Errno::ENOSPC));
    assert_eq!(now(calls.fallocate(b, 0, 0, i64::MAX)), Err(Errno::ENOSPC));
    // A hole takes nothing, however long.
    assert_eq!(now(calls.ftruncate(b, 1 << 40)), Ok(()));
    assert_eq!(root.pages_used(), 4);
    // An open file keeps its data without a name.
    calls.unlinkat(CWD, b"/a", 0).unwrap();
    assert_eq!((root.pages_used(), root.inodes_used()), (1, 2));
    calls.unlinkat(CWD, b"/b", 0).unwrap();
    assert_eq!((root.pages_used(), root.inodes_used()), (1, 2));
    calls.close(b).unwrap();
    assert_eq!((root.pages_used(), root.inodes_used()), (0, 1));
    for at in 0..9 {
        process.make(&format!("/{at}"), b"");
    }
    assert_eq!(calls.mkdirat(CWD, b"/x", 0o755), Err(Errno::ENOSPC));
    assert_eq!(calls.linkat(CWD, b"/0", CWD, b"/x", 0), Err(Errno::ENOSPC));
    let statfs = calls.statfs(b"/").unwrap();
    assert_eq!((statfs.f_blocks, statfs.f_bfree), (4, 4));
    assert_eq!((statfs.f_files, statfs.f_ffree), (10, 0));
    assert_eq!(statfs.f_type, i64::from(linux::TMPFS_MAGIC));
}

#[test]
fn memory_that_the_kernel_has_not_is_no_space() {
    let (process, root) = limited(100, 10);
    let file = process
        .open("/a", linux::O_CREAT | linux::O_RDWR, 0o600)
        .unwrap();
    *process.host.pages.lock().unwrap() = Some(2);
    assert_eq!(process.write(file, &[0; 4 * 4096]), Ok(8192));
    assert_eq!(process.write(file, &[0; 1]), Err(Errno::ENOSPC));
    // What was taken for a range that did not fit is given back.
    *process.host.pages.lock().unwrap() = Some(5);
    assert_eq!(
        now(process.calls().fallocate(file, 0, 0, 20 * 4096)),
        Err(Errno::ENOSPC)
    );
    assert_eq!(root.pages_used(), 2);
}

#[test]
fn names_links_and_exchanges_are_counted() {
    let (process, root) = limited(10, 100);
    let calls = process.calls();
    process.make("/a", b"a");
    process.make("/b", b"b");
    calls.linkat(CWD, b"/a", CWD, b"/c", 0).unwrap();
    assert_eq!(root.inodes_used(), 4);
    calls.renameat2(CWD, b"/b", CWD, b"/c", 0).unwrap();
    assert_eq!(root.inodes_used(), 3);
    calls
        .renameat2(CWD, b"/a", CWD, b"/c", linux::RENAME_EXCHANGE)
        .unwrap();
    assert_eq!(process.contents("/a").unwrap(), b"b");
    assert_eq!(process.contents("/c").unwrap(), b"a");
    calls.mkdirat(CWD, b"/d", 0o755).unwrap();
    calls.mkdirat(CWD, b"/d/e", 0o755).unwrap();
    let links = |path: &[u8]| calls.fstatat(CWD, path, 0).unwrap().st_nlink;
    assert_eq!((links(b"/"), links(b"/d")), (3, 3));
    calls
        .renameat2(CWD, b"/d/e", CWD, b"/a", linux::RENAME_EXCHANGE)
        .unwrap();
    assert_eq!((links(b"/"), links(b"/d")), (4, 2));
    calls.unlinkat(CWD, b"/d/e", 0).unwrap();
    calls.unlinkat(CWD, b"/c", 0).unwrap();
    calls.unlinkat(CWD, b"/a", linux::AT_REMOVEDIR).unwrap();
    calls.unlinkat(CWD, b"/d", linux::AT_REMOVEDIR).unwrap();
    assert_eq!((root.pages_used(), root.inodes_used()), (0, 1));
}

#[test]
fn a_directory_is_read_whole_while_it_is_emptied() {
    let process = boot(LIMITS);
    let calls = process.calls();
    for at in 0..300 {
        process.make(&format!("/{at}"), b"");
    }
    let root = process.open("/", linux::O_RDONLY, 0).unwrap();
    let mut seen = 0;
    loop {
        let mut memory = [0; 128];
        let count = now(calls.getdents64(root, &mut Fill::new(&mut memory))).unwrap();
        if count == 0 {
            break;
        }
        let mut rest = &memory[..count];
        while !rest.is_empty() {
            let length = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
            let name = rest[19..length].split(|&byte| byte == 0).next().unwrap();
            if name[0] != b'.' {
                let path = [b"/", name].concat();
                calls.unlinkat(CWD, &path, 0).unwrap();
                seen += 1;
            }
            rest = &rest[length..];
        }
    }
    assert_eq!(seen, 300);
    assert_eq!(process.names("/").unwrap(), [""; 0]);
    // Too little room for an entry is an error, not an end.
    process.make("/long", b"");
    now(calls.lseek(root, 2, linux::SEEK_SET)).unwrap();
    let mut memory = [0; 10];
    let read = now(calls.getdents64(root, &mut Fill::new(&mut memory)));
    assert_eq!(read, Err(Errno::EINVAL));
}

#[test]
fn holes_are_zeros_and_can_be_found() {
    let process = boot(LIMITS);
    let calls = process.calls();
    let file = process
        .open("/a", linux::O_CREAT | linux::O_RDWR, 0o600)
        .unwrap();
    let write = |at, bytes: &[u8]| now(calls.pwrite(file, at, &mut Drain::new(bytes)));
    write(2 * 4096 + 5, b"data").unwrap();
    write(5 * 4096, &[7; 4096]).unwrap();
    let seek = |at, whence| now(calls.lseek(file, at, whence));
    assert_eq!(seek(0, linux::SEEK_DATA), Ok(2 * 4096));
    assert_eq!(seek(2 * 4096 + 9, linux::SEEK_DATA), Ok(2 * 4096 + 9));
    assert_eq!(seek(2 * 4096, linux::SEEK_HOLE), Ok(3 * 4096));
    assert_eq!(seek(100, linux::SEEK_HOLE), Ok(100));
    assert_eq!(seek(3 * 4096, linux::SEEK_DATA), Ok(5 * 4096));
    assert_eq!(seek(5 * 4096 + 1, linux::SEEK_HOLE), Ok(6 * 4096));
    assert_eq!(seek(6 * 4096, linux::SEEK_DATA), Err(Errno::ENXIO));
    let blocks = || calls.fstat(file).unwrap().st_blocks;
    assert_eq!(blocks(), 16);
    let punch = linux::FALLOC_FL_PUNCH_HOLE | linux::FALLOC_FL_KEEP_SIZE;
    now(calls.fallocate(file, punch, 2 * 4096, 3 * 4096 + 100)).unwrap();
    assert_eq!(blocks(), 8);
    let all = process.contents("/a").unwrap();
    assert!(all[..5 * 4096 + 100].iter().all(|&byte| byte == 0));
    assert!(all[5 * 4096 + 100..].iter().all(|&byte| byte == 7));
    now(calls.fallocate(file, linux::FALLOC_FL_ZERO_RANGE, 6 * 4096 - 10, 20)).unwrap();
    let all = process.contents("/a").unwrap();
    assert_eq!(all.len(), 6 * 4096 + 10);
    assert!(all[6 * 4096 - 10..].iter().all(|&byte| byte == 0));
    // What is cut off does not come back.
    write(0, &[9; 4096]).unwrap();
    now(calls.ftruncate(file, 10)).unwrap();
    now(calls.ftruncate(file, 4096)).unwrap();
    let all = process.contents("/a").unwrap();
    assert!(all[..10].iter().all(|&byte| byte == 9) && all[10..].iter().all(|&byte| byte == 0));
}

#[test]
fn pages_can_be_mapped_and_are_the_files_own() {
    let process = boot(LIMITS);
    process.make("/a", b"abc");
    let file = process.open("/a", linux::O_RDWR, 0).unwrap();
    let open = process.descriptors.get(file).unwrap();
    let page = open.page(0, false).unwrap().unwrap();
    page.write(1, 1, &mut Drain::new(b"X"));
    assert_eq!(process.contents("/a").unwrap(), b"aXc");
    assert!(matches!(open.page(1, true), Err(Errno::EFAULT)));
    now(process.calls().ftruncate(file, 3 * 4096)).unwrap();
    assert!(open.page(1, false).unwrap().is_none());
    let made = open.page(1, true).unwrap().unwrap();
    assert!(Arc::ptr_eq(&made, &open.page(1, false).unwrap().unwrap()));
    // Behind the end a mapping may write what no file ever shows.
    now(process.calls().ftruncate(file, 3)).unwrap();
    page.write(5, 1, &mut Drain::new(b"Y"));
    now(process.calls().ftruncate(file, 8)).unwrap();
    assert_eq!(process.contents("/a").unwrap(), b"aXc\0\0\0\0\0");
}

#[test]
fn a_write_behind_the_limit_of_sizes_is_too_big() {
    let process = boot(LIMITS);
    let file = process
        .open("/a", linux::O_CREAT | linux::O_RDWR, 0o600)
        .unwrap();
    let write = |at| now(process.calls().pwrite(file, at, &mut Drain::new(b"ab")));
    assert_eq!(write(i64::MAX - 1), Ok(1));
    assert_eq!(write(i64::MAX), Err(Errno::EFBIG));
    assert_eq!(write(-1), Err(Errno::EINVAL));
    assert_eq!(process.size_limit(), u64::MAX);
}

#[test]
fn times_are_those_of_what_changed() {
    let process = boot(LIMITS);
    let calls = process.calls();
    let times = |path: &[u8]| {
        let stat = calls.fstatat(CWD, path, 0).unwrap();
        (stat.st_atime, stat.st_mtime, stat.st_ctime)
    };
    process.make("/a", b"x");
    let (atime, mtime, ctime) = times(b"/a");
    assert!(mtime > atime && mtime == ctime);
    process.contents("/a").unwrap();
    let read = times(b"/a");
    assert!(read.0 > atime && read.1 == mtime && read.2 == ctime);
    // Once read it stays so until it changes: `relatime`.
    process.contents("/a").unwrap();
    assert_eq!(times(b"/a"), read);
    calls.fchmodat(CWD, b"/a", 0o600, 0).unwrap();
    let changed = times(b"/a");
    assert!(changed.1 == mtime && changed.2 > ctime);
    let before = times(b"/");
    calls.linkat(CWD, b"/a", CWD, b"/b", 0).unwrap();
    assert!(times(b"/a").2 > changed.2 && times(b"/").1 > before.1);
    let set = |accessed, modified| calls.utimensat(CWD, Some(b"/a"), accessed, modified, 0);
    let then = SetTime::To(Time {
        seconds: 77,
        nanos: 8,
    });
    set(SetTime::Keep, then).unwrap();
    let stat = calls.fstatat(CWD, b"/a", 0).unwrap();
    assert_eq!((stat.st_mtime, stat.st_mtime_nsec), (77, 8));
    assert!(stat.st_ctime > changed.2);
    let kept = times(b"/a");
    set(SetTime::Keep, SetTime::Keep).unwrap();
    assert_eq!(times(b"/a"), kept);
    assert_eq!(SetTime::from_program(0, 1_000_000_000), Err(Errno::EINVAL));
    assert_eq!(
        SetTime::from_program(0, linux::UTIME_OMIT.into()),
        Ok(SetTime::Keep)
    );
}

/// As deep as a program likes: what goes must not go by recursion.
#[test]
fn deep_trees_go_without_a_deep_stack() {
    const DEPTH: u64 = 100_000;
    let descend = |process: &Process| {
        for _ in 0..DEPTH {
            process.calls().mkdirat(CWD, b"d", 0o755).unwrap();
            process.calls().chdir(b"d").unwrap();
        }
    };
    let (process, root) = limited(1, DEPTH + 1);
    descend(&process);
    // From the deepest on all are removed, while the deepest is still someone's.
    let held = process.open(".", linux::O_RDONLY, 0).unwrap();
    let mut memory = [0; 5000];
    let path = process.calls().getcwd(&mut Fill::new(&mut memory));
    assert_eq!(path, Err(Errno::ENAMETOOLONG));
    for _ in 0..DEPTH {
        process.calls().chdir(b"..").unwrap();
        process
            .calls()
            .unlinkat(CWD, b"d", linux::AT_REMOVEDIR)
            .unwrap();
    }
    assert_eq!(root.inodes_used(), DEPTH + 1);
    process.calls().close(held).unwrap();
    assert_eq!(root.inodes_used(), 1);
    // And with the whole file system.
    descend(&process);
    drop(process);
    assert_eq!(root.usage().free_inodes, 0);
    drop(root);
}

#[test]
fn descriptors_are_the_lowest_that_are_free() {
    let mut process = boot(LIMITS);
    process.limit = 10;
    process.make("/a", b"abcdef");
    let open = |process: &Process| process.open("/a", linux::O_RDONLY, 0);
    assert_eq!(
        (0..3).map(|_| open(&process)).collect::<Result<Vec<_>>>(),
        Ok(vec![0, 1, 2])
    );
    let calls = process.calls();
    let fcntl = |file, command, value| calls.fcntl(file, command, &mut Number(value));
    calls.close(1).unwrap();
    assert_eq!(calls.dup(0), Ok(1));
    assert_eq!(fcntl(0, linux::F_DUPFD, 5), Ok(5));
    assert_eq!(fcntl(0, linux::F_DUPFD_CLOEXEC, 5), Ok(6));
    assert_eq!(fcntl(0, linux::F_DUPFD, 10), Err(Errno::EINVAL));
    assert_eq!(calls.dup2(0, 9), Ok(9));
    assert_eq!(calls.dup2(0, 10), Err(Errno::EBADF));
    assert_eq!(calls.dup2(0, 0), Ok(0));
    assert_eq!(calls.dup2(4, 4), Err(Errno::EBADF));
    assert_eq!(calls.dup3(0, 0, 0), Err(Errno::EINVAL));
    assert_eq!(calls.dup3(0, 4, linux::O_CLOEXEC), Ok(4));
    // The position is the open file's, and shared.
    assert_eq!(process.read(0, 2).unwrap(), b"ab");
    assert_eq!(process.read(9, 2).unwrap(), b"cd");
    assert_eq!(process.read(2, 2).unwrap(), b"ab");
    let child = process.fork(2);
    assert_eq!(child.read(0, 2).unwrap(), b"ef");
    assert_eq!(process.read(1, 2).unwrap(), b"");
    // By exec a child loses what it was to lose, and its parent does not.
    child.descriptors.exec();
    for (number, stays) in [(0, true), (4, false), (5, true), (6, false), (9, true)] {
        assert_eq!(child.descriptors.get(number).is_ok(), stays, "{number}");
        assert!(process.descriptors.get(number).is_ok());
    }
    for _ in 0..3 {
        open(&process).unwrap_or(0);
    }
    assert_eq!(open(&process), Err(Errno::EMFILE));
    assert_eq!(calls.pipe2(0), Err(Errno::EMFILE));
    calls.close_range(3, u32::MAX, 0).unwrap();
    assert_eq!(open(&process), Ok(3));
    calls.close_range(0, 1, 4).unwrap();
    assert_eq!(fcntl(1, linux::F_GETFD, 0), Ok(1));
    assert_eq!(calls.close(99), Err(Errno::EBADF));
    assert_eq!(calls.close(-1), Err(Errno::EBADF));
}

#[test]
fn devices_of_memory_do_what_their_names_say() {
    let process = boot(LIMITS);
    guest_files::add_memory_devices(&process.system).unwrap();
    let open = |name: &str| {
        process
            .open(&format!("/dev/{name}"), linux::O_RDWR, 0)
            .unwrap()
    };
    let null = open("null");
    assert_eq!(process.read(null, 10).unwrap(), b"");
    assert_eq!(process.write(null, &[1; 5000]), Ok(5000));
    assert_eq!(now(process.calls().lseek(null, 99, linux::SEEK_SET)), Ok(0));
    let zero = open("zero");
    assert_eq!(process.read(zero, 2000).unwrap(), [0; 2000]);
    let full = open("full");
    assert_eq!(process.write(full, b"x"), Err(Errno::ENOSPC));
    let random = open("urandom");
    assert_ne!(
        process.read(random, 32).unwrap(),
        process.read(random, 32).unwrap()
    );
    let stat = process.calls().fstat(zero).unwrap();
    assert_eq!((stat.st_mode, stat.st_rdev), (0o20_666, 0x105));
    // A number that no driver has.
    let device = DeviceNumber::new(99, 1).encoded();
    process
        .calls()
        .mknodat(CWD, b"/odd", linux::S_IFCHR | 0o600, device)
        .unwrap();
    assert_eq!(process.open("/odd", 0, 0), Err(Errno::ENXIO));
}

#[test]
fn a_file_is_sent_to_another_by_way_of_the_kernel() {
    let process = boot(LIMITS);
    let calls = process.calls();
    let bytes: Vec<u8> = (0..100_000).map(|at| (at % 253) as u8).collect();
    process.make("/a", &bytes);
    let from = process.open("/a", linux::O_RDONLY, 0).unwrap();
    let to = process
        .open("/b", linux::O_CREAT | linux::O_RDWR, 0o600)
        .unwrap();
    assert_eq!(now(calls.sendfile(to, from, None, 60_000)), Ok(60_000));
    assert_eq!(now(calls.sendfile(to, from, None, 60_000)), Ok(40_000));
    assert_eq!(now(calls.sendfile(to, from, None, 60_000)), Ok(0));
    assert!(process.contents("/b").unwrap() == bytes);
    let [end, pipe] = calls.pipe2(0).unwrap();
    assert_eq!(
        now(calls.sendfile(pipe, from, Some(10), 90_000)),
        Ok(65_536)
    );
    assert!(calls.sendfile(pipe, from, Some(10), 1).is_pending());
    assert_eq!(process.read(end, 3).unwrap(), bytes[10..13]);
    assert_eq!(now(calls.sendfile(to, end, None, 1)), Err(Errno::EINVAL));
    assert_eq!(now(calls.sendfile(from, to, None, 1)), Err(Errno::EBADF));
}

#[test]
fn what_is_run_is_not_written_and_what_is_written_is_not_run() {
    let process = boot(LIMITS);
    let calls = process.calls();
    process.make("/program", b"code");
    let write = |flags| process.open("/program", flags, 0);
    let inode = || {
        let file = write(linux::O_RDONLY).unwrap();
        let open = calls.descriptors.get(file).unwrap();
        calls.close(file).unwrap();
        open.place.inode.clone()
    };
    let writer = write(linux::O_WRONLY).unwrap();
    assert_eq!(Held::to_run(&inode()).err(), Some(Errno::ETXTBSY));
    let second = calls.dup(writer).unwrap();
    calls.close(writer).unwrap();
    assert_eq!(Held::to_run(&inode()).err(), Some(Errno::ETXTBSY));
    calls.close(second).unwrap();
    let (one, two) = (
        Held::to_run(&inode()).unwrap(),
        Held::to_run(&inode()).unwrap(),
    );
    for flags in [linux::O_WRONLY, linux::O_RDWR, linux::O_TRUNC] {
        assert_eq!(write(flags), Err(Errno::ETXTBSY));
    }
    assert_eq!(now(calls.truncate(b"/program", 1)), Err(Errno::ETXTBSY));
    assert_eq!(process.contents("/program").unwrap(), b"code");
    drop(one);
    assert_eq!(write(linux::O_WRONLY), Err(Errno::ETXTBSY));
    drop(two);
    assert_eq!(now(calls.truncate(b"/program", 1)), Ok(()));
    assert!(write(linux::O_WRONLY).is_ok());
}
