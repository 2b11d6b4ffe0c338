//! Traps: who handles an exception, and what is said when nobody does.
//!
//! A handler may repair the frame and return. A fault at an address listed in the exception table
//! resumes at the listed place instead (see [`probe`]): that is how the kernel reads memory it has
//! no reason to trust. Everything else is reported and ends the domain with SHUTDOWN_crash. A fault
//! inside the report ends it at once, so that no mistake in the reporting code can hang.

pub mod frame;

#[cfg(target_os = "none")]
pub mod backtrace;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod native;
#[cfg(target_os = "none")]
pub mod probe;
#[cfg(target_os = "none")]
pub mod report;

#[cfg(target_os = "none")]
pub use entry::install;
#[cfg(target_os = "none")]
pub(crate) use native::install as install_native;

/// The address that the last page fault was about: in CR2, which PV has in shared memory.
#[cfg(target_os = "none")]
fn fault_address() -> Option<u64> {
    if crate::subarch::is_pv() {
        return crate::shared::fault_address();
    }
    Some(x86_64::registers::control::Cr2::read_raw())
}

#[cfg(target_os = "none")]
fn dispatch(frame: &mut frame::Frame) {
    if probe::resume(frame) {
        return;
    }
    report::unexpected(frame)
}
