//! Which vCPU this is: an area for each, where its GS base leads.
//!
//! The kernel has no per-CPU variables but those in the [`Area`]: its number, and where its `vcpu_info`
//! is. The boot vCPU's is a static; others are made as they are started, for good. GS is the kernel's
//! own from [`begin`] on, under PV the base that Xen calls the kernel's (`SEGBASE_GS_KERNEL`,
//! `arch-x86/xen-x86_64.h`).

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use hypercall::abi::shared_info::vcpu_info;
use hypercall::descriptor::{SegmentBase, set_segment_base};

use crate::rank::Held;
use crate::subarch;

/// What a vCPU has of its own. The first fields are reached through GS by their offsets.
#[repr(C)]
pub(crate) struct Area {
    /// Where it lies itself, at 0.
    this: AtomicPtr<Area>,
    /// Its `vcpu_info` where that says whether upcalls are masked, at 8; null before it is mapped, and
    /// where interrupts are masked by the processor.
    masks: AtomicPtr<vcpu_info>,
    /// Where entries from user mode push their frame, at 16: its upper end.
    user_top: AtomicU64,
    /// For the first instructions of a system call where no Xen stands before them, at 24.
    scratch: AtomicU64,
    /// Its `vcpu_info`, or what stands in for it; null before it is mapped.
    vcpu: AtomicPtr<vcpu_info>,
    /// What the page tables keep for it; null until they do, and for the boot vCPU.
    tables: AtomicPtr<()>,
    /// What the threads keep for it; null until it has any.
    threads: AtomicPtr<()>,
    /// What the events keep for it; null where they keep nothing.
    events: AtomicPtr<()>,
    /// What the machine keeps for it; null for the boot vCPU, and where it keeps nothing.
    machine: AtomicPtr<()>,
    /// The word from which the processor takes its stack for entries from user mode; null where that is
    /// Xen's to know.
    task_stack: AtomicPtr<u64>,
    /// Where FS and user mode's GS lead, as Xen was told last; see [`Area::told_bases`].
    bases: [AtomicU64; 2],
    number: u32,
    /// Locks that it holds.
    pub(crate) held: Held,
    /// Upcalls so far.
    pub(crate) upcalls: AtomicU64,
}

/// Where in the area the frame of user mode is found.
pub(crate) const USER_TOP: usize = 16;
/// Where in the area a word is free for the first instructions of a system call.
pub(crate) const SCRATCH: usize = 24;

/// The boot vCPU's.
static BOOT: Area = Area::new(0);

/// How many vCPUs run.
static RUNNING: AtomicU32 = AtomicU32::new(1);

impl Area {
    /// That of a vCPU which does not run yet.
    pub(crate) const fn new(number: u32) -> Area {
        Area {
            this: AtomicPtr::new(core::ptr::null_mut()),
            masks: AtomicPtr::new(core::ptr::null_mut()),
            user_top: AtomicU64::new(0),
            scratch: AtomicU64::new(0),
            vcpu: AtomicPtr::new(core::ptr::null_mut()),
            tables: AtomicPtr::new(core::ptr::null_mut()),
            threads: AtomicPtr::new(core::ptr::null_mut()),
            events: AtomicPtr::new(core::ptr::null_mut()),
            machine: AtomicPtr::new(core::ptr::null_mut()),
            task_stack: AtomicPtr::new(core::ptr::null_mut()),
            bases: [const { AtomicU64::new(u64::MAX) }; 2],
            number,
            held: Held::nothing(),
            upcalls: AtomicU64::new(0),
        }
    }

    /// The value of the GS base by which this area is found.
    pub(crate) fn base(&'static self) -> u64 {
        let this = core::ptr::from_ref(self).cast_mut();
        self.this.store(this, Ordering::Relaxed);
        this.expose_provenance() as u64
    }

    /// Says where the vCPU's `vcpu_info` is, or what stands in for it. Under PV upcalls are masked there
    /// from now on.
    ///
    /// # Safety
    /// It is mapped writable for good.
    pub(crate) unsafe fn set_vcpu(&self, vcpu: NonNull<vcpu_info>) {
        self.vcpu.store(vcpu.as_ptr(), Ordering::Release);
        if subarch::is_pv() {
            self.masks.store(vcpu.as_ptr(), Ordering::Release);
        }
    }

    /// Its `vcpu_info`, or what stands in for it.
    pub(crate) fn vcpu(&self) -> Option<NonNull<vcpu_info>> {
        NonNull::new(self.vcpu.load(Ordering::Acquire))
    }

    /// Where entries from user mode push their frame: its upper end.
    #[inline]
    pub(crate) fn user_top(&self) -> u64 {
        self.user_top.load(Ordering::Relaxed)
    }

    /// Notes where entries from user mode push their frame.
    #[inline]
    pub(crate) fn set_user_top(&self, top: u64) {
        self.user_top.store(top, Ordering::Relaxed);
    }

