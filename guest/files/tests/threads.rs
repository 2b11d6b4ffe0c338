//! Several threads at once, as several vCPUs have them: nothing is lost, nothing waits for ever,
//! and nothing is left behind.
//!
//! `FILES_ROUNDS=200000 cargo test -p guest-files --test threads` goes on for longer.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::thread;
use std::time::{Duration, Instant};

use common::{LIMITS, Process, TestHost};
use guest_files::{
    Calls, Descriptors, DeviceNumber, Drain, Errno, Fill, MemoryFs, Opening, System,
};
use linux_raw_sys::general as linux;

const CWD: i32 = linux::AT_FDCWD;
const THREADS: u32 = 4;

fn rounds(default: u32) -> u32 {
    std::env::var("FILES_ROUNDS").map_or(default, |value| value.parse().expect("a number"))
}

/// A system, what its threads share, and its root.
struct Shared {
    system: Arc<System>,
    host: Arc<TestHost>,
    descriptors: Arc<Descriptors>,
    root: Arc<MemoryFs>,
}

impl Shared {
    fn new() -> Self {
        let host = Arc::new(TestHost::default());
        let root = MemoryFs::new(host.clone(), DeviceNumber::new(0, 2), LIMITS, 0o755).unwrap();
        Self {
            system: System::new(host.clone(), root.clone()),
            host,
            descriptors: Arc::default(),
            root,
        }
    }

    fn process(&self) -> Process {
        Process::in_thread(&self.system, &self.host, &self.descriptors)
    }

    /// Runs `work` in threads of their own, each with its number.
    fn run(&self, work: impl Fn(u32, &Process) + Sync) {
        thread::scope(|scope| {
            for number in 0..THREADS {
                let work = &work;
                scope.spawn(move || work(number, &self.process()));
            }
        });
    }
}

fn write_all(process: &Process, file: i32, bytes: &[u8]) {
    let mut drain = Drain::new(bytes);
    let written = process.wait(|calls| calls.write(file, &mut drain));
    assert_eq!(written, Ok(bytes.len()));
}

#[test]
fn bytes_go_through_a_chain_of_pipes_in_order() {
    let shared = Shared::new();
    let total = rounds(20_000) as usize * 20;
    let pipes: Vec<[i32; 2]> = (1..THREADS)
        .map(|_| shared.process().calls().pipe2(0).unwrap())
        .collect();
    shared.run(|number, process| {
        let number = number as usize;
        let mut random = fastrand::Rng::with_seed(number as u64);
        let mut at = 0;
        let mut memory = vec![0; 10_000];
        loop {
            let most = random.usize(1..10_000).min(memory.len());
            let count = if number == 0 {
                let count = most.min(total - at);
                for (byte, at) in memory[..count].iter_mut().zip(at..) {
                    *byte = (at % 251) as u8;
                }
                count
            } else {
                let from = pipes[number - 1][0];
                process
                    .wait(|calls| calls.read(from, &mut Fill::new(&mut memory[..most])))
                    .unwrap()
            };
            if count == 0 {
                break;
            }
            for (&byte, at) in memory[..count].iter().zip(at..) {
                assert_eq!(byte, (at % 251) as u8, "byte {at} of thread {number}");
            }
            at += count;
            if let Some(&[_, to]) = pipes.get(number) {
                write_all(process, to, &memory[..count]);
            }
        }
        assert_eq!(at, total);
        if let Some(&[_, to]) = pipes.get(number) {
            process.calls().close(to).unwrap();
        }
    });
}

