//! The locks of the kernel: spin locks that know who holds them since where.
//!
//! A spin lock that is taken again by whoever holds it waits for itself, in silence and for ever. So
//! there is a word here that names the holder, and the place where it took the lock: taking it again
//! is a panic that names both places, in every build. While a [`Lock`] is held event upcalls are
//! masked, so that a handler, which runs on the vCPU that it interrupts, never finds a lock taken by
//! what it interrupted. Guards are dropped in the order opposite to that in which they were made, as
//! scopes do; the first that was taken, dropped last, unmasks. A [`KeptLock`] is a vCPU's rather than
//! a scope's, and leaves upcalls as they are.
//!
//! A vCPU that waits for another's lock first lets go of what it keeps ([`before_waiting`]), so that
//! the two do not wait for each other; then it looks a while, and gives its processor back to Xen, as
//! the holder may be waiting for just that.
//!
//! The `spin` crate does the locking, and `lock_api` the guards. What is different where this is tested,
//! be it which vCPU runs or how words are shared, is in `here`.

use core::panic::Location;
use core::ptr;

use lock_api::{GuardNoSend, RawMutex};

use crate::here::{
    AtomicPtr, AtomicUsize, Ordering, SPINS, Spin, give_way, mask_upcalls, me, relax,
    restore_upcalls,
};

/// A value behind a [`RawLock`].
pub type Lock<T> = lock_api::Mutex<RawLock, T>;

/// Set in the holder's word if upcalls were masked before.
const MASKED: usize = 1;

/// What a vCPU does before it waits for another's lock.
static BEFORE_WAITING: spin::Once<fn()> = spin::Once::new();

/// Has every vCPU call `f` before it waits for another's lock: to let go of what it keeps without
/// need. It is called with upcalls masked, and may itself take locks that are not waited for long.
pub fn before_waiting(f: fn()) {
    BEFORE_WAITING.call_once(|| f);
}

/// A spin lock with its holder written down.
struct Noted {
    spin: Spin,
    /// Who holds it, with [`MASKED`]; 0 if nobody does. Written by the holder alone.
    holder: AtomicUsize,
    /// Where it was taken last.
    place: AtomicPtr<Location<'static>>,
}

impl Noted {
    const fn new() -> Noted {
        Noted {
            spin: Spin::new(()),
            holder: AtomicUsize::new(0),
            place: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Takes it, and notes whether upcalls were masked before.
    #[inline]
    fn lock(&self, was: bool, place: &'static Location<'static>) {
        if !RawMutex::try_lock(&self.spin) {
            self.wait(place);
        }
        self.note(was, place);
    }

    /// Gives it back, and says whether upcalls were masked before.
    ///
    /// # Safety
    /// This vCPU holds it.
    #[inline]
    unsafe fn unlock(&self) -> bool {
        let was = self.holder.load(Ordering::Relaxed) & MASKED != 0;
        self.holder.store(0, Ordering::Relaxed);
        // SAFETY: it is held, as the caller says.
        unsafe { RawMutex::unlock(&self.spin) };
        was
    }

    /// Whether this vCPU holds it.
    #[inline]
    fn is_mine(&self) -> bool {
        self.holder.load(Ordering::Relaxed) & !MASKED == me()
    }

    /// Writes down who holds it.
    #[inline]
    fn note(&self, was: bool, place: &'static Location<'static>) {
        let holder = me() | if was { MASKED } else { 0 };
        self.holder.store(holder, Ordering::Relaxed);
        self.place
            .store(ptr::from_ref(place).cast_mut(), Ordering::Relaxed);
    }

    /// Waits for another vCPU's lock; one's own is never waited for.
    #[cold]
    #[inline(never)]
    fn wait(&self, place: &'static Location<'static>) {
        if self.is_mine() {
            // SAFETY: what is stored here are references that live for good, and this vCPU stored
            // the last one when it took the lock.
            let holder = unsafe { self.place.load(Ordering::Relaxed).as_ref() };
            let since = holder.unwrap_or(place);
            panic!("the lock that is taken at {place} is held by the same vCPU, since {since}");
        }
        if let Some(let_go) = BEFORE_WAITING.get() {
            let_go();
        }
        // By the trait: the guard of the type itself would unlock it again.
        while !RawMutex::try_lock(&self.spin) {
            for _ in 0..SPINS {
                if !self.spin.is_locked() {
                    break;
                }
                relax();
            }
            if self.spin.is_locked() {
                give_way();
            }
        }
    }
}

/// The lock without a value, for those that bring their own.
pub struct RawLock(Noted);

impl RawLock {
    /// A lock that nobody holds.
    #[must_use]
    pub const fn new() -> RawLock {
        RawLock(Noted::new())
    }

    /// Takes the lock from whoever holds it, for the report that ends the domain. Upcalls stay
    /// masked.
    ///
    /// # Safety
    /// Whoever holds it never runs again, and its value is one that can be used at every moment.
    pub unsafe fn take_over(&self) {
        if self.0.spin.is_locked() {
            self.0.holder.store(0, Ordering::Relaxed);
            // SAFETY: it is locked, and its holder never unlocks it, by this function's contract.
            unsafe { self.0.spin.force_unlock() };
        }
    }
}

/// Takes a lock, waiting for other vCPUs, unless it is this vCPU that holds it.
#[track_caller]
pub fn lock_unless_held<T>(lock: &Lock<T>) -> Option<lock_api::MutexGuard<'_, RawLock, T>> {
    // SAFETY: it is looked at, and neither locked nor unlocked.
    let held = unsafe { lock.raw() }.0.is_mine();
    (!held).then(|| lock.lock())
}

impl Default for RawLock {
    fn default() -> RawLock {
        RawLock::new()
    }
}

// SAFETY: the spin lock inside excludes; a holder is noted and forgotten while it is held.
unsafe impl RawMutex for RawLock {
    const INIT: RawLock = RawLock::new();

    /// A guard unmasks the upcalls of the vCPU that made it.
    type GuardMarker = GuardNoSend;

    #[inline]
    #[track_caller]
    fn lock(&self) {
        let was = mask_upcalls();
        self.0.lock(was, Location::caller());
    }

    #[inline]
    #[track_caller]
    fn try_lock(&self) -> bool {
        let was = mask_upcalls();
        let taken = RawMutex::try_lock(&self.0.spin);
        if taken {
            self.0.note(was, Location::caller());
        } else {
            restore_upcalls(was);
        }
        taken
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock.
        let was = unsafe { self.0.unlock() };
        restore_upcalls(was);
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.0.spin.is_locked()
    }
}

/// A lock that its vCPU may keep while handlers run on it, which find it theirs: whoever takes it
/// knows whether this vCPU has it already.
pub struct KeptLock(Noted);

// SAFETY: the spin lock inside excludes other vCPUs.
unsafe impl RawMutex for KeptLock {
    const INIT: KeptLock = KeptLock(Noted::new());

    /// It is given back by the vCPU that took it.
    type GuardMarker = GuardNoSend;

    #[inline]
    #[track_caller]
    fn lock(&self) {
        self.0.lock(false, Location::caller());
    }

    #[inline]
    #[track_caller]
    fn try_lock(&self) -> bool {
        let taken = RawMutex::try_lock(&self.0.spin);
        if taken {
            self.0.note(false, Location::caller());
        }
        taken
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock.
        unsafe { self.0.unlock() };
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.0.spin.is_locked()
    }
}
