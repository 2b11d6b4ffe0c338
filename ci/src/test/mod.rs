//! `cargo xtask test`: everything that must hold, in one list of groups with one count at the end.

mod build;
mod checks;
#[cfg(test)]
mod deny;
mod examples;
mod foreign;
mod go;
mod hostile;
mod lean;
mod linux;
mod located;
mod long;
mod machines;
mod memory;
mod miri;
mod mirror;
mod mutants;
mod notes;
mod odd;
mod package;
#[cfg(test)]
mod papers;
mod programs;
mod regression;
#[cfg(test)]
mod rooms;
mod rules;
mod saved;
mod session;
mod single;
mod skips;
mod smoke;
mod stress;
mod tables;
mod typed;
mod vcpus;
#[cfg(test)]
mod workflows;

use std::path::PathBuf;
use std::time::Instant;

use crate::cli::{ProvisionArgs, TestArgs};
use crate::exit::{Failure, Result};
use crate::interrupt;
use crate::provision::Provision;
use crate::report::{Facts, Report, Row, State};
use crate::stack::Via;
use crate::ui;
use crate::workspace::Workspace;

/// A part of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Group {
    /// Formatting, by cargo fmt
    Fmt,
    /// Lints: host and freestanding, warnings denied
    Clippy,
    /// Unit tests on the host
    Unit,
    /// Documentation builds without warnings
    Docs,
    /// ELF notes, segments and linker tables of the built image, and that nothing else builds another
    Notes,
    /// An image without tests: its size, and boots as dom0 and bare
    Lean,
    /// Structure layouts against Xen's own headers
    Abi,
    /// The rule book, judged by real Xen
    Rules,
    /// Boots as dom0 on real Xen
    Dom0,
    /// Instruction counts against the baseline
    Bench,
    /// Boots as a domain of xl
    Xl,
    /// Boots inside the PV shim
    Shim,
    /// Boots as a PVH domain of xl
    Pvh,
    /// Boots without Xen, five levels of page tables
    Bare,
    /// Boots without Xen, four levels
    Bare4,
    /// Optional, for Debian's apt: packages by the lock file, as on a host without apt
    Mirror,
    /// Optional: each crate for other kernels builds from its package alone
    Package,
    /// Optional, for nightly Rust: unit tests under Miri, which sees undefined behaviour
    Miri,
    /// Optional: the kernel's lock in every order in which vCPUs can come to it, long runs of the page
    /// tables with several vCPUs, and all self-tests where the usual run has time for a part
    Vcpus,
    /// Optional: the tests of vCPUs two hundred times, as dom0, by xl and in the shim, on 2, 4 and 8 of them
    Stress,
    /// Optional: every applet of busybox, two hundred commands, a thousand system calls and threads as under
    /// Linux; calls at random, and many processes
    Programs,
    /// Optional, for cargo-mutants: broken code that the unit tests must notice, a sample
    Mutants,
}

/// What runs unless groups are named, in the order of running: what is quick and says most comes
/// first.
const ALL: &[Group] = &[
    Group::Fmt,
    Group::Clippy,
    Group::Unit,
    Group::Docs,
    Group::Notes,
    Group::Lean,
    Group::Abi,
    Group::Rules,
    Group::Dom0,
    Group::Bench,
    Group::Xl,
    Group::Shim,
    Group::Pvh,
    Group::Bare,
    Group::Bare4,
];

