//! The one value that stands for whoever answers hypercalls: Xen by `syscall` for a PV guest;
//! without that, the [`native`] back end for page tables, and for the rest Xen by
//! VMCALL or, on bare metal, the few devices that stand in for it.
//!
//! Which one it is was decided before the first call; the choice costs a PV hypercall two
//! instructions.

use hypercall::{Errno, Hypervisor, Op, Xen};
use marks::asks_first;

use crate::native::cpu::Processor;
use crate::native::{self, devices, interrupts, ports};
use crate::subarch::{self, Subarch};

/// Who answers, chosen by the way of running.
#[derive(Clone, Copy, Debug)]
pub struct Answering;

pub(crate) const XEN: Answering = Answering;

// SAFETY: used only where the way of running is PV, which is said of nothing but an image entered
// by Xen as the kernel of a 64-bit PV guest.
pub(crate) const PV: Xen = unsafe { Xen::new() };

impl Hypervisor for Answering {
    #[inline]
    unsafe fn call(&self, op: Op, args: [u64; 5]) -> i64 {
        if subarch::is_pv() {
            // SAFETY: the caller's promise.
            return unsafe { PV.call(op, args) };
        }
        let [a, b, c, d, e] = args;
        // SAFETY: the caller's promise.
        unsafe { without_pv(op, a, b, c, d, e) }
    }

    #[inline]
    fn mask_upcalls(&self) -> bool {
        // Only PV says where `vcpu_info` is: its one look at that tells the others apart as well.
        match PV.try_mask_upcalls() {
            Some(was) => was,
            None => mask_without_pv(),
        }
    }

    #[inline]
    fn restore_upcalls(&self, was: bool) {
        if !was && PV.try_unmask_upcalls().is_none() {
            unmask_without_pv();
        }
    }
}

/// Masks upcalls where they are interrupts. Under PV it is too early for any.
#[cold]
#[inline(never)]
extern "C" fn mask_without_pv() -> bool {
    subarch::is_pv() || interrupts::mask()
}

/// Unmasks upcalls where they are interrupts.
#[cold]
#[inline(never)]
extern "C" fn unmask_without_pv() {
    if !subarch::is_pv() {
        interrupts::unmask();
    }
}

/// A call where Xen is not asked about page tables. The arguments come one by one, in registers, so
/// that a caller need not have them in memory for a case that under PV never comes.
///
/// # Safety
/// As [`Hypervisor::call`].
#[cold]
#[asks_first]
unsafe extern "C" fn without_pv(op: Op, a: u64, b: u64, c: u64, d: u64, e: u64) -> i64 {
    let args = [a, b, c, d, e];
    // SAFETY: the caller's promise.
    if let Some(result) = unsafe { native::call(&Processor, op, args) } {
        return result;
    }
    match subarch::current() {
        Subarch::Bare => {
            // SAFETY: the caller's promise.
            let answer = unsafe { devices::call(op, args) };
            // SAFETY: as above.
            let answer = answer.or_else(|| unsafe { ports::call(op, args) });
            answer.unwrap_or(Errno::ENOSYS.to_return())
        }
        // SAFETY: the caller's promise; a hypercall is what these guests make by this instruction.
        _ => unsafe { hypercall::hvm::XenHvm::detect().call(op, args) },
    }
}
