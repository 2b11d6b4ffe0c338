//! The kernel's lock: one at a time, whoever waits, tries or keeps.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize as Count, Ordering::Relaxed};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::here;
use crate::lock::{self, KeptLock, Lock, lock_unless_held};
use crate::rank::{self, Rank};
use crate::{PREEMPTIONS, try_all};

/// Something that two may not touch at once: loom says so if they do.
type Guarded<R = rank::Check> = Arc<Lock<UnsafeCell<u32>, R>>;

fn guarded<R: Rank>() -> Guarded<R> {
    let lock = Arc::new(Lock::new(UnsafeCell::new(0)));
    // Its words are made here, before there is anybody else.
    drop(lock.lock());
    lock
}

fn add(value: &UnsafeCell<u32>) {
    assert!(
        here::are_masked(),
        "upcalls are masked while a lock is held"
    );
    // SAFETY: the lock is held, which is what is tried here.
    value.with_mut(|value| unsafe { *value += 1 });
}

fn read<R: Rank>(lock: &Guarded<R>) -> u32 {
    // SAFETY: as in `add`.
    lock.lock().with(|value| unsafe { *value })
}

/// Two vCPUs, of which one has two turns; nothing of what they add is lost.
#[test]
fn one_at_a_time() {
    try_all("two vCPUs", None, || {
        let lock: Guarded = guarded();
        let other = Arc::clone(&lock);
        let vcpu = thread::spawn(move || {
            for _ in 0..2 {
                add(&other.lock());
                assert!(!here::are_masked());
            }
        });
        add(&lock.lock());
        assert!(!here::are_masked());
        vcpu.join().unwrap();
        assert_eq!(read(&lock), 3);
    });
}

/// Three vCPUs, a turn each.
#[test]
fn one_at_a_time_of_three() {
    try_all("three vCPUs", Some(PREEMPTIONS), || {
        let lock: Guarded = guarded();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let lock = Arc::clone(&lock);
                thread::spawn(move || add(&lock.lock()))
            })
            .collect();
        add(&lock.lock());
        for vcpu in others {
            vcpu.join().unwrap();
        }
        assert_eq!(read(&lock), 3);
    });
}

/// Who holds the lock is told so, in all orders, whoever else takes it and lets it go meanwhile; who
/// does not hold it gets it.
#[test]
fn the_holder_is_told() {
    try_all("who holds it", None, || {
        let lock: Guarded = guarded();
        let other = Arc::clone(&lock);
        let turn = |lock: &Guarded| {
            let held = lock_unless_held(lock).expect("this vCPU does not hold it");
            assert!(lock_unless_held(lock).is_none(), "it does now");
            assert!(lock.try_lock().is_none());
            assert!(lock.is_locked());
            add(&held);
        };
        let vcpu = thread::spawn(move || turn(&other));
        turn(&lock);
        assert!(!here::are_masked());
        vcpu.join().unwrap();
        assert_eq!(read(&lock), 2);
    });
}

/// Who only tries either has it alone or is as before.
#[test]
fn trying_is_having_or_nothing() {
    try_all("trying", None, || {
        let lock: Guarded = guarded();
        let other = Arc::clone(&lock);
        let turn = |lock: &Guarded| {
            let taken = lock.try_lock();
            assert_eq!(here::are_masked(), taken.is_some());
            u32::from(taken.map(|held| add(&held)).is_some())
        };
        let vcpu = thread::spawn(move || turn(&other));
        let mine = turn(&lock);
        assert!(!here::are_masked());
        let sum = mine + vcpu.join().unwrap();
        assert!(sum > 0, "one of them was first");
        assert_eq!(read(&lock), sum);
    });
}

/// Of two locks the one that was taken first unmasks upcalls, in whatever order others come.
#[test]
fn the_first_lock_unmasks() {
    try_all("two locks", None, || {
        let locks: (Guarded, Guarded<rank::Heap>) = (guarded(), guarded());
        let others = locks.clone();
        let turn = |(first, second): &(Guarded, Guarded<rank::Heap>)| {
            let outer = first.lock();
            let inner = second.lock();
            add(&inner);
            drop(inner);
            add(&outer);
            drop(outer);
            assert!(!here::are_masked());
        };
        let vcpu = thread::spawn(move || turn(&others));
        turn(&locks);
        vcpu.join().unwrap();
        assert_eq!([read(&locks.0), read(&locks.1)], [2, 2]);
    });
}

/// A value behind a lock that its vCPU keeps.
type Kept = Arc<lock_api::Mutex<KeptLock, UnsafeCell<u32>>>;

loom::thread_local! {
    /// What this vCPU keeps without need, and how often it let go of it to wait.
    static KEEPS: RefCell<Option<Kept>> = RefCell::new(None);
    static LET_GO: Cell<u32> = Cell::new(0);
}

/// Lets go of what this vCPU keeps.
fn let_go() {
    if let Some(kept) = KEEPS.with(RefCell::take) {
        LET_GO.with(|times| times.set(times.get() + 1));
        // SAFETY: this vCPU locked it and has kept it since.
        unsafe { kept.force_unlock() };
    }
}

/// Takes a kept lock as its vCPU does, which keeps it afterwards, and works on what it guards.
fn keep(kept: &Kept) {
    let held = kept.lock();
    // SAFETY: the lock is held, which is what is tried here.
    held.with_mut(|value| unsafe { *value += 1 });
    std::mem::forget(held);
    KEEPS.with(|keeps| *keeps.borrow_mut() = Some(Arc::clone(kept)));
}

/// One keeps what another wants that holds what the first waits for: it lets go before it waits, in all
/// orders, and only then. What is kept is one vCPU's at a time.
#[test]
fn who_waits_keeps_nothing() {
    lock::before_waiting(let_go);
    let waited = std::sync::Arc::new(Count::new(0));
    let seen = std::sync::Arc::clone(&waited);
    try_all("a lock that is kept", None, move || {
        let kept: Kept = Arc::new(lock_api::Mutex::new(UnsafeCell::new(0)));
        drop(kept.lock());
        let lock: Guarded = guarded();
        let (others, theirs) = (Arc::clone(&kept), Arc::clone(&lock));
        let vcpu = thread::spawn(move || {
            let held = theirs.lock();
            add(&held);
            keep(&others);
            let_go();
            drop(held);
        });
        keep(&kept);
        assert!(kept.is_locked());
        add(&lock.lock());
        seen.fetch_add(LET_GO.with(Cell::get) as usize, Relaxed);
        let_go();
        vcpu.join().unwrap();
        assert!(!kept.is_locked());
        assert_eq!(read(&lock), 2);
        // SAFETY: nobody holds it, and the other vCPU is gone.
        assert_eq!(kept.lock().with(|value| unsafe { *value }), 2);
    });
    assert!(waited.load(Relaxed) > 0, "in some order it had to wait");
}
