//! Page tables without Xen: the requests that PV makes of Xen's MMU, carried out on memory.
//!
//! Everything in [`mm`](crate::mm) writes entries by one path that ends in a hypercall. Where no
//! Xen stands between the kernel and its tables, this answers those hypercalls: an update is a
//! store, a flush is INVLPG or a write of CR3, a machine frame is the frame itself, and pinning,
//! by which Xen keeps count, has nothing to do. What is above the path is the same code, and so is
//! what it may ask for: an entry with PSE is refused here as Xen refuses it, so that there are no
//! large pages anywhere.
//!
//! Tables stay read-only for the kernel here too. The stores are made with CR0.WP clear, once for
//! each list of requests, so that a stray pointer finds a table as protected as under Xen.

#[cfg(target_os = "none")]
pub(crate) mod clock;
#[cfg(target_os = "none")]
pub(crate) mod cpu;
#[cfg(target_os = "none")]
pub(crate) mod descriptors;
#[cfg(target_os = "none")]
pub(crate) mod devices;
#[cfg(target_os = "none")]
pub(crate) mod interrupts;
#[cfg(target_os = "none")]
pub(crate) mod ports;
#[cfg(target_os = "none")]
pub(crate) mod timer;

use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::abi::mmu::{self, mmu_update, mmuext_op};
use hypercall::abi::multicall::multicall_entry;
use hypercall::addr::ADDR_MASK;
use hypercall::{Errno, Op};
use marks::native;

use crate::mm::entry::{L1, L2, L3, L4, L5, TableLevel};
use crate::mm::tables::Fold;

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

    /// Forgets the translation of an address, or all of them.
    fn invalidate(&self, address: Option<u64>);

    /// Calls `f` while read-only pages can be written.
    fn unprotected<R>(&self, f: impl FnOnce() -> R) -> R;
}

const PRESENT: u64 = 1;
/// PSE; in an L1 entry the same bit is PAT, which PV refuses as well.
const PSE: u64 = 1 << 7;
const ACCESSED_DIRTY: u64 = 1 << 5 | 1 << 6;

/// Carries out a hypercall about page tables; `None` if it is about something else.
///
/// # Safety
/// As [`hypercall::Hypervisor::call`].
#[native]
#[inline(never)]
pub unsafe fn call<C: Cpu>(cpu: &C, op: Op, args: [u64; 5]) -> Option<i64> {
    let [list, count, done, ..] = args;
    // SAFETY: the caller names lists of so many requests, good for the time of the call, and
    // answers for what each request changes.
    unsafe {
        match op {
            Op::MmuUpdate => {
                let mut stale = false;
                let one = |request: &mmu_update| {
                    stale |= update(cpu, request)?;
                    Ok(())
                };
                let result = each(list, count, done, cpu, one);
                // Xen flushes by itself where a table above L1 changes, and everything above relies
                // on it. An address does not tell its level, so any change of what was mapped ends
                // with a flush; one a list is cheap.
                if stale {
                    cpu.invalidate(None);
                }
                Some(result)
            }
            Op::MmuextOp => Some(each(list, count, done, cpu, |r: &mmuext_op| ext(cpu, r))),
            Op::UpdateVaMapping => {
                let [va, value, flush, ..] = args;
                Some(answer(update_va_mapping(cpu, va, value, flush)))
            }
            Op::Multicall => Some(multicall(cpu, list, count)),
            _ => None,
        }
    }
}

fn answer(result: Result<(), Errno>) -> i64 {
    result.map_or_else(Errno::to_return, |()| 0)
}

/// Carries out a list of requests up to the first that is refused, and counts them.
///
/// # Safety
/// `list` has `count` requests; `done`, if not 0, is where a `u32` can be written.
unsafe fn each<T>(
    list: u64,
    count: u64,
    done: u64,
    cpu: &impl Cpu,
    mut one: impl FnMut(&T) -> Result<(), Errno>,
) -> i64 {
    if count == 0 {
        return 0;
    }
    let list = core::ptr::with_exposed_provenance::<T>(list as usize);
    // SAFETY: the caller's promise.
    let requests = unsafe { core::slice::from_raw_parts(list, count as usize) };
    let mut carried_out = 0_u32;
    let result = cpu.unprotected(|| {
        requests.iter().try_for_each(|request| {
            one(request)?;
            carried_out += 1;
            Ok(())
        })
    });
    let done = core::ptr::with_exposed_provenance_mut::<u32>(done as usize);
    if !done.is_null() {
        // SAFETY: the caller's promise.
        unsafe { done.write(carried_out) };
    }
    answer(result)
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

/// `mmuext_op`, one operation.
fn ext(cpu: &impl Cpu, op: &mmuext_op) -> Result<(), Errno> {
    // SAFETY: both are words of the same size, whatever the operation calls them.
    let argument = unsafe { op.arg1.mfn };
    match op.cmd {
        // Nobody counts how a frame is used but the kernel's own records.
        mmu::MMUEXT_PIN_L1_TABLE
        | mmu::MMUEXT_PIN_L2_TABLE
        | mmu::MMUEXT_PIN_L3_TABLE
        | mmu::MMUEXT_PIN_L4_TABLE
        | mmu::MMUEXT_UNPIN_TABLE => {}
        mmu::MMUEXT_NEW_BASEPTR => {
            // SAFETY: whoever asks answers for what the new tables map.
            unsafe { cpu.set_root(argument << 12) };
        }
        // The tables of user mode are for the way there, which PV takes through Xen.
        mmu::MMUEXT_NEW_USER_BASEPTR => {}
        mmu::MMUEXT_TLB_FLUSH_LOCAL | mmu::MMUEXT_TLB_FLUSH_MULTI | mmu::MMUEXT_TLB_FLUSH_ALL => {
            cpu.invalidate(None);
        }
        mmu::MMUEXT_INVLPG_LOCAL | mmu::MMUEXT_INVLPG_MULTI | mmu::MMUEXT_INVLPG_ALL => {
            cpu.invalidate(Some(argument));
        }
        _ => return Err(Errno::ENOSYS),
    }
    Ok(())
}

/// `update_va_mapping`: the entry is found in the tables in use.
fn update_va_mapping(cpu: &impl Cpu, va: u64, value: u64, flush: u64) -> Result<(), Errno> {
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
    match flush & mmu::UVMF_FLUSHTYPE_MASK {
        mmu::UVMF_TLB_FLUSH => cpu.invalidate(None),
        mmu::UVMF_INVLPG => cpu.invalidate(Some(va)),
        _ => {}
    }
    Ok(())
}

/// `multicall`: each entry gets its own result.
///
/// # Safety
/// As [`call`], for each entry.
unsafe fn multicall<C: Cpu>(cpu: &C, list: u64, count: u64) -> i64 {
    let list = core::ptr::with_exposed_provenance_mut::<multicall_entry>(list as usize);
    for index in 0..count as usize {
        // SAFETY: the caller names a list of so many entries.
        let entry = unsafe { &mut *list.add(index) };
        let [a, b, c, d, e, _] = entry.args;
        let op = Op::from_number(entry.op).filter(|op| *op != Op::Multicall);
        // SAFETY: the caller's promise.
        let result = op.and_then(|op| unsafe { call(cpu, op, [a, b, c, d, e]) });
        entry.result = result.unwrap_or(Errno::ENOSYS.to_return()) as u64;
    }
    0
}
