//! `cargo xtask soak`: a domain at work on all its vCPUs is saved and restored, again and again, and some
//! times in between resumed after all. The kernel looks at everything after each (its command `soak`),
//! and ends at the first thing that is not as it should be.

mod count;

use std::time::Duration;

use clap::Args;

use crate::cli::{ProvisionArgs, ReportArgs};
use crate::console::transcript::Show;
use crate::console::verdict::judge;
use crate::exit::{Failure, Result};
use crate::report::{Facts, Report, Row, State};
use crate::stack::{Act, Does, Job, Mode, SAVE, Setting, Via, WOKEN};
use crate::ui;
use crate::workspace::Workspace;

/// For the boot, and for a cycle, on a machine too slow to be used.
const BOOT: Duration = Duration::from_secs(60);
const CYCLE: Duration = Duration::from_secs(30);
/// How much of the logs a failure shows.
const TAIL_LINES: usize = 30;
/// Has xl save the domain, which goes on.
const CHECKPOINT: &str = "unfollow; save -c $domain /tmp/save; follow $domain";

pub(crate) const HELP: &str = "\
Examples:
  cargo xtask soak                          a hundred cycles, some five minutes
  cargo xtask soak --cycles 1000 --xen 4.20 --json soak.json
  cargo xtask soak --count                  instructions of a save and a restore, by spaces and memory";

/// `soak`.
#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// How often the domain is suspended
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) cycles: u32,
    /// Every K-th time it goes on without being restored; 0 for never
    #[arg(long, value_name = "K", default_value_t = 5)]
    pub(crate) cancel: u32,
    /// vCPUs of the domain
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) vcpus: u32,
    /// Memory of the domain in MiB
    #[arg(long, value_name = "MIB", default_value_t = 32)]
    #[arg(value_parser = clap::value_parser!(u32).range(12..))]
    pub(crate) mem: u32,
    /// Count instead the instructions that the kernel takes to be saved and restored: with one user half
    /// and with fifty, with 64 MiB and with 4 GiB. It fails if more of either cost more than a tenth more
    #[arg(long, conflicts_with_all = ["cycles", "cancel", "vcpus", "mem"])]
    pub(crate) count: bool,
    /// What the run came to, for other programs
    #[command(flatten)]
    pub(crate) report: ReportArgs,
    /// Where programs come from
    #[command(flatten)]
    pub(crate) provision: ProvisionArgs,
}

/// Runs it, and reports.
pub(crate) fn soak(arguments: &SoakArgs) -> Result<()> {
    let mut report = Report::open("soak", &arguments.report)?;
    let result = match arguments.count {
        true => count::reported(arguments, &mut report),
        false => reported(arguments, &mut report),
    };
    report.close(result)
}

fn reported(arguments: &SoakArgs, report: &mut Report) -> Result<()> {
    let workspace = Workspace::find()?;
    let provision = arguments.provision.open()?;
    let job = Job {
        cmdline: "log=warn monitor".into(),
        mem_mib: Some(arguments.mem),
        vcpus: Some(arguments.vcpus),
        acts: acts(arguments.cycles, arguments.cancel),
        timeout: Some(BOOT + CYCLE * arguments.cycles),
        ..Job::new("soak", Via::Xl, workspace.build_kernel()?)
    };
    let dir = workspace.run_dir("soak")?;
    let setting = Setting {
        provision: &provision,
        mode: Mode::default(),
        workspace: &workspace.root,
        dir: &dir,
    };
    let stack = job.via.stack();
    let ran = setting.run(&*stack, &job, Show::Nothing, None)?;
    let (transcript, end, seconds) = (ran.transcript, ran.end, ran.took.as_secs_f64());
    let done = transcript.guest.iter().rev().find_map(|line| figures(line));
    let done = done.unwrap_or_default();
    let cycles = done.first().map_or(0, |(_, count)| *count);
    let all = cycles >= u64::from(arguments.cycles);
    let result = end.and_then(|end| match judge(&transcript.guest, &end).into_result() {
        Ok(()) if !all => Err(Failure::Guest(format!("only {cycles} cycles were made"))),
        result => result,
    });
    let mut facts = Facts::of(&transcript);
    let figures = done
        .iter()
        .map(|(name, count)| ((*name).to_owned(), count.to_string()));
    facts.figures.extend(figures);
    let each = seconds / cycles.max(1) as f64;
    facts
        .figures
        .push(("seconds_each".into(), format!("{each:.2}")));
    let said: Vec<_> = done
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let woken = transcript.host.iter();
    let woken = woken.filter(|line| line.contains(WOKEN)).count();
    facts.figures.push(("woken".into(), woken.to_string()));
    let mut said = format!("{} in {seconds:.0} s, {each:.2} s each", said.join(", "));
    if woken > 0 {
        said += &format!("; {woken} times the dom0 did not answer before Xen was woken by a key");
    }
    let (state, message) = match &result {
        Ok(()) => (State::Pass, said.clone()),
        Err(failure) => {
            ui::say(transcript.tail(TAIL_LINES));
            (State::from(failure), format!("{failure}; {said}"))
        }
    };
    println!("soak: {said}");
    report.add(Row {
        group: "soak".into(),
        name: format!("{} cycles", arguments.cycles),
        state,
        message,
        seconds: Some(seconds),
        facts,
    });
    result
}

