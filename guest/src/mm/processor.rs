//! The processor this runs on, as one that holds the page tables in use.
//!
//! What others may have cached they forget as well where the scope says so: all of it, since they are
//! interrupted for it. Several flushes without a change of tables between them are one for them.

use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::VirtAddr;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr3, Cr4, Cr4Flags};
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use super::{kernel, layout};
use hypercall::Pfn;
use hypercall::mmu::Scope;
use pagetable::native::Cpu;
use pagetable::tables::Fold;
use spin::Once;

const PAGE: u64 = 4096;

/// Where physical address 0 is mapped: the early mapping, later the direct map.
static WINDOW: AtomicU64 = AtomicU64::new(layout::IMAGE.start);
/// The first physical address that is beyond it.
static REACH: AtomicU64 = AtomicU64::new(0);

/// Has all other processors forget all translations, and returns when they have.
static OTHERS: Once<fn()> = Once::new();
/// Lists of changes so far, each counted when it is done.
static CHANGES: AtomicU64 = AtomicU64::new(0);
/// Of these, those that all processors know of.
static KNOWN: AtomicU64 = AtomicU64::new(0);

/// Says how all other processors forget all translations, before there are any.
pub(crate) fn flush_others_by(flush: fn()) {
    OTHERS.call_once(|| flush);
}

/// Has the others forget what has changed since they did so last.
#[cold]
fn flush_others() {
    let Some(flush) = OTHERS.get() else { return };
    let changes = CHANGES.load(Ordering::SeqCst);
    if KNOWN.load(Ordering::SeqCst) < changes {
        flush();
        KNOWN.fetch_max(changes, Ordering::SeqCst);
    }
}

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

    fn invalidate(&self, scope: Scope, address: Option<u64>) {
        match address {
            Some(va) => tlb::flush(VirtAddr::new_truncate(va)),
            // No entry is global, so that a write of CR3 forgets all.
            None => tlb::flush_all(),
        }
        if scope != Scope::Local {
            flush_others();
        }
    }

    fn maps_page(&self, address: u64) -> bool {
        kernel::is_last_level(Pfn::truncate(address / PAGE))
    }

    fn unprotected<R>(&self, f: impl FnOnce() -> R) -> R {
        without_interrupts(|| {
            let was = Cr0::read();
            // SAFETY: what can be written by mistake meanwhile is only what `f` does: no handler
            // runs, and the register is this processor's.
            unsafe { Cr0::write(was - Cr0Flags::WRITE_PROTECT) };
            let result = f();
            // SAFETY: as it was.
            unsafe { Cr0::write(was) };
            CHANGES.fetch_add(1, Ordering::SeqCst);
            result
        })
    }
}
