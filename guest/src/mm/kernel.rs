//! The page tables of the running kernel: one value, reached from everywhere the same way.
//!
//! Upcalls are masked while it is borrowed, as under any [`Lock`], so that a handler never finds it in
//! use by the context it interrupted. Each vCPU has a queue of its own, of which the others know
//! nothing: what one has left queued, in a lazy section, is sent before another uses the tables.

extern crate alloc;

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::panic::Location;

use hypercall::queue::{Access, LazyGuard, Mmu, MmuError, PauseGuard};
use lock_api::MutexGuard;
use marks::init;
use pagetable::Domain;
use pagetable::error::MmError;
use pagetable::frames::Ledger;
use pagetable::pv::FrameLists;
use pagetable::tables::Tables;

use super::running::Running;
use crate::cpu;
use crate::lock::{Lock, RawLock, lock_unless_held};
use crate::xen::{HV, Hv};

/// On a machine without memory, until it is known.
static DOMAIN: Domain<Running> = Domain::new(Running::pv(FrameLists::EMPTY));

/// The page tables as each vCPU works with them.
struct All {
    boot: Tables<Running>,
    /// Those of the vCPUs 1, 2 and so on, as far as they were started.
    others: Vec<&'static mut Tables<Running>>,
    /// The vCPU that used them last, if it has left something queued.
    queued: Option<u32>,
}

impl All {
    /// Those of a vCPU.
    ///
    /// # Panics
    /// The vCPU has none: it has not joined.
    #[inline]
    fn of(&mut self, number: u32) -> &mut Tables<Running> {
        match number {
            0 => &mut self.boot,
            _ => self.others[number as usize - 1],
        }
    }

    /// Those of the vCPU that this runs on, with nothing queued by another.
    ///
    /// Like what locks and unlocks them not part of its callers, of which there are hundreds.
    #[inline(never)]
    fn here(&mut self) -> &mut Tables<Running> {
        let here = cpu::here().number();
        if self.queued.is_some_and(|last| last != here) {
            self.send_others();
        }
        self.of(here)
    }

    /// Sends what another vCPU has queued: this one is to find it in the tables.
    #[cold]
    #[inline(never)]
    fn send_others(&mut self) {
        if let Some(last) = self.queued.take() {
            let sent = self.of(last).send_queued();
            // Handlers that nest deeper than can be counted would have panicked there.
            sent.unwrap_or_else(|e| panic!("sending what vCPU {last} has queued: {e}"));
        }
    }

    /// Notes whether the vCPU that this runs on has left something queued.
    #[inline]
    fn leave(&mut self) {
        let here = cpu::here().number();
        let idle = self.of(here).mmu().batch().is_empty();
        self.queued = (!idle).then_some(here);
    }
}

// SAFETY: the lock is held around each use, and `here` sends what another vCPU has queued first.
static TABLES: Lock<All> = Lock::new(All {
    // SAFETY: as above.
    boot: unsafe { Tables::new(HV, &DOMAIN) },
    others: Vec::new(),
    queued: None,
});

/// Room for the page tables of a vCPU that is to be started.
pub(crate) struct Room(Vec<Tables<Running>>);

/// Makes room for the page tables of another vCPU, which [`join`]s before room is made for the next.
///
/// # Errors
/// The heap has none.
pub(crate) fn make_room() -> Result<Room, TryReserveError> {
    let mut tables = Vec::new();
    tables.try_reserve_exact(1)?;
    // The heap is not used while the page tables are, as it may need them to grow.
    let count = TABLES.lock().others.len();
    let mut others = Vec::new();
    others.try_reserve_exact(count + 1)?;
    let mut all = TABLES.lock();
    others.append(&mut all.others);
    let old = core::mem::replace(&mut all.others, others);
    drop(all);
    drop(old);
    Ok(Room(tables))
}

