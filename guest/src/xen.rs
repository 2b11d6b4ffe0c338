//! The one value that stands for the running hypervisor.

use hypercall::Xen;

// SAFETY: this module exists only in the freestanding image, which is entered by Xen as the kernel
// of a 64-bit PV guest and by nothing else.
pub(crate) const XEN: Xen = unsafe { Xen::new() };
