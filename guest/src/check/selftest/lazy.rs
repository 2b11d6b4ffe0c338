//! Lazy mode on real tables: when writes wait, and that nobody can tell.

use hypercall::queue::{Access, MmuError};
use hypercall::{FlushReason, LazyError};

use super::context::{Context, PAGE, READ_ONLY, in_table};
use super::{TestResult, expect_eq, expect_matches, selftest};
use crate::mm::{self, Current, Flags, Pte, Value};
use crate::probe;

/// Updates queued now.
fn queued() -> usize {
    Current.with(|mmu| mmu.batch().len())
}

/// Hypercalls made so far.
fn hypercalls() -> u64 {
    Current.with(|mmu| mmu.batch().stats().hypercalls)
}

/// Takes the right to write from a page of the test's, or gives it back.
fn set_writable(va: u64, writable: bool) -> TestResult {
    mm::with(|tables| {
        let slot = tables.pte_slot(va)?;
        let old = tables.get(slot);
        let flags = if writable {
            old.flags() | Flags::WRITABLE
        } else {
            old.flags() - Flags::WRITABLE
        };
        // SAFETY: the page is the test's.
        unsafe { tables.set_pte(slot.place(), va, old.with_flags(flags)) }
    })?;
    Ok(())
}

fn is_writable_in_table(va: u64) -> Result<bool, super::Trouble> {
    let entry = mm::with(|tables| in_table(tables, va))?;
    Ok(entry & Flags::WRITABLE.bits() != 0)
}

/// Sections nest to any depth: at each of eight, a write queues, reads back, and does not reach
/// the table; leaving an inner section makes no hypercall and sends nothing; leaving the outermost
/// sends everything at once.
fn nesting(context: &mut Context) -> TestResult {
    fn descend(depth: u64, va: u64) -> TestResult {
        let section = mm::lazy()?;
        let page = va + depth * PAGE;
        set_writable(page, false)?;
        let entry = mm::with(|tables| tables.ptep_get(page))?;
        expect_eq!(
            entry.flags().contains(Flags::WRITABLE),
            false,
            "W as read back at depth {depth}"
        );
        expect_eq!(
            is_writable_in_table(page)?,
            true,
            "W in the table at depth {depth}"
        );
        expect_eq!(queued(), depth as usize + 1, "queued at depth {depth}");
        if depth < 7 {
            descend(depth + 1, va)?;
        }
        expect_eq!(queued(), 8, "queued on the way out of depth {depth}");
        let before = hypercalls();
        section.end()?;
        let made = hypercalls() - before;
        expect_eq!(
            made,
            u64::from(depth == 0),
            "hypercalls on leaving depth {depth}"
        );
        Ok(())
    }
    context.with_frames(|context, pile| {
        let va = context.area(0);
        context.map(va, pile, Flags::DATA)?;
        context.expect_writes(va, 8, Ok(()), "before")?;
        descend(0, va)?;
        expect_eq!(queued(), 0, "queued after the outermost section");
        context.expect_writes(va, 8, READ_ONLY, "after the section")
    })
}
selftest!("lazy.nesting", nesting, &[8], needs EVERYWHERE);

/// An empty section costs no hypercall, however deep, and neither does a pause in it.
fn empty(_: &mut Context) -> TestResult {
    let before = hypercalls();
    for _ in 0..8 {
        let outer = mm::lazy()?;
        let inner = mm::lazy()?;
        let pause = mm::pause()?;
        pause.end()?;
        inner.end()?;
        outer.end()?;
    }
    expect_eq!(hypercalls() - before, 0, "hypercalls");
    Ok(())
}
selftest!("lazy.empty", empty, needs EVERYWHERE);

/// Pausing at depth sends what is queued; while paused every write is in force when it returns,
/// and sections entered meanwhile change nothing; pauses nest; after the last resume writes queue
/// again. Guards that are dropped do as guards that are ended.
fn pause(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let va = context.area(0);
        context.map(va, pile, Flags::DATA)?;
        let sections = (mm::lazy()?, mm::lazy()?, mm::lazy()?);
        set_writable(va, false)?;
        expect_eq!(queued(), 1, "queued before the pause");
        let first = mm::pause()?;
        expect_eq!(queued(), 0, "queued after the pause");
        context.expect_writes(va, 1, READ_ONLY, "after the pause")?;
        let second = mm::pause()?;
        let inside = mm::lazy()?;
        set_writable(va + PAGE, false)?;
        expect_eq!(queued(), 0, "queued while paused twice, in a section");
        context.expect_writes(va + PAGE, 1, READ_ONLY, "while paused twice")?;
        drop(inside);
        drop(second);
        set_writable(va + 2 * PAGE, false)?;
        context.expect_writes(va + 2 * PAGE, 1, READ_ONLY, "while paused once")?;
        drop(first);
        set_writable(va + 3 * PAGE, false)?;
        expect_eq!(queued(), 1, "queued after the last resume");
        expect_eq!(
            is_writable_in_table(va + 3 * PAGE)?,
            true,
            "W in the table after the last resume"
        );
        drop(sections);
        context.expect_writes(va + 3 * PAGE, 1, READ_ONLY, "after the sections")
    })
}
selftest!("lazy.pause", pause, &[4], needs EVERYWHERE);

