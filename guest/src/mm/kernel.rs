//! The page tables of the running kernel: one value, reached from everywhere the same way.
//!
//! Upcalls are masked while it is borrowed, as under any [`Lock`], so that a handler never finds it in
//! use by the context it interrupted.

use core::panic::Location;

use hypercall::queue::{Access, LazyGuard, Mmu, MmuError, PauseGuard};
use marks::init;
use pagetable::Domain;
use pagetable::error::MmError;
use pagetable::frames::Ledger;
use pagetable::pv::FrameLists;
use pagetable::tables::Tables;

use super::running::Running;
use crate::lock::Lock;
use crate::xen::{HV, Hv};

/// On a machine without memory, until it is known.
static DOMAIN: Domain<Running> = Domain::new(Running::pv(FrameLists::EMPTY));

// SAFETY: the only tables of the domain.
static TABLES: Lock<Tables<Running>> = Lock::new(unsafe { Tables::new(HV, &DOMAIN) });

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
    f(&mut TABLES.lock())
}

/// Calls `f` with the kernel's page tables, unless they are in use: for reports.
#[track_caller]
pub fn try_with<R>(f: impl FnOnce(&mut Tables<Running>) -> R) -> Option<R> {
    TABLES.try_lock().map(|mut tables| f(&mut tables))
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
    f(&TABLES.lock(), in_use)
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
