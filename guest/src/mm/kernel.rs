//! The page tables of the running kernel, reached from everywhere the same way.
//!
//! Each vCPU has its own [`Tables`] over the one domain, behind a lock of its own that masks upcalls:
//! a handler never finds them in use by the context that it interrupted. Who works on what others
//! work on as well holds it meanwhile ([`pagetable::locks`]): [`with`] the kernel's half, [`in_space`]
//! the user half of a space, [`with_all`] everything.

extern crate alloc;

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::panic::Location;

use hypercall::Pfn;
use hypercall::queue::{Access, LazyGuard, Mmu, MmuError, PauseGuard, Section};
use lock_api::MutexGuard;
use marks::init;
use pagetable::Domain;
use pagetable::error::MmError;
use pagetable::frames::{Frames, Ledger};
use pagetable::locks::Part;
use pagetable::pv::FrameLists;
use pagetable::spaces::AddressSpace;
use pagetable::state::Kind;
use pagetable::tables::Tables;

use super::running::Running;
use crate::cpu;
use crate::lock::{Lock, RawLock, before_waiting, lock_unless_held};
use crate::rank;
use crate::xen::{HV, Hv};

/// On a machine without memory, until it is known.
static DOMAIN: Domain<Running> = Domain::new(Running::pv(FrameLists::empty()));

/// The page tables as one vCPU works with them.
type Own = Lock<Tables<Running>, rank::Tables>;

/// Those of the boot vCPU.
// SAFETY: each vCPU uses its own, see `own`, and what it works on it holds.
static BOOT: Own = Lock::new(unsafe { Tables::new(HV, &DOMAIN) });

/// Those of the vCPU that this runs on.
#[inline]
fn own() -> &'static Own {
    let own = cpu::here().tables().cast::<Own>();
    // SAFETY: null, or what `join` leaked.
    unsafe { own.as_ref() }.unwrap_or(&BOOT)
}

/// Whether a frame is a table whose entries map pages, and has been that since the last flush.
pub(super) fn is_last_level(table: Pfn) -> bool {
    let states = DOMAIN.frames().states(table);
    states.is_ok_and(|(applied, _)| applied.kind == Kind::Table && applied.level == 1)
}

/// Room for the page tables of a vCPU that is to be started.
pub(crate) struct Room(Vec<Own>);

/// Makes room for the page tables of another vCPU. From now on others may work beside this one.
///
/// # Errors
/// The heap has none.
pub(crate) fn make_room() -> Result<Room, TryReserveError> {
    let mut tables = Vec::new();
    tables.try_reserve_exact(1)?;
    before_waiting(let_go);
    with(|tables| sent(tables.share()));
    Ok(Room(tables))
}

/// Lets the vCPU that this runs on begin to use the page tables. They are made on its stack, for which
/// they are large, and so before it does anything else.
///
/// # Errors
/// See [`Tables::join`].
pub(crate) fn join(room: Room) -> Result<(), MmError> {
    let own = core::ptr::from_ref(place(room)).cast_mut();
    cpu::here().set_tables(own.cast());
    with(Tables::join)
}

/// Makes page tables in the room for them, for good.
#[inline(never)]
fn place(Room(mut room): Room) -> &'static Own {
    // SAFETY: this vCPU's own from here on, see `own`; what it works on it holds.
    room.push(Lock::new(unsafe { Tables::new(HV, &DOMAIN) }));
    &room.leak()[0]
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

/// Calls `f` with the page tables, to work on the kernel's half. Called by `f` again, it panics.
#[track_caller]
pub fn with<R>(f: impl FnOnce(&mut Tables<Running>) -> R) -> R {
    let mut tables = lock();
    let result = f(&mut tables);
    unlock(tables);
    result
}

/// The records of all frames, to be looked at without the page tables.
pub(crate) fn all_frames() -> &'static Frames {
    DOMAIN.frames()
}

/// As [`with`], to work on all tables while no other vCPU works on any.
#[track_caller]
pub fn with_all<R>(f: impl FnOnce(&mut Tables<Running>) -> R) -> R {
    holding(own().lock(), Part::All, f)
}

