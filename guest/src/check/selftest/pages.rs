//! Operations on ranges of pages, at sizes on both sides of every decision that they make.

use super::context::{
    ABSENT_READ, ABSENT_WRITE, Context, PAGE, READ_ONLY, SIZES, SPAN, in_table, mark, marked,
};
use super::{TestResult, expect_eq, expect_matches, selftest};
use crate::mm::machine::Machine;
use crate::mm::{self, Flags, MmError};
use crate::probe;

/// Offsets of a range in its first table: aligned; across the end of a table for most sizes; at
/// the last page of a table.
const OFFSETS: &[u64] = &[0, 470 * PAGE, 511 * PAGE];

/// What is mapped is there, in order, at every size and position: each page reads as the frame
/// that was asked for, a write through it reaches the frame, and the pages beside the range are not
/// there. Mapping again what is mapped is refused and changes nothing; frames are the pile's, so
/// that any wrong frame number shows as a wrong mark.
fn map(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let pages = context.pages();
        for offset in OFFSETS {
            let va = context.area(0) + SPAN + offset;
            context.map(va, pile, Flags::DATA)?;
            context.expect_mapped(va, pile)?;
            context.expect_writes(va, pages, Ok(()), "after mapping")?;
            for (i, pfn) in (0..).zip(pile.pfns()) {
                let window = mm::with(|tables| tables.machine().window(pfn));
                expect_eq!(
                    probe::read(window + 8),
                    Ok(i),
                    "page {i} in the direct map after a write through the new mapping"
                );
            }
            context.expect_absent(va - PAGE, 1)?;
            context.expect_absent(va + pages * PAGE, 1)?;
            // SAFETY: refused.
            let again = mm::with(|tables| unsafe { tables.map(va, pile.pfns(), Flags::DATA) });
            expect_matches!(again.map(|_| ()), Err(MmError::Occupied { va: at }) if at == va, "mapping again");
            context.expect_mapped(va, pile)?;
            mm::with(|tables| {
                // SAFETY: the area is the test's.
                unsafe { tables.unmap(va, pages) }?.commit(tables)
            })?;
            context.expect_absent(va, pages)?;
        }
        Ok(())
    })
}
selftest!("mm.map", map, SIZES, needs EVERYWHERE);

/// Taking the right to write makes writes fault, not reads; giving it back makes them succeed. All
/// pages are touched before each change, so that a translation that was not flushed would show as a
/// write that succeeds, or a fault where there must be none. A page that is not mapped is an error.
fn protect(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let pages = context.pages();
        for offset in OFFSETS {
            let va = context.area(0) + offset;
            let set = |add, remove| {
                mm::with(|tables| {
                    // SAFETY: the area and the frames are the test's.
                    unsafe { tables.protect(va, pages, add, remove) }?.commit(tables)
                })
            };
            context.map(va, pile, Flags::DATA)?;
            context.expect_writes(va, pages, Ok(()), "before")?;
            set(Flags::empty(), Flags::WRITABLE)?;
            context.expect_writes(va, pages, READ_ONLY, "after the right was taken")?;
            context.expect_mapped(va, pile)?;
            set(Flags::WRITABLE, Flags::empty())?;
            context.expect_writes(va, pages, Ok(()), "after the right was given back")?;
            context.expect_mapped(va, pile)?;
            let gap = mm::with(|tables| {
                // SAFETY: takes a right from pages of the test's.
                unsafe { tables.protect(va, pages + 1, Flags::empty(), Flags::WRITABLE) }
            });
            let end = va + pages * PAGE;
            expect_matches!(gap.map(|_| ()), Err(MmError::NotMapped { va }) if va == end, "protecting one page too many");
            mm::with(|tables| {
                // SAFETY: the area is the test's.
                unsafe { tables.unmap(va, pages) }?.commit(tables)
            })?;
        }
        Ok(())
    })
}
selftest!("mm.protect", protect, SIZES, needs EVERYWHERE);

/// Unmapping takes exactly its range: of a mapped range the middle goes and both sides stay; then
/// all of it goes, holes and all. Reads before fill the TLB, so that a stale translation shows.
fn unmap(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let pages = context.pages();
        let unmap = |va, pages| {
            mm::with(|tables| {
                // SAFETY: the area is the test's.
                unsafe { tables.unmap(va, pages) }?.commit(tables)
            })
        };
        for offset in OFFSETS {
            let va = context.area(0) + offset;
            context.map(va, pile, Flags::DATA)?;
            context.expect_mapped(va, pile)?;
            let (from, count) = (pages / 3, pages.div_ceil(3));
            unmap(va + from * PAGE, count)?;
            for (i, pfn) in (0..pages).zip(pile.pfns()) {
                let gone = (from..from + count).contains(&i);
                let expected = if gone { ABSENT_READ } else { Ok(marked(pfn)) };
                expect_eq!(
                    probe::read(va + i * PAGE),
                    expected,
                    "page {i} of {pages} after {count} from {from} on were unmapped"
                );
            }
            unmap(va, pages)?;
            context.expect_absent(va, pages)?;
            context.expect_writes(va, pages, ABSENT_WRITE, "after unmapping")?;
            unmap(va, pages)?;
        }
        Ok(())
    })
}
selftest!("mm.unmap", unmap, SIZES, needs EVERYWHERE);

