//! The page tables' fuzzer on the running Xen: what [`mm::fuzz`] does on the host's model, with
//! the processor's own translations to look through.
//!
//! A divergence is printed with its seed and step, and the same seed replays it, here or on the
//! model.
#![allow(
    clippy::result_large_err,
    reason = "a divergence ends the run, and is printed from where it is"
)]

use core::fmt::{self, Write};

use linkme::distributed_slice;

use crate::checks::{self, Asked, CHECKS, Check, Facts, Failed};
use crate::lock::Lock;
use crate::mm::fuzz::{Divergence, Fuzzer, Probe, window};
use crate::mm::layout;
use crate::mm::{self, MmError, Tables};
use crate::options::Fuzz;
use crate::println;
use crate::probe;
use crate::rank;
use crate::time;

/// Pages of the window: 8 MiB, four tables.
const PAGES: usize = 2048;
/// Frames that are mapped in it.
const POOL: usize = 640;
/// Operations after which all pages are compared, and not only those an operation touched.
const CHECK_EVERY: u64 = 4096;

static FUZZER: Lock<Fuzzer<PAGES, POOL>, rank::Check> = Lock::new(Fuzzer::EMPTY);

/// Why a run ended early.
#[derive(Debug)]
enum Trouble {
    /// It did not begin.
    Begin(MmError),
    /// The tables are not what they should be.
    Diverged(Divergence),
    /// The tables are what was asked for, but not in order.
    Audit(mm::audit::Report),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Begin(e) => e.fmt(f),
            Trouble::Diverged(divergence) => divergence.fmt(f),
            Trouble::Audit(report) => report.fmt(f),
        }
    }
}

impl From<Divergence> for Trouble {
    fn from(divergence: Divergence) -> Self {
        Trouble::Diverged(divergence)
    }
}

impl From<MmError> for Trouble {
    fn from(error: MmError) -> Self {
        Trouble::Begin(error)
    }
}

/// Looks at memory as any code does, and survives the fault.
struct Processor;

impl Probe for Processor {
    fn load(&mut self, va: u64) -> Option<u64> {
        probe::read(va).ok()
    }

    fn store(&mut self, va: u64, value: u64) -> bool {
        // SAFETY: the fuzzer stores to its own frames only, in its window and in the direct map.
        unsafe { probe::write(va, value) }.is_ok()
    }
}

#[distributed_slice(CHECKS)]
static CHECK: Check = Check {
    order: 1,
    run: check,
};

/// Fuzzes, if that is asked for.
fn check(asked: &Asked<'_>, facts: &mut Facts) -> Result<(), Failed> {
    if let Some(fuzz) = asked.options.fuzz {
        let done = checks::or_fail("fuzz", run(fuzz))?;
        // There is room for all checks.
        let _ = write!(facts, " fuzzed={done}");
    }
    Ok(())
}

/// Carries out a run, prints what was done and how fast, and returns the number of operations.
///
/// # Errors
/// A divergence, or no memory to begin with.
fn run(fuzz: Fuzz) -> Result<u64, Trouble> {
    let Fuzz { seed, ops } = fuzz;
    let mut fuzzer = FUZZER.lock();
    mm::with_all(|tables| fuzzer.begin(tables, window::<layout::Regions>(), seed))?;
    let start = time::monotonic().unwrap_or(0);
    for step in 1..=ops {
        // One at a time: interrupts come in between.
        mm::with_all(|tables| {
            fuzzer.step(tables, &mut Processor)?;
            match step % CHECK_EVERY {
                0 => fuzzer.check(tables),
                _ => Ok(()),
            }
        })?;
    }
    let end = time::monotonic().unwrap_or(0);
    mm::with_all(|tables| fuzzer.end(tables, &mut Processor))?;
    let audit = mm::with_all(Tables::audit)?;
    if !audit.is_clean() {
        return Err(Trouble::Audit(audit));
    }
    let counts = fuzzer.counts();
    let rate = ops.saturating_mul(1_000_000_000) / (end - start).max(1);
    println!(
        "fuzz: seed {seed:#x}, {ops} operations, {rate} a second, {} rightly refused, \
         {} entries compared, {} pages accessed, no divergence",
        counts.refused, counts.compared, counts.touched
    );
    Ok(ops)
}
