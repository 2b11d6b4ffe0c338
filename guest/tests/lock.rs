//! The kernel's lock, with threads for vCPUs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;

use guest::lock::{Lock, lock_unless_held};

#[test]
fn taking_it_again_names_both_places() {
    let lock = Lock::new(1);
    let held = lock.lock();
    let first = line!() - 1;
    let second = line!() + 1;
    let again = catch_unwind(AssertUnwindSafe(|| *lock.lock()));
    let payload = again.expect_err("a lock is taken twice");
    let words = payload.downcast_ref::<String>().expect("words");
    for line in [first, second] {
        let place = format!("lock.rs:{line}:");
        assert!(words.contains(&place), "{place} is not in: {words}");
    }
    assert_eq!(*held, 1);
    drop(held);
    assert_eq!(*lock.lock(), 1);
}

#[test]
fn trying_it_again_fails_and_changes_nothing() {
    let lock = Lock::new(());
    let held = lock.lock();
    assert!(lock.try_lock().is_none());
    assert!(lock_unless_held(&lock).is_none());
    drop(held);
    assert!(lock_unless_held(&lock).is_some());
    assert!(lock.try_lock().is_some());
    assert!(lock.try_lock().is_some());
}

#[test]
fn another_thread_waits() {
    let lock = Lock::new(0);
    let (started, start) = channel();
    std::thread::scope(|scope| {
        let mut held = lock.lock();
        scope.spawn(|| {
            started.send(()).expect("somebody waits");
            *lock.lock() += 1;
        });
        start.recv().expect("a thread");
        std::thread::yield_now();
        assert_eq!(*held, 0);
        *held = 10;
        drop(held);
    });
    assert_eq!(*lock.lock(), 11);
}

#[test]
fn a_report_takes_it_over() {
    let lock = Lock::new(7);
    std::mem::forget(lock.lock());
    // SAFETY: the guard is forgotten, and a number is a number.
    unsafe { lock.raw().take_over() };
    assert_eq!(*lock.lock(), 7);
    // SAFETY: nobody holds it.
    unsafe { lock.raw().take_over() };
    assert_eq!(*lock.lock(), 7);
}
