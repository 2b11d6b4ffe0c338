//! Frames: who has them, what they are, and the direct map that grows to reach them.

extern crate alloc;

use alloc::vec::Vec;

use hypercall::Pfn;

use super::context::{Context, PAGE, mark, marked, need_frames};
use super::pile::Pile;
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::mm::entry::L1;
use crate::mm::frames::{CHUNK, Frame};
use crate::mm::fresh::Fresh;
use crate::mm::machine::Machine;
use crate::mm::state::{Kind, State};
use crate::mm::{self, Flags, MmError};

/// Frames handed out are distinct and writable, hold what is written to them, and are counted; given
/// back, they are free again and the counts are as before.
fn alloc(context: &mut Context) -> TestResult {
    let count = context.pages() as usize;
    mm::with(|tables| {
        need_frames(tables, count as u64)?;
        let before = tables.frames().counts();
        let pile = Pile::of(tables, count)?;
        pile.pfns().for_each(|pfn| mark(tables, pfn));
        for pfn in pile.pfns() {
            let memory = tables.machine().memory(pfn).cast::<u64>();
            // SAFETY: the frame is the test's and mapped since it was handed out.
            let found = unsafe { memory.read_volatile() };
            expect_eq!(found, marked(pfn), "mark of pfn {pfn}");
            let state = tables.frames().states(pfn);
            expect_eq!(
                state.map(|s| s.0.kind),
                Ok(Kind::Owned),
                "record of pfn {pfn}"
            );
        }
        pile.free(tables)?;
        let after = tables.frames().counts();
        if before.mapped == after.mapped {
            expect_eq!(after, before, "counts");
        }
        Ok(())
    })
}
selftest!("frames.alloc", alloc, &[1, 512, 1024], needs EVERYWHERE);

/// The life of a table, with what the record says at each step, and twice over, so that a frame
/// that came back with the wrong rights shows.
fn life(context: &mut Context) -> TestResult {
    let va = context.area(0);
    for round in 0..2 {
        mm::with(|tables| {
            let place = tables.pmd_slot(va)?.place();
            let mut frame = tables.alloc_frame()?;
            *tables.frame_memory(&mut frame) = [!0; 512];
            let pfn = frame.pfn();
            let state = |tables: &crate::mm::Tables<_>| tables.frames().states(pfn).map(|s| s.0);
            expect_eq!(
                state(tables),
                Ok(State::of(Kind::Owned)),
                "handed out, round {round}"
            );
            let fresh = Fresh::<L1>::empty(tables, frame);
            let sealed = fresh.seal(tables)?;
            expect_eq!(state(tables), Ok(State::table(1, 0, false)), "sealed");
            // SAFETY: nothing is mapped below the entry.
            unsafe { tables.link_table(place, sealed, Flags::TABLE) }?;
            expect_eq!(state(tables), Ok(State::table(1, 1, false)), "linked");
            // SAFETY: nothing is mapped below the entry.
            let table = unsafe { tables.unlink_table(place) }?;
            let table = table.ok_or_else(|| Trouble::error("the table is still referred to"))?;
            expect_eq!(state(tables), Ok(State::table(1, 0, false)), "unlinked");
            table.release(tables)?;
            tables.flush()?;
            expect_eq!(state(tables), Ok(State::of(Kind::Free)), "released");
            Ok(())
        })?;
    }
    Ok(())
}
selftest!("frames.life", life, needs EVERYWHERE);

/// A table that two entries refer to survives the loss of one.
fn shared_table(context: &mut Context) -> TestResult {
    let (one, two) = (context.area(0), context.area(1));
    context.with_frames(|context, pile| {
        context.map(one, pile, Flags::DATA)?;
        mm::with(|tables| {
            let (first, second) = (tables.pmd_slot(one)?, tables.pmd_slot(two)?);
            let entry = tables.get(first).with_flags(Flags::TABLE);
            // SAFETY: nothing is mapped at the second place.
            unsafe { tables.set_pmd(second.place(), entry) }
        })?;
        context.expect_mapped(two, pile)?;
        let gone = mm::with(|tables| {
            let first = tables.pmd_slot(one)?;
            // SAFETY: the area is the test's.
            Ok::<_, MmError>(unsafe { tables.unlink_table(first.place()) }?.is_some())
        })?;
        expect_eq!(gone, false, "the table is given up although in use");
        context.expect_absent(one, 1)?;
        context.expect_mapped(two, pile)
    })
}
selftest!("frames.shared_table", shared_table, &[16], needs EVERYWHERE);