/// Calls `f` with the page tables, to work on the user half of a space, whether this vCPU runs there or
/// not, beside others that work on other spaces. What `f` queues is sent at its end.
///
/// # Errors
/// As [`Tables::in_space`].
#[track_caller]
pub fn in_space<R>(
    space: &AddressSpace,
    f: impl FnOnce(&mut Tables<Running>) -> Result<R, MmError>,
) -> Result<R, MmError> {
    holding(own().lock(), Part::Space(space), |tables| {
        tables.in_space(space, f)
    })
}

/// As [`in_space`], where this vCPU runs in the space and nothing is queued, nor is to be: what `f` asks for
/// goes out at once. Elsewhere `f` is not called.
#[inline]
#[track_caller]
pub fn in_space_at_hand(space: &AddressSpace, f: impl FnOnce(&mut Tables<Running>)) {
    holding(own().lock(), Part::Space(space), |tables| {
        if tables.is_at_hand(space) {
            f(tables);
        }
    });
}

/// Has this vCPU run in a space from now on.
///
/// # Errors
/// As [`Tables::switch_space`].
///
/// # Safety
/// Nothing in use lies in the user half of the space that is left.
#[track_caller]
pub unsafe fn switch_space(space: &AddressSpace) -> Result<(), MmError> {
    holding(own().lock(), Part::Space(space), |tables| {
        // SAFETY: the caller's promise.
        unsafe { tables.switch_space(space) }
    })
}

/// Sends what this vCPU has queued and lets go of what it keeps, unless it is at work: to be called
/// before it waits for another.
pub(crate) fn let_go() {
    if let Some(mut tables) = lock_unless_held(own()) {
        sent(tables.send_and_let_go());
    }
}

/// Has this vCPU's page tables go on with another context's section, and leaves that of the one before
/// in its place. What that had queued is sent, and what it held is let go.
///
/// # Panics
/// The page tables are in use here, or this is a handler: neither is where contexts are switched.
#[track_caller]
pub(crate) fn exchange(section: &mut Section) {
    let mut tables = own().lock();
    sent(tables.send_and_let_go());
    if let Err(e) = tables.mmu().exchange(section) {
        panic!("lazy mode of another context: {e}");
    }
}

/// The page tables of a vCPU, locked.
type Locked = MutexGuard<'static, RawLock<rank::Tables>, Tables<Running>>;

/// Not part of its callers, of which there are hundreds; nor is [`unlock`].
#[track_caller]
#[inline(never)]
fn lock() -> Locked {
    let mut tables = own().lock();
    sent(tables.hold(Part::KernelHalf));
    tables
}

/// Calls `f` while this vCPU holds a part.
#[track_caller]
fn holding<R>(mut tables: Locked, part: Part<'_>, f: impl FnOnce(&mut Tables<Running>) -> R) -> R {
    sent(tables.hold(part));
    let result = f(&mut tables);
    unlock(tables);
    result
}

/// Handlers that nest deeper than can be counted have panicked before.
#[track_caller]
fn sent(result: Result<(), MmError>) {
    result.unwrap_or_else(|e| panic!("sending what is queued before waiting: {e}"));
}

#[inline(never)]
fn unlock(mut tables: Locked) {
    tables.let_go();
}

/// As [`with`], unless this vCPU uses the page tables already.
#[track_caller]
pub fn try_with<R>(f: impl FnOnce(&mut Tables<Running>) -> R) -> Option<R> {
    lock_unless_held(own()).map(|tables| holding(tables, Part::KernelHalf, f))
}

/// Calls `f` with the page tables of this vCPU whoever uses them, and says whether somebody does: what
/// `f` sees of them may be half done then, as what other vCPUs were at work on may be.
///
/// # Safety
/// Nobody who uses the page tables runs again: for the last words of a kernel that crashed.
pub(crate) unsafe fn steal<R>(f: impl FnOnce(&Tables<Running>, bool) -> R) -> R {
    let own = own();
    let in_use = own.is_locked();
    // SAFETY: by the caller's contract whoever holds the lock does nothing any more, and `f` only
    // reads, as far as what it is given can be read.
    unsafe { own.raw().take_over() };
    f(&own.lock(), in_use)
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
