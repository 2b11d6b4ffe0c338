//! Page tables without Xen: the requests that PV makes of Xen's MMU, carried out on memory.
//!
//! Everything in this crate writes entries by one path that ends in a hypercall. Where no Xen stands
//! between the kernel and its tables, this answers instead, typed as they were made: an update is a
//! store, a flush is INVLPG or a write of CR3, a machine frame is the frame itself, and pinning,
//! by which Xen keeps count, has nothing to do. What is above the path is the same code, and so is
//! what it may ask for: an entry with PSE is refused here as Xen refuses it, so that there are no
//! large pages anywhere.
//!
//! Tables stay read-only for the kernel here too. The stores are made with CR0.WP clear, once for
//! each list of requests, so that a stray pointer finds a table as protected as under Xen.

use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::abi::mmu::{self, mmu_update};
use hypercall::addr::ADDR_MASK;
use hypercall::instead::{PageTables, Refused};
use hypercall::mmu::{Scope, VaFlush};
use hypercall::{Errno, ExtOp, VirtAddr};

use crate::entry::{L1, L2, L3, L4, L5, TableLevel};
use crate::tables::Fold;

/// What carries out the stores and flushes: the processor, or on the host a stand-in.
pub trait Cpu {
    /// Where the entry at a physical address can be reached; null if that is not memory, or not
    /// mapped yet.
    fn entry(&self, address: u64) -> *mut u64;

    /// Physical address of the root table.
    fn root(&self) -> u64;

    /// Makes another table the root, and forgets all translations.
    ///
    /// # Safety
    /// It maps what is in use as before.
    unsafe fn set_root(&self, address: u64);

    /// How many levels the tables have.
    fn fold(&self) -> Fold;

    /// Forgets the translation of an address, or all of them, on the processors of a scope: on each of
    /// those that was running, before this returns.
    fn invalidate(&self, scope: Scope, address: Option<u64>);

    /// Whether the entry at a physical address is one that maps a page, and no table. Where that is not
    /// known it is not.
    fn maps_page(&self, address: u64) -> bool;

    /// Calls `f` while read-only pages can be written.
    fn unprotected<R>(&self, f: impl FnOnce() -> R) -> R;
}

const PRESENT: u64 = 1;
/// PSE; in an L1 entry the same bit is PAT, which PV refuses as well.
const PSE: u64 = 1 << 7;
const ACCESSED_DIRTY: u64 = 1 << 5 | 1 << 6;

/// Page tables that the kernel writes itself, on a processor.
#[derive(Clone, Copy, Debug)]
pub struct OwnTables<C>(pub C);

impl<C: Cpu> PageTables for OwnTables<C> {
    unsafe fn update(&self, requests: &[mmu_update]) -> Result<(), Refused> {
        let OwnTables(cpu) = self;
        let mut stale = false;
        let mut done = 0;
        let result = cpu.unprotected(|| {
            requests.iter().try_for_each(|request| {
                stale |= update(cpu, request)?;
                done += 1;
                Ok(())
            })
        });
        // Xen flushes by itself where a table above L1 changes, on every vCPU, and everything above
        // relies on it. Here any change of what was mapped ends with a flush, as one a list is cheap on
        // the processor itself.
        // What is asked for that lies in memory which a list may unmap and map again: not in its midst.
        if stale {
            let scope = match requests.iter().all(|request| cpu.maps_page(request.ptr)) {
                true => Scope::Local,
                false => Scope::All,
            };
            cpu.invalidate(scope, None);
        }
        result.map_err(|errno| Refused { errno, done })
    }

    unsafe fn ext(&self, op: ExtOp) -> Result<(), Errno> {
        let OwnTables(cpu) = self;
        match op {
            // Nobody counts how a frame is used but the kernel's own records; the tables of user mode
            // are for the way there, which PV takes through Xen.
            ExtOp::Pin(..) | ExtOp::Unpin(_) | ExtOp::NewUserBaseptr(_) => {}
            ExtOp::NewBaseptr(root) => {
                // SAFETY: whoever asks answers for what the new tables map.
                unsafe { cpu.set_root(root.addr().as_u64()) };
            }
            ExtOp::TlbFlush(scope) => cpu.invalidate(scope, None),
            ExtOp::Invlpg(scope, va) => cpu.invalidate(scope, Some(va.as_u64())),
            ExtOp::FlushCache
            | ExtOp::SetLdt(..)
            | ExtOp::ClearPage(_)
            | ExtOp::CopyPage { .. } => return Err(Errno::ENOSYS),
        }
        Ok(())
    }

    /// The entry is found in the tables in use.
    unsafe fn update_va(&self, va: VirtAddr, value: u64, flush: VaFlush) -> Result<(), Errno> {
        let (OwnTables(cpu), va) = (self, va.as_u64());
        let mut table = cpu.root();
        let five = matches!(cpu.fold(), Fold::FiveLevels);
        let above = [
            five.then(|| L5::index(va)),
            Some(L4::index(va)),
            Some(L3::index(va)),
            Some(L2::index(va)),
        ];
        for index in above.into_iter().flatten() {
            let entry = cpu.entry(table + index as u64 * 8);
            if entry.is_null() {
                return Err(Errno::EINVAL);
            }
            // SAFETY: an entry of a table in use; the processor may set A meanwhile.
            let word = unsafe { entry.read_volatile() };
            if word & (PRESENT | PSE) != PRESENT {
                return Err(Errno::EINVAL);
            }
            table = word & ADDR_MASK;
        }
        let slot = table + L1::index(va) as u64 * 8;
        cpu.unprotected(|| store(cpu, slot, value, 0))?;
        match flush {
            VaFlush::Tlb(scope) => cpu.invalidate(scope, None),
            VaFlush::Page(scope) => cpu.invalidate(scope, Some(va)),
            VaFlush::None => {}
        }
        Ok(())
    }
}

/// `mmu_update`, one request. Says whether something was mapped through the entry before.
fn update(cpu: &impl Cpu, request: &mmu_update) -> Result<bool, Errno> {
    let address = request.ptr & !7;
    match (request.ptr & 7) as u32 {
        mmu::MMU_NORMAL_PT_UPDATE => store(cpu, address, request.val, 0),
        mmu::MMU_PT_UPDATE_PRESERVE_AD => store(cpu, address, request.val, ACCESSED_DIRTY),
        // A frame's two numbers are the same one.
        mmu::MMU_MACHPHYS_UPDATE => Ok(false),
        _ => Err(Errno::ENOSYS),
    }
}

/// Writes an entry; of its old value the bits in `keep` stay. Says whether it was present.
fn store(cpu: &impl Cpu, address: u64, value: u64, keep: u64) -> Result<bool, Errno> {
    if value & (PRESENT | PSE) == PRESENT | PSE || (value & PRESENT == 0 && value != 0) {
        return Err(Errno::EINVAL);
    }
    let entry = cpu.entry(address);
    if entry.is_null() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: an aligned word of memory. Whoever asks answers for what the entry maps from now on.
    // The processor sets A and D by itself, hence atomic.
    let entry = unsafe { AtomicU64::from_ptr(entry) };
    let new = |old: u64| Some(old & keep | value);
    let (Ok(old) | Err(old)) = entry.fetch_update(Ordering::Relaxed, Ordering::Relaxed, new);
    Ok(old & PRESENT != 0)
}
