//! The kernel's lock in every order in which vCPUs can come to its words: the code of the kernel, on
//! words of loom's, which tries all orders and, for each load, all values that it may see.
//!
//! Two vCPUs are tried in all orders, three in those in which one is preempted at most
//! [`PREEMPTIONS`] times where it need not wait. The `spin` crate is not part of this: in its place is
//! the smallest lock that there is.
//!
//! `cargo xtask test vcpus`.

#[path = "../src/lock.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "it is the kernel's, and more than is tried here"
)]
mod lock;

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize as Count, Ordering::Relaxed};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use lock::{KeptLock, Lock, lock_unless_held};

/// Preemptions of three vCPUs.
const PREEMPTIONS: usize = 3;

/// What the lock stands on, as loom has it.
mod here {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use lock_api::{GuardSend, RawMutex};
    use loom::sync::atomic::AtomicBool;

    pub(crate) use loom::sync::atomic::Ordering;

    /// Looking again without waiting shows nothing new.
    pub(crate) const SPINS: u32 = 1;
    /// How often in one order a vCPU may look in vain.
    const WAITS: u32 = 3;

    /// A word of loom's that a constant can hold: it is made when it is used first.
    macro_rules! word {
        ($name:ident $(<$t:ident>)?, $value:ty) => {
            pub(crate) struct $name $(<$t>)? {
                first: $value,
                word: OnceLock<loom::sync::atomic::$name $(<$t>)?>,
            }

            impl $(<$t>)? $name $(<$t>)? {
                pub(crate) const fn new(first: $value) -> Self {
                    Self { first, word: OnceLock::new() }
                }

                fn word(&self) -> &loom::sync::atomic::$name $(<$t>)? {
                    self.word.get_or_init(|| loom::sync::atomic::$name::new(self.first))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    self.word().load(order)
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    self.word().store(value, order);
                }
            }
        };
    }

    word!(AtomicUsize, usize);
    word!(AtomicPtr<T>, *mut T);

    // SAFETY: a pointer is a number here; nobody but its reader says what is behind it.
    unsafe impl<T> Send for AtomicPtr<T> {}
    // SAFETY: as above, and the word is atomic.
    unsafe impl<T> Sync for AtomicPtr<T> {}

    /// One word that is set while somebody holds it.
    pub(crate) struct Spin {
        word: OnceLock<AtomicBool>,
    }

    impl Spin {
        pub(crate) const fn new(_: ()) -> Spin {
            Spin {
                word: OnceLock::new(),
            }
        }

        fn word(&self) -> &AtomicBool {
            self.word.get_or_init(|| AtomicBool::new(false))
        }

        pub(crate) fn is_locked(&self) -> bool {
            self.word().load(Ordering::Relaxed)
        }

        pub(crate) unsafe fn force_unlock(&self) {
            self.word().store(false, Ordering::Release);
        }
    }

    // SAFETY: whoever sets the word excludes others until it is cleared.
    unsafe impl RawMutex for Spin {
        const INIT: Spin = Spin::new(());

        type GuardMarker = GuardSend;

        fn lock(&self) {
            while !self.try_lock() {
                give_way();
            }
        }

        fn try_lock(&self) -> bool {
            let taken =
                self.word()
                    .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
            taken.is_ok()
        }

        unsafe fn unlock(&self) {
            self.word().store(false, Ordering::Release);
        }
    }

    /// Lets another vCPU run. Two that wait for a third can do so for each other without end: from some
    /// time on, which of them runs is not tried any more but given by turns.
    pub(crate) fn give_way() {
        if WAITED.with(|waited| waited.replace(waited.get() + 1)) >= WAITS {
            loom::skip_branch();
        }
        loom::thread::yield_now();
    }

    pub(crate) fn relax() {
        give_way();
    }

    loom::thread_local! {
        static WAITED: Cell<u32> = Cell::new(0);
        /// Whether the vCPU's upcalls are masked. Its place tells vCPUs apart.
        static MASKED: Box<Cell<bool>> = Box::new(Cell::new(false));
    }

    pub(crate) fn me() -> usize {
        MASKED.with(|masked| std::ptr::from_ref(&**masked).cast::<u64>().addr() << 1)
    }

    pub(crate) fn mask_upcalls() -> bool {
        MASKED.with(|masked| masked.replace(true))
    }

    pub(crate) fn restore_upcalls(was: bool) {
        MASKED.with(|masked| masked.set(was));
    }

    pub(crate) fn are_masked() -> bool {
        MASKED.with(|masked| masked.get())
    }
}

/// Something that two may not touch at once: loom says so if they do.
type Guarded = Arc<Lock<UnsafeCell<u32>>>;

fn guarded() -> Guarded {
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

fn read(lock: &Guarded) -> u32 {
    // SAFETY: as in `add`.
    lock.lock().with(|value| unsafe { *value })
}

/// Tries all orders of what vCPUs do, and says how many there are.
fn try_all(name: &str, preemptions: Option<usize>, vcpus: impl Fn() + Sync + Send + 'static) {
    static ORDERS: [Count; 8] = [const { Count::new(0) }; 8];
    static NEXT: Count = Count::new(0);
    let orders = &ORDERS[NEXT.fetch_add(1, Relaxed)];
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        orders.fetch_add(1, Relaxed);
        vcpus();
    });
    println!("{name}: {} orders", orders.load(Relaxed));
}

/// Two vCPUs, of which one has two turns; nothing of what they add is lost.
#[test]
fn one_at_a_time() {
    try_all("two vCPUs", None, || {
        let lock = guarded();
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
        let lock = guarded();
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
        let lock = guarded();
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
        let lock = guarded();
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
        let locks = [guarded(), guarded()];
        let others = locks.clone();
        let turn = |[first, second]: &[Guarded; 2]| {
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
        assert_eq!([read(&locks[0]), read(&locks[1])], [2, 2]);
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
        let lock = guarded();
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
