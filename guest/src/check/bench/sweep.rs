//! The cost of a batch by its size, 1 to 2048 requests: raw `mmu_update`s of each kind of change,
//! and the kernel's own path over them.

use hypercall::abi::mmu::mmu_update;
use hypercall::abi::xen::DOMID_SELF;
use hypercall::mmu as raw;

use super::tally::{ROUNDS, Tally};
use super::{BASE, Pool};
use crate::mm::frames::Frame;
use crate::mm::running::Running;
use crate::mm::{self, Flags, MmError, Tables, Value};
use crate::refused::Refused;
use crate::selection::Selection;
use crate::xen::PV;

const PAGE: u64 = 4096;
/// Requests of the longest batch.
const MOST: u64 = 2048;
/// Pages that the requests fill.
const LIST_PAGES: u64 = MOST * size_of::<mmu_update>() as u64 / PAGE;
/// Where the entries are that the batches write.
const HERE: u64 = BASE + (16 << 30);
/// Where the requests are.
const LIST: u64 = BASE + (17 << 30);

/// What batches do.
const NAMES: [&str; 5] = [UNMAP, MAP, PROTECT_RO, PROTECT_RW, SET_PTES];
const UNMAP: &str = "sweep.unmap";
const MAP: &str = "sweep.map";
const PROTECT_RO: &str = "sweep.protect_ro";
const PROTECT_RW: &str = "sweep.protect_rw";
/// The kernel's own path, read-only to consecutive frames.
const SET_PTES: &str = "sweep.set_ptes";

/// Whether any batch is to be measured.
pub(super) fn is_selected(selection: &Selection<'_>) -> bool {
    NAMES.iter().any(|name| selection.includes(name))
}

/// Measures batches of all sizes and prints a line for each.
// Its stack frame is large, and not to be part of the caller's.
#[inline(never)]
pub(super) fn run(selection: &Selection<'_>, pool: &Pool) -> Result<usize, Refused> {
    mm::with(make_list)?;
    let mut lines = 0;
    let sizes = core::iter::successors(Some(1), |n| (*n < MOST).then_some(n * 2));
    for count in sizes {
        let mut tally = Tally::default();
        mm::with(|tables| {
            // SAFETY: the benchmark's own part of the address space and the pool's frames.
            unsafe { tables.map(HERE, pool.frames(MOST), Flags::DATA) }?.commit(tables)?;
            for _ in 0..ROUNDS {
                for (name, flags) in [
                    (UNMAP, None),
                    (MAP, Some(Flags::DATA)),
                    (PROTECT_RO, Some(Flags::CONST)),
                    (PROTECT_RW, Some(Flags::DATA)),
                ] {
                    let list = requests(tables, pool, count, flags)?;
                    tally.count(name, count, || send(list))?;
                }
                let before = tables.stats().hypercalls;
                let first = pool
                    .frames(1)
                    .next()
                    .ok_or(MmError::NotMapped { va: HERE })?;
                let value = Value::new(first, Flags::CONST);
                tally.count(SET_PTES, count, || {
                    // SAFETY: the range is the benchmark's own; the frames from the first on are read only.
                    unsafe { tables.set_ptes(HERE, value, count) }?.commit(tables)?;
                    Ok(tables.stats().hypercalls - before)
                })?;
                send(requests(tables, pool, count, Some(Flags::DATA))?)?;
            }
            // SAFETY: the benchmark's own part of the address space.
            unsafe { tables.unmap(HERE, MOST) }?.commit(tables)?;
            Ok::<_, Refused>(())
        })?;
        lines += tally.print(selection);
    }
    mm::with(free_list)?;
    Ok(lines)
}

/// Maps memory for the requests.
fn make_list(tables: &mut Tables<Running>) -> Result<(), MmError> {
    for page in 0..LIST_PAGES {
        let pfn = tables.alloc_frame()?.pfn();
        // SAFETY: the frame is the list's alone; nothing else uses the place.
        unsafe { tables.map(LIST + page * PAGE, core::iter::once(pfn), Flags::DATA) }?
            .commit(tables)?;
    }
    Ok(())
}

fn free_list(tables: &mut Tables<Running>) -> Result<(), MmError> {
    for page in 0..LIST_PAGES {
        let va = LIST + page * PAGE;
        let entry = tables.ptep_get(va)?;
        let pfn = tables.pte_val(entry).ok_or(MmError::NotMapped { va })?.pfn;
        // SAFETY: the list is not used any more.
        unsafe { tables.unmap(va, 1) }?.commit(tables)?;
        // SAFETY: handed out by the function above, and mapped no more.
        tables.free_frame(unsafe { Frame::from_pfn(pfn) })?;
    }
    Ok(())
}

/// Requests that write the first entries of the range.
fn requests(
    tables: &Tables<Running>,
    pool: &Pool,
    count: u64,
    flags: Option<Flags>,
) -> Result<&'static [mmu_update], MmError> {
    let list = core::ptr::with_exposed_provenance_mut::<mmu_update>(LIST as usize);
    for (i, pfn) in pool.frames(count).enumerate() {
        let entry = match flags {
            Some(flags) => tables.make_pte(Value::new(pfn, flags))?.bits(),
            None => 0,
        };
        let slot = tables.pte_slot(HERE + i as u64 * PAGE)?.machine();
        // SAFETY: within the list, which this module alone uses.
        unsafe { list.add(i).write(raw::pt_update(slot, entry, false)) };
    }
    // SAFETY: written just now; the caller sends it before it is written again.
    Ok(unsafe { core::slice::from_raw_parts(list, count as usize) })
}

fn send(list: &[mmu_update]) -> Result<u64, Refused> {
    // SAFETY: nothing else uses this part of the address space, and the entries are put back
    // before anybody looks.
    let done = unsafe { raw::update(&PV, list, DOMID_SELF) };
    Ok(done.map(|()| 1).map_err(|stopped| stopped.error)?)
}
