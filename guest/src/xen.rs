//! [`HV`], the kernel's [`Hypervisor`]: Xen by `syscall` for a PV guest; without that a back end, which
//! a way in names once, before anything is asked ([`tell`]).
//!
//! What a back end answers itself it is asked for with typed arguments ([`hypercall::instead`]); the
//! rest goes to the Xen that it has underneath, if there is one. Which it is costs a PV hypercall two
//! instructions.

use core::sync::atomic::{AtomicBool, Ordering};

use hypercall::call::Upcalls;
use hypercall::instead::{Devices, PageTables};
use hypercall::{Errno, Hypervisor, Op, Xen, XenError};
use spin::Once;

#[cfg(feature = "check")]
use crate::refusals;
use crate::{cpu, subarch};

/// The hypervisor, or what stands in for it, by the way of running.
#[derive(Clone, Copy, Debug)]
pub struct Hv;

/// The one value of [`Hv`].
pub(crate) const HV: Hv = Hv;

// SAFETY: used only where the way of running is PV, which is said of nothing but an image entered
// by Xen as the kernel of a 64-bit PV guest.
pub(crate) const PV: Xen = unsafe { Xen::new() };

/// Who answers where the kernel owns the processor.
pub(crate) trait BackEnd: Sync {
    /// The page tables.
    fn page_tables(&self) -> &dyn PageTables;

    /// The devices, where no Xen stands in for them.
    fn devices(&self) -> Option<&dyn Devices>;

    /// Makes a hypercall of the Xen underneath.
    ///
    /// # Safety
    /// As [`Hypervisor::call`].
    unsafe fn call(&self, op: Op, args: [u64; 5]) -> i64;

    /// Turns interrupts off and says whether they were off before.
    fn mask(&self) -> bool;

    /// Turns interrupts on, and has what waits delivered.
    fn unmask(&self);

    /// Whether a device waits for interrupts to be on.
    fn is_requested(&self) -> bool;

    /// Turns interrupts on and sleeps until one came, with no gap between the two.
    fn block(&self);
}

/// The back end; none under PV.
static BACK_END: Once<&'static dyn BackEnd> = Once::new();

/// Whether hypercalls go to Xen as they are: under PV, but for tests that look at each.
static STRAIGHT: AtomicBool = AtomicBool::new(true);

/// Says who answers. The first that is told stays.
pub(crate) fn tell(back_end: &'static dyn BackEnd) {
    STRAIGHT.store(false, Ordering::Relaxed);
    BACK_END.call_once(|| back_end);
}

/// The back end, where the way of running has one and it was told.
#[cold]
#[inline(never)]
fn back_end() -> Option<&'static dyn BackEnd> {
    BACK_END.get().copied()
}

/// Unmasks upcalls and sleeps until one came, with no gap between the two. Afterwards they are unmasked.
///
/// # Errors
/// Xen's refusal.
pub(crate) fn block() -> Result<(), XenError> {
    match subarch::is_pv() {
        true => hypercall::sched::block(&HV),
        false => {
            if let Some(back_end) = back_end() {
                back_end.block();
            }
            Ok(())
        }
    }
}

/// Whether a device waits for upcalls to be unmasked.
pub(crate) fn is_requested() -> bool {
    back_end().is_some_and(BackEnd::is_requested)
}

impl Hypervisor for Hv {
    #[inline]
    unsafe fn call(&self, op: Op, args: [u64; 5]) -> i64 {
        if STRAIGHT.load(Ordering::Relaxed) {
            // SAFETY: the arguments go to Xen unchanged. `Hypervisor::call` has its caller promise that
            // their pointers are good and that no memory in use changes, which is all that Xen needs.
            return unsafe { PV.call(op, args) };
        }
        let [a, b, c, d, e] = args;
        // SAFETY: `not_straight` asks for what `Hypervisor::call` does, pointers that are good and changes
        // to nothing in use; our caller promised that of this operation and these arguments.
        unsafe { not_straight(op, a, b, c, d, e) }
    }