    /// Where Xen was told last that FS and user mode's GS lead; all ones, which no address is, if nobody
    /// knows.
    #[inline]
    pub(crate) fn told_bases(&self) -> [u64; 2] {
        [0, 1].map(|which: usize| self.bases[which].load(Ordering::Relaxed))
    }

    /// Notes where Xen was told that FS and user mode's GS lead, or that nobody knows.
    #[inline]
    pub(crate) fn note_bases(&self, bases: Option<[u64; 2]>) {
        let told = bases.unwrap_or([u64::MAX; 2]);
        for (base, told) in self.bases.iter().zip(told) {
            base.store(told, Ordering::Relaxed);
        }
    }

    /// Says what the page tables keep for it. Whose it is this room does not know.
    pub(crate) fn set_tables(&self, tables: *mut ()) {
        self.tables.store(tables, Ordering::Relaxed);
    }

    /// What the page tables keep for it; null for none.
    #[inline]
    pub(crate) fn tables(&self) -> *mut () {
        self.tables.load(Ordering::Relaxed)
    }

    /// Says what the threads keep for it. Whose it is this room does not know.
    pub(crate) fn set_threads(&self, threads: *mut ()) {
        self.threads.store(threads, Ordering::Relaxed);
    }

    /// What the threads keep for it; null for none.
    #[inline]
    pub(crate) fn threads(&self) -> *mut () {
        self.threads.load(Ordering::Relaxed)
    }

    /// Says what the events keep for it. Whose it is this room does not know.
    pub(crate) fn set_events(&self, events: *mut ()) {
        self.events.store(events, Ordering::Relaxed);
    }

    /// What the events keep for it; null for none.
    #[inline]
    pub(crate) fn events(&self) -> *mut () {
        self.events.load(Ordering::Relaxed)
    }

    /// Says what the machine keeps for it. Whose it is this room does not know.
    pub(crate) fn set_machine(&self, machine: *mut ()) {
        self.machine.store(machine, Ordering::Release);
    }

    /// What the machine keeps for it; null for none.
    #[inline]
    pub(crate) fn machine(&self) -> *mut () {
        self.machine.load(Ordering::Acquire)
    }

    /// Says from which word the processor takes its stack for entries from user mode.
    pub(crate) fn set_task_stack(&self, word: *mut u64) {
        self.task_stack.store(word, Ordering::Relaxed);
    }

    /// That word; null for none.
    #[inline]
    pub(crate) fn task_stack(&self) -> *mut u64 {
        self.task_stack.load(Ordering::Relaxed)
    }

    /// The number that Xen knows the vCPU by; the boot vCPU's is 0.
    #[inline]
    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

/// Lets the boot vCPU know itself. Locks need it.
pub(crate) fn begin() {
    let base = BOOT.base();
    if subarch::is_pv() {
        // SAFETY: this is the kernel of a PV guest, as the way of running says.
        let xen = unsafe { hypercall::Xen::new() };
        // SAFETY: nothing but this module uses GS. The address is canonical, which is all that Xen asks
        // for.
        let _ = unsafe { set_segment_base(&xen, SegmentBase::GsKernel, base) };
        return;
    }
    x86_64::registers::model_specific::GsBase::write(x86_64::VirtAddr::new(base));
}

/// Lets a vCPU other than the boot vCPU know itself, on a processor that is the kernel's own.
pub(crate) fn begin_on(area: &'static Area) {
    x86_64::registers::model_specific::GsBase::write(x86_64::VirtAddr::new(area.base()));
}

/// The boot vCPU's area.
pub(crate) const fn boot() -> &'static Area {
    &BOOT
}

/// The area of the vCPU that this runs on.
#[inline]
pub(crate) fn here() -> &'static Area {
    let area: *const Area;
    // SAFETY: GS leads to the vCPU's area since `begin`, or since the vCPU started; it begins with its
    // own address, which does not change.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) area, options(nostack, pure, readonly, preserves_flags));
        &*area
    }
}

/// Where the vCPU that this runs on masks upcalls, if it does so in its `vcpu_info`.
#[inline]
pub(crate) fn masks() -> *mut vcpu_info {
    let masks;
    // SAFETY: GS leads to the vCPU's area since `begin`, or since the vCPU started; the field lies at 8,
    // which is proven below.
    unsafe {
        core::arch::asm!("mov {}, gs:[8]", out(reg) masks, options(nostack, pure, readonly, preserves_flags));
    }
    masks
}

const _: () = {
    assert!(core::mem::offset_of!(Area, this) == 0);
    assert!(core::mem::offset_of!(Area, masks) == 8);
    assert!(core::mem::offset_of!(Area, user_top) == USER_TOP);
    assert!(core::mem::offset_of!(Area, scratch) == SCRATCH);
};

/// Another vCPU runs from now on.
pub(crate) fn began() {
    RUNNING.fetch_add(1, Ordering::AcqRel);
}

/// The last that runs does so no longer.
pub(crate) fn ended() {
    RUNNING.fetch_sub(1, Ordering::AcqRel);
}

/// How many vCPUs run: those with the lowest numbers.
pub(crate) fn running() -> u32 {
    RUNNING.load(Ordering::Acquire)
}
