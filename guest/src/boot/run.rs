//! What the kernel does once it owns its memory, whichever way it came in.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use super::cmdline::{DirectMap, Options, Selection};
use super::info::ConsoleInfo;
use super::levels::Levels;
use crate::monitor::{Leave, Monitor};
use crate::subarch::Subarch;
use crate::{bench, console, event, mm, power, println, selftest, subarch, time, verdict};

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
    if subarch::current().capabilities().events
        && let Err(e) = event::init()
    {
        panic!("events: {e}");
    }
    let tested = match options.selftest {
        Selection::None => None,
        selection => Some(selftest::run(selection, entered.privileged)),
    };
    let bench = match options.bench {
        Selection::None => Ok(0),
        selection => bench::run(&selection),
    };
    if let Err(e) = bench {
        println!("bench: {e}");
        verdict::fail("bench");
        power::off();
    }
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