    #[inline(always)]
    unsafe fn call_straight(&self, op: Op, args: [u64; 3]) -> Option<i64> {
        if STRAIGHT.load(Ordering::Relaxed) {
            // SAFETY: the arguments go to Xen unchanged, of which the caller promises what it needs.
            return unsafe { PV.call_straight(op, args) };
        }
        None
    }

    #[inline]
    fn mask_upcalls(&self) -> bool {
        // Only PV says where `vcpu_info` is: its one look at that tells the others apart as well.
        match upcalls() {
            Some(upcalls) => upcalls.mask(),
            None => mask_without_pv(),
        }
    }

    #[inline]
    fn restore_upcalls(&self, was: bool) {
        if was {
            return;
        }
        match upcalls() {
            Some(upcalls) => upcalls.unmask(&PV),
            None => unmask_without_pv(),
        }
    }

    #[inline(always)]
    fn page_tables(&self) -> Option<&dyn PageTables> {
        if subarch::is_pv() {
            return None;
        }
        back_end().map(BackEnd::page_tables)
    }

    #[inline]
    fn devices(&self) -> Option<&dyn Devices> {
        if subarch::is_pv() {
            return None;
        }
        back_end().and_then(BackEnd::devices)
    }
}

/// The upcall mask of this vCPU, where that is in memory.
#[inline]
fn upcalls() -> Option<Upcalls> {
    // SAFETY: the area of the vCPU that this runs on has its `vcpu_info`, mapped for good, or null.
    unsafe { Upcalls::at(cpu::masks()) }
}

/// Masks upcalls where they are interrupts. Before anybody is told of it is too early for any.
#[cold]
#[inline(never)]
extern "C" fn mask_without_pv() -> bool {
    back_end().is_none_or(BackEnd::mask)
}

/// Unmasks upcalls where they are interrupts.
#[cold]
#[inline(never)]
extern "C" fn unmask_without_pv() {
    if let Some(back_end) = back_end() {
        back_end.unmask();
    }
}

/// A call without PV, or one that a test looks at. The arguments come one by one, in registers, so that a
/// caller need not have them in memory for a case that under PV hardly ever comes.
///
/// # Safety
/// As [`Hypervisor::call`].
#[cold]
#[inline(never)]
unsafe extern "C" fn not_straight(op: Op, a: u64, b: u64, c: u64, d: u64, e: u64) -> i64 {
    #[cfg(feature = "check")]
    if subarch::is_pv() {
        return match is_refused(op) {
            true => Errno::ENOMEM.to_return(),
            // SAFETY: as our caller promises.
            false => unsafe { PV.call(op, [a, b, c, d, e]) },
        };
    }
    match back_end() {
        // SAFETY: `BackEnd::call` asks for what `Hypervisor::call` does, pointers that are good and
        // changes to nothing in use; our caller promised that of this operation and these arguments.
        Some(back_end) => unsafe { back_end.call(op, [a, b, c, d, e]) },
        None => Errno::ENOSYS.to_return(),
    }
}

/// Has hypercalls under PV be looked at, which are refused without a word to Xen as tests want it; or not
/// any more.
#[cfg(feature = "check")]
pub(crate) fn look_at_calls(look: bool) {
    STRAIGHT.store(!look && subarch::is_pv(), Ordering::Relaxed);
}

/// Whether a hypercall is one of those that change a program's memory and registers, and to be refused.
#[cfg(feature = "check")]
fn is_refused(op: Op) -> bool {
    const OPS: [Op; 7] = [
        Op::FpuTaskswitch,
        Op::MmuUpdate,
        Op::MmuextOp,
        Op::Multicall,
        Op::SetSegmentBase,
        Op::StackSwitch,
        Op::UpdateVaMapping,
    ];
    OPS.contains(&op) && refusals::HYPERCALLS.is_due()
}
