//! Programs of whose wants one is refused, each in its turn: whichever it is, for a program that is begun,
//! maps, moves, forks, runs another and ends, it is told so or ended. The page tables are sound then, and
//! another program, run after it, finds all the memory that there was.

extern crate alloc;

use xen_pv_rt::start_info::ConsoleInfo;

use super::context::{Context, need_frames};
use super::starved::{self, KILLED, REFUSED};
use super::{TestResult, Trouble, expect_eq, programs, selftest};
use crate::ended::Ended;
use crate::mm::{self, Tables};
use crate::refusals::{self, Refusals};
use crate::{stack, user, xen};

/// Frames that the program needs.
const FRAMES: u64 = 512;
/// Frames of a domain in which each round is followed by an audit.
const ALL: u64 = 65_536;
/// In a run of all tests each one of so many is refused: which of them depends on the memory there is.
const EACH: usize = 8;
/// Things of a kind that it never wants.
const MOST: u64 = 4096;

/// Refuses the first, then the second, and so on, until there are not so many.
fn each(context: &mut Context, what: &str, refusals: &Refusals) -> TestResult {
    programs::need_fault_addresses()?;
    mm::with(|tables| need_frames(tables, FRAMES))?;
    let archive = starved::archive();
    let run = || user::run_from(&archive, ConsoleInfo::Hypervisor, "/t", b"");
    let runs = || {
        let ended = run().map_err(Trouble::error)?;
        stack::trim_all()?;
        expect_eq!(
            ended.status(),
            0,
            "the end of a program that is refused nothing"
        );
        Ok(())
    };
    // What is kept for the next program is there from now on.
    runs()?;
    let counts = mm::with(|tables| tables.frames().counts());
    let (before, total) = (counts.free, counts.total);
    let [mut not_begun, mut refused, mut killed, mut went_on] = [0; 4];
    let (first, step) = match context.is_named() {
        true => (1, 1),
        false => (1 + total / 1024 % EACH as u64, EACH),
    };
    for number in (first..MOST).step_by(step) {
        refusals.arm(number);
        let ended = run();
        let was_refused = refusals.disarm();
        stack::trim_all()?;
        // An audit takes as long as there is memory.
        if total <= ALL || number.is_multiple_of(16) {
            mm::with_all(Tables::audit).map_err(Trouble::error)?;
        }
        // What Xen refused to take apart is taken apart with the next.
        runs()?;
        let free = mm::with(|tables| tables.frames().counts().free);
        if free != before {
            return Err(Trouble::fail(format_args!(
                "{what} {number} refused: {free} frames are free, not {before}, after {ended:?}"
            )));
        }
        match ended.map(Ended::status) {
            Ok(0) if !was_refused => {
                context.note(format_args!(
                    "({} {what}: {not_begun} times not begun, {refused} refused, {killed} ended, \
                     {went_on} went on)",
                    number - 1
                ));
                return Ok(());
            }
            Ok(0) => went_on += 1,
            Ok(REFUSED) => refused += 1,
            Ok(KILLED) => killed += 1,
            Err(_) => not_begun += 1,
            Ok(other) => {
                return Err(Trouble::fail(format_args!(
                    "{what} {number} refused: it ends with {other:#x}"
                )));
            }
        }
    }
    Err(Trouble::fail(format_args!(
        "it wants more than {MOST} {what}"
    )))
}

/// Each look at whether there are frames.
fn frames(context: &mut Context) -> TestResult {
    each(context, "looks for frames", &refusals::FRAMES)
}
selftest!("programs.no_frames", frames, needs EVERYWHERE);

/// Each thing that grows on the heap.
fn heap(context: &mut Context) -> TestResult {
    each(context, "growths on the heap", &refusals::HEAP)
}
selftest!("programs.no_heap", heap, needs EVERYWHERE);

/// Each hypercall about memory and registers.
fn hypercalls(context: &mut Context) -> TestResult {
    xen::look_at_calls(true);
    let result = each(context, "hypercalls", &refusals::HYPERCALLS);
    xen::look_at_calls(false);
    result
}
selftest!("programs.no_hypercall", hypercalls, needs XEN_TABLES);
