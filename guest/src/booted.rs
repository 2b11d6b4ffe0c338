//! What the kernel does once it has booted: tests itself, serves its console until it is shut down,
//! gives the verdict.
//!
//! Nothing here returns to what booted it, and nothing here uses it: what only the boot needed is
//! given back first.

use core::fmt;

use crate::checks::{self, Facts};
use crate::control::{self, End};
use crate::ended::Ended;
use crate::init_memory::{self, Given};
use crate::mm::Tables;
use crate::mm::levels::Levels;
use crate::monitor::Monitor;
use crate::selection::Selection;
#[cfg(feature = "programs")]
use crate::user;
use crate::{cpu, mm, power, println, verdict};
use xen_pv_rt::start_info::{ConsoleInfo, Module};

/// What is left to do, and what the boot came to.
pub(crate) struct Booted<'a> {
    /// How the kernel was started, in words.
    pub(crate) via: &'static str,
    /// Whether Xen allows it more than others.
    pub(crate) privileged: bool,
    /// Its console.
    pub(crate) console: ConsoleInfo,
    /// Self-tests to run.
    pub(crate) selftest: Selection<'a>,
    /// Whether to stay and read commands, until somebody asks for the end.
    pub(crate) stays: bool,
    /// The program to run, and its arguments.
    pub(crate) init: Option<(&'a str, &'a [u8])>,
    /// What was loaded with the kernel.
    pub(crate) module: Option<Module>,
    /// What the verdict is to say of what was done on the way; begins with a blank, if anything.
    pub(crate) facts: Facts,
}

/// Goes on to the end. Not part of its caller, whose code is given back.
#[inline(never)]
pub(crate) fn run(booted: &Booted<'_>) -> ! {
    // SAFETY: the boot ended by calling this, which does not return.
    match unsafe { init_memory::give_back() } {
        Ok(Given { init, others }) => log::info!(
            target: "mm",
            "gave back {}K of the image that only booted, {}K for other ways of running",
            init / 1024, others / 1024
        ),
        Err(e) => panic!("giving back parts of the image: {e}"),
    }
    let tested = checks::self_test(booted.selftest, booted.privileged);
    #[cfg(feature = "programs")]
    let program = run_program(booted);
    #[cfg(not(feature = "programs"))]
    let program: Option<Result<Ended, ()>> = None;
    let mut monitor = Monitor::new(booted.privileged, tested);
    let end = match control::attend() {
        Some(end) => end,
        None if booted.stays => {
            println!("running: {}", facts(booted));
            monitor.run(booted.console)
        }
        None => End::Poweroff,
    };
    let ended = fmt::from_fn(|f| match program {
        Some(Ok(ended)) => write!(f, " program={ended}"),
        _ => Ok(()),
    });
    match (monitor.tested, program) {
        (Some(summary), _) if !summary.is_good() => verdict::fail(summary.reason()),
        (_, Some(Err(()))) => verdict::fail("the program was not run"),
        (_, Some(Ok(status))) if !status.is_good() => {
            verdict::fail(format_args!("the program ended with {status}"));
        }
        (Some(summary), _) => verdict::pass(format_args!("{}{ended} {summary}", facts(booted))),
        (None, _) => verdict::pass(format_args!("{}{ended}", facts(booted))),
    }
    self::end(end)
}

/// Runs the program that was asked for, if one was.
#[cfg(feature = "programs")]
fn run_program(booted: &Booted<'_>) -> Option<Result<Ended, ()>> {
    let (path, arguments) = booted.init?;
    let ended = user::run(booted.module, booted.console, path, arguments);
    // Whatever programs did, all that is left is as the records say.
    if let Err(e) = mm::with_all(Tables::audit) {
        println!("init={path}: the page tables that programs left: {e}");
        return Some(Err(()));
    }
    Some(ended.map_err(|e| println!("init={path}: {e}")))
}

/// What the kernel is, in words for the verdict.
fn facts(booted: &Booted<'_>) -> impl fmt::Display {
    let counts = mm::with(|tables| tables.frames().counts());
    fmt::from_fn(move |f| {
        write!(f, "via=\"{}\" pages={}", booted.via, counts.total)?;
        write!(f, " mapped={} free={}", counts.mapped, counts.free)?;
        write!(f, " cpus={}", cpu::running())?;
        write!(f, " levels={}", Levels::current().fold.top())?;
        f.write_str(&booted.facts)
    })
}

/// Ends the domain as it was asked to.
pub(crate) fn end(end: End) -> ! {
    match end {
        End::Poweroff => power::off(),
        End::Reboot => power::reboot(),
    }
}
