//! Xen's system time, read from shared memory (`vcpu_time_info` in `xen/include/public/xen.h`); where
//! there is none, or not yet, the processor's counter.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use hypercall::abi::shared_info::{vcpu_info, vcpu_time_info};

use crate::capability::{HYPERCALLS, is_here};
use crate::{shared, subarch};

/// Nanoseconds since the host booted, as Xen counts them. As long as Xen's page is not mapped, or
/// where there is none, the time since the kernel started; under PV `None`.
pub(crate) fn monotonic() -> Option<u64> {
    match shared::vcpu() {
        Some(vcpu) if is_here(&HYPERCALLS) => Some(system_time(vcpu)),
        _ if subarch::is_pv() => None,
        _ => counted().map(latest),
    }
}

/// The counter at the entry.
static ENTRY: AtomicU64 = AtomicU64::new(0);

/// Notes that the kernel is entered.
#[inline(always)]
pub(crate) fn entered() {
    ENTRY.store(tsc(), Ordering::Relaxed);
}

/// Ticks of the processor's counter from the entry until it was at `then`.
pub(crate) fn from_entry(then: u64) -> u64 {
    then - ENTRY.load(Ordering::Relaxed)
}

/// Ticks since the entry.
pub(crate) fn since_entry() -> u64 {
    from_entry(tsc())
}

/// Ticks of the processor's counter in a millisecond; 0 while unknown.
static KHZ: AtomicU64 = AtomicU64::new(0);
/// The counter when the kernel started.
static START: AtomicU64 = AtomicU64::new(0);

/// Says how fast the processor's counter runs, in ticks a millisecond, if anybody knows, and what it
/// was when the kernel started.
pub(crate) fn set_counter(khz: Option<u64>, start: u64) {
    START.store(start, Ordering::Relaxed);
    KHZ.store(khz.unwrap_or(0), Ordering::Relaxed);
}

/// Nanoseconds since the kernel started, by the processor's counter; `None` if nobody knows how fast
/// it runs.
pub(crate) fn counted() -> Option<u64> {
    let khz = KHZ.load(Ordering::Relaxed);
    let ticks = tsc().saturating_sub(START.load(Ordering::Relaxed));
    let nanoseconds = u128::from(ticks) * 1_000_000 / u128::from((khz != 0).then_some(khz)?);
    Some(nanoseconds as u64)
}

/// Xen's system time when the kernel started; all ones while nobody asked.
static STARTED: AtomicU64 = AtomicU64::new(u64::MAX);

/// Nanoseconds since the kernel started, for the log. Where Xen's clock takes over, it goes on from
/// what the processor's said; under PV there is none before, and that is when it starts.
pub(crate) fn since_start() -> u64 {
    let before = || match subarch::is_pv() {
        true => 0,
        false => counted().unwrap_or(0),
    };
    let Some(vcpu) = shared::vcpu().filter(|_| is_here(&HYPERCALLS)) else {
        return before();
    };
    let now = system_time(vcpu);
    let unknown = STARTED.load(Ordering::Relaxed) == u64::MAX;
    if unknown {
        STARTED.store(now.saturating_sub(before()), Ordering::Relaxed);
    }
    now.saturating_sub(STARTED.load(Ordering::Relaxed))
}

/// The latest time that any vCPU was told: processors' counters need not agree, and what one vCPU has
/// seen another does not see before it.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// How far this kernel's time is ahead of Xen's, in nanoseconds: not at all, unless the domain was
/// restored on a host that booted later than the one before.
static AHEAD: AtomicU64 = AtomicU64::new(0);

/// Goes on from the latest time that was told, where Xen's clock is behind it: for a domain that was
/// restored.
pub(crate) fn go_on() {
    let Some(vcpu) = shared::vcpu() else { return };
    let latest = LATEST.load(Ordering::Relaxed);
    AHEAD.store(ahead(latest, told(vcpu)), Ordering::Relaxed);
}

/// How far a clock that has told `latest` is to be ahead of Xen's, which tells `now`.
const fn ahead(latest: u64, now: u64) -> u64 {
    latest.saturating_sub(now)
}