/// What runs only by name, after the others.
const OPTIONAL: &[Group] = &[
    Group::Mirror,
    Group::Package,
    Group::Miri,
    Group::Vcpus,
    Group::Stress,
    Group::Programs,
    Group::Mutants,
];

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Unit => "unit",
            Self::Docs => "docs",
            Self::Notes => "notes",
            Self::Lean => "lean",
            Self::Abi => "abi",
            Self::Rules => "rules",
            Self::Dom0 => "dom0",
            Self::Bench => "bench",
            Self::Xl => "xl",
            Self::Shim => "shim",
            Self::Pvh => "pvh",
            Self::Bare => "bare",
            Self::Bare4 => "bare4",
            Self::Mirror => "mirror",
            Self::Package => "package",
            Self::Miri => "miri",
            Self::Vcpus => "vcpus",
            Self::Stress => "stress",
            Self::Programs => "programs",
            Self::Mutants => "mutants",
        }
    }

    /// The way of running, for groups that boot the kernel.
    fn via(self) -> Option<Via> {
        match self {
            Self::Dom0 => Some(Via::Dom0),
            Self::Xl => Some(Via::Xl),
            Self::Shim => Some(Via::Shim),
            Self::Pvh => Some(Via::Pvh),
            Self::Bare => Some(Via::Bare),
            Self::Bare4 => Some(Via::Bare4),
            _ => None,
        }
    }
}

/// What groups work with, and the count they add to.
pub(crate) struct Suite {
    workspace: Workspace,
    provision: Provision,
    kernel: Option<PathBuf>,
    /// Boots run if this text is in their names.
    only: Option<String>,
    passed: usize,
    failed: usize,
    /// For other programs.
    written: Report,
}

impl Suite {
    fn open(arguments: &TestArgs) -> Result<Suite> {
        Ok(Suite {
            workspace: Workspace::find()?,
            provision: arguments.provision.open()?,
            kernel: None,
            only: arguments.only.clone(),
            passed: 0,
            failed: 0,
            written: Report::open("test", &arguments.report)?,
        })
    }

    /// Whether a boot of this name was asked for.
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|text| name.contains(text))
    }

    /// Says how many passed and failed; fails if any did.
    fn count(&self) -> Result<()> {
        println!("{} passed, {} failed", self.passed, self.failed);
        match self.failed {
            0 => Ok(()),
            failed => Err(Failure::Guest(format!("{failed} failed"))),
        }
    }

    /// Reports one test.
    fn report(&mut self, name: &str, since: Instant, result: std::result::Result<(), String>) {
        self.report_with(name, since, result, Facts::default());
    }

    /// Reports one test with what else is known of it.
    fn report_with(
        &mut self,
        name: &str,
        since: Instant,
        result: std::result::Result<(), String>,
        facts: Facts,
    ) {
        let (state, message) = match &result {
            Ok(()) => (State::Pass, ""),
            Err(reason) => (State::Fail, reason.as_str()),
        };
        self.write(name, since, state, message, facts);
        let seconds = since.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok    {name} ({seconds:.1} s)");
            }
            Err(reason) => {
                self.failed += 1;
                println!(
                    "FAIL  {name} ({seconds:.1} s)\n      {}",
                    reason.replace('\n', "\n      ")
                );
            }
        }
    }

    /// Writes a row for other programs.
    fn write(&mut self, name: &str, since: Instant, state: State, message: &str, facts: Facts) {
        let (group, name) = name.split_once(": ").unwrap_or((name, name));
        self.written.add(Row {
            group: group.into(),
            name: name.into(),
            state,
            message: message.into(),
            seconds: Some(since.elapsed().as_secs_f64()),
            facts,
        });
    }

    /// Writes that a signal came while this ran, unless that is written already.
    fn interrupted(&mut self, name: &str, since: Instant, facts: Facts) -> Failure {
        if !self.written.says_interrupted() {
            let message = Failure::Interrupted.to_string();
            self.write(name, since, State::Interrupted, &message, facts);
        }
        Failure::Interrupted
    }

    /// The image, built when first asked for.
    fn kernel(&mut self) -> Result<PathBuf> {
        if self.kernel.is_none() {
            self.kernel = Some(self.workspace.build_kernel()?);
        }
        Ok(self.kernel.clone().unwrap_or_default())
    }
}

