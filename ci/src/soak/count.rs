//! `cargo xtask soak --count`: what it costs the kernel to be saved and to go on, in instructions, and that
//! this depends neither on how many user halves there are nor on how much memory.
//!
//! QEMU counts (`-icount`): the time-stamp counter, which the kernel reads (its command `suspend`), goes on
//! by one an instruction, those of Xen for the domain among them. What the console waits for the tools is
//! not counted. The domain with 4 GiB has page tables and records for all of it; most of the memory
//! itself is given back before it is saved, for a dom0 with as much room.

use std::time::Instant;

use super::{BOOT, CYCLE, SoakArgs};
use crate::console::transcript::Show;
use crate::console::verdict::judge;
use crate::exit::{Failure, Result};
use crate::report::{Facts, Report, Row, State};
use crate::stack::{Act, Does, Job, Mode, SAVE, Setting, Via};
use crate::workspace::Workspace;

/// A domain that is counted: what it is called, its memory in MiB, to how much of that it shrinks and what
/// it says then, and what is typed to it.
struct Case {
    name: &'static str,
    mem_mib: u32,
    shrink: &'static str,
    has: &'static str,
    spaces: &'static str,
}

/// The first is what the others are compared with.
const CASES: [Case; 3] = [
    Case {
        name: "64 MiB, 1 space",
        mem_mib: 64,
        shrink: "xl mem-set $domain 60",
        has: "has 61440K, as asked",
        spaces: "spaces 1\r",
    },
    Case {
        name: "64 MiB, 50 spaces",
        mem_mib: 64,
        shrink: "xl mem-set $domain 60",
        has: "has 61440K, as asked",
        spaces: "spaces 50\r",
    },
    Case {
        name: "4096 MiB, 1 space",
        mem_mib: 4096,
        shrink: "xl mem-set $domain 128",
        has: "has 131072K, as asked",
        spaces: "spaces 1\r",
    },
];

/// The most that one may cost, in percent of the first.
const MOST: u64 = 110;

impl Case {
    fn job(&self, workspace: &Workspace) -> Result<Job> {
        let acts = [
            Act {
                when: "monitor: type help",
                does: Does::Host(self.shrink),
            },
            Act {
                when: self.has,
                does: Does::Type(self.spaces),
            },
            Act {
                when: " stay",
                does: Does::Host(SAVE),
            },
            Act {
                when: "control: restored",
                does: Does::Type("suspend\r"),
            },
            Act {
                when: "all but the console",
                does: Does::Host("rm /tmp/save; xl shutdown $domain"),
            },
        ];
        Ok(Job {
            cmdline: "monitor directmap=full".into(),
            mem_mib: Some(self.mem_mib),
            // Jobs live as long as the program.
            acts: Vec::from(acts).leak(),
            timeout: Some(10 * (BOOT + CYCLE)),
            ..Job::new(self.name, Via::Xl, workspace.build_kernel()?)
        })
    }
}

/// Instructions before and after, off the kernel's line.
fn sums(lines: &[String]) -> Option<(u64, u64)> {
    let line = lines
        .iter()
        .rev()
        .find_map(|line| line.strip_suffix("all but the console"))?;
    let mut words = line.split_ascii_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// Whether a case costs no more than it may, by the first.
fn is_level((before, after): (u64, u64), first: (u64, u64)) -> bool {
    before * 100 <= first.0 * MOST && after * 100 <= first.1 * MOST
}

/// Counts, and reports.
pub(super) fn reported(arguments: &SoakArgs, report: &mut Report) -> Result<()> {
    let workspace = Workspace::find()?;
    let provision = arguments.provision.open()?;
    let mode = Mode {
        icount: true,
        ..Mode::default()
    };
    let mut first = None;
    let mut failed = None;
    println!("instructions of the kernel and of Xen for it: until it is saved, and from there on");
    for case in &CASES {
        let job = case.job(&workspace)?;
        let dir = workspace.run_dir("soak")?;
        let setting = Setting {
            provision: &provision,
            mode,
            workspace: &workspace.root,
            dir: &dir,
        };
        let since = Instant::now();
        let stack = job.via.stack();
        let ran = setting.run(&*stack, &job, Show::Nothing, None)?;
        let (transcript, end) = (ran.transcript, ran.end);
        let found = sums(&transcript.guest);
        let level = |sums| is_level(sums, *first.get_or_insert(sums));
        let result = end
            .and_then(|end| judge(&transcript.guest, &end).into_result())
            .and_then(|()| match found.map(level) {
                Some(true) => Ok(()),
                Some(false) => Err(Failure::Guest(format!(
                    "{}: more than a tenth more",
                    case.name
                ))),
                None => Err(Failure::Guest(format!("{}: it said nothing", case.name))),
            });
        let (before, after) = found.unwrap_or_default();
        println!("{:<18}{before:>9}{after:>9}", case.name);
        let mut facts = Facts::of(&transcript);
        facts.figures.extend([
            ("before".to_owned(), before.to_string()),
            ("after".to_owned(), after.to_string()),
        ]);
        report.add(Row {
            group: "soak".into(),
            name: case.name.into(),
            state: result.as_ref().map_or_else(State::from, |()| State::Pass),
            message: result
                .as_ref()
                .map_or_else(ToString::to_string, |()| String::new()),
            seconds: Some(since.elapsed().as_secs_f64()),
            facts,
        });
        if let Err(failure) = result {
            crate::ui::say(transcript.tail(super::TAIL_LINES));
            failed.get_or_insert(failure);
        }
    }
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_the_last_line() {
        let lines = ["     5     6  console", "    12   345  all but the console"];
        let lines = lines.map(str::to_owned);
        assert_eq!(sums(&lines), Some((12, 345)));
        assert_eq!(sums(&lines[..1]), None);
    }

    #[test]
    fn a_tenth_more_is_level_and_no_more_of_either() {
        assert!(is_level((110, 220), (100, 200)));
        assert!(!is_level((111, 200), (100, 200)));
        assert!(!is_level((100, 221), (100, 200)));
    }
}