/// Moved pages are at the new place, in order and with their rights, and not at the old one any
/// more, not even in the TLB.
fn move_between(context: &mut Context, from: u64, to: u64) -> TestResult {
    context.with_frames(|context, pile| {
        let pages = context.pages();
        let (from, to) = (context.area(0) + from, context.area(1) + to);
        context.map(from, pile, Flags::DATA)?;
        context.expect_mapped(from, pile)?;
        context.expect_absent(to, pages)?;
        mm::with(|tables| {
            // SAFETY: the areas are the test's.
            unsafe { tables.move_pages(from, to, pages) }?.commit(tables)
        })?;
        context.expect_mapped(to, pile)?;
        context.expect_writes(to, pages, Ok(()), "at the new place")?;
        context.expect_absent(from, pages)?;
        context.expect_absent(to - PAGE, 1)?;
        context.expect_absent(to + pages * PAGE, 1)
    })
}

/// Both ends at the start of a table: whole tables change hands where the size allows.
fn move_aligned(context: &mut Context) -> TestResult {
    move_between(context, SPAN, SPAN)
}
selftest!("mm.move.aligned", move_aligned, SIZES, needs EVERYWHERE);

/// Ends that lie differently in their tables: every entry is written anew.
fn move_unaligned(context: &mut Context) -> TestResult {
    move_between(context, SPAN + 5 * PAGE, SPAN + 500 * PAGE)
}
selftest!("mm.move.unaligned", move_unaligned, SIZES, needs EVERYWHERE);

/// A move that cannot be made is refused: overlapping ranges, a destination in use, a source that
/// is not mapped, ranges that are none. What was mapped stays as it was.
fn move_refused(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let pages = context.pages();
        let (from, to) = (context.area(0), context.area(1));
        context.map(from, pile, Flags::DATA)?;
        context.map(to, pile, Flags::DATA)?;
        let move_pages = |from, to, pages| {
            // SAFETY: the areas are the test's, and nothing is done.
            mm::with(|tables| unsafe { tables.move_pages(from, to, pages) }.map(|_| ()))
        };
        expect_matches!(
            move_pages(from, from + (pages - 1) * PAGE, pages),
            Err(MmError::BadRange { .. }),
            "onto itself"
        );
        expect_matches!(
            move_pages(from, to, pages),
            Err(MmError::Occupied { .. }),
            "onto pages in use"
        );
        expect_matches!(
            move_pages(from, to + 1, pages),
            Err(MmError::BadRange { .. }),
            "to a broken address"
        );
        expect_matches!(
            move_pages(from, 0x7fff_ffff_f000, 2),
            Err(MmError::BadRange { .. }),
            "across the end of the lower half"
        );
        expect_matches!(
            move_pages(from, to, 0),
            Err(MmError::BadRange { .. }),
            "nothing"
        );
        expect_matches!(
            move_pages(context.area(2), to + SPAN * 2, pages),
            Err(MmError::NotMapped { .. } | MmError::NoTable { .. }),
            "from nowhere"
        );
        context.expect_mapped(from, pile)?;
        context.expect_mapped(to, pile)
    })
}
selftest!("mm.move.refused", move_refused, &[1, 45, 512], needs EVERYWHERE);

/// A frame that was freed and handed out again is the new owner's alone: nothing that mapped it
/// before reaches it any more. Tables that operations replaced are reused as ordinary memory here,
/// and ordinary memory as tables, which Xen refuses if an old mapping was forgotten.
fn reuse(context: &mut Context) -> TestResult {
    for round in 0..4 {
        context.with_frames(|context, pile| {
            let pages = context.pages();
            let va = context.area(round);
            mm::with(|tables| pile.pfns().for_each(|pfn| mark(tables, pfn)));
            context.map(va, pile, Flags::DATA)?;
            mm::with(|tables| {
                // SAFETY: the area and the frames are the test's.
                let change = unsafe { tables.protect(va, pages, Flags::empty(), Flags::WRITABLE) }?;
                change.commit(tables)?;
                // SAFETY: the area and the frames are the test's.
                unsafe { tables.unmap(va, pages / 2 + 1) }?.commit(tables)
            })?;
            context.expect_absent(va, pages / 2 + 1)
        })?;
    }
    Ok(())
}
selftest!("mm.reuse", reuse, &[45, 512, 4096], needs EVERYWHERE);

/// A range in several tables, changed inside one lazy section and looked at only afterwards: one
/// operation's tables are built from what another has queued. This is where a copy of a stale table
/// would lose an update.
fn sequence(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let pages = context.pages();
        let (from, to) = (context.area(0) + 3 * PAGE, context.area(1) + 3 * PAGE);
        mm::with(|tables| {
            tables.lazily(|tables| {
                // SAFETY: the areas and the frames are the test's, and not touched meanwhile.
                unsafe {
                    tables.map(from, pile.pfns(), Flags::DATA)?.defer();
                    tables
                        .protect(from, pages, Flags::empty(), Flags::WRITABLE)?
                        .defer();
                    tables.move_pages(from, to, pages)?.defer();
                }
                Ok(())
            })
        })?;
        context.expect_absent(from, pages)?;
        context.expect_mapped(to, pile)?;
        context.expect_writes(to, pages, READ_ONLY, "after the section")?;
        let entry = mm::with(|tables| in_table(tables, to))?;
        expect_eq!(
            entry & Flags::WRITABLE.bits(),
            0,
            "W in the entry of the first page"
        );
        Ok(())
    })
}
selftest!("mm.sequence", sequence, SIZES, needs EVERYWHERE);
