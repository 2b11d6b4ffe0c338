//! Runs tests in order, checks what they leave behind, and counts.

use core::fmt::{self, Write};

use heapless::{String, Vec};
use hypercall::queue::Access;
use hypercall::{LazyMmu, Pfn};
use linker::Image;
use linkme::distributed_slice;

use super::{Context, SELFTESTS, Test, TestResult, Trouble, context, reason};
use crate::checks::{NAMED, Named, TESTERS};
use crate::console::print;
use crate::control::{self, End};
use crate::heap;
use crate::mm::Running;
use crate::mm::frames::{CHUNK, Counts, Frames};
use crate::mm::state::Kind;
use crate::mm::{self, Current, MmError, Tables};
use crate::monitor::Monitor;
use crate::monitor::commands::command;
use crate::probe;
use crate::selection::Selection;
use crate::tested::Summary;
use crate::{capability, println};

/// Tests that can be registered; more are an error.
const MOST: usize = 256;
/// Bytes of the stack that nothing may ever have used.
const STACK_LEFT: u64 = 4096;
/// Columns of a test's name and the dots behind it.
const COLUMN: usize = 42;

/// What tests may allocate on the heap, in bytes: it grows before frames are counted.
const HEAP: usize = 128 * 1024;

/// Whether the name of a test begins so.
fn exists(name: &str) -> bool {
    (SELFTESTS.iter()).any(|test| test.item.name.starts_with(name))
}

#[distributed_slice(NAMED)]
static NAMES: Named = Named {
    word: "selftest",
    exists,
};

#[distributed_slice(TESTERS)]
static TESTER: fn(Selection<'_>, bool) -> Summary = run;

/// Runs the selected tests, group by group.
// Tests need the stack: what ran before them is not to be part of the same frame.
#[inline(never)]
fn run(selection: Selection<'_>, privileged: bool) -> Summary {
    let mut tests: Vec<&'static Test, MOST> = Vec::new();
    let mut summary = Summary::default();
    for test in SELFTESTS {
        if selection.includes(test.item.name) && tests.push(test).is_err() {
            summary.note("selftest", Err(Trouble::error("too many self-tests")), "");
            return summary;
        }
    }
    let is_named = !matches!(selection, Selection::All);
    tests.sort_unstable_by_key(|test| (test.group(), test.file, test.line));
    if let Err(e) = mm::with(context::prepare) {
        summary.note("selftest", Err(Trouble::error(e)), "");
        return summary;
    }
    if !heap::grow_to(HEAP) {
        summary.note(
            "selftest",
            Err(Trouble::error("no memory for the heap")),
            "",
        );
        return summary;
    }
    let mut rest = &tests[..];
    'all: while let Some(first) = rest.first() {
        let (group, after) =
            rest.split_at(rest.partition_point(|test| test.group() <= first.group()));
        rest = after;
        for test in group {
            if let Some(end) = control::attend() {
                println!("asked to {end}: no more self-tests");
                summary.cut_short = true;
                break 'all;
            }
            match test.pages {
                [] => summary.one(test, None, privileged, is_named),
                sizes => {
                    for &pages in sizes {
                        summary.one(test, Some(pages), privileged, is_named);
                    }
                }
            }
        }
        summary.audit(first.group());
    }
    if summary.run > 0 {
        summary.stack();
    }
    summary
}

/// What the names of tests begin with, each once.
fn groups() -> impl fmt::Display {
    fmt::from_fn(|f| {
        let mut last = "";
        let next = |last: &str| {
            let groups = SELFTESTS.iter().map(Test::group);
            groups.filter(|group| *group > last).min()
        };
        while let Some(group) = next(last) {
            write!(f, " {group}")?;
            last = group;
        }
        Ok(())
    })
}

/// Tests on demand.
fn command(monitor: &mut Monitor, argument: &str) -> Option<End> {
    let selection = match argument {
        "" => Selection::All,
        names => Selection::Named(names),
    };
    let mut names = argument.split(',').filter(|_| !argument.is_empty());
    // Nothing is run then, and nothing is wrong with the kernel.
    if let Some(name) = names.find(|name| name.is_empty() || !exists(name)) {
        println!(
            "selftest: there is no '{name}'; names begin with one of:{}",
            groups()
        );
        return None;
    }
    let summary = run(selection, monitor.privileged);
    println!("{summary}");
    let before = monitor.tested.unwrap_or_default();
    monitor.tested = Some(before.and(summary));
    None
}
command!(
    "selftest",
    "[NAMES]",
    "run the self-tests, or those whose names start with one of NAMES (comma-separated)",
    needs EVERYWHERE,
    command
);

impl Summary {
    fn one(&mut self, test: &'static Test, pages: Option<u64>, privileged: bool, is_named: bool) {
        match pages {
            Some(pages) => announce(format_args!("{}.{pages}", test.item.name)),
            None => announce(format_args!("{}", test.item.name)),
        }
        if let Err(lacking) = capability::admits(&test.item) {
            return self.note(test.item.name, Err(Trouble::skip(lacking)), "");
        }
        let mut context = Context::new(pages.unwrap_or(0), privileged, is_named);
        let before = mm::with(|tables| tables.frames().counts());
        let outcome = (test.run)(&mut context);
        // A test that failed is told of by its own words; only its traces are removed.
        let words = reason();
        let tidied = tidy(before, context.kept());
        if outcome.is_err() {
            super::explain(words);
        }
        let outcome = match outcome {
            Ok(()) | Err(Trouble::Skip) if tidied.is_err() => tidied,
            other => other,
        };
        self.note(test.item.name, outcome, context.remark());
    }

