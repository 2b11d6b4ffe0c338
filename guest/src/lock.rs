//! The locks of the kernel: spin locks that know who holds them, and what each vCPU holds.
//!
//! A spin lock that is taken again by whoever holds it waits for itself, in silence and for ever, and so
//! do two vCPUs of which each holds what the other wants. So each lock has a word that names its holder,
//! and a rank ([`crate::rank`]): taking a lock again, or one that comes before another that is held, is
//! a panic that names both places, in every build. While a [`Lock`] is held event upcalls are
//! masked, so that a handler, which runs on the vCPU that it interrupts, never finds a lock taken by
//! what it interrupted. Guards are dropped in the order opposite to that in which they were made, as
//! scopes do; the first that was taken, dropped last, unmasks. A [`KeptLock`] is a vCPU's rather than
//! a scope's, and leaves upcalls as they are.
//!
//! A vCPU that waits for another's lock first lets go of what it keeps ([`before_waiting`]), so that
//! the two do not wait for each other; then it looks a while, and gives its processor back to Xen, as
//! the holder may be waiting for just that: once for a moment, and then for ever longer.
//!
//! The `spin` crate does the locking, and `lock_api` the guards. What is different where this is tested,
//! be it which vCPU runs or how words are shared, is in `here`.

use core::marker::PhantomData;
use core::panic::Location;

use lock_api::{GuardNoSend, RawMutex};

use crate::here::{
    AtomicBool, AtomicPtr, AtomicUsize, Ordering, SPINS, SPINS_AGAIN, Spin, give_way, held,
    mask_upcalls, relax, restore_upcalls,
};
use crate::rank::{self, Held, Rank};

/// A value behind a [`RawLock`].
pub type Lock<T, R> = lock_api::Mutex<RawLock<R>, T>;

/// What a vCPU does before it waits for another's lock.
static BEFORE_WAITING: spin::Once<fn()> = spin::Once::new();

/// Has every vCPU call `f` before it waits for another's lock that comes before the page tables': to let
/// go of what it keeps of those without need. Whoever holds one that comes behind them waits for no page
/// tables. It is called with upcalls masked, and may itself take locks.
pub fn before_waiting(f: fn()) {
    BEFORE_WAITING.call_once(|| f);
}

/// A spin lock with its holder written down.
struct Noted {
    spin: Spin,
    /// Whether upcalls were masked before it was taken.
    was: AtomicBool,
    /// Who holds it; 0 if nobody does. Written by the holder alone, as what is above.
    holder: AtomicUsize,
}

impl Noted {
    const fn new() -> Noted {
        Noted {
            spin: Spin::new(()),
            was: AtomicBool::new(false),
            holder: AtomicUsize::new(0),
        }
    }

    /// Notes that a vCPU holds it.
    #[inline]
    fn note(&self, held: &Held, was: bool) {
        self.was.store(was, Ordering::Relaxed);
        let holder = core::ptr::from_ref(held).addr();
        self.holder.store(holder, Ordering::Relaxed);
    }

    /// Gives it back, and says whether upcalls were masked before.
    ///
    /// # Safety
    /// This vCPU holds it.
    #[inline]
    unsafe fn unlock(&self) -> bool {
        let was = self.was.load(Ordering::Relaxed);
        self.holder.store(0, Ordering::Relaxed);
        // SAFETY: it is held, as the caller says.
        unsafe { RawMutex::unlock(&self.spin) };
        was
    }

    /// Whether a vCPU, which asks, holds it.
    #[inline]
    fn is_held_by(&self, held: &Held) -> bool {
        self.holder.load(Ordering::Relaxed) == core::ptr::from_ref(held).addr()
    }

    /// Waits for another vCPU's lock.
    #[cold]
    #[inline(never)]
    fn wait(&self) {
        // By the trait: the guard of the type itself would unlock it again.
        let (mut looks, mut times) = (SPINS, 0_u32);
        while !RawMutex::try_lock(&self.spin) {
            for _ in 0..looks {
                if !self.spin.is_locked() {
                    break;
                }
                relax();
            }
            if self.spin.is_locked() {
                give_way(times);
                (looks, times) = (SPINS_AGAIN, times.saturating_add(1));
            }
        }
    }

    /// Says why a lock of this rank cannot be taken.
    #[cold]
    #[inline(never)]
    #[track_caller]
    fn refuse(&self, rank: u32, held: &Held) -> ! {
        let place = Location::caller();
        let (other, since) = held.last().unwrap_or(("nothing", place));
        let name = rank::name(rank);
        if self.is_held_by(held) {
            let since = held.place(rank).unwrap_or(since);
            panic!(
                "the lock of {name} that is taken at {place} is held by the same vCPU, since {since}"
            );
        }
        panic!(
            "the lock of {name} is taken at {place} while that of {other} is held, since {since}: it \
             comes before that in the order of locks"
        );
    }
}

/// The lock without a value, for those that bring their own.
pub struct RawLock<R>(Noted, PhantomData<fn() -> R>);

impl<R: Rank> RawLock<R> {
    /// A lock that nobody holds.
    #[must_use]
    pub const fn new() -> RawLock<R> {
        RawLock(Noted::new(), PhantomData)
    }

