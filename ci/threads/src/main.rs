//! A program as anybody writes them: threads, locks, channels, thread-local memory, files, a child and its
//! pipes. What it prints must be the same on every Linux.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Barrier, Condvar, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(7) };
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    println!("arguments {arguments:?}");
    locks();
    channels();
    waiting();
    own();
    memory();
    files();
    children();
    panics();
    println!("threads end");
}

fn locks() {
    let (sum, atomic) = (Arc::new(Mutex::new(0_u64)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let (sum, atomic) = (sum.clone(), atomic.clone());
            thread::spawn(move || {
                for step in 0..2000 {
                    *sum.lock().unwrap() += step * number;
                    atomic.fetch_add(1, Ordering::Relaxed);
                    if step % 500 == 0 {
                        thread::yield_now();
                    }
                }
                number
            })
        })
        .collect();
    let numbers: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    println!(
        "locks {} {} {numbers}",
        sum.lock().unwrap(),
        atomic.load(Ordering::Relaxed)
    );
    let table = RwLock::new(HashMap::new());
    thread::scope(|scope| {
        for number in 0..4 {
            let table = &table;
            scope.spawn(move || table.write().unwrap().insert(number, number * number));
        }
    });
    let mut table: Vec<_> = table.into_inner().unwrap().into_iter().collect();
    table.sort_unstable();
    println!("scoped {table:?}");
}

fn channels() {
    let (to, from) = channel();
    let (bounded, slow) = sync_channel(1);
    let producer = thread::spawn(move || {
        for number in 0..1000_u64 {
            to.send(number).unwrap();
            bounded.send(number).unwrap();
        }
    });
    let all: u64 = slow.iter().sum::<u64>() + from.iter().sum::<u64>();
    producer.join().unwrap();
    println!("channels {all}");
}

fn waiting() {
    let pair = Arc::new((Mutex::new(0), Condvar::new()));
    let other = pair.clone();
    let thread = thread::spawn(move || {
        for _ in 0..100 {
            let (count, changed) = &*other;
            let mut count = count.lock().unwrap();
            while *count % 2 == 0 {
                count = changed.wait(count).unwrap();
            }
            *count += 1;
            changed.notify_one();
        }
    });
    for _ in 0..100 {
        let (count, changed) = &*pair;
        let mut count = count.lock().unwrap();
        *count += 1;
        changed.notify_one();
        while *count % 2 == 1 {
            count = changed.wait(count).unwrap();
        }
    }
    thread.join().unwrap();
    println!("turns {}", pair.0.lock().unwrap());
    let barrier = Barrier::new(5);
    let leaders = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                for _ in 0..20 {
                    leaders.fetch_add(u64::from(barrier.wait().is_leader()), Ordering::Relaxed);
                }
            });
        }
    });
    println!("barriers {}", leaders.load(Ordering::Relaxed));
    let (lock, never) = (Mutex::new(()), Condvar::new());
    let began = Instant::now();
    let held = lock.lock().unwrap();
    let (_held, result) = never.wait_timeout(held, Duration::from_millis(30)).unwrap();
    println!(
        "timed out {} {}",
        result.timed_out(),
        began.elapsed() >= Duration::from_millis(30)
    );
    let parked = thread::spawn(|| {
        thread::park();
        "unparked"
    });
    thread::sleep(Duration::from_millis(10));
    parked.thread().unpark();
    println!("{}", parked.join().unwrap());
}

fn own() {
    let found: Vec<_> = (0..3)
        .map(|number| {
            thread::spawn(move || {
                OWN.set(OWN.get() + number);
                thread::yield_now();
                OWN.get()
            })
        })
        .map(|thread| thread.join().unwrap())
        .collect();
    println!("own {found:?} {}", OWN.get());
    let named = thread::Builder::new()
        .name("a name".into())
        .stack_size(1 << 20)
        .spawn(|| thread::current().name().map(str::to_owned))
        .unwrap();
    println!("named {:?}", named.join().unwrap());
}

fn memory() {
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    for round in 0..64_usize {
        blocks.push(vec![round as u8; (round + 1) * 10_000]);
        if round % 3 == 0 {
            blocks.swap_remove(round / 4);
        }
    }
    let sum: usize = blocks
        .iter()
        .map(|block| block.len() + usize::from(block[0]))
        .sum();
    println!("blocks {} {sum}", blocks.len());
    let float = (1..=1000).map(|n| 1.0 / f64::from(n)).sum::<f64>();
    println!("harmonic {float:.9}");
}

fn files() {
    let path = std::env::temp_dir().join("threads.txt");
    let mut file = std::fs::File::options();
    let mut file = file
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    writeln!(file, "a line").unwrap();
    file.seek(SeekFrom::Start(2)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    println!("file {text:?} {}", file.metadata().unwrap().len());
    std::fs::remove_file(&path).unwrap();
    println!("gone {:?}", std::fs::metadata(&path).unwrap_err().kind());
}

fn children() {
    let mut child = Command::new("/bin/sh")
        .args(["-c", "read line; echo got $line; exit 3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a word\n").unwrap();
    let output = child.wait_with_output().unwrap();
    println!(
        "child {:?} {:?}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout)
    );
    let missing = Command::new("/bin/none").status();
    println!("missing {:?}", missing.unwrap_err().kind());
}

fn panics() {
    std::panic::set_hook(Box::new(|_| {}));
    let ended = thread::spawn(|| {
        if OWN.get() == 7 {
            panic!("of one thread");
        }
    });
    // Where a panic ends the program this is not reached: then it says so by its status.
    println!("panicked {}", ended.join().is_err());
}
