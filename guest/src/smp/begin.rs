//! From what a vCPU starts: it differs by the way of running.
//!
//! Under PV it is a context that the boot vCPU makes (`VCPUOP_initialise`, `vcpu_guest_context` in
//! `arch-x86/xen.h`): the boot tables, the same gates and callback, a GS base that leads to its own
//! area, and its stack. In hardware virtualisation Xen takes another, in which a vCPU begins in long mode
//! with the boot tables (`vcpu_hvm_context`, `hvm/hvm_vcpu.h`); the rest it does itself. That needs no
//! page below 1 MiB and no interrupt controller, as starting it by an APIC that Xen emulates would. On a
//! bare machine a processor comes to the same place by [`pc::start`](crate::pc::start).

use core::arch::naked_asm;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use hypercall::abi::arch::{FLAT_KERNEL_CS, FLAT_KERNEL_SS, VGCF_in_kernel, vcpu_guest_context};
use hypercall::abi::hvm::{VCPU_HVM_MODE_64B, vcpu_hvm_context, vcpu_hvm_x86_64};
use hypercall::abi::shared_info::vcpu_info;
use hypercall::{MachAddr, XenError, hvm, vcpu};
use marks::asks_first;
use x86_64::registers::control::{Cr0, Cr4};
use x86_64::registers::model_specific::Efer;

use super::{Cpu, NotStarted, Work, run, wait_until};
use crate::capability::{HYPERCALLS, is_here};
use crate::mm::processor;
use crate::mm::{self, MmError};
use crate::options::Options;
use crate::pc::{processors, start};
use crate::selection::Selection;
use crate::subarch::{self, Subarch};
use crate::xen::HV;
use crate::{cpu, event, runstate, trap, usermode};

/// Whether vCPUs are left to the rules.
pub(super) fn are_left(options: &Options<'_>) -> bool {
    options.rules != Selection::None || options.differential.is_some()
}

/// In hardware virtualisation Xen has other vCPUs forget their translations. A refusal is as if they kept
/// them, which cannot be gone on with.
pub(super) fn flush_by_xen() {
    if subarch::is_pv() {
        return;
    }
    processor::flush_others_by(|| {
        if let Err(e) = hvm::flush_tlbs(&HV) {
            panic!("translations of other vCPUs: {e}");
        }
    });
}

impl Cpu {
    /// Gives whoever runs it all that a vCPU has, and has it run: one of which Xen knows nothing yet.
    pub(super) fn begin(&'static self) -> Result<(), NotStarted> {
        let number = self.area.number();
        event::prepare(&self.area)?;
        if is_here(&HYPERCALLS) {
            runstate::begin(number);
        }
        if !subarch::is_pv() {
            self.machine
                .try_call_once(|| processors::make(&self.area))?;
        }
        self.threads.bind()?;
        let info = self.register()?;
        // SAFETY: the heap's memory is mapped for good, and this is never freed.
        unsafe { self.area.set_vcpu(info) };
        match subarch::current() {
            Subarch::XenPv => self.begin_by_xen()?,
            Subarch::XenPvh | Subarch::Bare => self.begin_by_processor()?,
        }
        self.has_context.store(true, Ordering::Relaxed);
        wait_until(|| Ok(!matches!(*self.work.lock(), Work::Start)))
    }

    /// Tells Xen where the vCPU's `vcpu_info` is, under PV with upcalls masked.
    fn register(&'static self) -> Result<NonNull<vcpu_info>, NotStarted> {
        let info = self.info.0.get();
        if is_here(&HYPERCALLS) {
            let va = info.expose_provenance() as u64;
            let entry = mm::with(|tables| tables.ptep_get(va))?;
            let mfn = entry.mfn().ok_or(MmError::NotMapped { va })?;
            let place = MachAddr::from_frame(mfn, va);
            // SAFETY: aligned as it is it lies within the page, which the heap never gives up.
            unsafe { vcpu::register_vcpu_info(&HV, self.area.number(), place) }?;
        }
        if subarch::is_pv() {
            // SAFETY: a byte of memory that is mapped for good; the vCPU does not run yet.
            unsafe { (&raw mut (*info).evtchn_upcall_mask).write_volatile(1) };
        }
        // SAFETY: the address of a field of a reference.
        Ok(unsafe { NonNull::new_unchecked(info) })
    }

    fn begin_by_xen(&'static self) -> Result<(), NotStarted> {
        let context = self.context()?;
        let number = self.area.number();
        // SAFETY: the context is made for this vCPU: its own stack and area, the gates and the callback that
        // the boot vCPU has, the boot tables, and an entry that expects just this.
        unsafe {
            vcpu::initialise(&HV, number, &context)?;
            Ok(vcpu::up(&HV, number)?)
        }
    }

