//! The running kernel as a [`Machine`]: pages from the allocator, reached through the direct map.

use core::cell::RefCell;

use heapless::Vec;
use hypercall::abi::shared_info::{shared_info, vcpu_info};
use hypercall::abi::start_info::start_info;
use hypercall::mmu::{Scope, VaFlush, update_va_mapping};
use hypercall::{Hypervisor, MachAddr, Mfn, Pfn, VirtAddr};
use rules::{About, Cause, Entry, Fault, Machine, Observed, Page};

use super::{entry, upcall};
use crate::before::Before;
use crate::mm::Flags;
use crate::mm::frames::{Frame, FrameError};
use crate::mm::machine::Machine as _;
use crate::mm::{self, MmError, fuzz};
use crate::probe;
use crate::shared;
use crate::xen::HV;

/// Pages for the tests. The broom of a test knows twenty.
const PAGES: usize = 40;
/// 512 GiB in the lower half, where the kernel has nothing.
const SCRATCH: u64 = 0x1000_0000_0000;

/// The machine, as long as the rules are judged.
pub(super) struct Real<'a> {
    about: About,
    before: &'a Before,
    free: RefCell<Vec<Page, PAGES>>,
    l4: Mfn,
    shared: *mut shared_info,
    vcpu: *mut vcpu_info,
}

impl<'a> Real<'a> {
    pub(super) fn new(about: About, before: &'a Before) -> Result<Self, MmError> {
        let missing = || MmError::from(FrameError::OutOfMemory);
        let mut free = Vec::new();
        let l4 = mm::with(|tables| {
            for _ in 0..PAGES {
                // The number is enough to give the frame back.
                let pfn = tables.alloc_frame()?.pfn();
                let va = tables.machine().window(pfn);
                let page = Page {
                    pfn,
                    mfn: tables.mfn(pfn)?,
                    va,
                    ptr: core::ptr::with_exposed_provenance_mut(va as usize),
                };
                free.push(page).map_err(|_| missing())?;
            }
            tables.mfn(tables.root())
        })?;
        let (shared, vcpu) = shared::page().zip(shared::vcpu()).ok_or_else(missing)?;
        Ok(Real {
            about,
            before,
            free: RefCell::new(free),
            l4,
            shared: shared.as_ptr(),
            vcpu: vcpu.as_ptr(),
        })
    }

    /// Gives the pages back.
    pub(super) fn end(self) -> Result<(), MmError> {
        mm::with(|tables| {
            let pages = self.free.into_inner();
            pages
                .iter()
                // SAFETY: taken for the rules when they began, and theirs no more.
                .try_for_each(|page| tables.free_frame(unsafe { Frame::from_pfn(page.pfn) }))
        })
    }
}

fn fault(fault: probe::Fault) -> Fault {
    Fault { code: fault.error }
}

impl Machine for Real<'_> {
    fn hv(&self) -> &dyn Hypervisor {
        &HV
    }

    fn about(&self) -> About {
        self.about
    }

    fn alloc(&self) -> Option<Page> {
        let page = self.free.borrow_mut().pop()?;
        // SAFETY: the page was handed out for the tests, is mapped writable, and is nobody's now.
        unsafe { page.ptr.write_bytes(0, 512) };
        Some(page)
    }

    fn free(&self, page: Page) {
        // There is room for all that there are.
        let _ = self.free.borrow_mut().push(page);
    }

    fn set_writable(&self, page: &Page, writable: bool) -> bool {
        let Some(old) = mm::with(|tables| fuzz::in_table(tables, page.va)) else {
            return false;
        };
        let value = match writable {
            true => old.bits() | Flags::WRITABLE.bits(),
            false => old.bits() & !Flags::WRITABLE.bits(),
        };
        let flush = VaFlush::Page(Scope::All);
        // SAFETY: only the rights of a page that the tests alone use.
        unsafe { update_va_mapping(&HV, VirtAddr::new(page.va), value, flush) }.is_ok()
    }

    fn entry_of(&self, page: &Page) -> Option<MachAddr> {
        mm::with(|tables| Some(tables.pte_slot(page.va).ok()?.machine()))
    }

    fn l4(&self) -> Mfn {
        self.l4
    }

    fn table_word(&self, slot: MachAddr) -> Option<u64> {
        let at = mm::with(|tables| {
            let pfn: Pfn = tables.machine().pfn(slot.frame())?;
            Some(tables.machine().window(pfn))
        })?;
        probe::read(at + slot.entry_index() as u64 * 8).ok()
    }

    fn scratch_va(&self) -> u64 {
        SCRATCH
    }

    fn read(&self, va: u64) -> Result<u64, Fault> {
        probe::read(va).map_err(fault)
    }

    fn write(&self, va: u64, value: u64) -> Result<(), Fault> {
        // SAFETY: what tests write to is their own, or must not be writable.
        unsafe { probe::write(va, value) }.map_err(fault)
    }

    fn shared_info(&self) -> *mut shared_info {
        self.shared
    }

    fn vcpu_info(&self) -> *mut vcpu_info {
        self.vcpu
    }

    fn start_info(&self) -> Option<&start_info> {
        Some(&self.before.start_info)
    }

    fn initial_flags(&self) -> Option<u64> {
        self.before.flags
    }

    fn execute(&self, va: u64) -> Option<Result<(), Fault>> {
        // SAFETY: the test has put a `ret` there.
        Some(unsafe { probe::execute(va) }.map_err(fault))
    }

    fn enter(&self, cause: Cause, masked: bool) -> Option<Entry> {
        entry::enter(self.vcpu, cause, masked)
    }

    fn observe_upcall(&self, watch: &Page, work: &mut dyn FnMut()) -> Option<Observed> {
        Some(upcall::observe(watch, work))
    }

    fn registers_after(&self, number: u64, args: [u64; 5]) -> Option<[u64; 5]> {
        Some(entry::registers_after(number, args))
    }

    fn mask_after_flag_instruction(&self, mask: bool) -> Option<bool> {
        Some(entry::mask_after_flag_instruction(self.vcpu, mask))
    }
}
