//! The trap into Xen, and the trait that lets something else answer.
//!
//! A 64-bit PV guest calls Xen with `syscall`: number in RAX, arguments in RDI RSI RDX R10 R8,
//! result in RAX (`xen/include/public/arch-x86/xen-x86_64.h`). Invariant: the instruction stands
//! in [`Xen::call`] and nowhere else, so that a change of the way in is a change of one function.
//!
//! ```
//! use hypercall::{Hypervisor, Op, sched};
//!
//! /// Refuses everything: `ENOSYS`.
//! struct Nobody;
//!
//! impl Hypervisor for Nobody {
//!     unsafe fn call(&self, _: Op, _: [u64; 5]) -> i64 {
//!         -38
//!     }
//!     fn mask_upcalls(&self) -> bool {
//!         true
//!     }
//!     fn restore_upcalls(&self, _: bool) {}
//! }
//!
//! let refused = sched::r#yield(&Nobody).unwrap_err();
//! assert_eq!(refused.op, Op::SchedOp);
//! assert_eq!(refused.errno.number(), 38);
//! ```

use core::{
    arch::asm,
    fmt,
    sync::atomic::{AtomicPtr, AtomicU8, Ordering, compiler_fence},
};

use crate::abi::{shared_info::vcpu_info, xen};
use crate::instead::{Devices, PageTables};