/// The groups that were named, or all but the optional ones, in the order of running.
fn chosen(named: &[Group]) -> Vec<Group> {
    if named.is_empty() {
        return ALL.to_vec();
    }
    let every = ALL.iter().chain(OPTIONAL).copied();
    every.filter(|group| named.contains(group)).collect()
}

/// Runs the groups asked for, or all.
pub(crate) fn test(arguments: &TestArgs) -> Result<()> {
    let groups = chosen(&arguments.groups);
    if let Some(text) = &arguments.only {
        return only(arguments, &groups, text);
    }
    if arguments.list {
        list(&groups);
        if arguments.groups.is_empty() {
            for group in OPTIONAL {
                println!("{} (optional: runs only by name)", group.name());
            }
        }
        return Ok(());
    }
    let mut suite = Suite::open(arguments)?;
    let result = run(&mut suite, &arguments.provision, &groups);
    suite.written.close(result)
}

/// Runs, or lists, the boots whose names have a text in them.
fn only(arguments: &TestArgs, groups: &[Group], text: &str) -> Result<()> {
    let named = |via| {
        let mut names = boot_names(via);
        names.retain(|name| name.contains(text));
        names
    };
    let mut vias: Vec<_> = groups.iter().filter_map(|group| group.via()).collect();
    vias.retain(|via| !named(*via).is_empty());
    let mut programs = match groups.contains(&Group::Programs) {
        true => linux::names(),
        false => Vec::new(),
    };
    programs.retain(|name| name.contains(text));
    if vias.is_empty() && programs.is_empty() {
        let all = "'cargo xtask test --list' names all";
        return Err(Failure::Usage(format!(
            "no boot of these groups has '{text}' in its name: {all}"
        )));
    }
    if arguments.list {
        let names = vias.into_iter().flat_map(named);
        names.chain(programs).for_each(|name| println!("{name}"));
        return Ok(());
    }
    let mut suite = Suite::open(arguments)?;
    let mut vias = vias.into_iter();
    let result = vias.try_for_each(|via| booted(&mut suite, &[via]));
    let result = result.and_then(|()| match programs.is_empty() {
        true => Ok(()),
        false => linux::run(&mut suite),
    });
    let result = result.and_then(|()| suite.count());
    suite.written.close(result)
}

fn run(suite: &mut Suite, provision: &ProvisionArgs, groups: &[Group]) -> Result<()> {
    let mut outcome = Ok(());
    let mut rest = groups;
    while let Some((&group, after)) = rest.split_first() {
        let since = Instant::now();
        if interrupt::requested() {
            return Err(suite.interrupted(group.name(), since, Facts::default()));
        }
        rest = after;
        // Neighbours that run on the same dom0 share its boot.
        let mut vias: Vec<_> = group.via().into_iter().collect();
        while let Some((next, after)) = rest.split_first()
            && let (Some(&first), Some(via)) = (vias.first(), next.via())
            && first.shares_host_with(via)
        {
            vias.push(via);
            rest = after;
        }
        let names: Vec<_> = vias.iter().map(|via| via.name()).collect();
        println!(
            "== {}",
            if names.is_empty() {
                group.name().into()
            } else {
                names.join(", ")
            }
        );
        let result = match group {
            Group::Fmt => checks::fmt(suite),
            Group::Clippy => checks::clippy(suite),
            Group::Unit => checks::unit(suite),
            Group::Docs => checks::docs(suite),
            Group::Notes => notes::run(suite)
                .and_then(|()| tables::run(suite))
                .and_then(|()| build::run(suite)),
            Group::Lean => lean::run(suite, provision),
            Group::Abi => checks::abi(suite),
            Group::Bench => regression::run(suite),
            Group::Rules => rules::run(suite),
            Group::Mirror => mirror::run(suite),
            Group::Package => package::run(suite),
            Group::Miri => miri::run(suite),
            Group::Vcpus => vcpus::run(suite, provision),
            Group::Stress => stress::run(suite),
            Group::Programs => linux::run(suite),
            Group::Mutants => mutants::run(suite),
            Group::Dom0 | Group::Xl | Group::Shim | Group::Pvh | Group::Bare | Group::Bare4 => {
                booted(suite, &vias)
                    .and_then(|()| typed::run(suite, provision, &vias))
                    .and_then(|()| machines::run(suite, &vias))
                    .and_then(|()| examples::run(suite, provision, &vias))
                    .and_then(|()| foreign::run(suite, provision, &vias))
                    .and_then(|()| located::run(suite, provision, &vias))
            }
        };
        match result {
            Ok(()) => {}
            Err(Failure::Interrupted) => {
                return Err(suite.interrupted(group.name(), since, Facts::default()));
            }
            Err(failure) => {
                suite.report(group.name(), since, Err(failure.to_string()));
                // The status of what kept a test from running at all; a failed test outweighs it.
                outcome = Err(failure);
            }
        }
    }
    let counted = suite.count();
    match outcome {
        Err(failure) if suite.failed == 1 => Err(failure),
        _ => counted,
    }
}

