//! Running out of memory: an error to whoever asks, and nothing else.

use super::context::Context;
use super::pile::Pile;
use super::{TestResult, Trouble, expect_eq, expect_matches, selftest};
use crate::mm::frames::FrameError;
use crate::mm::{self, Flags, MmError};

/// All frames are taken, through every growth of the direct map, until there are none: the next
/// request is an error, again and again, and so is an operation that needs a table; what is mapped
/// stays, and what needs no memory works. Then all are given back.
fn exhaustion(context: &mut Context) -> TestResult {
    let va = context.area(0);
    let mut pile = Pile::new();
    let taken = mm::with(|tables| {
        tables.ensure_pte_table(va)?;
        loop {
            match tables.alloc_frame() {
                Ok(frame) => pile.push(tables, frame),
                Err(MmError::Frame(FrameError::OutOfMemory)) => break,
                Err(other) => return Err(Trouble::error(other)),
            }
        }
        Ok(())
    });
    let outcome = taken.and_then(|()| without_memory(context, va, &pile));
    let freed = mm::with(|tables| {
        super::context::clear_areas(tables)?;
        pile.free(tables)
    });
    outcome?;
    Ok(freed?)
}
selftest!("oom.exhaustion", exhaustion, needs EVERYWHERE);

fn without_memory(context: &mut Context, va: u64, pile: &Pile) -> TestResult {
    let counts = mm::with(|tables| tables.frames().counts());
    expect_eq!(counts.free, 0, "free frames");
    expect_eq!(counts.mapped, counts.total, "pages reached");
    context.note(format_args!("({} frames)", pile.len()));
    let again = mm::with(|tables| tables.alloc_frame().map(|frame| frame.pfn()));
    expect_matches!(
        again,
        Err(MmError::Frame(FrameError::OutOfMemory)),
        "one more frame"
    );
    let four = || pile.pfns().take(4);
    let there = mm::with(|tables| {
        // SAFETY: the frames and the area are the test's.
        unsafe { tables.map(va, four(), Flags::DATA) }?.commit(tables)
    });
    expect_matches!(there, Ok(()), "mapping where there is a table");
    let elsewhere = mm::with(|tables| {
        // SAFETY: as above.
        unsafe { tables.map(context.area(1), four(), Flags::DATA) }.map(|_| ())
    });
    expect_matches!(
        elsewhere,
        Err(MmError::Frame(FrameError::OutOfMemory)),
        "mapping where a table is needed"
    );
    context.expect_writes(va, 4, Ok(()), "mapped without memory")?;
    mm::with(|tables| {
        // SAFETY: the area is the test's.
        unsafe { tables.unmap(va, 4) }?.commit(tables)
    })?;
    context.expect_absent(va, 4)
}
