//! What can be asked of the monitor.

use hypercall::batch::{FlushReason, Stats};
use linker::Image;

use super::{Leave, Monitor};
use crate::boot::cmdline::Selection;
use crate::mm::frames::Counts;
use crate::mm::state::Kind;
use crate::mm::{self, Tables};
use crate::{println, selftest};

/// A command.
struct Command {
    name: &'static str,
    /// What it takes.
    argument: &'static str,
    help: &'static str,
    run: fn(&mut Monitor, &str) -> Option<Leave>,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "help",
        argument: "",
        help: "list the commands",
        run: help,
    },
    Command {
        name: "layout",
        argument: "",
        help: "print the address space: what is mapped, with which rights, for what",
        run: layout,
    },
    Command {
        name: "walk",
        argument: "ADDR",
        help: "print the entries that translate an address (hexadecimal), level by level",
        run: walk,
    },
    Command {
        name: "audit",
        argument: "",
        help: "check all page tables against the records",
        run: audit,
    },
    Command {
        name: "stats",
        argument: "",
        help: "print what the queue of page-table updates counted",
        run: stats,
    },
    Command {
        name: "frames",
        argument: "",
        help: "count the frames of memory by what they are",
        run: frames,
    },
    Command {
        name: "selftest",
        argument: "[NAMES]",
        help: "run the self-tests, or those whose names start with one of NAMES (comma-separated)",
        run: selftest,
    },
    Command {
        name: "panic",
        argument: "",
        help: "crash on purpose",
        run: |_, _| panic!("asked for at the console"),
    },
    Command {
        name: "poweroff",
        argument: "",
        help: "give the verdict and power off",
        run: |_, _| Some(Leave::Poweroff),
    },
    Command {
        name: "reboot",
        argument: "",
        help: "give the verdict and reboot",
        run: |_, _| Some(Leave::Reboot),
    },
];

/// Carries out a line.
pub(super) fn carry_out(monitor: &mut Monitor, line: &str) -> Option<Leave> {
    let line = line.trim();
    let (name, argument) = line.split_once(' ').unwrap_or((line, ""));
    if name.is_empty() {
        return None;
    }
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) if command.argument.is_empty() && !argument.is_empty() => {
            println!("{name} takes no argument");
            None
        }
        Some(command) => (command.run)(monitor, argument.trim()),
        None => {
            println!("no command '{name}'; help lists them");
            None
        }
    }
}

fn help(_: &mut Monitor, _: &str) -> Option<Leave> {
    for command in COMMANDS {
        let (name, argument) = (command.name, command.argument);
        println!("{name:<9}{argument:<9}{}", command.help);
    }
    None
}

fn layout(_: &mut Monitor, _: &str) -> Option<Leave> {
    mm::with(|tables| mm::dump::lines(tables, &Image::current(), |line| println!("{line}")));
    None
}

fn walk(_: &mut Monitor, argument: &str) -> Option<Leave> {
    let digits = argument.trim_start_matches("0x");
    match u64::from_str_radix(digits, 16) {
        Ok(address) => {
            let walk = mm::with(|tables| tables.walk(address));
            println!("{walk}");
        }
        Err(_) => println!("walk needs an address, in hexadecimal: walk ffffffff80100000"),
    }
    None
}

fn audit(_: &mut Monitor, _: &str) -> Option<Leave> {
    match mm::with(Tables::audit) {
        Ok(report) => println!("{report}"),
        Err(e) => println!("{e}"),
    }
    None
}

fn stats(_: &mut Monitor, _: &str) -> Option<Leave> {
    let stats = mm::with(|tables| *tables.stats());
    let Stats {
        hypercalls,
        applied,
        ext_ops,
        replaced,
        tlb_requests,
        refused,
        ..
    } = stats;
    println!("{hypercalls:>9} hypercalls, {} saved", stats.saved());
    println!("{applied:>9} updates applied, {replaced} replaced before, {refused} refused");
    println!("{ext_ops:>9} operations, {tlb_requests} TLB flushes asked for");
    for (reason, count) in FlushReason::ALL.iter().zip(stats.reasons) {
        println!("{count:>9} flushes: {}", reason.words());
    }
    let classes = (0..).zip(stats.sizes).filter(|(_, count)| *count > 0);
    for (class, count) in classes {
        let (from, to) = ((1_u32 << class) >> 1, (1_u32 << class) - 1);
        println!("{count:>9} flushes of {from} to {to} updates");
    }
    None
}

fn frames(_: &mut Monitor, _: &str) -> Option<Leave> {
    const KINDS: [Kind; 9] = [
        Kind::Free,
        Kind::Owned,
        Kind::Table,
        Kind::ImageConst,
        Kind::ImageData,
        Kind::P2m,
        Kind::Shared,
        Kind::Module,
        Kind::Hole,
    ];
    let (counts, by_kind) = mm::with(|tables| {
        let counts = tables.frames().counts();
        let mut by_kind = [0_u64; KINDS.len()];
        for pfn in 0..counts.mapped {
            let pfn = hypercall::Pfn::truncate(pfn);
            if let Ok((state, _)) = tables.frames().states(tables.machine(), pfn)
                && let Some(place) = KINDS.iter().position(|kind| *kind == state.kind)
            {
                by_kind[place] += 1;
            }
        }
        (counts, by_kind)
    });
    let Counts {
        total,
        mapped,
        free,
    } = counts;
    println!("{total:>9} pages, {mapped} in the direct map, {free} of them free");
    for (kind, count) in KINDS.iter().zip(by_kind).filter(|(_, count)| *count > 0) {
        match kind {
            Kind::Table => println!("{count:>9} page tables"),
            kind => println!("{count:>9} {}", mm::state::State::of(*kind)),
        }
    }
    None
}

fn selftest(monitor: &mut Monitor, argument: &str) -> Option<Leave> {
    let selection = match argument {
        "" => Selection::All,
        names => Selection::Named(names),
    };
    let summary = selftest::run(selection, monitor.privileged);
    println!("{summary}");
    let before = monitor.tested.unwrap_or_default();
    monitor.tested = Some(before.and(summary));
    None
}
