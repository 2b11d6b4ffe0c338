//! All vCPUs at once on the same page tables.

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::context::{ABSENT_READ, Context, PAGE, SPAN, in_table, marked};
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::mm::{self, Flags, MmError};
use crate::{cpu, probe, smp, time};

/// Rounds of a race.
const ROUNDS: u64 = 4;
/// vCPUs that race: more of them than the host has processors only wait for each other.
pub(super) const RACERS: u32 = 8;
/// Pages that each vCPU races with: its range crosses the end of an L1 table.
const RACED: u64 = 8;

/// Skips a test where there is nobody to race with.
pub(super) fn need_others() -> Result<u32, Trouble> {
    match cpu::running() {
        1 => Err(Trouble::skip("one vCPU runs")),
        running => Ok(running),
    }
}

/// Work reaches every vCPU that runs, once each, and each finds by GS the number that it was told.
fn everywhere(_: &mut Context) -> TestResult {
    let running = need_others()?;
    for _ in 0..100 {
        let (sum, wrong) = (AtomicU64::new(0), AtomicU64::new(0));
        smp::on_all(&|number| {
            sum.fetch_add(1 << number.min(63), Ordering::Relaxed);
            if cpu::here().number() != number {
                wrong.fetch_add(1, Ordering::Relaxed);
            }
        });
        let all = u64::MAX >> (64 - running.min(64));
        expect_eq!(sum.into_inner(), all, "vCPUs that did the work, a bit each");
        expect_eq!(wrong.into_inner(), 0, "vCPUs that mistake themselves");
    }
    Ok(())
}
selftest!("smp.everywhere", everywhere, needs XEN_TABLES);

/// Time never goes back: what one vCPU has read is the least that the next one reads, in whatever order
/// they come.
fn time_goes_on(_: &mut Context) -> TestResult {
    need_others()?;
    let (latest, wrong) = (AtomicU64::new(0), AtomicU64::new(0));
    smp::on_all(&|_| {
        for _ in 0..1000 {
            let before = latest.load(Ordering::SeqCst);
            let now = time::monotonic().unwrap_or(0);
            wrong.fetch_add(u64::from(now < before), Ordering::Relaxed);
            latest.fetch_max(now, Ordering::SeqCst);
        }
    });
    expect_eq!(
        wrong.into_inner(),
        0,
        "readings before one that another vCPU had made"
    );
    Ok(())
}
selftest!("smp.time", time_goes_on, needs XEN_TABLES);

/// What a vCPU finds by an address.
#[derive(Clone, Copy)]
enum Seen {
    Data,
    Const,
    Nothing,
}

impl Seen {
    /// Whether it is so. The first word of the page's frame is to be `mark`.
    fn is_at(self, va: u64, mark: u64) -> bool {
        // SAFETY: the page is the test's, and gets what it has.
        let writes = || unsafe { probe::write(va, mark) }.is_ok();
        match self {
            Seen::Data => probe::read(va) == Ok(mark) && writes(),
            Seen::Const => probe::read(va) == Ok(mark) && !writes(),
            Seen::Nothing => probe::read(va) == ABSENT_READ,
        }
    }
}

/// What one vCPU maps, protects, moves and unmaps, all see at once. Each vCPU has the translation
/// cached from the look before: without a flush that reaches it, it would read what is not there any
/// more, or write where it must not.
fn seen_by_all(context: &mut Context) -> TestResult {
    need_others()?;
    context.with_frames(|context, pile| {
        let (one, two) = (context.area(0), context.area(1) + SPAN);
        let pages = context.pages();
        let mut marks = Vec::new();
        marks.try_reserve_exact(pages as usize)?;
        marks.extend(pile.pfns().map(marked));
        let expect = |va: u64, what: Seen, when| {
            let wrong = AtomicU64::new(u64::MAX);
            smp::on_all(&|number| {
                for (page, mark) in (0..).zip(&marks) {
                    if !what.is_at(va + page * PAGE, *mark) {
                        wrong.store(u64::from(number) << 32 | page, Ordering::Relaxed);
                    }
                }
            });
            let wrong = wrong.into_inner();
            let place = (wrong != u64::MAX).then_some((wrong >> 32, wrong & 0xffff_ffff));
            expect_eq!(place, None, "vCPU and page that see something else {when}");
            Ok::<_, Trouble>(())
        };
        context.map(one, pile, Flags::DATA)?;
        expect(one, Seen::Data, "once it is mapped")?;
        mm::with(|tables| {
            // SAFETY: the pages are the test's.
            unsafe { tables.protect(one, pages, Flags::empty(), Flags::WRITABLE) }?.commit(tables)
        })?;
        expect(one, Seen::Const, "once it is read-only")?;
        mm::with(|tables| {
            // SAFETY: as above.
            unsafe { tables.protect(one, pages, Flags::WRITABLE, Flags::empty()) }?.commit(tables)
        })?;
        expect(one, Seen::Data, "once it is writable again")?;
        mm::with(|tables| {
            // SAFETY: as above.
            unsafe { tables.move_pages(one, two, pages) }?.commit(tables)
        })?;
        expect(one, Seen::Nothing, "where it was")?;
        expect(two, Seen::Data, "where it went")?;
        mm::with(|tables| {
            // SAFETY: as above.
            unsafe { tables.unmap(two, pages) }?.commit(tables)
        })?;
        expect(two, Seen::Nothing, "once it is unmapped")
    })
}
selftest!("smp.seen_by_all", seen_by_all, &[1, 45, 513], needs XEN_TABLES);