macro_rules! ops {
    ($($(#[$doc:meta])* $variant:ident = $number:ident, $name:literal;)*) => {
        /// A hypercall, by number.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u64)]
        #[non_exhaustive]
        pub enum Op {
            $($(#[$doc])* $variant = xen::$number as u64,)*
        }

        impl Op {
            /// Every hypercall known here.
            pub const ALL: &[Op] = &[$(Op::$variant,)*];

            /// Its name in Xen's headers, without the `__HYPERVISOR_`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Op::$variant => $name,)*
                }
            }

            /// The hypercall with this number.
            pub const fn from_number(number: u64) -> Option<Self> {
                $(if number == xen::$number as u64 {
                    return Some(Op::$variant);
                })*
                None
            }
        }
    };
}

ops! {
    /// Registers trap handlers.
    SetTrapTable = __HYPERVISOR_set_trap_table, "set_trap_table";
    /// Writes page-table entries and M2P entries.
    MmuUpdate = __HYPERVISOR_mmu_update, "mmu_update";
    /// Loads the GDT.
    SetGdt = __HYPERVISOR_set_gdt, "set_gdt";
    /// Names the kernel stack.
    StackSwitch = __HYPERVISOR_stack_switch, "stack_switch";
    /// Names the event, failsafe and syscall entry points.
    SetCallbacks = __HYPERVISOR_set_callbacks, "set_callbacks";
    /// Sets or clears the virtual CR0.TS.
    FpuTaskswitch = __HYPERVISOR_fpu_taskswitch, "fpu_taskswitch";
    /// Writes a debug register.
    SetDebugreg = __HYPERVISOR_set_debugreg, "set_debugreg";
    /// Reads a debug register.
    GetDebugreg = __HYPERVISOR_get_debugreg, "get_debugreg";
    /// Writes one descriptor.
    UpdateDescriptor = __HYPERVISOR_update_descriptor, "update_descriptor";
    /// Memory reservations and maps.
    MemoryOp = __HYPERVISOR_memory_op, "memory_op";
    /// Several hypercalls in one.
    Multicall = __HYPERVISOR_multicall, "multicall";
    /// Writes the L1 entry of one virtual address.
    UpdateVaMapping = __HYPERVISOR_update_va_mapping, "update_va_mapping";
    /// Sets the one-shot timer.
    SetTimerOp = __HYPERVISOR_set_timer_op, "set_timer_op";
    /// What Xen is and can do.
    XenVersion = __HYPERVISOR_xen_version, "xen_version";
    /// The hypervisor's own console.
    ConsoleIo = __HYPERVISOR_console_io, "console_io";
    /// Grant tables.
    GrantTableOp = __HYPERVISOR_grant_table_op, "grant_table_op";
    /// Optional behaviour of Xen.
    VmAssist = __HYPERVISOR_vm_assist, "vm_assist";
    /// Returns from an event or exception.
    Iret = __HYPERVISOR_iret, "iret";
    /// Virtual CPUs.
    VcpuOp = __HYPERVISOR_vcpu_op, "vcpu_op";
    /// FS and GS bases.
    SetSegmentBase = __HYPERVISOR_set_segment_base, "set_segment_base";
    /// Pins, base pointers, TLB and cache.
    MmuextOp = __HYPERVISOR_mmuext_op, "mmuext_op";
    /// Non-maskable interrupts.
    NmiOp = __HYPERVISOR_nmi_op, "nmi_op";
    /// Yield, block, poll, shut down.
    SchedOp = __HYPERVISOR_sched_op, "sched_op";
    /// Entry points, one at a time.
    CallbackOp = __HYPERVISOR_callback_op, "callback_op";
    /// Event channels.
    EventChannelOp = __HYPERVISOR_event_channel_op, "event_channel_op";
    /// Physical devices and I/O privilege.
    PhysdevOp = __HYPERVISOR_physdev_op, "physdev_op";
    /// Parameters of the domain's virtual platform.
    HvmOp = __HYPERVISOR_hvm_op, "hvm_op";
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whoever answers hypercalls: Xen itself ([`Xen`]) or a model of it.
pub trait Hypervisor {
    /// Makes the hypercall `op`. Arguments that it does not take are ignored and may be 0.
    ///
    /// The result is Xen's, uninterpreted; [`XenError::check`](crate::XenError::check) reads it.
    ///
    /// # Safety
    /// Pointers among `args` are good for what `op` does with them, for as long as it does so (a
    /// hypercall that registers memory keeps it), and what is asked takes nothing from under safe
    /// code: no mapping that is in use, no stack, no handler.
    unsafe fn call(&self, op: Op, args: [u64; 5]) -> i64;

    /// As [`call`](Self::call), of three arguments, where every instruction counts: worth a place of its
    /// own at each caller. `None`, with nothing done, where calls do not go straight to Xen.
    ///
    /// # Safety
    /// As [`call`](Self::call).
    #[inline(always)]
    unsafe fn call_straight(&self, _: Op, _: [u64; 3]) -> Option<i64> {
        None
    }

    /// Masks event upcalls on this vCPU and says whether they were masked before.
    fn mask_upcalls(&self) -> bool;

    /// Puts back what [`mask_upcalls`](Self::mask_upcalls) found. Where that unmasks, events that
    /// became pending meanwhile are delivered before this returns.
    fn restore_upcalls(&self, was: bool);

    /// Who carries out requests about page tables, where this does not.
    #[inline]
    fn page_tables(&self) -> Option<&dyn PageTables> {
        None
    }

    /// Who answers for console, time, events and the end of the run, where this does not.
    #[inline]
    fn devices(&self) -> Option<&dyn Devices> {
        None
    }
}

impl<H: Hypervisor + ?Sized> Hypervisor for &H {
    #[inline]
    unsafe fn call(&self, op: Op, args: [u64; 5]) -> i64 {
        // SAFETY: the inner call gets the same operation and arguments, of which the caller promised
        // good pointers and no change to memory that is in use.
        unsafe { (**self).call(op, args) }
    }

    #[inline(always)]
    unsafe fn call_straight(&self, op: Op, args: [u64; 3]) -> Option<i64> {
        // SAFETY: the inner call gets the same operation and arguments, of which the caller promised
        // good pointers and no change to memory that is in use.
        unsafe { (**self).call_straight(op, args) }
    }

    #[inline]
    fn mask_upcalls(&self) -> bool {
        (**self).mask_upcalls()
    }

    #[inline]
    fn restore_upcalls(&self, was: bool) {
        (**self).restore_upcalls(was);
    }

    #[inline]
    fn page_tables(&self) -> Option<&dyn PageTables> {
        (**self).page_tables()
    }

    #[inline]
    fn devices(&self) -> Option<&dyn Devices> {
        (**self).devices()
    }
}

/// The running Xen.
///
/// Holding one proves that the code runs as the kernel of a Xen PV guest; see [`Xen::new`].
#[derive(Clone, Copy, Debug)]
pub struct Xen(());

/// This vCPU's `vcpu_info`, null until the kernel has mapped it.
static VCPU_INFO: AtomicPtr<vcpu_info> = AtomicPtr::new(core::ptr::null_mut());

impl Xen {
    /// Xen, from the kernel of a PV guest.
    ///
    /// # Safety
    /// The code runs as the kernel of a 64-bit Xen PV guest. Anywhere else `syscall` means
    /// something else, or nothing.
    #[inline]
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// Says where this vCPU's `vcpu_info` is mapped. Before that the upcall mask is out of reach,
    /// and need not be touched: without shared memory no callback can have been registered that
    /// would survive being called.
    ///
    /// # Safety
    /// `info` points at the `vcpu_info` of the vCPU that runs this kernel, and stays mapped and
    /// writable for good (or until set again, or set to null).
    #[inline]
    pub unsafe fn set_vcpu_info(info: *mut vcpu_info) {
        VCPU_INFO.store(info, Ordering::Relaxed);
    }

    /// Xen looks for pending events when it returns to the guest, so what came while masked would
    /// wait for the next trap: makes one (`xen_version` is the cheapest). Apart, for upcalls are
    /// unmasked in many places and wait in few.
    #[cold]
    #[inline(never)]
    fn have_delivered(self) {
        // SAFETY: XENVER_version takes no memory and changes nothing.
        unsafe { self.call(Op::XenVersion, [xen::XENVER_version as u64, 0, 0, 0, 0]) };
    }

    #[inline]
    fn upcalls() -> Option<Upcalls> {
        let info = VCPU_INFO.load(Ordering::Relaxed);
        // SAFETY: `set_vcpu_info`'s caller vouched for the pointer.
        unsafe { Upcalls::at(info) }
    }
}

/// The upcall mask of the vCPU that this runs on, in its `vcpu_info`: for a kernel with several
/// vCPUs, which keeps that of each itself instead of telling [`Xen::set_vcpu_info`].
#[derive(Clone, Copy, Debug)]
pub struct Upcalls {
    mask: &'static AtomicU8,
    pending: &'static AtomicU8,
}

impl Upcalls {
    /// The mask in this `vcpu_info`; `None` if that is null.
    ///
    /// # Safety
    /// `info` is null or the `vcpu_info` of the vCPU that uses what is returned, mapped writable for
    /// good.
    #[inline]
    pub unsafe fn at(info: *mut vcpu_info) -> Option<Upcalls> {
        if info.is_null() {
            return None;
        }
        // SAFETY: the caller vouches for the pointer. Both fields are bytes that Xen, on this very CPU,
        // and this guest alone write, one whole byte at a time.
        unsafe {
            Some(Upcalls {
                mask: AtomicU8::from_ptr(&raw mut (*info).evtchn_upcall_mask),
                pending: AtomicU8::from_ptr(&raw mut (*info).evtchn_upcall_pending),
            })
        }
    }

    /// Masks upcalls and says whether they were masked before.
    #[inline]
    pub fn mask(self) -> bool {
        // A load and a store, not an exchange: an upcall in between leaves the mask as it was.
        let was = self.mask.load(Ordering::Relaxed);
        self.mask.store(1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        was != 0
    }

    /// Unmasks upcalls and has those delivered that wait.
    #[inline]
    pub fn unmask(self, xen: &Xen) {
        unmask(self.mask, self.pending, || xen.have_delivered());
    }
}

/// Clears the mask and, if something is pending then, has it delivered: looked at the other way
/// round, what comes in between would wait.
#[inline]
fn unmask(mask: &AtomicU8, pending: &AtomicU8, deliver: impl FnOnce()) {
    compiler_fence(Ordering::SeqCst);
    mask.store(0, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    if pending.load(Ordering::Relaxed) != 0 {
        deliver();
    }
}

impl Hypervisor for Xen {
    #[inline]
    unsafe fn call(&self, op: Op, args: [u64; 5]) -> i64 {
        let result: i64;
        // SAFETY: a `Xen` exists only where `syscall` is a hypercall; the caller answers for what
        // it asks. All that changes is declared: the result, the argument registers (a debug Xen
        // overwrites them), RCX and R11 (the instruction itself), the flags and memory.
        //
        // The block is not `nostack`: Xen may deliver an event on the way back, and its frame goes
        // right below RSP. There must be no red zone in use, which the freestanding target does
        // not have and any other target gives up around such a block.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") op as u64 => result,
                inlateout("rdi") args[0] => _,
                inlateout("rsi") args[1] => _,
                inlateout("rdx") args[2] => _,
                inlateout("r10") args[3] => _,
                inlateout("r8") args[4] => _,
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        result
    }

    #[inline(always)]
    unsafe fn call_straight(&self, op: Op, [a, b, c]: [u64; 3]) -> Option<i64> {
        let result: i64;
        // SAFETY: as in `call`; an operation of three arguments reads no other register.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") op as u64 => result,
                inlateout("rdi") a => _,
                inlateout("rsi") b => _,
                inlateout("rdx") c => _,
                lateout("r10") _,
                lateout("r8") _,
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        Some(result)
    }

    #[inline]
    fn mask_upcalls(&self) -> bool {
        // Where nothing can be unmasked, all is masked.
        Self::upcalls().is_none_or(Upcalls::mask)
    }

    #[inline]
    fn restore_upcalls(&self, was: bool) {
        if !was && let Some(upcalls) = Self::upcalls() {
            upcalls.unmask(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        for &op in Op::ALL {
            assert_eq!(Op::from_number(op as u64), Some(op));
        }
        assert_eq!(Op::from_number(11), None);
        assert_eq!(Op::MmuextOp.to_string(), "mmuext_op");
    }

    /// What came while upcalls were masked is delivered when they no longer are, and nothing else
    /// costs a trap.
    #[test]
    fn what_waits_is_delivered_once_unmasked() {
        for waits in [0, 1, 0xff] {
            let (mask, pending) = (AtomicU8::new(1), AtomicU8::new(waits));
            let mut delivered = false;
            unmask(&mask, &pending, || {
                assert_eq!(mask.load(Ordering::Relaxed), 0);
                delivered = true;
            });
            assert_eq!(delivered, waits != 0);
            assert_eq!(mask.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn upcalls_are_masked_in_the_shared_byte() {
        // SAFETY: no bit pattern of these bytes means anything.
        let mut info: vcpu_info = unsafe { core::mem::zeroed() };
        let mask = &raw mut info.evtchn_upcall_mask;
        // SAFETY: nothing here traps: no event is ever pending.
        let xen = unsafe { Xen::new() };
        assert!(xen.mask_upcalls());
        xen.restore_upcalls(false);
        // SAFETY: `info` lives until it is forgotten again below.
        unsafe { Xen::set_vcpu_info(&raw mut info) };
        assert!(!xen.mask_upcalls());
        // SAFETY: a byte of `info`.
        assert_eq!(unsafe { mask.read_volatile() }, 1);
        assert!(xen.mask_upcalls());
        xen.restore_upcalls(true);
        // SAFETY: a byte of `info`.
        assert_eq!(unsafe { mask.read_volatile() }, 1);
        xen.restore_upcalls(false);
        // SAFETY: a byte of `info`.
        assert_eq!(unsafe { mask.read_volatile() }, 0);
        // SAFETY: null is "not mapped".
        unsafe { Xen::set_vcpu_info(core::ptr::null_mut()) };
    }
}
