//! All vCPUs at once on the same page tables.

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::context::{ABSENT_READ, Context, PAGE, SPAN, in_table, marked};
use super::race::{need_others, on_racers, race_beside};
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::mm::{self, Flags, MmError};
use crate::{cpu, probe, smp, time};

/// Pages that are written as tables change, and those before them for whose sake the table is replaced.
const WRITTEN: u64 = 24;
const BEFORE: u64 = 128;
/// Rounds of a race.
const ROUNDS: u64 = 4;

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
selftest!("smp.everywhere", everywhere, needs EVERYWHERE);

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
selftest!("smp.time", time_goes_on, needs EVERYWHERE);

/// vCPUs that went down are up again as they were, and find what was changed meanwhile, of which they had
/// something else cached.
fn down_and_up(context: &mut Context) -> TestResult {
    need_others()?;
    let running = cpu::running();
    let refused = |e| Trouble::fail(format_args!("{e}"));
    context.with_frames(|context, pile| {
        let va = context.area(0);
        let marks = pile.pfns().map(marked);
        for (frame, mark) in pile.pfns().zip(marks) {
            // SAFETY: the frame is the test's, and the page is unmapped below.
            mm::with(|tables| unsafe {
                tables
                    .map(va, [frame].into_iter(), Flags::DATA)?
                    .commit(tables)
            })?;
            let others = AtomicU64::new(0);
            smp::on_all(&|_| {
                others.fetch_add(u64::from(probe::read(va) != Ok(mark)), Ordering::Relaxed);
            });
            expect_eq!(
                others.into_inner(),
                0,
                "vCPUs that find what was there before"
            );
            smp::all_down().map_err(refused)?;
            mm::with(|tables| {
                // SAFETY: the page is the test's.
                unsafe { tables.unmap(va, 1) }?.commit(tables)
            })?;
            smp::all_up(false).map_err(refused)?;
        }
        expect_eq!(cpu::running(), running, "vCPUs that run");
        Ok(())
    })
}
selftest!("smp.down_and_up", down_and_up, &[8], needs EVERYWHERE);

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
            // SAFETY: the pages are the test's.
            unsafe { tables.protect(one, pages, Flags::WRITABLE, Flags::empty()) }?.commit(tables)
        })?;
        expect(one, Seen::Data, "once it is writable again")?;
        mm::with(|tables| {
            // SAFETY: the pages are the test's.
            unsafe { tables.move_pages(one, two, pages) }?.commit(tables)
        })?;
        expect(one, Seen::Nothing, "where it was")?;
        expect(two, Seen::Data, "where it went")?;
        mm::with(|tables| {
            // SAFETY: the pages are the test's.
            unsafe { tables.unmap(two, pages) }?.commit(tables)
        })?;
        expect(two, Seen::Nothing, "once it is unmapped")
    })
}
selftest!("smp.seen_by_all", seen_by_all, &[1, 45, 513], needs EVERYWHERE);

/// All vCPUs map, protect, move and unmap pages of their own at the same time, side by side, so that
/// they share and make tables of every level; some of it in lazy sections that last over several uses
/// of the page tables, while others use them. Each finds exactly its own, and nothing is left.
fn raced(context: &mut Context) -> TestResult {
    need_others()?;
    let base = context.area(0);
    // Frames, whether they are in use or free, stay as many.
    let before = mm::with(|tables| tables.frames().counts().free);
    let wrong = AtomicU64::new(0);
    on_racers("side by side", &|number| {
        (0..ROUNDS).try_for_each(|round| {
            let pages = race_beside(base, number, round)?;
            wrong.fetch_add(pages, Ordering::Relaxed);
            Ok(())
        })
    })?;
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
selftest!("smp.raced", raced, needs EVERYWHERE);

/// What a vCPU writes while another changes tables is marked in their entries: one replaces the L1 table and
/// changes the entries over and over, as the other writes to pages that nobody has touched.
fn written_is_marked(context: &mut Context) -> TestResult {
    need_others()?;
    let va = context.area(0);
    let end = va + context.pages() * PAGE;
    let marks = Flags::ACCESSED | Flags::DIRTY;
    let (written, changes) = (AtomicU64::new(0), AtomicU64::new(0));
    let goes_on = || written.load(Ordering::Acquire) < end;
    let change = || -> Result<(), MmError> {
        // For so many a table pays.
        for (at, pages) in [(va, BEFORE), (va + BEFORE * PAGE, WRITTEN)] {
            for [add, remove] in [
                [Flags::empty(), Flags::WRITABLE],
                [Flags::WRITABLE, Flags::empty()],
            ] {
                mm::with(|tables| {
                    // SAFETY: the pages are the test's.
                    unsafe { tables.protect(at, pages, add, remove) }?.commit(tables)
                })?;
            }
        }
        changes.fetch_add(1, Ordering::Release);
        Ok(())
    };
    let write = || -> Result<(), MmError> {
        let at = written.load(Ordering::Acquire);
        let so_far = changes.load(Ordering::Acquire);
        // Read-only at times.
        // SAFETY: the page is the test's.
        while goes_on() && unsafe { probe::write(at, 1) }.is_err() {}
        written.fetch_add(PAGE, Ordering::Release);
        // Not all within one change.
        while goes_on() && changes.load(Ordering::Acquire) == so_far {
            core::hint::spin_loop();
        }
        Ok(())
    };
    context.with_frames(|context, pile| {
        for _ in 0..ROUNDS {
            context.map(va, pile, Flags::DATA - marks)?;
            written.store(va + BEFORE * PAGE, Ordering::Release);
            on_racers("change and write", &|number| {
                while number < 2 && goes_on() {
                    let done = if number == 0 { change() } else { write() };
                    if done.is_err() {
                        written.store(end, Ordering::Release);
                    }
                    done?;
                }
                Ok(())
            })?;
            for at in (va + BEFORE * PAGE..end).step_by(PAGE as usize) {
                let entry = mm::with(|tables| in_table(tables, at))?;
                let set = Flags::from_bits_truncate(entry) & marks;
                expect_eq!(set, marks, "A and D at {at:#x}");
            }
            mm::with(|tables| {
                // SAFETY: the pages are the test's.
                unsafe { tables.unmap(va, BEFORE + WRITTEN) }?.commit(tables)
            })?;
        }
        Ok(())
    })
}
selftest!("smp.marks", written_is_marked, &[BEFORE + WRITTEN], needs EVERYWHERE);

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
selftest!("smp.queued", queued_is_sent, &[1], needs EVERYWHERE);