    /// Takes the lock from whoever holds it, for the report that ends the domain. Upcalls stay
    /// masked.
    ///
    /// # Safety
    /// Whoever holds it never runs again, and its value is one that can be used at every moment.
    pub unsafe fn take_over(&self) {
        if self.0.spin.is_locked() {
            let held = held();
            if self.0.is_held_by(held) {
                held.remove(R::NUMBER);
            }
            self.0.holder.store(0, Ordering::Relaxed);
            // SAFETY: it is locked, and its holder never unlocks it, by this function's contract.
            unsafe { self.0.spin.force_unlock() };
        }
    }

    /// Waits for another vCPU's lock.
    #[cold]
    #[inline(never)]
    fn wait(&self) {
        if R::NUMBER < rank::Tables::NUMBER
            && let Some(let_go) = BEFORE_WAITING.get()
        {
            let_go();
        }
        self.0.wait();
    }
}

/// Takes a lock, waiting for other vCPUs, unless it is this vCPU that holds it.
#[track_caller]
pub fn lock_unless_held<T, R: Rank>(
    lock: &Lock<T, R>,
) -> Option<lock_api::MutexGuard<'_, RawLock<R>, T>> {
    // SAFETY: it is looked at, and neither locked nor unlocked.
    let is_held = unsafe { lock.raw() }.0.is_held_by(held());
    (!is_held).then(|| lock.lock())
}

impl<R: Rank> Default for RawLock<R> {
    fn default() -> RawLock<R> {
        RawLock::new()
    }
}

// SAFETY: the spin lock inside excludes; a holder is noted and forgotten while it is held.
unsafe impl<R: Rank> RawMutex for RawLock<R> {
    const INIT: RawLock<R> = RawLock::new();

    /// A guard unmasks the upcalls of the vCPU that made it.
    type GuardMarker = GuardNoSend;

    #[inline]
    #[track_caller]
    fn lock(&self) {
        let was = mask_upcalls();
        let held = held();
        if !held.admits(R::NUMBER) {
            self.0.refuse(R::NUMBER, held);
        }
        if !RawMutex::try_lock(&self.0.spin) {
            self.wait();
        }
        self.0.note(held, was);
        held.add(R::NUMBER, Location::caller());
    }

    /// What is only tried is not waited for, and may come before what is held.
    #[inline]
    #[track_caller]
    fn try_lock(&self) -> bool {
        let was = mask_upcalls();
        let held = held();
        let taken = RawMutex::try_lock(&self.0.spin);
        if taken {
            if held.has(R::NUMBER) {
                self.0.refuse(R::NUMBER, held);
            }
            self.0.note(held, was);
            held.add(R::NUMBER, Location::caller());
        } else {
            restore_upcalls(was);
        }
        taken
    }

    #[inline]
    unsafe fn unlock(&self) {
        held().remove(R::NUMBER);
        // SAFETY: the caller holds the lock.
        let was = unsafe { self.0.unlock() };
        restore_upcalls(was);
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.0.spin.is_locked()
    }
}

/// A lock of page tables, which its vCPU may keep while handlers run on it, that find it theirs: whoever
/// takes it has the lock of the vCPU's own page tables, and knows by them whether this vCPU has it already.
pub struct KeptLock {
    noted: Noted,
    /// Where it was taken last.
    place: AtomicPtr<Location<'static>>,
}

impl KeptLock {
    #[inline]
    fn note(&self, held: &Held, place: &'static Location<'static>) {
        self.noted.note(held, false);
        let place = core::ptr::from_ref(place).cast_mut();
        self.place.store(place, Ordering::Relaxed);
    }

    /// Says why it cannot be taken.
    #[cold]
    #[inline(never)]
    #[track_caller]
    fn refuse(&self, held: &Held) -> ! {
        let place = Location::caller();
        if !self.noted.is_held_by(held) {
            self.noted.refuse(rank::Tables::NUMBER, held);
        }
        // SAFETY: what is stored here are references that live for good, and this vCPU stored the last
        // one when it took the lock.
        let since = unsafe { self.place.load(Ordering::Relaxed).as_ref() }.unwrap_or(place);
        panic!(
            "the page tables that are taken at {place} are held by the same vCPU, since {since}"
        );
    }
}

// SAFETY: the spin lock inside excludes other vCPUs.
unsafe impl RawMutex for KeptLock {
    const INIT: KeptLock = KeptLock {
        noted: Noted::new(),
        place: AtomicPtr::new(core::ptr::null_mut()),
    };

    /// It is given back by the vCPU that took it.
    type GuardMarker = GuardNoSend;

    #[inline]
    #[track_caller]
    fn lock(&self) {
        let held = held();
        if !held.admits(rank::Tables::NUMBER + 1) || self.noted.is_held_by(held) {
            self.refuse(held);
        }
        if !RawMutex::try_lock(&self.noted.spin) {
            self.noted.wait();
        }
        self.note(held, Location::caller());
    }

    #[inline]
    #[track_caller]
    fn try_lock(&self) -> bool {
        let taken = RawMutex::try_lock(&self.noted.spin);
        if taken {
            self.note(held(), Location::caller());
        }
        taken
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock.
        unsafe { self.noted.unlock() };
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.noted.spin.is_locked()
    }
}