/// All vCPUs map, protect, move and unmap pages of their own at the same time, side by side, so that
/// they share and make tables of every level; some of it in lazy sections that last over several uses
/// of the page tables, while others use them. Each finds exactly its own, and nothing is left.
fn raced(context: &mut Context) -> TestResult {
    need_others()?;
    let base = context.area(0);
    // Frames, whether they are in use or free, stay as many.
    let before = mm::with(|tables| tables.frames().counts().free);
    let (wrong, errors) = (AtomicU64::new(0), AtomicU64::new(0));
    smp::on_all(&|number| {
        for round in 0..if number < RACERS { ROUNDS } else { 0 } {
            match race(base, number.into(), round) {
                Ok(0) => {}
                Ok(pages) => {
                    wrong.fetch_add(pages, Ordering::Relaxed);
                }
                Err(e) => {
                    errors.fetch_add(1, Ordering::Relaxed);
                    log::error!(target: "smp", "vCPU {number}, round {round}: {e}");
                }
            }
        }
    });
    expect_eq!(errors.into_inner(), 0, "errors of all vCPUs");
    expect_eq!(
        wrong.into_inner(),
        0,
        "pages that were not what their vCPU had made them"
    );
    let after = mm::with(|tables| tables.frames().counts().free);
    // Empty tables that stay are the runner's to count.
    expect_eq!(after <= before, true, "frames that are free");
    Ok(())
}
selftest!("smp.raced", raced, needs XEN_TABLES);

/// What one vCPU has queued in a lazy section is sent before it waits for others, which find it in the
/// tables, and the section goes on.
fn queued_is_sent(context: &mut Context) -> TestResult {
    need_others()?;
    context.with_frames(|context, pile| {
        let va = context.area(0);
        context.map(va, pile, Flags::DATA)?;
        let lazy = mm::lazy()?;
        mm::with(|tables| {
            // SAFETY: the page is the test's.
            unsafe { tables.ptep_set_wrprotect(va) }
        })?;
        let seen = AtomicU64::new(0);
        smp::on_all(&|number| {
            if number == 1 {
                let entry = mm::with(|tables| in_table(tables, va)).unwrap_or(0);
                seen.store(entry, Ordering::Relaxed);
            }
        });
        let writable = seen.into_inner() & Flags::WRITABLE.bits() != 0;
        lazy.end()?;
        expect_eq!(writable, false, "W of the page as vCPU 1 finds it");
        Ok(())
    })
}
selftest!("smp.queued", queued_is_sent, &[1], needs XEN_TABLES);

/// One round of a vCPU; how many pages were wrong.
pub(super) fn race(base: u64, number: u64, round: u64) -> Result<u64, MmError> {
    // Neighbours share L1 tables, and the ranges wander over the ends of tables.
    let one = base + (number * 2 * RACED + round % 5 * 201) * PAGE;
    let two = one + RACED * PAGE;
    let lazy = (round & 1 == 0).then(mm::lazy).transpose()?;
    let mut wrong = 0;
    for page in 0..RACED {
        let (from, to) = (one + page * PAGE, two + page * PAGE);
        mm::with(|tables| {
            let mut frame = tables.alloc_frame()?;
            tables.frame_memory(&mut frame)[0] = from ^ round;
            // SAFETY: unmapped below, where its frame is taken back.
            let _ = tables.map_frames(from, [frame], Flags::DATA)?;
            Ok::<_, MmError>(())
        })?;
        mm::with(|tables| {
            // SAFETY: the page is this vCPU's.
            unsafe { tables.protect(from, 1, Flags::empty(), Flags::WRITABLE) }?.commit(tables)
        })?;
        mm::with(|tables| {
            // SAFETY: as above.
            unsafe { tables.move_pages(from, to, 1) }?.commit(tables)
        })?;
    }
    if let Some(lazy) = lazy {
        lazy.end()?;
    }
    for page in 0..RACED {
        let (from, to) = (one + page * PAGE, two + page * PAGE);
        wrong += u64::from(probe::read(to) != Ok(from ^ round));
        // SAFETY: the page is this vCPU's.
        wrong += u64::from(unsafe { probe::write(to, 0) }.is_ok());
        wrong += u64::from(probe::read(from) != ABSENT_READ);
        mm::with(|tables| {
            let value = tables.pte_val(tables.ptep_get(to)?);
            let pfn = value.ok_or(MmError::NotMapped { va: to })?.pfn;
            // SAFETY: the page is this vCPU's.
            unsafe { tables.unmap(to, 1) }?.commit(tables)?;
            // SAFETY: it was handed out above, and only this page's number was kept of it.
            tables.free_frame(unsafe { mm::frames::Frame::from_pfn(pfn) })
        })?;
    }
    Ok(wrong)
}
