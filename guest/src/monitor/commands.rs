//! What can be asked of the monitor.
//!
//! A command is a function and a line that registers it, in whatever module knows the subject:
//!
//! ```text
//! command!("walk", "ADDR", "what it does, for help", needs EVERYWHERE, walk);
//! ```

use hypercall::batch::{FlushReason, Stats};
use linker::tables::{Command, by_name};
use linkme::distributed_slice;

use super::Monitor;
use crate::capability::{CAPABILITIES, admits, is_here};
use crate::control::End;
use crate::mm::{self, Tables};
use crate::{println, subarch};

/// What a command does with what is typed behind it; the end of the session, if it is one.
pub(crate) type Run = fn(&mut Monitor, &str) -> Option<End>;

/// Every command, in no order.
#[distributed_slice]
pub(crate) static COMMANDS: [Command<Run>];

/// Registers a command; see the [module](self).
macro_rules! command {
    ($name:literal, $argument:literal, $help:literal, needs $needs:ident, $run:path) => {
        linker::record!("command", $name, stringify!($needs));
        const _: () = {
            #[linkme::distributed_slice($crate::monitor::commands::COMMANDS)]
            static COMMAND: linker::tables::Command<$crate::monitor::commands::Run> =
                linker::tables::Command {
                    item: linker::tables::Item {
                        name: $name,
                        needs: &$crate::capability::$needs,
                    },
                    argument: $argument,
                    help: $help,
                    run: $run,
                };
        };
    };
}
pub(crate) use command;

/// Carries out a line.
pub(super) fn carry_out(monitor: &mut Monitor, line: &str) -> Option<End> {
    let line = line.trim();
    let (name, argument) = line.split_once(' ').unwrap_or((line, ""));
    if name.is_empty() {
        return None;
    }
    let Some(command) = COMMANDS.iter().find(|command| command.item.name == name) else {
        println!("no command '{name}'; help lists them");
        return None;
    };
    if let Err(lacking) = admits(&command.item) {
        println!("{name}: {lacking}");
        return None;
    }
    if command.argument.is_empty() && !argument.is_empty() {
        println!("{name} takes no argument");
        return None;
    }
    (command.run)(monitor, argument.trim())
}

fn help(_: &mut Monitor, _: &str) -> Option<End> {
    let known = by_name(&COMMANDS, |command| command.item.name);
    for command in known.filter(|command| admits(&command.item).is_ok()) {
        let (name, argument) = (command.item.name, command.argument);
        println!("{name:<9}{argument:<9}{}", command.help);
    }
    None
}
command!("help", "", "list the commands", needs EVERYWHERE, help);

fn layout(_: &mut Monitor, _: &str) -> Option<End> {
    crate::address_map::print();
    None
}
command!(
    "layout",
    "",
    "print the address space: what is mapped, with which rights, for what",
    needs EVERYWHERE,
    layout
);

fn features(_: &mut Monitor, _: &str) -> Option<End> {
    println!("running on {}", subarch::current());
    for capability in CAPABILITIES {
        match is_here(capability) {
            true => println!("  has  {}", capability.name()),
            false => println!("  no   {}: {}", capability.name(), capability.because()),
        }
    }
    None
}
command!(
    "features",
    "",
    "print what this way of running has, and what it lacks and why",
    needs EVERYWHERE,
    features
);

/// The address that is meant by a number or by a function's name.
fn address(text: &str) -> Option<u64> {
    let named = || linker::symbols::current().address_of(text);
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => u64::from_str_radix(text, 16).ok().or_else(named),
    }
}

fn walk(_: &mut Monitor, argument: &str) -> Option<End> {
    match address(argument) {
        Some(address) => {
            let walk = mm::with(|tables| tables.walk(address));
            println!("{walk}");
        }
        None => println!(
            "walk needs an address, in hexadecimal, or the name of a function: walk ffffffff80100000, \
             walk monitor::commands::walk"
        ),
    }
    None
}
command!(
    "walk",
    "ADDR",
    "print the entries that translate an address (hexadecimal, or a function's name), level by level",
    needs EVERYWHERE,
    walk
);

fn audit(_: &mut Monitor, _: &str) -> Option<End> {
    match mm::with_all(Tables::audit) {
        Ok(report) => println!("{report}"),
        Err(e) => println!("{e}"),
    }
    None
}
command!("audit", "", "check all page tables against the records", needs EVERYWHERE, audit);

fn stats(_: &mut Monitor, _: &str) -> Option<End> {
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
command!(
    "stats",
    "",
    "print what the queue of page-table updates counted",
    needs EVERYWHERE,
    stats
);

fn crash(_: &mut Monitor, _: &str) -> Option<End> {
    panic!("asked for at the console")
}
command!("crash", "", "crash on purpose", needs EVERYWHERE, crash);

fn poweroff(_: &mut Monitor, _: &str) -> Option<End> {
    Some(End::Poweroff)
}
command!("poweroff", "", "give the verdict and power off", needs EVERYWHERE, poweroff);

fn reboot(_: &mut Monitor, _: &str) -> Option<End> {
    Some(End::Reboot)
}
command!("reboot", "", "give the verdict and reboot", needs EVERYWHERE, reboot);