/// `set_ptes` enters lazy mode itself. Inside of a section of the caller's that must neither end
/// the caller's section nor flush; afterwards the caller's own writes still queue. (An
/// implementation that left lazy mode here, or counted wrong, crashed Linux under Xen.)
fn set_ptes(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let va = context.area(0);
        context.map(va, pile, Flags::DATA)?;
        let place = context.area(1);
        mm::with(|tables| tables.ensure_pte_table(place))?;
        let section = mm::lazy()?;
        set_writable(va, false)?;
        mm::with(|tables| {
            let pfn = hypercall::Pfn::truncate(0x100);
            // SAFETY: the place is the test's; the image's first pages are only read.
            unsafe {
                tables
                    .set_ptes(place, Value::new(pfn, Flags::CONST), 16)?
                    .defer();
            }
            for i in 0..16 {
                let entry = tables.ptep_get(place + i * PAGE)?;
                let found = tables.pte_val(entry).map(|v| v.pfn.as_u64());
                expect_eq!(found, Some(0x100 + i), "frame of page {i}, read back");
            }
            Ok::<_, super::Trouble>(())
        })?;
        expect_eq!(
            queued(),
            17,
            "queued after set_ptes in the caller's section"
        );
        expect_eq!(probe::read(place).is_err(), true, "the range is not there");
        set_writable(va + PAGE, false)?;
        expect_eq!(
            queued(),
            18,
            "queued after one more write: still in the section"
        );
        section.end()?;
        for i in 0..16 {
            let there = probe::read(place + i * PAGE).is_ok();
            expect_eq!(there, true, "page {i} of the range after the section");
        }
        context.expect_writes(va, 2, READ_ONLY, "after the section")
    })
}
selftest!("lazy.set_ptes", set_ptes, &[2], needs EVERYWHERE);

/// The last of several writes to one slot is what reads return and what the table gets, and Xen
/// sees one request, not several.
fn replaced(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let va = context.area(0);
        context.map(va, pile, Flags::DATA)?;
        let section = mm::lazy()?;
        for i in 0..100 {
            set_writable(va, i % 2 == 1)?;
        }
        set_writable(va, false)?;
        expect_eq!(queued(), 1, "queued after 101 writes to one slot");
        section.end()?;
        context.expect_writes(va, 1, READ_ONLY, "after the section")
    })
}
selftest!("lazy.replaced", replaced, &[1], needs EVERYWHERE);

/// A section may queue more than fits: the queue empties itself and goes on, and everything arrives
/// in order. Reads find an entry whether it is queued or sent.
fn overflow(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let pages = context.pages();
        let va = context.area(0);
        context.map(va, pile, Flags::DATA)?;
        let full = |mmu: &hypercall::batch::Stats| mmu.reasons[FlushReason::Full as usize];
        let before = mm::with(|tables| full(tables.stats()));
        let section = mm::lazy()?;
        for i in 0..pages {
            set_writable(va + i * PAGE, false)?;
        }
        for i in 0..pages {
            let entry = mm::with(|tables| tables.ptep_get(va + i * PAGE))?;
            let writable = entry.flags().contains(Flags::WRITABLE);
            expect_eq!(writable, false, "W of page {i} as read back");
        }
        let flushes = mm::with(|tables| full(tables.stats())) - before;
        let capacity = hypercall::batch::DEFAULT_CAPACITY as u64;
        expect_eq!(
            u64::from(flushes),
            (pages - 1) / capacity,
            "flushes of a full queue"
        );
        section.end()?;
        context.expect_writes(va, pages, READ_ONLY, "after the section")
    })
}
selftest!("lazy.overflow", overflow, &[511, 512, 513, 4096], needs EVERYWHERE);

/// Tables made in a section can be used at once: a range is mapped where there was no table, read
/// back through entries of two levels that are still queued, changed entry by entry, and unmapped
/// in part, before Xen has seen any of it.
fn new_tables(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let pages = context.pages();
        let va = context.area(0);
        let section = mm::lazy()?;
        mm::with(|tables| {
            // SAFETY: the area and the frames are the test's, and not touched meanwhile.
            unsafe { tables.map(va, pile.pfns(), Flags::DATA)?.defer() };
            for (i, pfn) in (0..).zip(pile.pfns()) {
                let found = tables.pte_val(tables.ptep_get(va + i * PAGE)?);
                expect_eq!(
                    found.map(|v| v.pfn),
                    Some(pfn),
                    "frame of page {i}, read back"
                );
            }
            // SAFETY: the area and the frames are the test's, and not touched meanwhile.
            unsafe {
                tables.ptep_set_wrprotect(va)?;
                let old = tables.ptep_get_and_clear(va + PAGE)?;
                expect_eq!(old.is_present(), true, "the entry that was cleared");
            }
            let entry = tables.ptep_get(va + PAGE)?;
            expect_eq!(entry, Pte::NONE, "the cleared entry, read back");
            Ok::<_, super::Trouble>(())
        })?;
        section.end()?;
        context.expect_writes(va, 1, READ_ONLY, "after the section")?;
        context.expect_absent(va + PAGE, 1)?;
        context.expect_writes(va + 2 * PAGE, pages - 2, Ok(()), "after the section")
    })
}
selftest!("lazy.new_tables", new_tables, &[512, 513], needs EVERYWHERE);

/// What does not match is refused and changes nothing: leaving what was not entered, resuming what
/// was not paused.
fn unbalanced(_: &mut Context) -> TestResult {
    let (leave, resume, state) =
        Current.with(|mmu| (mmu.disable(), mmu.resume(), mmu.lazy().enable_count()));
    expect_matches!(
        leave,
        Err(MmuError::Lazy(LazyError::NotEnabled)),
        "leaving a section that was not entered"
    );
    expect_matches!(
        resume,
        Err(LazyError::NotPaused),
        "resuming what was not paused"
    );
    expect_eq!(state, 0, "sections entered");
    Ok(())
}
selftest!("lazy.unbalanced", unbalanced, needs EVERYWHERE);
