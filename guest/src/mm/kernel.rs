//! The page tables of the running kernel: one value, reached from everywhere the same way.
//!
//! Upcalls are masked while it is borrowed, so that a handler never finds it in use by the context
//! it interrupted.

use core::panic::Location;

use hypercall::Hypervisor;
use hypercall::queue::{Access, LazyGuard, Mmu, MmuError, PauseGuard};
use spin::Mutex;

use super::error::MmError;
use super::frames::Ledger;
use super::running::Running;
use super::tables::Tables;
use crate::xen::{Answering, XEN};

static TABLES: Mutex<Tables<Running>> = Mutex::new(Tables::new(XEN, Running::EMPTY));

/// Calls `f` with the kernel's page tables.
pub fn with<R>(f: impl FnOnce(&mut Tables<Running>) -> R) -> R {
    let was = XEN.mask_upcalls();
    let result = f(&mut TABLES.lock());
    XEN.restore_upcalls(was);
    result
}

/// Calls `f` with the kernel's page tables, unless they are in use: for reports.
pub fn try_with<R>(f: impl FnOnce(&mut Tables<Running>) -> R) -> Option<R> {
    let was = XEN.mask_upcalls();
    let result = TABLES.try_lock().map(|mut tables| f(&mut tables));
    XEN.restore_upcalls(was);
    result
}

/// Calls `f` with the kernel's page tables whoever uses them, and says whether somebody does: what
/// `f` sees of them may be half done then.
///
/// # Safety
/// Nobody who uses the page tables runs again: for the last words of a kernel that crashed.
pub(crate) unsafe fn steal<R>(f: impl FnOnce(&Tables<Running>, bool) -> R) -> R {
    let was = XEN.mask_upcalls();
    let in_use = TABLES.is_locked();
    if in_use {
        // SAFETY: by the caller's contract whoever holds the lock does nothing any more.
        unsafe { TABLES.force_unlock() };
    }
    let result = f(&TABLES.lock(), in_use);
    XEN.restore_upcalls(was);
    result
}

/// Reaches the kernel's page tables for lazy sections.
#[derive(Clone, Copy, Debug)]
pub struct Current;

impl Access for Current {
    type Hv = Answering;
    type Completion = Ledger<Running>;

    fn with<R>(&self, f: impl FnOnce(&mut Mmu<Answering, Ledger<Running>>) -> R) -> R {
        with(|tables| f(&mut tables.mmu))
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
