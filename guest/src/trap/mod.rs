//! Traps: who handles an exception, and what is said when nobody does.
//!
//! A handler may repair the frame and return. A fault at an address listed in the exception table
//! resumes at the listed place instead (see `xen_pv_rt::probe`): that is how the kernel reads memory it has
//! no reason to trust. A non-maskable interrupt is a question that is answered. Everything else is reported and ends the domain with SHUTDOWN_crash. A fault
//! inside the report ends it at once, so that no mistake in the reporting code can hang.

#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod native;
#[cfg(target_os = "none")]
pub(crate) mod nmi;
#[cfg(target_os = "none")]
pub mod report;

#[cfg(target_os = "none")]
use crate::lock::{Lock, lock_unless_held};
#[cfg(target_os = "none")]
use crate::rank;
#[cfg(target_os = "none")]
pub use entry::install;
#[cfg(target_os = "none")]
pub(crate) use entry::{gates, install_breakpoint, install_stub};
#[cfg(target_os = "none")]
pub(crate) use native::{install as install_native, load as load_native};

/// The address that the last page fault was about: in CR2, which PV has in shared memory.
#[cfg(target_os = "none")]
fn fault_address() -> Option<u64> {
    if crate::subarch::is_pv() {
        return crate::shared::fault_address();
    }
    Some(x86_64::registers::control::Cr2::read_raw())
}

/// Sees every trap first; true if that was all there is to do.
#[cfg(target_os = "none")]
pub(crate) type Observer = fn(&crate::frame::Frame) -> bool;

#[cfg(target_os = "none")]
static OBSERVER: Lock<Option<Observer>, rank::TrapObserver> = Lock::new(None);

/// Has traps seen by `observer`, or by nobody.
#[cfg(target_os = "none")]
pub(crate) fn observe(observer: Option<Observer>) {
    *OBSERVER.lock() = observer;
}

/// Takes an interrupt that was taken out of user mode; false if it is of no known source.
#[cfg(target_os = "none")]
#[marks::asks_first]
pub(crate) fn interrupt_of_user_mode(vector: u64) -> bool {
    !crate::subarch::is_pv() && crate::pc::interrupts::take(vector)
}

#[cfg(target_os = "none")]
fn dispatch(frame: &mut crate::frame::Frame) {
    // Not `lock`: a trap while it is changed is a mistake to be reported, not to hang in.
    let observer = lock_unless_held(&OBSERVER).and_then(|observer| *observer);
    if observer.is_some_and(|observe| observe(frame)) || crate::probe::resume(frame) {
        return;
    }
    if frame.vector == nmi::VECTOR {
        // A PV kernel is in ring 3 itself, and comes by here from the kernel alone.
        let in_kernel = crate::subarch::is_pv() || !frame.from_user();
        return nmi::report(frame, in_kernel);
    }
    report::unexpected(frame)
}
