//! `shared_info`, the page that Xen and the domain share (`xen/include/public/xen.h`).
//!
//! Mapped through the fixmap once that exists; before, every reader is told that it is not there.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use hypercall::abi::shared_info::{shared_info, vcpu_info};

static PAGE: AtomicPtr<shared_info> = AtomicPtr::new(core::ptr::null_mut());

/// Says where the page is mapped.
///
/// # Safety
/// `page` must be the domain's `shared_info`, mapped writable and never unmapped.
pub(crate) unsafe fn publish(page: NonNull<shared_info>) {
    PAGE.store(page.as_ptr(), Ordering::Release);
}

/// The boot vCPU's part of the page.
pub(crate) fn vcpu() -> Option<NonNull<vcpu_info>> {
    let page = NonNull::new(PAGE.load(Ordering::Acquire))?;
    // SAFETY: `publish` was given the mapped page; only the address of a field is formed.
    NonNull::new(unsafe { &raw mut (*page.as_ptr()).vcpu_info[0] })
}

/// The address that the last page fault was about: PV has no CR2 of its own.
pub(crate) fn fault_address() -> Option<u64> {
    let vcpu = vcpu()?;
    // SAFETY: the page stays mapped; the field is an aligned u64 that Xen writes before it
    // delivers a fault, never while the handler runs.
    let cr2 = unsafe { AtomicU64::from_ptr(&raw mut (*vcpu.as_ptr()).arch.cr2) };
    Some(cr2.load(Ordering::Relaxed))
}