/// A waker that is looked at without rest: the shortest way from a change to who waits for it.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Whoever finds nothing registers and looks again. Between the two the other side may come, and in
/// so many rounds it does.
#[test]
fn a_wake_up_between_looking_and_waiting_is_not_lost() {
    let shared = Shared::new();
    let count = rounds(20_000);
    let there = shared.process().calls().pipe2(0).unwrap();
    let back = shared.process().calls().pipe2(0).unwrap();
    let play = |from: i32, to: i32, begins: bool| {
        let process = shared.process();
        let flag = Arc::new(Flag::default());
        let waker = flag.clone().into();
        let calls = Calls {
            waker: &waker,
            ..process.calls()
        };
        for round in 0..count {
            if begins || round > 0 {
                write_all(&process, to, b"x");
            }
            let mut memory = [0];
            while calls.read(from, &mut Fill::new(&mut memory)).is_pending() {
                let since = Instant::now();
                while !flag.0.swap(false, Ordering::SeqCst) {
                    assert!(since.elapsed() < Duration::from_secs(20), "nobody woke us");
                    thread::yield_now();
                }
            }
        }
        if !begins {
            write_all(&process, to, b"x");
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| play(back[0], there[1], true));
        scope.spawn(|| play(there[0], back[1], false));
    });
}

#[test]
fn what_many_append_is_whole() {
    const RECORD: usize = 5000;
    let shared = Shared::new();
    let count = (rounds(20_000) / 200).min(900);
    // One by a position that all share, one by each thread's own open file.
    let flags = linux::O_CREAT | linux::O_RDWR;
    let together = shared.process().open("/together", flags, 0o600).unwrap();
    shared.run(|number, process| {
        let flags = linux::O_CREAT | linux::O_WRONLY | linux::O_APPEND;
        let own = process.open("/own", flags, 0o600).unwrap();
        for _ in 0..count {
            for file in [together, own] {
                write_all(process, file, &[number as u8; RECORD]);
            }
        }
    });
    for path in ["/together", "/own"] {
        let all = shared.process().contents(path).unwrap();
        assert_eq!(all.len(), (count * THREADS) as usize * RECORD);
        let mut seen = [0; THREADS as usize];
        for record in all.chunks(RECORD) {
            assert!(
                record.iter().all(|&byte| byte == record[0]),
                "{path} is torn"
            );
            seen[usize::from(record[0])] += 1;
        }
        assert_eq!(seen, [count; THREADS as usize]);
    }
}

#[test]
fn names_that_many_change_stay_a_tree() {
    const NAMES: [&str; 6] = ["/a", "/b", "/a/c", "/b/d", "/a/c/e", "/b/d/f"];
    let shared = Shared::new();
    let count = rounds(20_000);
    shared.run(|number, process| {
        let mut random = fastrand::Rng::with_seed(number.into());
        let calls = process.calls();
        for _ in 0..count {
            let mut name = || NAMES[random.usize(..NAMES.len())].as_bytes();
            let (one, other) = (name(), name());
            let done = match random.u8(..8) {
                0 | 1 => calls.mkdirat(CWD, one, 0o755),
                2 => calls.unlinkat(CWD, one, linux::AT_REMOVEDIR),
                3 => calls.unlinkat(CWD, one, 0),
                4 => calls.renameat2(CWD, one, CWD, other, 0),
                5 => calls.renameat2(CWD, one, CWD, other, linux::RENAME_EXCHANGE),
                6 => calls.linkat(CWD, one, CWD, other, 0),
                _ => {
                    let flags = linux::O_CREAT | linux::O_RDWR | linux::O_TRUNC;
                    let mut opening = Opening::default();
                    let file =
                        process.wait(|calls| calls.openat(&mut opening, CWD, one, flags, 0o600));
                    file.map(|file| {
                        write_all(process, file, b"data");
                        calls.close(file).unwrap();
                    })
                }
            };
            // What another thread did in between is no surprise, but nothing else is an error.
            if let Err(error) = done {
                let known = [
                    Errno::ENOENT,
                    Errno::EEXIST,
                    Errno::ENOTDIR,
                    Errno::EISDIR,
                    Errno::ENOTEMPTY,
                    Errno::EINVAL,
                    Errno::EPERM,
                    // Directories that were exchanged can come to lie where no name here reaches.
                    Errno::ENOSPC,
                ];
                assert!(known.contains(&error), "{error} {one:?} {other:?}");
            }
        }
    });
    let process = shared.process();
    let names = clear(&process, "");
    assert_eq!(
        (shared.root.pages_used(), shared.root.inodes_used()),
        (0, 1),
        "{names} names"
    );
    assert_eq!(process.calls().fstatat(CWD, b"/", 0).unwrap().st_nlink, 2);
}

