//! How fast the time-stamp counter runs, where no Xen says so in shared memory.
//!
//! Asked in order: Xen's CPUID leaf, KVM's (which QEMU provides too where it knows), the
//! processor's own, and last the PC's interval timer, which is waited for if there is one.

use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::hvm::xen_leaves;
use marks::init;

use super::timer;
use crate::time::tsc;

/// Ticks a millisecond; 0 while unknown.
static KHZ: AtomicU64 = AtomicU64::new(0);
/// The counter when the kernel started.
static START: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds since the kernel started; `None` if nobody knows how fast the counter runs.
pub(crate) fn monotonic() -> Option<u64> {
    let khz = KHZ.load(Ordering::Relaxed);
    let ticks = tsc().saturating_sub(START.load(Ordering::Relaxed));
    let nanoseconds = u128::from(ticks) * 1_000_000 / u128::from((khz != 0).then_some(khz)?);
    Some(nanoseconds as u64)
}

/// Whether anybody knows how fast the counter runs: otherwise there is no clock.
pub(crate) fn is_known() -> bool {
    KHZ.load(Ordering::Relaxed) != 0
}

/// Finds out.
#[init]
pub(crate) fn init() {
    START.store(tsc(), Ordering::Relaxed);
    let khz = from_xen()
        .or_else(from_kvm)
        .or_else(from_processor)
        .or_else(timer::measure);
    KHZ.store(khz.unwrap_or(0), Ordering::Relaxed);
}

#[init]
fn from_xen() -> Option<u64> {
    let khz = __cpuid_count(xen_leaves()? + 3, 0).ecx;
    (khz != 0).then_some(khz.into())
}

#[init]
fn from_kvm() -> Option<u64> {
    const BASE: u32 = 0x4000_0000;
    if __cpuid(1).ecx >> 31 == 0 || __cpuid(BASE).eax < BASE + 0x10 {
        return None;
    }
    let khz = __cpuid(BASE + 0x10).eax;
    (khz != 0).then_some(khz.into())
}

#[init]
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