    fn audit(&mut self, group: &'static str) {
        announce(format_args!("{group}.audit"));
        let outcome = match mm::with_all(Tables::audit) {
            Ok(report) if report.is_clean() => Ok(()),
            Ok(report) => Err(Trouble::fail(report)),
            Err(error) => Err(Trouble::error(error)),
        };
        self.note(group, outcome, "");
    }

    /// Looks how deep the stack was used so far: it began as zeros. Going beyond its end kills the
    /// domain without a word, so coming near it is a failure.
    fn stack(&mut self) {
        announce(format_args!("stack.depth"));
        let stack = Image::current().stack;
        let used = (stack.start..stack.end)
            .step_by(8)
            .find(|&va| probe::read(va) != Ok(0));
        let left = used.unwrap_or(stack.end) - stack.start;
        let outcome = if left >= STACK_LEFT {
            Ok(())
        } else {
            Err(Trouble::fail(format_args!(
                "expected {STACK_LEFT} bytes of the stack never used, found {left}"
            )))
        };
        let mut remark = String::<64>::new();
        // A remark that does not fit is cut.
        let _ = write!(
            remark,
            "({left} of {} bytes never used)",
            stack.end - stack.start
        );
        self.note("stack.depth", outcome, &remark);
    }

    /// Ends a test's line and counts it.
    fn note(&mut self, name: &'static str, outcome: TestResult, remark: &str) {
        self.run += 1;
        let word = match outcome {
            Ok(()) if remark.is_empty() => return println!("pass"),
            Ok(()) => return println!("pass {remark}"),
            Err(Trouble::Skip) => {
                self.skipped += 1;
                return println!("skip: {}", reason());
            }
            Err(Trouble::Fail) => "FAIL",
            Err(Trouble::Error) => "ERROR",
        };
        self.failed += 1;
        self.first.get_or_insert(name);
        println!("{word}: {}", reason());
    }
}

/// Prints a test's name before it runs: should it crash, this is all there is.
fn announce(name: fmt::Arguments<'_>) {
    let mut text = String::<64>::new();
    // A name that does not fit is cut.
    let _ = write!(text, "{name} ");
    print(format_args!("selftest {text:.<COLUMN$} "));
}

/// Removes what a test left and checks that nothing else is left: lazy mode, the queue, frames.
fn tidy(before: Counts, kept: u64) -> TestResult {
    let mode = Current.with(|mmu| *mmu.lazy());
    if mode != LazyMmu::new() {
        // As often as it was entered: leaving is never refused then, and a failed flush is told of
        // by what is missing afterwards.
        for _ in 0..mode.pause_count() {
            let _ = Current.with(|mmu| mmu.resume());
        }
        for _ in 0..mode.enable_count() {
            let _ = Current.with(|mmu| mmu.disable());
        }
        return Err(Trouble::fail(format_args!(
            "expected lazy mode as before the test, found {mode:?}"
        )));
    }
    let queued = Current.with(|mmu| mmu.batch().len());
    if queued != 0 {
        let _ = mm::with(Tables::flush);
        return Err(Trouble::fail(format_args!(
            "expected nothing queued after the test, found {queued} updates"
        )));
    }
    mm::with(|tables| {
        context::clear_areas(tables)?;
        // Spaces that ended may be kept for the next ones.
        tables.release_spares()?;
        // Frames whose use Xen refused come back with the next one asked for.
        let frame = tables.alloc_frame()?;
        tables.free_frame(frame)?;
        tables.flush()
    })?;
    let (expected, found) = mm::with(|tables| in_use(tables, before))?;
    let expected = expected + kept;
    if expected == found {
        return Ok(());
    }
    Err(Trouble::fail(format_args!(
        "expected {expected} frames in use after the test, found {found}"
    )))
}

/// How many frames must be in use, and how many are.
///
/// Growth of the direct map is accounted for to the frame: what each chunk costs, and frames in it
/// that are not free memory.
fn in_use(tables: &Tables<Running>, before: Counts) -> Result<(u64, u64), MmError> {
    let after = tables.frames().counts();
    let mut expected = before.mapped - before.free;
    for pfn in before.mapped..after.mapped {
        let pfn = Pfn::truncate(pfn);
        let (state, _) = tables.frames().states(pfn)?;
        let special = !matches!(state.kind, Kind::Free | Kind::Owned | Kind::Table);
        expected += u64::from(special);
    }
    let chunks = before.mapped.div_ceil(CHUNK)..after.mapped.div_ceil(CHUNK);
    expected += chunks.map(Frames::frames_for_chunk).sum::<u64>();
    Ok((expected, after.mapped - after.free))
}