/// What is done: once it works, one suspend after the other, each when the one before was looked at.
fn acts(cycles: u32, cancel: u32) -> &'static [Act] {
    // Jobs live as long as the program.
    let when = |text: String| &*text.leak();
    let mut acts = vec![Act {
        when: "monitor: type help",
        does: Does::Type("soak\r"),
    }];
    for cycle in 1..=cycles {
        let is_cancelled = cancel > 0 && cycle % cancel == 0;
        acts.push(Act {
            when: match cycle {
                1 => "soak: begins",
                _ => when(looked_at(cycle - 1)),
            },
            does: Does::Host(if is_cancelled { CHECKPOINT } else { SAVE }),
        });
    }
    acts.push(Act {
        when: when(looked_at(cycles)),
        does: Does::Host("xl shutdown $domain"),
    });
    acts.leak()
}

/// What the kernel says when it has looked at everything after so many suspends.
fn looked_at(suspends: u32) -> String {
    format!("soak: {suspends} suspends, ")
}

/// The figures of such a line.
fn figures(line: &str) -> Option<Vec<(&'static str, u64)>> {
    const NAMES: [&str; 7] = [
        "suspends",
        "cancelled",
        "turns",
        "pages",
        "timers",
        "events",
        "free",
    ];
    let rest = line.strip_prefix("soak: ")?;
    let numbers = rest.split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u64> = numbers.filter_map(|digits| digits.parse().ok()).collect();
    (numbers.len() == NAMES.len()).then(|| NAMES.into_iter().zip(numbers).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_suspend_waits_for_the_look_after_the_one_before() {
        let acts = acts(12, 5);
        assert_eq!(acts.len(), 14);
        let cancelled = |cycle: usize| acts[cycle].does == Does::Host(CHECKPOINT);
        let found: Vec<_> = (1..=12).filter(|cycle| cancelled(*cycle)).collect();
        assert_eq!(found, [5, 10]);
        assert_eq!(acts[1].when, "soak: begins");
        assert_eq!(acts[2].when, "soak: 1 suspends, ");
        // Not what is said after eleven.
        assert!(!"soak: 11 suspends, 2".contains(acts[2].when));
        assert!(acts[13].when.contains(" 12 "));
    }

    #[test]
    fn figures_are_read_off_the_last_line() {
        let line = "soak: 12 suspends, 2 of them cancelled; 99 turns, 3168 pages, 99 timers, \
                    396 events; 7000 pages can be had";
        let found = figures(line).unwrap();
        assert_eq!(found[0], ("suspends", 12));
        assert_eq!(found[6], ("free", 7000));
        assert_eq!(figures("soak: begins; a key ends it"), None);
        assert_eq!(figures("soaked"), None);
    }
}