const _: () = {
    assert!(ahead(7, 9) == 0);
    assert!(ahead(9, 7) == 2);
};

/// What Xen's system time is at a time of [`monotonic`]: for deadlines that Xen is given.
pub(crate) fn in_xen(time: u64) -> u64 {
    time.saturating_sub(AHEAD.load(Ordering::Relaxed))
}

/// Xen's system time. It never goes back, on whichever vCPU it is read.
fn system_time(vcpu: NonNull<vcpu_info>) -> u64 {
    let now = told(vcpu).saturating_add(AHEAD.load(Ordering::Relaxed));
    latest(now)
}

/// A time that a vCPU was told, or a later one that was told before.
fn latest(now: u64) -> u64 {
    LATEST.fetch_max(now, Ordering::Relaxed).max(now)
}

/// Ticks of the counter between two readings. The first may lie beyond the end of 64 bits, where Xen
/// has moved the counter of a processor back; one that is ahead of the second counts as that.
const fn ticks(first: u64, second: u64) -> u64 {
    let ticks = second.wrapping_sub(first);
    if ticks.cast_signed() < 0 { 0 } else { ticks }
}

const _: () = {
    assert!(ticks(7, 9) == 2);
    assert!(ticks(9, 7) == 0);
    assert!(ticks(u64::MAX - 4, 5) == 10);
};

/// How many nanoseconds so many ticks of the processor's counter are; none where nobody knows how fast it
/// runs.
pub(crate) fn of_ticks(ticks: u64) -> u64 {
    if let Some(vcpu) = shared::vcpu().filter(|_| is_here(&HYPERCALLS)) {
        // SAFETY: the page stays mapped, and any bytes are a value of this struct of integers. Torn, it
        // makes a wrong number, which the next look mends.
        let time = unsafe { (&raw const (*vcpu.as_ptr()).time).read_volatile() };
        return scaled(ticks, &time);
    }
    let khz = KHZ.load(Ordering::Relaxed);
    let nanoseconds = u128::from(ticks) * 1_000_000;
    nanoseconds.checked_div(khz.into()).unwrap_or(0) as u64
}

/// Ticks in nanoseconds, as Xen has them reckoned.
fn scaled(ticks: u64, time: &vcpu_time_info) -> u64 {
    let shifted = match time.tsc_shift {
        shift @ 0.. => ticks.wrapping_shl(shift.unsigned_abs().into()),
        shift => ticks.wrapping_shr(shift.unsigned_abs().into()),
    };
    ((u128::from(shifted) * u128::from(time.tsc_to_system_mul)) >> 32) as u64
}

/// Xen's system time as this vCPU is told.
fn told(vcpu: NonNull<vcpu_info>) -> u64 {
    // SAFETY: the page stays mapped; only the address of a field is formed.
    let time = unsafe { &raw const (*vcpu.as_ptr()).time };
    // SAFETY: an aligned u32 that Xen writes while this vCPU is not running, or bumps around its
    // writes otherwise.
    let version = unsafe { AtomicU32::from_ptr(&raw mut (*time.cast_mut()).version) };
    loop {
        let before = version.load(Ordering::Acquire);
        // SAFETY: any bytes are a value of this struct of integers; a torn read is thrown away
        // because the version then differs.
        let snapshot = unsafe { time.read_volatile() };
        let tsc = tsc();
        fence(Ordering::Acquire);
        if before & 1 == 0 && version.load(Ordering::Relaxed) == before {
            let passed = scaled(ticks(snapshot.tsc_timestamp, tsc), &snapshot);
            return snapshot.system_time.wrapping_add(passed);
        }
    }
}

/// The time-stamp counter. Under QEMU's `-icount shift=0` it counts instructions, Xen's and ours.
#[inline]
pub(crate) fn tsc() -> u64 {
    // SAFETY: reads a counter. Xen lets PV guests read it or emulates the read.
    unsafe { core::arch::x86_64::_rdtsc() }
}
