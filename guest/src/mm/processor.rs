//! The processor this runs on, as the one that holds the page tables in use.

use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::VirtAddr;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr3, Cr4, Cr4Flags};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use crate::mm::layout;
use pagetable::native::Cpu;
use pagetable::tables::Fold;

/// Where physical address 0 is mapped: the early mapping, later the direct map.
static WINDOW: AtomicU64 = AtomicU64::new(layout::IMAGE.start);
/// The first physical address that is beyond it.
static REACH: AtomicU64 = AtomicU64::new(0);

/// The processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processor;

/// Says where memory is mapped, and up to which address.
pub(crate) fn set_window(base: u64, bytes: u64) {
    WINDOW.store(base, Ordering::Relaxed);
    REACH.store(bytes, Ordering::Relaxed);
}

/// Whether the processor has five levels of page tables (SDM volume 2, CPUID).
pub(crate) fn has_la57() -> bool {
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).ecx >> 16 & 1 == 1
}

impl Cpu for Processor {
    fn entry(&self, address: u64) -> *mut u64 {
        if address >= REACH.load(Ordering::Relaxed) {
            return core::ptr::null_mut();
        }
        let va = WINDOW.load(Ordering::Relaxed) + address;
        core::ptr::with_exposed_provenance_mut(va as usize)
    }

    fn root(&self) -> u64 {
        Cr3::read().0.start_address().as_u64()
    }

    unsafe fn set_root(&self, address: u64) {
        let frame = PhysFrame::<Size4KiB>::containing_address(x86_64::PhysAddr::new(address));
        // SAFETY: the root maps what is in use as before, as the caller says.
        unsafe { Cr3::write(frame, Cr3::read().1) };
    }

    fn fold(&self) -> Fold {
        if Cr4::read().contains(Cr4Flags::L5_PAGING) {
            Fold::FiveLevels
        } else {
            Fold::FourLevels
        }
    }

    fn invalidate(&self, address: Option<u64>) {
        match address {
            Some(va) => tlb::flush(VirtAddr::new_truncate(va)),
            // No entry is global, so that a write of CR3 forgets all.
            None => tlb::flush_all(),
        }
    }

    fn unprotected<R>(&self, f: impl FnOnce() -> R) -> R {
        without_interrupts(|| {
            let was = Cr0::read();
            // SAFETY: what can be written by mistake meanwhile is only what `f` does: no handler
            // runs, and this is the one processor.
            unsafe { Cr0::write(was - Cr0Flags::WRITE_PROTECT) };
            let result = f();
            // SAFETY: as it was.
            unsafe { Cr0::write(was) };
            result
        })
    }
}
