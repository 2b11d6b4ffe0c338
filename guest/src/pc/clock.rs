//! How fast the time-stamp counter runs, where no Xen says so in shared memory.
//!
//! Asked in order: Xen's CPUID leaf, KVM's (which QEMU provides too where it knows), the
//! processor's own, and last the PC's interval timer, which is waited for if there is one.

use core::arch::x86_64::{__cpuid, __cpuid_count};

use hypercall::hvm::xen_leaves;

use super::timer;

/// Finds out, in ticks a millisecond; `None` if nobody says.
pub(crate) fn find() -> Option<u64> {
    from_xen()
        .or_else(from_kvm)
        .or_else(from_processor)
        .or_else(timer::measure)
}

fn from_xen() -> Option<u64> {
    let khz = __cpuid_count(xen_leaves()? + 3, 0).ecx;
    (khz != 0).then_some(khz.into())
}

fn from_kvm() -> Option<u64> {
    const BASE: u32 = 0x4000_0000;
    if __cpuid(1).ecx >> 31 == 0 || __cpuid(BASE).eax < BASE + 0x10 {
        return None;
    }
    let khz = __cpuid(BASE + 0x10).eax;
    (khz != 0).then_some(khz.into())
}

fn from_processor() -> Option<u64> {
    if __cpuid(0).eax < 0x15 {
        return None;
    }
    let id = __cpuid(0x15);
    if id.eax == 0 || id.ebx == 0 || id.ecx == 0 {
        return None;
    }
    Some(u64::from(id.ecx) * u64::from(id.ebx) / u64::from(id.eax) / 1000)
}
