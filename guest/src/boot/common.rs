//! The boot from where a way in knows what it was told: the same for all of them.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use linker::tables::Level;
use marks::init;

use crate::before::Before;
use crate::booted::{self, Booted};
use crate::checks::{self, Asked, Failed};
use crate::control::{self, End};
use crate::init::{self, initcall};
use crate::mm::MmError;
use crate::mm::levels::Levels;
use crate::mm::takeover::Summary;
use crate::options::{self, DirectMap, Options, Provoke};
use crate::refused::Refused;
use crate::subarch::{self, Subarch};
use crate::{capability, console, mm, power, println, time, verdict};
use xen_pv_rt::start_info::{ConsoleInfo, Module};

/// What a way in found out about where the kernel is.
pub(super) struct Entered<'a> {
    /// How the kernel was started, in words.
    pub(super) via: &'static str,
    /// What told the way in so.
    pub(super) by: &'a str,
    /// The command line.
    pub(super) cmdline: &'a [u8],
    /// Whether Xen allows it more than others.
    pub(super) privileged: bool,
    /// Its console.
    pub(super) console: ConsoleInfo,
    /// What was loaded with the kernel.
    pub(super) module: Option<Module>,
    /// What there was to see before the kernel took over; only PV has it.
    pub(super) before: Option<Before>,
}

static READY: AtomicU64 = AtomicU64::new(0);

/// The first line, as soon as there is a console.
#[init]
pub(super) fn greet(on: impl fmt::Display) {
    println!(
        "{} {} on {on}",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION")
    );
}

/// Ticks from the entry until the first byte was handed to the console.
pub(crate) fn ticks_to_first_byte() -> u64 {
    time::from_entry(console::first_byte())
}

/// Ticks from the entry until the kernel owned its memory.
pub(crate) fn ticks_to_ready() -> u64 {
    time::from_entry(READY.load(Ordering::Relaxed))
}

/// Maps all memory, if that is asked for.
#[init]
fn populate(options: &Options<'_>) -> Result<(), Refused> {
    if options.directmap == DirectMap::Full {
        mm::with(|tables| tables.populate_all())?;
    }
    Ok(())
}
initcall!("directmap", Memory, after [], needs EVERYWHERE, populate);

/// Makes the init calls of a level.
#[init]
fn make(level: Level, options: &Options<'_>) {
    if let Err((name, e)) = init::make(level, options) {
        panic!("{name}: {e}");
    }
}

/// Understands the command line, before the page tables are taken over.
#[init]
pub(super) fn prepare<'a>(subarch: Subarch, entered: &Entered<'a>) -> Options<'a> {
    assert_eq!(
        subarch::current(),
        subarch,
        "the way in says how it runs, and then it is so"
    );
    let Entered { via, by, .. } = entered;
    let line = entered.cmdline;
    let options = options::parse(line)
        .and_then(|options| options::check_names(line, checks::exists).map(|()| options))
        .unwrap_or_else(|e| {
            println!("{e}");
            verdict::fail(e.summary());
            power::off()
        });
    console::set_filter(options.log.clone());
    log::info!(target: "boot", "{via}, {by}, command line '{}'", line.escape_ascii());
    for passed in options::passed_over(line) {
        let (word, whose) = (passed.word.escape_ascii(), passed.whose);
        log::info!(target: "boot", "passed over '{word}': for {whose}");
    }
    if !cfg!(feature = "programs") && entered.module.is_some() {
        log::warn!(
            target: "boot",
            "a ramdisk was loaded, and nothing reads it: this image was built without what runs programs"
        );
    }
    log::info!(target: "mmu", "{}", Levels::current());
    options
}

/// Boots on from where the way in has taken over the page tables: makes the init calls, does what
/// was asked for as part of the boot, and goes on to what comes after.
#[init]
pub(super) fn start_kernel_common(
    entered: &Entered<'_>,
    options: &Options<'_>,
    report: Result<Summary, MmError>,
) -> ! {
    let report = report.unwrap_or_else(|e| panic!("memory: {e}"));
    log::info!(
        target: "mm",
        "took over {} tables and {} pages of the initial mapping, {} pages are free",
        report.initial_tables, report.initial_pages, report.reclaimed
    );
    if report.beyond > 0 {
        log::warn!(
            target: "mm",
            "{} pages are beyond what the direct map has room for, and stay unused", report.beyond
        );
    }
    if log::log_enabled!(target: "mm", log::Level::Info) {
        crate::address_map::print();
    }
    run(entered, options)
}

/// Refuses to go on with what the command line asks for once Xen's tools have asked for the end.
#[init]
fn go_on() -> Result<(), Failed> {
    match control::attend() {
        Some(end) => Err(checks::reason(format_args!(
            "asked to {end} before it was done"
        ))),
        None => Ok(()),
    }
}

/// Makes the init calls and whatever else the command line has made part of the boot.
#[init]
fn run(entered: &Entered<'_>, options: &Options<'_>) -> ! {
    make(Level::Memory, options);
    READY.store(time::tsc(), Ordering::Relaxed);
    // What is counted from the start begins here, also where nothing is logged.
    time::since_start();
    for capability in capability::lacking() {
        log::info!(target: "boot", "{}", capability.because());
    }
    // What needs all vCPUs waits for them, and what needs threads.
    let late = |kind: &Provoke| {
        matches!(
            kind,
            Provoke::VcpuPanic | Provoke::HeldPark | Provoke::ThreadOverflow
        )
    };
    if let Some(kind) = options.provoke.filter(|kind| !late(kind)) {
        super::provoke::provoke(kind);
    }
    make(Level::Core, options);
    make(Level::Service, options);
    if let Some(kind) = options.provoke.filter(late) {
        super::provoke::provoke(kind);
    }
    init::tell();
    log::debug!(
        target: "init",
        "{} ticks from the entry until the kernel owned its memory", ticks_to_ready()
    );
    let asked = Asked {
        options,
        before: entered.before.as_ref(),
    };
    let facts = checks::run(&asked, go_on).unwrap_or_else(|reason| {
        verdict::fail(reason);
        booted::end(control::end().unwrap_or(End::Poweroff))
    });
    booted::run(&Booted {
        via: entered.via,
        privileged: entered.privileged,
        console: entered.console,
        selftest: options.selftest,
        stays: options.stays(),
        init: options.init.map(|path| (path, options.arguments)),
        module: entered.module,
        facts,
    })
}