/// Boots the kernel and the examples on ways that share what they run on.
fn booted(suite: &mut Suite, vias: &[Via]) -> Result<()> {
    let kernel = suite.kernel()?;
    let hostile = match vias.contains(&Via::Xl) {
        true => Some(suite.workspace.build("hostile")?),
        false => None,
    };
    let mut boots = smoke::boots(&kernel, hostile.as_deref(), vias);
    boots.extend(examples::boots(suite, vias)?);
    boots.extend(programs::boots(suite, &kernel, vias)?);
    boots.retain(|boot| suite.wants(&boot.name));
    session::run(suite, &boots)
}

/// What they are called.
fn boot_names(via: Via) -> Vec<String> {
    let mut names: Vec<_> = smoke::rows(via).iter().map(smoke::Row::name).collect();
    names.extend(examples::boot_names(via));
    names.extend(programs::names(via));
    names
}

fn list(groups: &[Group]) {
    for &group in groups {
        match group.via() {
            None if group == Group::Rules => rules::VIAS
                .iter()
                .for_each(|via| println!("{}", rules::name(*via))),
            None if group == Group::Programs => {
                linux::names().iter().for_each(|name| println!("{name}"));
            }
            None => println!("{}", group.name()),
            Some(via) => boot_names(via)
                .into_iter()
                .chain(typed::name(via))
                .chain(machines::names(via))
                .chain(examples::stranger_name(via))
                .chain(foreign::names(via))
                .chain(located::names(via))
                .for_each(|name| println!("{name}")),
        }
    }
}

/// What a test of a table is called, on one of the ways it runs on.
fn title(name: &str, via: Via) -> String {
    format!("{}: {name}", via.name())
}

/// What the tests of a table are called that run on a way, given each one's name and ways.
fn titles<'a>(rows: impl Iterator<Item = (&'a str, &'a [Via])>, via: Via) -> Vec<String> {
    rows.filter(|(_, vias)| vias.contains(&via))
        .map(|(name, _)| title(name, via))
        .collect()
}

/// Announces work on standard error while `work` runs.
fn quietly<T>(title: &str, work: impl FnOnce() -> T) -> T {
    let step = ui::spinner(title);
    let result = work();
    step.clear();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_group_runs() {
        assert_eq!(chosen(Group::value_variants()), Group::value_variants());
        assert_eq!([ALL, OPTIONAL].concat(), Group::value_variants());
    }

    #[test]
    fn what_is_optional_runs_only_by_name() {
        assert_eq!(chosen(&[]), ALL);
        assert_eq!(
            chosen(&[Group::Miri, Group::Fmt]),
            [Group::Fmt, Group::Miri]
        );
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for group in Group::value_variants() {
            assert_eq!(Group::from_str(group.name(), false), Ok(*group));
        }
    }
}