/// Removes all that is in a directory, checks what it says of itself, and returns how many names
/// that was.
fn clear(process: &Process, path: &str) -> usize {
    let calls = process.calls();
    let names = process.names(&format!("{path}/")).unwrap();
    let mut count = names.len();
    for name in &names {
        let path = format!("{path}/{name}");
        let stat = calls.fstatat(CWD, path.as_bytes(), 0).unwrap();
        if stat.st_mode & linux::S_IFMT == linux::S_IFDIR {
            let inner = process.names(&path).unwrap();
            let is_directory = |name: &&String| {
                let path = format!("{path}/{name}");
                let stat = calls.fstatat(CWD, path.as_bytes(), 0).unwrap();
                stat.st_mode & linux::S_IFMT == linux::S_IFDIR
            };
            let directories = inner.iter().filter(is_directory).count();
            assert_eq!(stat.st_nlink, 2 + directories as u64, "{path}");
            count += clear(process, &path);
            calls
                .unlinkat(CWD, path.as_bytes(), linux::AT_REMOVEDIR)
                .unwrap();
        } else {
            calls.unlinkat(CWD, path.as_bytes(), 0).unwrap();
        }
    }
    count
}

#[test]
fn a_ball_goes_around_by_epoll_and_counters() {
    let shared = Shared::new();
    let count = rounds(20_000) / 10;
    let counters: Vec<i32> = (0..THREADS)
        .map(|_| {
            shared
                .process()
                .calls()
                .eventfd2(0, linux::EFD_NONBLOCK)
                .unwrap()
        })
        .collect();
    write_all(&shared.process(), counters[0], &1_u64.to_ne_bytes());
    shared.run(|number, process| {
        let own = counters[number as usize];
        let next = counters[(number as usize + 1) % counters.len()];
        let epoll = process.calls().epoll_create1(0).unwrap();
        let edge = if number % 2 == 0 { linux::EPOLLET } else { 0 };
        let events = linux::EPOLLIN | edge;
        process
            .calls()
            .epoll_ctl(epoll, linux::EPOLL_CTL_ADD, own, events, 5)
            .unwrap();
        for round in 0..count {
            let told = process.wait(|calls| calls.epoll_wait(epoll, 4, None, &mut |_| true));
            assert_eq!(told, Ok(1));
            let mut memory = [0; 8];
            let read = process.wait(|calls| calls.read(own, &mut Fill::new(&mut memory)));
            match read {
                Ok(_) => {}
                // Told of a change that was read already.
                Err(Errno::EAGAIN) => panic!("round {round}: told of nothing"),
                Err(error) => panic!("{error}"),
            }
            write_all(process, next, &1_u64.to_ne_bytes());
        }
    });
}

#[test]
fn locks_of_files_let_in_one_at_a_time() {
    let shared = Shared::new();
    let count = rounds(20_000) / 20;
    shared.process().make("/number", &0_u64.to_ne_bytes());
    shared.run(|_, process| {
        let file = process.open("/number", linux::O_RDWR, 0).unwrap();
        for _ in 0..count {
            process
                .wait(|calls| calls.flock(file, linux::LOCK_EX))
                .unwrap();
            let mut memory = [0; 8];
            process
                .wait(|calls| calls.pread(file, 0, &mut Fill::new(&mut memory)))
                .unwrap();
            let more = u64::from_ne_bytes(memory) + 1;
            process
                .wait(|calls| calls.pwrite(file, 0, &mut Drain::new(&more.to_ne_bytes())))
                .unwrap();
            process
                .wait(|calls| calls.flock(file, linux::LOCK_UN))
                .unwrap();
        }
    });
    let all = shared.process().contents("/number").unwrap();
    assert_eq!(all, u64::from(count * THREADS).to_ne_bytes());
}
