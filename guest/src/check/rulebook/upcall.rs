//! Upcalls in the middle of something, and what memory looks like then.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use hypercall::Hypervisor;
use rules::{Observed, Page};

use crate::event;
use crate::xen::HV;

static WATCHED: AtomicPtr<u64> = AtomicPtr::new(core::ptr::null_mut());
static COUNT: AtomicU32 = AtomicU32::new(0);
static WORD: AtomicU64 = AtomicU64::new(0);

/// Runs `work` with upcalls open, and says how many came and what the first of them saw.
pub(super) fn observe(watch: &Page, work: &mut dyn FnMut()) -> Observed {
    WATCHED.store(watch.ptr, Ordering::Relaxed);
    COUNT.store(0, Ordering::Relaxed);
    let was = HV.mask_upcalls();
    event::observe(Some(look));
    HV.restore_upcalls(false);
    work();
    HV.mask_upcalls();
    event::observe(None);
    HV.restore_upcalls(was);
    Observed {
        upcalls: COUNT.load(Ordering::Relaxed),
        word: WORD.load(Ordering::Relaxed),
    }
}

fn look() {
    if COUNT.fetch_add(1, Ordering::Relaxed) > 0 {
        return;
    }
    let watched = WATCHED.load(Ordering::Relaxed);
    // SAFETY: a page of the tests, which stays mapped while `observe` runs, as it does now.
    WORD.store(unsafe { watched.read_volatile() }, Ordering::Relaxed);
}