/// When frames run low the direct map grows by one table that brings some, and the new memory can be
/// used at once. Tables before it, of memory that is the p2m list or a module, bring hardly any.
/// What the growth itself costs is checked after the test, as for every test.
fn growth(context: &mut Context) -> TestResult {
    let (before, after, found) = mm::with(|tables| {
        if tables.frames().next_chunk().is_none() {
            return Err(Trouble::skip("all memory is mapped already"));
        }
        let before = tables.frames().counts();
        let mut pile = Pile::new();
        let grown = (|| {
            while tables.frames().counts().mapped == before.mapped {
                let frame = tables.alloc_frame()?;
                pile.push(tables, frame);
            }
            let mut frame = tables.alloc_frame()?;
            let memory = tables.frame_memory(&mut frame);
            memory[511] = 0x6e77;
            let found = memory[511];
            pile.push(tables, frame);
            Ok::<_, MmError>(found)
        })();
        pile.free(tables)?;
        Ok((before, tables.frames().counts(), grown?))
    })?;
    expect_eq!(found, 0x6e77, "a word of the new memory");
    let grown = after.mapped - before.mapped;
    let chunks = grown.div_ceil(CHUNK);
    let passed_over = before.mapped..before.mapped + chunks.saturating_sub(1) * CHUNK;
    let usable = mm::with(|tables| {
        let kind = |pfn| {
            tables
                .frames()
                .states(Pfn::truncate(pfn))
                .map(|(state, _)| state.kind)
        };
        let is_usable = |kind| matches!(kind, Ok(Kind::Free | Kind::Owned | Kind::Table));
        passed_over
            .map(kind)
            .filter(|kind| is_usable(*kind))
            .count() as u64
    });
    let few = usable <= 8 * chunks;
    expect_eq!(
        few && grown > 0,
        true,
        "pages gained: {grown}, {usable} of them too early"
    );
    context.note(format_args!(
        "({} -> {} pages mapped)",
        before.mapped, after.mapped
    ));
    Ok(())
}
selftest!("frames.growth", growth, needs EVERYWHERE);

/// Memory that was code is free memory again, by whatever way it ceased to be mapped: the allocator
/// writes to what it is given, and so does the next who gets it. Whoever gives it back while it is
/// executable somewhere is refused.
fn code_freed(context: &mut Context) -> TestResult {
    let va = context.area(0);
    for thawed in [false, true] {
        let pile = mm::with(|tables| Pile::of(tables, 1))?;
        context.map(va, &pile, Flags::CONST)?;
        mm::with_all(|tables| {
            // SAFETY: the page and its frame are the test's; nobody executes or writes it.
            unsafe {
                tables.set_memory_x(va, 1)?.commit(tables)?;
                if thawed {
                    tables.set_memory_nx(va, 1)?.commit(tables)?;
                }
                tables.unmap(va, 1)?.commit(tables)?;
            }
            pile.free(tables)?;
            tables.flush()
        })?;
        // What was freed last is handed out first.
        let pile = mm::with(|tables| Pile::of(tables, 1))?;
        mm::with(|tables| pile.free(tables))?;
    }
    Ok(())
}
selftest!("frames.code_freed", code_freed, needs EVERYWHERE);

/// A mapping that owns its frames gives them back when nothing leads to them any more: each page was
/// touched before, so that a translation that was kept would show, and each frame is a table next,
/// which Xen refuses if anything has it writable.
fn owned(context: &mut Context) -> TestResult {
    let (va, count) = (context.area(0) + 5 * PAGE, context.pages());
    mm::with(|tables| need_frames(tables, 2 * count))?;
    // With room for the frames that the pile itself takes: nothing is allocated while the page tables
    // are in use.
    let mut frames = Vec::<Frame>::with_capacity(count as usize + 8);
    let mapping = mm::with(|tables| {
        let mut pile = Pile::of(tables, count as usize)?;
        frames.extend(core::iter::from_fn(|| pile.pop()));
        tables.map_frames(va, frames.drain(..), Flags::DATA)
    })?;
    let pages = mapping.pages();
    context.expect_writes(va, pages, Ok(()), "while they are mapped")?;
    let mut trouble = Ok(());
    mm::with(|tables| {
        let unmapped = tables.unmap_frames(mapping, |tables, frame| {
            let table = Fresh::<L1>::empty(tables, frame).seal(tables);
            trouble = trouble.and(table.and_then(|table| table.release(tables)));
        });
        unmapped.map_err(|refused| refused.error)
    })?;
    trouble?;
    context.expect_absent(va, pages)
}
selftest!("frames.owned", owned, &[1, 50, 600], needs EVERYWHERE);
