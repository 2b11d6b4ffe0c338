//! The kernel's lock, with threads for vCPUs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;

use guest::lock::{KeptLock, Lock, lock_unless_held};
use guest::rank::{self, Rank};
use lock_api::RawMutex;

#[test]
fn taking_it_again_names_both_places() {
    let lock = Lock::<_, rank::Check>::new(1);
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

/// What a panic says.
fn words(f: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(f)).expect_err("it is refused");
    payload.downcast_ref::<String>().expect("words").clone()
}

/// Two locks of different ranks: the first in the order, and one behind it.
fn two() -> (Lock<(), rank::Heap>, Lock<(), rank::Console>) {
    const { assert!(rank::Heap::NUMBER < rank::Tables::NUMBER) };
    const { assert!(rank::Tables::NUMBER < rank::Console::NUMBER) };
    (Lock::new(()), Lock::new(()))
}

#[test]
fn out_of_order_names_both_locks_and_places() {
    let (first, second) = two();
    let behind = second.lock();
    let since = line!() - 1;
    let at = line!() + 1;
    let words = words(|| drop(first.lock()));
    assert_eq!(
        words,
        format!(
            "the lock of Heap is taken at guest/tests/lock.rs:{at}:37 while that of Console is held, \
             since guest/tests/lock.rs:{since}:25: it comes before that in the order of locks"
        )
    );
    // It was not taken, and what is held is as before: nothing that comes behind was forgotten.
    assert!(!first.is_locked());
    drop(behind);
    let _both = (first.lock(), second.lock());
}

/// In whatever order guards are dropped, what is still held counts.
#[test]
fn what_is_still_held_counts() {
    let (first, second) = two();
    let (before, behind) = (first.lock(), second.lock());
    drop(before);
    words(|| drop(first.lock()));
    drop(behind);
    drop(first.lock());
}

/// Of two locks of one rank neither comes behind the other.
#[test]
fn two_of_a_rank_are_refused() {
    let locks = [const { Lock::<_, rank::Check>::new(()) }; 2];
    let held = locks[0].lock();
    let words = words(|| drop(locks[1].lock()));
    assert!(words.contains("while that of Check is held"), "{words}");
    drop(held);
    drop(locks[1].lock());
}

/// What is only tried may come before what is held, and counts from then on.
#[test]
fn what_is_tried_need_not_come_behind() {
    let (first, second) = two();
    let behind = second.lock();
    let tried = first.try_lock().expect("nobody has it");
    drop(behind);
    words(|| drop(first.lock()));
    drop(tried);
}

/// What another thread holds is no matter of this one's.
#[test]
fn each_thread_has_an_order_of_its_own() {
    let (first, second) = two();
    let _behind = second.lock();
    std::thread::scope(|scope| scope.spawn(|| drop(first.lock())).join().expect("it may"));
}

/// Page tables that a vCPU keeps count as its own, with both places; behind what comes behind them they
/// are not taken.
#[test]
fn kept_locks_are_ranked() {
    let kept = KeptLock::INIT;
    kept.lock();
    let words_of_again = words(|| kept.lock());
    assert!(
        words_of_again.contains("the page tables that are taken at"),
        "{words_of_again}"
    );
    // SAFETY: it was locked above.
    unsafe { kept.unlock() };
    let (_, console) = two();
    let held = console.lock();
    let words = words(|| kept.lock());
    assert!(words.contains("while that of Console is held"), "{words}");
    drop(held);
    kept.lock();
}

#[test]
fn trying_it_again_fails_and_changes_nothing() {
    let lock = Lock::<_, rank::Check>::new(());
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
    let lock = Lock::<_, rank::Check>::new(0);
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
    let lock = Lock::<_, rank::Check>::new(7);
    std::mem::forget(lock.lock());
    // SAFETY: the guard is forgotten, and a number is a number.
    unsafe { lock.raw().take_over() };
    assert_eq!(*lock.lock(), 7);
    // SAFETY: nobody holds it.
    unsafe { lock.raw().take_over() };
    assert_eq!(*lock.lock(), 7);
}
