//! vCPUs that do the same at the same time, each with pages of its own.

use core::sync::atomic::{AtomicU64, Ordering};

use super::context::{ABSENT_READ, PAGE};
use super::{TestResult, Trouble, expect_eq};
use crate::mm::frames::Frame;
use crate::mm::spaces::AddressSpace;
use crate::mm::{self, Flags, MmError, Running, Tables};
use crate::{cpu, probe, smp};

/// vCPUs that race: more of them than the host has processors only wait for each other.
pub(super) const RACERS: u32 = 8;
/// Pages that each vCPU races with in the kernel's half: its range crosses the end of an L1 table.
const RACED: u64 = 8;

/// Skips a test where there is nobody to race with.
pub(super) fn need_others() -> Result<u32, Trouble> {
    match cpu::running() {
        1 => Err(Trouble::skip("one vCPU runs")),
        running => Ok(running),
    }
}

/// Has every vCPU up to the racers do something, and counts those that fail, whose errors it logs.
pub(super) fn on_racers(what: &str, f: &(dyn Fn(u64) -> Result<(), MmError> + Sync)) -> TestResult {
    let errors = AtomicU64::new(0);
    smp::on_all(&|number| {
        if number >= RACERS {
            return;
        }
        if let Err(e) = f(number.into()) {
            errors.fetch_add(1, Ordering::Relaxed);
            log::error!(target: "smp", "vCPU {number}, {what}: {e}");
        }
    });
    expect_eq!(errors.into_inner(), 0, "vCPUs that failed: {what}");
    Ok(())
}

/// Where a vCPU races.
#[derive(Clone, Copy)]
pub(super) enum Half<'a> {
    /// In the kernel's half.
    Kernel,
    /// In the user half of a space, in which it runs.
    User(&'a AddressSpace),
}

impl Half<'_> {
    /// Calls `f` with the page tables, to work on this half.
    fn with<R>(
        self,
        f: impl FnOnce(&mut Tables<Running>) -> Result<R, MmError>,
    ) -> Result<R, MmError> {
        match self {
            Half::Kernel => mm::with(f),
            Half::User(space) => mm::in_space(space, f),
        }
    }
}

/// One round of a vCPU in the kernel's half, in a range of its own behind `base`; how many pages were wrong.
pub(super) fn race_beside(base: u64, number: u64, round: u64) -> Result<u64, MmError> {
    // Neighbours share L1 tables, and the ranges wander over the ends of tables.
    let one = base + (number * 2 * RACED + round % 5 * 201) * PAGE;
    let ranges = [one, one + RACED * PAGE];
    race(Half::Kernel, ranges, RACED, round, || Ok(()))
}

/// One round of a vCPU: it maps pages in the first range, protects them, moves them to the second and
/// unmaps them, every other time in a lazy section; what it does `beside` comes in between. How many
/// pages were wrong.
pub(super) fn race(
    half: Half<'_>,
    [one, two]: [u64; 2],
    pages: u64,
    mark: u64,
    mut beside: impl FnMut() -> Result<(), MmError>,
) -> Result<u64, MmError> {
    let places = || (0..pages).map(|page| (one + page * PAGE, two + page * PAGE));
    let lazy = (mark & 1 == 0).then(mm::lazy).transpose()?;
    for (from, to) in places() {
        half.with(|tables| {
            let mut frame = tables.alloc_frame()?;
            tables.frame_memory(&mut frame)[0] = from ^ mark;
            let pfn = [frame.pfn()].into_iter();
            // SAFETY: the frame is this vCPU's, kept by the entry until it is unmapped below.
            unsafe { tables.map(from, pfn, Flags::DATA)?.commit(tables) }
        })?;
        half.with(|tables| {
            // SAFETY: the page is this vCPU's.
            unsafe { tables.protect(from, 1, Flags::empty(), Flags::WRITABLE) }?.commit(tables)
        })?;
        beside()?;
        half.with(|tables| {
            // SAFETY: the page is this vCPU's.
            unsafe { tables.move_pages(from, to, 1) }?.commit(tables)
        })?;
    }
    if let Some(lazy) = lazy {
        lazy.end()?;
    }
    let mut wrong = 0;
    for (from, to) in places() {
        wrong += u64::from(probe::read(to) != Ok(from ^ mark));
        // SAFETY: the page is this vCPU's.
        wrong += u64::from(unsafe { probe::write(to, 0) }.is_ok());
        wrong += u64::from(probe::read(from) != ABSENT_READ);
        half.with(|tables| {
            let value = tables.pte_val(tables.ptep_get(to)?);
            let pfn = value.ok_or(MmError::NotMapped { va: to })?.pfn;
            // SAFETY: the page is this vCPU's.
            unsafe { tables.unmap(to, 1) }?.commit(tables)?;
            // SAFETY: it was handed out above, and only the entry's number was kept of it.
            tables.free_frame(unsafe { Frame::from_pfn(pfn) })
        })?;
        wrong += u64::from(probe::read(to) != ABSENT_READ);
    }
    Ok(wrong)
}