    /// What the vCPU starts from under PV.
    fn context(&'static self) -> Result<vcpu_guest_context, NotStarted> {
        let root = mm::with(|tables| tables.mfn(tables.root()))?;
        let stack = self.stack.top();
        // SAFETY: integers.
        let mut context: vcpu_guest_context = unsafe { core::mem::zeroed() };
        context.flags = VGCF_in_kernel.into();
        for gate in trap::gates() {
            context.trap_ctxt[usize::from(gate.vector)] = gate;
        }
        context.event_callback_eip = event::entry().as_u64();
        context.gs_base_kernel = self.area.base();
        context.kernel_ss = FLAT_KERNEL_SS.into();
        context.kernel_sp = stack;
        // CR3.
        context.ctrlreg[3] = root.addr().as_u64();
        let registers = &mut context.user_regs;
        registers.rip = entry as *const () as u64;
        registers.cs = FLAT_KERNEL_CS as u16;
        registers.ss = FLAT_KERNEL_SS as u16;
        registers.rsp = stack;
        registers.rdi = core::ptr::from_ref(self).expose_provenance() as u64;
        Ok(context)
    }

    /// Has it begin at [`native_entry`].
    #[asks_first]
    fn begin_by_processor(&'static self) -> Result<(), NotStarted> {
        let boot = mm::with(|tables| tables.boot_space());
        let root = mm::with(|tables| tables.mfn(boot.roots().kernel))?;
        let entry = start::Entry {
            code: native_entry as *const () as u64,
            argument: core::ptr::from_ref(self).expose_provenance() as u64,
            root: root.addr().as_u64(),
            stack: self.stack.top(),
        };
        let Some(made) = self.machine.get() else {
            return Err(NotStarted::NoMemory);
        };
        if is_here(&HYPERCALLS) {
            return self.begin_in_xen(entry);
        }
        // SAFETY: the entry expects just this: the vCPU, with its own stack and area, and the boot tables.
        Ok(unsafe { start::start(made, entry) }?)
    }
}

impl Cpu {
    /// Has Xen begin it there, with the control registers of the vCPU that calls.
    fn begin_in_xen(&self, entry: start::Entry) -> Result<(), NotStarted> {
        let number = self.area.number();
        let context = vcpu_hvm_context {
            mode: VCPU_HVM_MODE_64B,
            x86_64: vcpu_hvm_x86_64 {
                rsp: entry.stack,
                rdi: entry.argument,
                rsi: entry.root,
                rip: entry.code,
                // The bit that is always set.
                rflags: 2,
                cr0: Cr0::read_raw(),
                cr3: entry.root,
                cr4: Cr4::read_raw(),
                efer: Efer::read_raw(),
                ..Default::default()
            },
            ..Default::default()
        };
        // SAFETY: the entry expects just this: the vCPU, with its own stack and area, and the boot tables.
        unsafe {
            vcpu::initialise_hvm(&HV, number, &context)?;
            Ok(vcpu::up(&HV, number)?)
        }
    }
}

/// The first instruction of a vCPU under PV: the chain of frame pointers ends here.
///
/// # Safety
/// Only Xen enters here, with the context that [`Cpu::context`] makes.
#[unsafe(naked)]
unsafe extern "C" fn entry() -> ! {
    naked_asm!(
        "cld",
        "xor ebp, ebp",
        "call {run}",
        "ud2",
        run = sym run,
    )
}

/// The same on a processor that is the kernel's own, in long mode: RSI is the root of the boot tables.
///
/// # Safety
/// Only what [`Cpu::begin_by_processor`] has started enters here.
#[unsafe(naked)]
unsafe extern "C" fn native_entry() -> ! {
    naked_asm!(
        "mov cr3, rsi",
        "cld",
        "xor ebp, ebp",
        "call {run}",
        "ud2",
        run = sym run_on_processor,
    )
}

/// Has the processor take up what is its own, and runs the vCPU. Until it knows itself no lock may be
/// taken.
#[asks_first]
extern "C" fn run_on_processor(vcpu: &'static Cpu) -> ! {
    cpu::begin_on(&vcpu.area);
    if let Some(made) = vcpu.machine.get() {
        made.take_up();
        trap::load_native();
        made.arrive();
    }
    run(vcpu)
}

/// Has system calls on this vCPU enter the kernel, where that was not done as it began.
pub(super) fn take_system_calls() -> Result<(), XenError> {
    match subarch::is_pv() {
        true => usermode::install(),
        false => Ok(()),
    }
}
