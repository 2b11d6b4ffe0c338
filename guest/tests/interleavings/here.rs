//! What the lock and the threads stand on, as loom has it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock};

use lock_api::{GuardSend, RawMutex};

pub(crate) use loom::sync::atomic::Ordering;

use crate::rank::Held;

/// Looking again without waiting shows nothing new.
pub(crate) const SPINS: u32 = 1;
pub(crate) const SPINS_AGAIN: u32 = 1;
/// How often in one order a vCPU may look in vain.
const WAITS: u32 = 3;

/// A word of loom's that a constant can hold: it is made when it is used first.
macro_rules! word {
    ($name:ident $(<$t:ident>)?, $value:ty) => {
        pub(crate) struct $name $(<$t>)? {
            first: $value,
            word: OnceLock<loom::sync::atomic::$name $(<$t>)?>,
        }

        #[allow(dead_code, reason = "not every word is used in all ways")]
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

            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                self.word().swap(value, order)
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.word().compare_exchange(current, new, success, failure)
            }
        }
    };
}

/// What numbers can besides.
macro_rules! arithmetic {
    ($($function:ident)*) => {
        impl AtomicUsize {
            $(pub(crate) fn $function(&self, value: usize, order: Ordering) -> usize {
                self.word().$function(value, order)
            })*
        }
    };
}

word!(AtomicBool, bool);
word!(AtomicUsize, usize);
arithmetic! { fetch_add fetch_and fetch_or fetch_sub }
word!(AtomicPtr<T>, *mut T);

// SAFETY: a pointer is a number here; nobody but its reader says what is behind it.
unsafe impl<T> Send for AtomicPtr<T> {}
// SAFETY: the word is atomic, and a pointer a number: nobody but its reader says what is behind it.
unsafe impl<T> Sync for AtomicPtr<T> {}

/// One word that is set while somebody holds it.
pub(crate) struct Spin {
    word: OnceLock<loom::sync::atomic::AtomicBool>,
}

impl Spin {
    pub(crate) const fn new(_: ()) -> Spin {
        Spin {
            word: OnceLock::new(),
        }
    }

    fn word(&self) -> &loom::sync::atomic::AtomicBool {
        let new = || loom::sync::atomic::AtomicBool::new(false);
        self.word.get_or_init(new)
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
            give_way(0);
        }
    }

    fn try_lock(&self) -> bool {
        let taken = self
            .word()
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok()
    }

    unsafe fn unlock(&self) {
        self.word().store(false, Ordering::Release);
    }
}

/// Lets another vCPU run. Two that wait for a third can do so for each other without end: from some
/// time on, which of them runs is not tried any more but given by turns.
pub(crate) fn give_way(_: u32) {
    if WAITED.with(|waited| waited.replace(waited.get() + 1)) >= WAITS {
        loom::skip_branch();
    }
    loom::thread::yield_now();
}

pub(crate) fn relax() {
    give_way(0);
}

loom::thread_local! {
    static WAITED: Cell<u32> = Cell::new(0);
    /// Whether the vCPU's upcalls are masked.
    static MASKED: Cell<bool> = Cell::new(false);
    /// What it holds.
    static HELD: Own = Own::new();
}

/// Which locks a vCPU holds, by an address that none has had for long: by it a lock's holder is told
/// apart, and that may be read late.
struct Own(&'static Held);

/// Those of vCPUs that are gone.
static GONE: Mutex<VecDeque<&'static Held>> = Mutex::new(VecDeque::new());
/// How many others come before an address is used again.
const LONG: usize = 64;

impl Own {
    fn new() -> Own {
        let mut gone = GONE.lock().unwrap();
        let old = if gone.len() > LONG {
            gone.pop_front()
        } else {
            None
        };
        let held = old.unwrap_or_else(|| Box::leak(Box::new(Held::nothing())));
        held.forget();
        Own(held)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        GONE.lock().unwrap().push_back(self.0);
    }
}

pub(crate) fn held() -> &'static Held {
    HELD.with(|held| held.0)
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
