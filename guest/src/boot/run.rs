//! What the kernel does once it owns its memory, whichever way it came in.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use super::cmdline::{DirectMap, Options, Selection};
use super::info::ConsoleInfo;
use super::levels::Levels;
use crate::monitor::{Leave, Monitor};
use crate::rulebook::{self, Before};
use crate::subarch::Subarch;
use crate::{bench, console, event, fuzz, mm, power, println, selftest, subarch, time, verdict};

/// What the ways in found out about where the kernel is.
pub(crate) struct Entered {
    /// How the kernel was started, in words.
    pub(crate) via: &'static str,
    /// Whether Xen allows it more than others.
    pub(crate) privileged: bool,
    /// Its console.
    pub(crate) console: ConsoleInfo,
    /// Levels of its page tables.
    pub(crate) levels: Levels,
    /// What there was to see before the kernel took over; only PV has it.
    pub(crate) before: Option<Before>,
}

static ENTRY: AtomicU64 = AtomicU64::new(0);
static READY: AtomicU64 = AtomicU64::new(0);

/// Called by the ways in before anything else.
pub(super) fn entered() {
    ENTRY.store(time::tsc(), Ordering::Relaxed);
}

/// Ticks from the entry until the first byte was handed to the console.
pub(crate) fn ticks_to_first_byte() -> u64 {
    console::first_byte() - ENTRY.load(Ordering::Relaxed)
}

/// Ticks from the entry until the kernel owned its memory.
pub(crate) fn ticks_to_ready() -> u64 {
    READY.load(Ordering::Relaxed) - ENTRY.load(Ordering::Relaxed)
}

/// What it came to; or the end, if it failed.
fn or_fail<T>(what: &str, result: Result<T, impl fmt::Display>) -> T {
    result.unwrap_or_else(|e| {
        println!("{what}: {e}");
        verdict::fail(what);
        power::off()
    })
}

/// Judges Xen by the rules and makes random requests, as far as asked for.
fn judge(entered: &Entered, options: &Options<'_>) -> Option<rulebook::Summary> {
    if options.rules == Selection::None && options.twin.is_none() {
        return None;
    }
    let before = entered.before.as_ref().ok_or("the rules are about PV");
    let before = or_fail("rules", before);
    let judged = match options.rules {
        Selection::None => None,
        selection => Some(or_fail("rules", rulebook::run(selection, before))),
    };
    if let Some(summary) = judged.filter(|summary| !summary.is_good()) {
        verdict::fail(summary.reason());
        power::off();
    }
    if let Some(twins) = options.twin
        && !or_fail("twin", rulebook::twins(twins, before))
    {
        verdict::fail("twin");
        power::off();
    }
    judged
}

/// Does what the command line asks for, gives the verdict and ends the run.
pub(crate) fn run(entered: &Entered, options: &Options<'_>) -> ! {
    if options.directmap == DirectMap::Full
        && let Err(e) = mm::with(|tables| tables.populate_all())
    {
        panic!("memory: {e}");
    }
    READY.store(time::tsc(), Ordering::Relaxed);
    if let Some(kind) = options.provoke {
        super::provoke::provoke(kind);
    }
    if let Err(e) = event::init() {
        panic!("events: {e}");
    }
    // First: the rules are about a kernel that has done nothing yet.
    let judged = judge(entered, options);
    let fuzzed = options.fuzz.map(|run| or_fail("fuzz", fuzz::run(run)));
    let tested = match options.selftest {
        Selection::None => None,
        selection => Some(selftest::run(selection, entered.privileged)),
    };
    match options.bench {
        Selection::None => 0,
        selection => or_fail("bench", bench::run(&selection)),
    };
    let mut monitor = Monitor::new(entered.privileged, tested);
    let leave = if options.monitor {
        monitor.run(entered.console)
    } else {
        Leave::Poweroff
    };
    let counts = mm::with(|tables| tables.frames().counts());
    let facts = fmt::from_fn(|f| {
        write!(f, "via=\"{}\" pages={}", entered.via, counts.total)?;
        write!(f, " mapped={} free={}", counts.mapped, counts.free)?;
        if subarch::current() != Subarch::XenPv {
            write!(f, " levels={}", entered.levels.fold.top())?;
        }
        judged.map_or(Ok(()), |summary| write!(f, " {summary}"))?;
        fuzzed.map_or(Ok(()), |done| write!(f, " fuzzed={done}"))?;
        monitor
            .tested
            .map_or(Ok(()), |summary| write!(f, " {summary}"))
    });
    match monitor.tested {
        Some(summary) if !summary.is_good() => verdict::fail(summary.reason()),
        _ => verdict::pass(facts),
    }
    match leave {
        Leave::Poweroff => power::off(),
        Leave::Reboot => power::reboot(),
    }
}
