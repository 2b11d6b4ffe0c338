//! The locks inside of a domain: of its lists and its free frames, below those of its page tables
//! ([`crate::locks`]).
//!
//! Each is held for as long as it takes to move a number, by a vCPU that takes no interrupts meanwhile
//! and never over a hypercall. They have an order, and a vCPU takes only one that comes behind all that it
//! holds. A kernel pays nothing for that: the order is looked at where this runs on a host, as all tests
//! of this crate do. There a thread stands for a vCPU, and a lock that is taken again, or out of order, is a
//! panic that names both places.

use lock_api::RawMutex;

/// A value behind such a lock. `RANK` is its place in the order: see [`rank`].
pub(crate) type Short<T, const RANK: usize> = lock_api::Mutex<Ranked<RANK>, T>;

/// What is locked, in its order.
pub(crate) mod rank {
    /// The spaces that were made.
    pub(crate) const SPACES: usize = 0;
    /// Those that nobody has.
    pub(crate) const SPARES: usize = 1;
    /// Empty tables that nobody has.
    pub(crate) const EMPTY_TABLES: usize = 2;
    /// What frames are declared to be, which whoever adds records holds, and takes frames for them.
    pub(crate) const SPECIAL: usize = 3;
    /// The frames that are free.
    pub(crate) const POOL: usize = 4;
}

/// The lock without its value.
pub(crate) struct Ranked<const RANK: usize>(spin::Mutex<()>);

// SAFETY: the spin lock inside excludes.
unsafe impl<const RANK: usize> RawMutex for Ranked<RANK> {
    const INIT: Ranked<RANK> = Ranked(spin::Mutex::new(()));

    type GuardMarker = <spin::Mutex<()> as RawMutex>::GuardMarker;

    #[inline]
    #[track_caller]
    fn lock(&self) {
        order::enter(RANK);
        RawMutex::lock(&self.0);
    }

    #[inline]
    #[track_caller]
    fn try_lock(&self) -> bool {
        let taken = RawMutex::try_lock(&self.0);
        if taken {
            order::enter(RANK);
        }
        taken
    }

    #[inline]
    unsafe fn unlock(&self) {
        order::leave(RANK);
        // SAFETY: the caller holds it.
        unsafe { RawMutex::unlock(&self.0) };
    }
}

#[cfg(target_os = "none")]
mod order {
    #[inline(always)]
    pub(super) fn enter(_: usize) {}

    #[inline(always)]
    pub(super) fn leave(_: usize) {}
}

#[cfg(not(target_os = "none"))]
mod order {
    extern crate std;

    use core::cell::Cell;
    use core::panic::Location;

    use super::rank::POOL;

    const NAMES: [&str; POOL + 1] = [
        "spaces",
        "spare spaces",
        "empty tables",
        "declared frames",
        "free frames",
    ];

    std::thread_local! {
        /// Where the thread has taken what it holds.
        static HELD: Cell<[Option<&'static Location<'static>>; POOL + 1]> =
            const { Cell::new([None; POOL + 1]) };
    }

    /// Notes that one is taken.
    #[track_caller]
    pub(super) fn enter(rank: usize) {
        let place = Location::caller();
        let mut held = HELD.get();
        let last = (0..=POOL).rev().find_map(|last| Some((last, held[last]?)));
        if let Some((last, since)) = last.filter(|(last, _)| *last >= rank) {
            panic!(
                "the lock of {} is taken at {place} while that of {} is held, since {since}",
                NAMES[rank], NAMES[last]
            );
        }
        held[rank] = Some(place);
        HELD.set(held);
    }

    /// Notes that it is given back.
    pub(super) fn leave(rank: usize) {
        let mut held = HELD.get();
        held[rank] = None;
        HELD.set(held);
    }
}

#[cfg(test)]
mod tests {
    use super::rank::{POOL, SPECIAL};
    use super::*;

    #[test]
    fn what_comes_behind_is_taken() {
        let (special, pool) = (Short::<_, SPECIAL>::new(1), Short::<_, POOL>::new(2));
        for _ in 0..2 {
            let (special, pool) = (special.lock(), pool.lock());
            assert_eq!((*special, *pool), (1, 2));
        }
        drop(pool.lock());
        assert_eq!(special.try_lock().as_deref(), Some(&1));
    }

    #[test]
    #[should_panic(expected = "the lock of declared frames is taken at ")]
    fn what_comes_before_is_refused() {
        let (special, pool) = (Short::<_, SPECIAL>::new(()), Short::<_, POOL>::new(()));
        let _pool = pool.lock();
        let _special = special.lock();
    }

    #[test]
    #[should_panic(expected = " while that of free frames is held, since ")]
    fn what_is_held_is_refused() {
        let pool = Short::<_, POOL>::new(());
        let _held = pool.lock();
        let _again = pool.lock();
    }
}