/// Lets the vCPU that this runs on begin to use the page tables. They are made on its stack, for which
/// they are large, and so before it does anything else.
///
/// # Errors
/// See [`Tables::join`].
///
/// # Panics
/// Room was not made for this vCPU but for another.
pub(crate) fn join(room: Room) -> Result<(), MmError> {
    let tables = place(room);
    {
        let mut all = TABLES.lock();
        let number = cpu::here().number() as usize;
        assert_eq!(
            all.others.len() + 1,
            number,
            "vCPUs join one after the other"
        );
        assert!(all.others.len() < all.others.capacity(), "room was made");
        all.others.push(tables);
    }
    with(Tables::join)
}

/// Makes page tables in the room for them, for good.
#[inline(never)]
fn place(Room(mut room): Room) -> &'static mut Tables<Running> {
    // SAFETY: they are used under the lock alone, as the others.
    room.push(unsafe { Tables::new(HV, &DOMAIN) });
    &mut room.leak()[0]
}

/// Says which machine the kernel runs on.
///
/// # Safety
/// Nobody has asked for the page tables so far.
#[init]
pub(crate) unsafe fn set_machine(machine: Running) {
    // SAFETY: nobody has looked at the domain, by this function's contract, and one vCPU runs.
    unsafe { DOMAIN.set_machine(machine) };
}

/// Calls `f` with the kernel's page tables. Called by `f` again, it panics.
#[track_caller]
pub fn with<R>(f: impl FnOnce(&mut Tables<Running>) -> R) -> R {
    used(lock(), f)
}

#[inline]
fn used<R>(mut all: Locked, f: impl FnOnce(&mut Tables<Running>) -> R) -> R {
    let result = f(all.here());
    unlock(all);
    result
}

/// The page tables, locked.
type Locked = MutexGuard<'static, RawLock, All>;

#[track_caller]
#[inline(never)]
fn lock() -> Locked {
    TABLES.lock()
}

#[inline(never)]
fn unlock(mut all: Locked) {
    all.leave();
}

/// Calls `f` with the kernel's page tables, unless this vCPU uses them already.
#[track_caller]
pub fn try_with<R>(f: impl FnOnce(&mut Tables<Running>) -> R) -> Option<R> {
    lock_unless_held(&TABLES).map(|all| used(all, f))
}

/// Calls `f` with the kernel's page tables whoever uses them, and says whether somebody does: what
/// `f` sees of them may be half done then.
///
/// # Safety
/// Nobody who uses the page tables runs again: for the last words of a kernel that crashed.
pub(crate) unsafe fn steal<R>(f: impl FnOnce(&Tables<Running>, bool) -> R) -> R {
    let in_use = TABLES.is_locked();
    // SAFETY: by the caller's contract whoever holds the lock does nothing any more, and `f` only
    // reads, as far as what it is given can be read.
    unsafe { TABLES.raw().take_over() };
    let all = &mut *TABLES.lock();
    let number = cpu::here().number();
    // One that crashed before it joined sees what the boot vCPU does.
    let joined = number as usize <= all.others.len();
    f(all.of(if joined { number } else { 0 }), in_use)
}

/// Reaches the kernel's page tables for lazy sections.
#[derive(Clone, Copy, Debug)]
pub struct Current;

impl Access for Current {
    type Hv = Hv;
    type Completion = Ledger<Running>;

    #[track_caller]
    fn with<R>(&self, f: impl FnOnce(&mut Mmu<Hv, Ledger<Running>>) -> R) -> R {
        with(|tables| f(tables.mmu()))
    }

    fn failed(&self, error: MmuError, at: &'static Location<'static>) {
        panic!("the lazy section that began at {at} could not be left: {error}");
    }
}

/// Enters a lazy section, until the guard is ended or dropped.
///
/// # Errors
/// Sections nest too deep.
#[track_caller]
pub fn lazy() -> Result<LazyGuard<Current>, MmError> {
    Ok(LazyGuard::begin(Current)?)
}

/// Pauses lazy mode, until the guard is ended or dropped.
///
/// # Errors
/// What Xen refused of the updates that were queued.
#[track_caller]
pub fn pause() -> Result<PauseGuard<Current>, MmError> {
    Ok(PauseGuard::begin(Current)?)
}
