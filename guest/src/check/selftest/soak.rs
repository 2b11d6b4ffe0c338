//! The command `soak`: work for all vCPUs without an end, while the domain is saved, restored and
//! resumed from outside; each time everything is looked at.
//!
//! Between two looks at what the tools ask, every vCPU maps, protects, moves and unmaps pages beside the
//! others and reads the clock; the boot vCPU sets a timer, and sends events to each vCPU, which are
//! counted there: none may be missing, and none come twice. What is not as it should be is a panic: a
//! soak of hours is not to go on behind its first finding.

use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::event::{Port, bind_ipi, send};

use super::context::Context;
use super::interrupt::Open;
use super::race::{RACERS, race_beside};
use super::{TestResult, Trouble, expect_eq, reason};
use crate::control::{self, End};
use crate::event::{self, Bound, Handler};
use crate::monitor::Monitor;
use crate::monitor::commands::command;
use crate::xen::HV;
use crate::{console, cpu, mm, println, smp, suspend, time};

/// How far in the future a timer is set, in nanoseconds.
const SOON: u64 = 1_000_000;
/// When an event is lost: nanoseconds far beyond what a busy machine keeps one back.
const AGES: u64 = 20_000_000_000;
/// Events of a turn for each vCPU.
const EVENTS: u64 = 4;
/// Suspends after which memory is to stay as it is: until then tables and the heap grow to their size.
const WARM: u32 = 3;
/// Pages by which memory may differ.
const SLACK: u64 = 16;

/// The latest time that any vCPU has read.
static LATEST: AtomicU64 = AtomicU64::new(0);
static TIMERS: AtomicU64 = AtomicU64::new(0);
/// Events that each vCPU has taken.
static TAKEN: [Counter; RACERS as usize] = [const { Counter(AtomicU64::new(0)) }; RACERS as usize];
/// Events that came to another vCPU than theirs.
static ASTRAY: AtomicU64 = AtomicU64::new(0);

/// Counts the events of a vCPU.
struct Counter(AtomicU64);

impl Handler for Counter {
    fn raised(&self, _: Port) {
        self.0.fetch_add(1, Ordering::Relaxed);
        let here = TAKEN.get(cpu::here().number() as usize);
        let is_own = here.is_some_and(|own| core::ptr::eq(own, self));
        ASTRAY.fetch_add(u64::from(!is_own), Ordering::Relaxed);
    }
}

/// A port of each vCPU.
struct Ports(heapless::Vec<(Port, Bound), { RACERS as usize }>);

impl Ports {
    fn open() -> Result<Ports, Trouble> {
        let mut ports = heapless::Vec::new();
        for (number, counter) in (0..cpu::running()).zip(&TAKEN) {
            let port = bind_ipi(&HV, number)?;
            // As many as there are counters.
            let _ = ports.push((port, event::bind_on(number, port, counter)?));
        }
        Ok(Ports(ports))
    }

    /// Raises each of them once, and waits for what comes of that.
    fn raise(&self) -> TestResult {
        let before = TAKEN
            .each_ref()
            .map(|counter| counter.0.load(Ordering::Relaxed));
        for (port, _) in &self.0 {
            send(&HV, *port)?;
        }
        for (counter, were) in TAKEN.iter().zip(before).take(self.0.len()) {
            wait_for(&counter.0, were, "an event")?;
        }
        for (counter, were) in TAKEN.iter().zip(before).take(self.0.len()) {
            expect_eq!(
                counter.0.load(Ordering::Relaxed),
                were + 1,
                "events of a vCPU"
            );
        }
        expect_eq!(
            ASTRAY.load(Ordering::Relaxed),
            0,
            "events on a vCPU that they were not sent to"
        );
        Ok(())
    }
}

fn timer() {
    TIMERS.fetch_add(1, Ordering::Relaxed);
}

/// What was done so far.
#[derive(Default)]
struct Soak {
    turns: u64,
    /// Pages that were mapped, protected, moved and unmapped.
    pages: u64,
    timers: u64,
    events: u64,
    /// Suspends, of which some were cancelled.
    suspends: u32,
    cancelled: u32,
    /// Pages that could be had when memory had come to its level.
    level: Option<u64>,
}

/// Reads the clock: it must not be behind what anybody has read.
fn read_clock() -> bool {
    let before = LATEST.load(Ordering::SeqCst);
    let now = time::monotonic().unwrap_or(0);
    LATEST.fetch_max(now, Ordering::SeqCst);
    now >= before
}

