//! Commands about what the kernel runs on: vCPUs, time, memory; and about the lazy mode.

use core::fmt;

use hypercall::queue::Access;
use hypercall::{Errno, vcpu};

use super::Monitor;
use super::commands::command;
use crate::control::End;
use crate::mm::frames::Counts;
use crate::mm::state::{Kind, State};
use crate::mm::{self, Current};
use crate::xen::HV;
use crate::{cpu, println, runstate, shared, suspend, time};

const SECOND: u64 = 1_000_000_000;

/// What a vCPU does, by the number that Xen has for it (`RUNSTATE_*`, `xen/include/public/vcpu.h`).
const STATES: [&str; 4] = ["running", "runnable", "blocked", "offline"];

fn cpus(_: &mut Monitor, _: &str) -> Option<End> {
    println!(
        "{} of the domain's vCPUs run; milliseconds of each:",
        cpu::running()
    );
    let [running, runnable, blocked, offline] = STATES;
    println!("vCPU  now       {running:>11}{runnable:>10}{blocked:>10}{offline:>10}");
    for number in 0.. {
        let is_up = match vcpu::is_up(&HV, number) {
            Ok(is_up) => is_up,
            Err(e) if e.errno == Errno::ENOENT => break,
            Err(e) => {
                println!("{number:>4}  {e}");
                break;
            }
        };
        let written = runstate::of(number);
        let Some(state) = written.or_else(|| vcpu::runstate(&HV, number).ok()) else {
            println!("{number:>4}  Xen does not say");
            continue;
        };
        let now = match is_up {
            true => STATES.get(state.state as usize).unwrap_or(&"?"),
            false => "down",
        };
        let [running, runnable, blocked, offline] = state.time.map(|spent| spent / 1_000_000);
        println!("{number:>4}  {now:<10}{running:>11}{runnable:>10}{blocked:>10}{offline:>10}");
    }
    None
}
command!(
    "cpus",
    "",
    "print which vCPUs run, and where their time went",
    needs HYPERCALLS,
    cpus
);

fn now(_: &mut Monitor, _: &str) -> Option<End> {
    println!("{} since the kernel started", Seconds(time::since_start()));
    match time::monotonic() {
        Some(now) => println!("{} by its clock", Seconds(now)),
        None => println!("no clock: nobody knows how fast the processor's counter runs"),
    }
    if let Some((wall, now)) = shared::wall_clock().zip(time::monotonic()) {
        println!("{}", Date((wall + time::in_xen(now)) / SECOND));
    }
    None
}
command!(
    "time",
    "",
    "print how long the kernel runs, its clock, and the date where Xen says it",
    needs EVERYWHERE,
    now
);

/// Nanoseconds, shown in seconds.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6}.{:06} s", self.0 / SECOND, self.0 % SECOND / 1000)
    }
}

/// Seconds since the beginning of 1970, shown as a date of the Gregorian calendar, UTC.
struct Date(u64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leap = |year: u64| {
            year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
        };
        let (mut days, second) = (self.0 / 86_400, self.0 % 86_400);
        let mut year = 1970;
        while days >= 365 + u64::from(leap(year)) {
            days -= 365 + u64::from(leap(year));
            year += 1;
        }
        let february = 28 + u64::from(leap(year));
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        let (hour, minute) = (second / 3600, second / 60 % 60);
        write!(f, "{year}-{month:02}-{:02} {hour:02}:{minute:02}", days + 1)?;
        write!(f, ":{:02} UTC", second % 60)
    }
}

fn mem(_: &mut Monitor, _: &str) -> Option<End> {
    let (counts, by_kind) = mm::with(|tables| {
        let counts = tables.frames().counts();
        let mut by_kind = [0_u64; Kind::ALL.len()];
        for pfn in 0..counts.mapped {
            let pfn = hypercall::Pfn::truncate(pfn);
            if let Ok((state, _)) = tables.frames().states(pfn) {
                by_kind[state.kind as usize] += 1;
            }
        }
        (counts, by_kind)
    });
    let Counts {
        total,
        mapped,
        free,
        given: _,
    } = counts;
    println!("{total:>9} pages, {mapped} in the direct map, {free} of them free");
    for (kind, count) in Kind::ALL
        .iter()
        .zip(by_kind)
        .filter(|(_, count)| *count > 0)
    {
        match kind {
            Kind::Table => println!("{count:>9} page tables"),
            kind => println!("{count:>9} {}", State::of(*kind)),
        }
    }
    None
}
command!("mem", "", "count the frames of memory by what they are", needs EVERYWHERE, mem);

fn lazy(_: &mut Monitor, _: &str) -> Option<End> {
    let (mode, queued) = Current.with(|mmu| (*mmu.lazy(), mmu.batch().len()));
    let (enabled, paused) = (mode.enable_count(), mode.pause_count());
    println!("lazy mode: entered {enabled} times, paused {paused} times, {queued} updates queued");
    let stats = mm::with(|tables| *tables.stats());
    let hundredths = (stats.applied * 100).checked_div(stats.hypercalls);
    let hundredths = hundredths.unwrap_or(0);
    println!(
        "{} updates in {} hypercalls: {}.{:02} in each",
        stats.applied,
        stats.hypercalls,
        hundredths / 100,
        hundredths % 100
    );
    None
}
command!(
    "lazy",
    "",
    "print the lazy mode of the page tables, and how many updates a hypercall carries",
    needs EVERYWHERE,
    lazy
);

fn suspends(_: &mut Monitor, _: &str) -> Option<End> {
    let suspend::Times {
        restored,
        cancelled,
    } = suspend::times();
    println!("suspended {restored} times and restored, {cancelled} times and gone on as it was");
    if restored + cancelled == 0 {
        return None;
    }
    println!("ticks of the processor's counter, the last time:");
    println!("    before     after");
    let mut sum = (0, 0);
    for (part, before, after) in suspend::costs() {
        println!("{before:>10}{after:>10}  {part}");
        // There it is waited for the tools.
        if part != suspend::WAITS {
            sum = (sum.0 + before, sum.1 + after);
        }
    }
    println!("{:>10}{:>10}  all but the {}", sum.0, sum.1, suspend::WAITS);
    None
}
command!(
    "suspend",
    "",
    "print how often the domain was saved, and what the last time cost in each part of the kernel",
    needs XEN_TABLES,
    suspends
);
