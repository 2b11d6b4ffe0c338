//! Running out of memory: an error to whoever asks, and nothing else.

use heapless::Vec;

use super::context::Context;
use super::pile::Pile;
use super::{TestResult, Trouble, expect_eq, expect_matches, selftest};
use crate::mm::frames::FrameError;
use crate::mm::{self, Flags, MmError};
use crate::stack::{self, NoStack};
use crate::task;

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

/// Frames that are left to threads: two stacks, and page tables.
const LEFT: usize = 24;

/// Threads are made until there is no memory for the stack of another: that one is an error, what it had
/// is given back, and those that there are run and end.
fn threads(context: &mut Context) -> TestResult {
    let mut pile = Pile::new();
    let taken = mm::with(|tables| {
        let mut left = Vec::<_, LEFT>::new();
        loop {
            match tables.alloc_frame() {
                Ok(frame) => {
                    if let Err(frame) = left.push(frame) {
                        pile.push(tables, frame);
                    }
                }
                Err(MmError::Frame(FrameError::OutOfMemory)) => break,
                Err(other) => return Err(Trouble::error(other)),
            }
        }
        let mut left = left.into_iter();
        Ok(left.try_for_each(|frame| tables.free_frame(frame))?)
    });
    let outcome = taken.and_then(|()| threads_without_memory(context));
    let trimmed = stack::trim_all();
    mm::with(|tables| pile.free(tables))?;
    trimmed?;
    outcome
}
selftest!("oom.threads", threads, needs EVERYWHERE);

fn threads_without_memory(context: &mut Context) -> TestResult {
    let mut made = Vec::<_, LEFT>::new();
    let refused = loop {
        match task::spawn("takes memory", || 1) {
            // There is room: each takes more than a frame.
            Ok(thread) => drop(made.push(thread)),
            Err(e) => break e,
        }
    };
    let count = made.len();
    let sum: u32 = made.into_iter().filter_map(task::JoinHandle::join).sum();
    context.note(format_args!("({count} threads)"));
    expect_matches!(
        refused,
        task::SpawnError::Stack(NoStack::Mm(MmError::Frame(FrameError::OutOfMemory))),
        "a thread too many"
    );
    expect_eq!(sum as usize, count, "threads that ran");
    expect_eq!(count > 0, true, "a thread that there was memory for");
    // What they had is there for the next.
    let again = task::spawn("has memory", || 1)?;
    expect_eq!(again.join(), Some(1), "a thread after the others");
    Ok(())
}

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
        // SAFETY: the frames and the area are the test's.
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