/// Waits until one more has come than there were.
fn wait_for(counter: &AtomicU64, were: u64, what: &str) -> TestResult {
    let begin = time::monotonic().unwrap_or(0);
    while counter.load(Ordering::Relaxed) <= were {
        let now = time::monotonic().unwrap_or(0);
        if now.saturating_sub(begin) > AGES && counter.load(Ordering::Relaxed) <= were {
            return Err(Trouble::fail(format_args!("{what} is lost")));
        }
        core::hint::spin_loop();
    }
    Ok(())
}

impl Soak {
    /// Some milliseconds of work.
    fn turn(&mut self) -> TestResult {
        let base = Context::new(0, false, false).area(0);
        let round = self.turns;
        let (wrong, errors, late) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        // They are the turn's own: no port is anybody's over a suspend.
        let (clock, ports) = (Open::timer(&timer)?, Ports::open()?);
        let timers = TIMERS.load(Ordering::Relaxed);
        hypercall::time::set_timer(&HV, time::in_xen(time::monotonic().unwrap_or(0) + SOON))?;
        smp::on_all(&|number| {
            late.fetch_add(u64::from(!read_clock()), Ordering::Relaxed);
            if number >= RACERS {
                return;
            }
            match race_beside(base, number.into(), round) {
                Ok(pages) => wrong.fetch_add(pages, Ordering::Relaxed),
                Err(e) => {
                    log::error!(target: "smp", "vCPU {number}, turn {round}: {e}");
                    errors.fetch_add(1, Ordering::Relaxed)
                }
            };
            late.fetch_add(u64::from(!read_clock()), Ordering::Relaxed);
        });
        expect_eq!(errors.into_inner(), 0, "errors of all vCPUs");
        expect_eq!(
            wrong.into_inner(),
            0,
            "pages that are not as their vCPU made them"
        );
        expect_eq!(
            late.into_inner(),
            0,
            "times that lie before another that was read"
        );
        for _ in 0..EVENTS {
            ports.raise()?;
            self.events += ports.0.len() as u64;
        }
        wait_for(&TIMERS, timers, "a timer")?;
        self.timers += 1;
        expect_eq!(TIMERS.load(Ordering::Relaxed), timers + 1, "timers");
        drop((clock, ports));
        self.turns += 1;
        self.pages += u64::from(cpu::running().min(RACERS)) * 8;
        Ok(())
    }

    /// Looks at everything after a suspend.
    fn look(&mut self) -> TestResult {
        expect_eq!(read_clock(), true, "whether time goes on");
        let report = mm::with_all(|tables| tables.audit())?;
        if !report.is_clean() {
            return Err(Trouble::fail(report));
        }
        let has = mm::with(|tables| tables.frames().obtainable());
        if self.suspends >= WARM {
            let level = *self.level.get_or_insert(has);
            let within = has.abs_diff(level) <= SLACK;
            expect_eq!(
                within.then_some(has),
                Some(has),
                "pages that can be had, {level} before"
            );
        }
        println!(
            "soak: {} suspends, {} of them cancelled; {} turns, {} pages, {} timers, {} events; \
             {has} pages can be had",
            self.suspends, self.cancelled, self.turns, self.pages, self.timers, self.events
        );
        Ok(())
    }

    /// Works until somebody types a key or asks for the end.
    fn run(&mut self) -> Result<Option<End>, Trouble> {
        let (before, mut last) = (suspend::times(), suspend::times());
        self.turn()?;
        println!("soak: begins; a key ends it");
        loop {
            self.turn()?;
            if let Some(end) = control::attend() {
                return Ok(Some(end));
            }
            let now = suspend::times();
            if now != last {
                last = now;
                self.cancelled = now.cancelled - before.cancelled;
                self.suspends = self.cancelled + now.restored - before.restored;
                // Work first, with what was begun anew.
                self.turn()?;
                self.look()?;
            }
            if console::read(&mut [0; 1]) > 0 {
                println!("soak: ended");
                return Ok(None);
            }
        }
    }
}

fn soak(_: &mut Monitor, _: &str) -> Option<End> {
    let mut soak = Soak::default();
    match soak.run() {
        Ok(end) => end,
        Err(_) => panic!("soak, after {} suspends: {}", soak.suspends, reason()),
    }
}
command!(
    "soak",
    "",
    "work on all vCPUs, and look at everything after each suspend, until a key is typed",
    needs XEN_TABLES,
    soak
);
