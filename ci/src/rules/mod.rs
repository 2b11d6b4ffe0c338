//! `cargo xtask rules`: the rule book, judged by the model and by real Xen in every way of running.
//!
//! The kernel prints a line for each rule; what it printed last, by target, is kept below the
//! target directory, and from that the book is rendered.

mod model;
mod xen;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rules::{RULES, Rule, Verdict, book};

use crate::cli::RulesArgs;
use crate::exit::{Failure, Result};
use crate::report::{Facts, Report, Row, State};
use crate::stack::Via;
use crate::ui;
use crate::workspace::Workspace;

pub(crate) use xen::{Bench, on_xen};

/// `--on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum On {
    /// Xen's page tables as the host-side model has them
    Model,
    /// The kernel as Xen's first domain
    Dom0,
    /// The kernel as an ordinary domain
    Domu,
    /// The kernel inside the PV shim
    Shim,
    /// All of these
    All,
}

/// What to judge by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Rules by number, in the order of the book.
    numbers: Vec<u16>,
    /// Whether these are all that cannot end the domain.
    all: bool,
    /// Of the rules, those that can: each gets a boot of its own.
    kills: Vec<u16>,
    /// Random sequences of requests that must come to the same as on the model.
    seeds: Range<u64>,
    /// When to give up a boot, if not by what it does.
    timeout: Option<Duration>,
}

impl Plan {
    /// With random sequences as well.
    pub(crate) fn with_differential(self, seeds: Range<u64>) -> Plan {
        Plan { seeds, ..self }
    }

    /// With a time for each boot.
    fn within(self, timeout: Option<Duration>) -> Plan {
        Plan { timeout, ..self }
    }

    /// The rules of these names, or all; with those that can end the domain if they were named or
    /// `kills` is set.
    pub(crate) fn new(names: &[String], kills: bool) -> Result<Plan> {
        if let Some(name) = names
            .iter()
            .find(|name| !RULES.iter().any(|rule| rule.is_called(name)))
        {
            return Err(Failure::Usage(format!(
                "no rule is called {name}: a number like R9, or a part of a title"
            )));
        }
        let named = |rule: &Rule| names.iter().any(|name| rule.is_called(name));
        if let Some(rule) = RULES.iter().find(|rule| rule.withheld && named(rule))
            && !kills
        {
            return Err(Failure::Usage(format!(
                "R{} is withheld, and runs only with --kills (see Security in README.md)",
                rule.number
            )));
        }
        let chosen = |rule: &&Rule| named(rule) || names.is_empty() && (kills || !rule.kills);
        let (killers, others): (Vec<&Rule>, _) =
            RULES.iter().filter(chosen).partition(|rule| rule.kills);
        let numbers = |rules: Vec<&Rule>| rules.iter().map(|rule| rule.number).collect();
        Ok(Plan {
            all: names.is_empty(),
            numbers: numbers(others),
            kills: numbers(killers),
            seeds: 0..0,
            timeout: None,
        })
    }

    fn has(&self, number: u16) -> bool {
        self.numbers.contains(&number) || self.kills.contains(&number)
    }
}

/// What one target came to.
pub(crate) struct Judged {
    /// The target, such as `dom0-4.17`.
    label: String,
    /// What became of each rule.
    results: book::Results,
    /// How long each took, in seconds.
    seconds: BTreeMap<u16, f64>,
    /// All that was said.
    pub(crate) logs: Vec<PathBuf>,
    /// Random sequences that came to the same as on the model.
    seeds: u64,
    /// What went wrong besides.
    trouble: Vec<Failure>,
}

impl Judged {
    fn new(label: String) -> Judged {
        Judged {
            label,
            results: BTreeMap::new(),
            seconds: BTreeMap::new(),
            logs: Vec::new(),
            seeds: 0,
            trouble: Vec::new(),
        }
    }

    /// How many rules ended how, by the names of the verdicts.
    fn counts(&self) -> Vec<(usize, &'static str)> {
        let count = |verdict| self.results.values().filter(|(v, _)| *v == verdict).count();
        let counts = Verdict::ALL.iter().rev();
        counts
            .map(|verdict| (count(*verdict), verdict.name()))
            .filter(|(count, _)| *count > 0)
            .collect()
    }

    /// The same, for other programs.
    pub(crate) fn figures(&self) -> Vec<(String, String)> {
        let counts = self.counts().into_iter();
        let counts = counts.map(|(count, name)| (name.to_owned(), count.to_string()));
        let seeds = (self.seeds > 0).then(|| ("sequences".into(), self.seeds.to_string()));
        counts.chain(seeds).collect()
    }

    /// A row for other programs for each of some rules.
    fn rows(&self, numbers: &[u16], logs: &[PathBuf]) -> Vec<Row> {
        let mut rows = Vec::new();
        for number in numbers {
            let (Some(rule), Some((verdict, message))) =
                (Rule::find(*number), self.results.get(number))
            else {
                continue;
            };
            rows.push(Row {
                group: self.label.clone(),
                name: format!("{rule:?}"),
                state: state(*verdict),
                message: public(rule, message).into(),
                seconds: self.seconds.get(number).copied(),
                facts: Facts {
                    figures: Vec::new(),
                    logs: logs.to_vec(),
                },
            });
        }
        rows
    }

    /// How many rules ended how, in words.
    fn summary(&self) -> String {
        let counts = self.counts().into_iter();
        let mut words: Vec<_> = counts
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        if self.seeds > 0 {
            words.push(format!("{} random sequences as on the model", self.seeds));
        }
        words.join(", ")
    }

    /// Whether every rule holds that could be judged, and nothing else went wrong.
    pub(crate) fn into_result(self) -> Result<()> {
        let bad: Vec<_> = self
            .results
            .iter()
            .filter(|(_, (verdict, _))| *verdict > Verdict::Pass)
            .map(|(number, (verdict, message))| {
                let message = Rule::find(*number).map_or(&**message, |rule| public(rule, message));
                format!("{}: R{number:02} {}: {message}", self.label, verdict.name())
            })
            .collect();
        if !bad.is_empty() {
            return Err(Failure::Guest(bad.join("\n")));
        }
        self.trouble.into_iter().next().map_or(Ok(()), Err)
    }
}

/// What a report may say of a rule: of one that is withheld, that it is.
fn public<'a>(rule: &Rule, message: &'a str) -> &'a str {
    match rule.withheld {
        true => "withheld",
        false => message,
    }
}

fn state(verdict: Verdict) -> State {
    match verdict {
        Verdict::Pass => State::Pass,
        Verdict::Skip => State::Skip,
        Verdict::Fail => State::Fail,
        Verdict::Error => State::Error,
        Verdict::Crash => State::Crash,
    }
}

/// Judges, prints and keeps; or renders what was kept.
pub(crate) fn rules(arguments: &RulesArgs) -> Result<()> {
    if let Some(file) = &arguments.book {
        return render(&Workspace::find()?.target.join("rules"), file);
    }
    let plan = plan(arguments)?;
    let mut report = Report::open("rules", &arguments.report)?;
    let result = judged(arguments, &plan, &mut report);
    report.close(result)
}

fn plan(arguments: &RulesArgs) -> Result<Plan> {
    Ok(Plan::new(&arguments.names, arguments.kills)?
        .with_differential(arguments.differential.clone().unwrap_or_default())
        .within(arguments.timeout.map(Duration::from_secs)))
}

fn judged(arguments: &RulesArgs, plan: &Plan, report: &mut Report) -> Result<()> {
    let workspace = Workspace::find()?;
    let kept = workspace.target.join("rules");
    let on = |target| arguments.on.contains(&target) || arguments.on.contains(&On::All);
    let vias: Vec<_> = [
        (On::Dom0, Via::Dom0),
        (On::Domu, Via::Xl),
        (On::Shim, Via::Shim),
    ]
    .into_iter()
    .filter(|(target, _)| on(*target))
    .map(|(_, via)| via)
    .collect();
    let mut all = Vec::new();
    if on(On::Model) {
        let judged = model::judge(plan);
        let numbers: Vec<_> = judged.results.keys().copied().collect();
        judged
            .rows(&numbers, &[])
            .into_iter()
            .for_each(|row| report.add(row));
        all.push(judged);
    }
    if !vias.is_empty() {
        let bench = Bench {
            provision: &arguments.provision.open()?,
            kernel: workspace.build_kernel()?,
            dir: workspace.run_dir("rules")?,
            workspace: &workspace.root,
            xen_log: arguments.xen_log,
        };
        all.extend(on_xen(&bench, &vias, plan, &mut |row| report.add(row))?);
    }
    for judged in &all {
        keep(&kept, judged)?;
    }
    print(plan, &all);
    all.into_iter().try_for_each(Judged::into_result)
}

/// The matrix, what is not simply a pass, and the counts.
fn print(plan: &Plan, all: &[Judged]) {
    let columns: Vec<_> = all
        .iter()
        .map(|judged| (judged.label.as_str(), judged.results.clone()))
        .collect();
    let matrix = book::matrix(&columns);
    let rows: Vec<_> = matrix.lines().collect();
    let (head, rest) = rows.split_at(2.min(rows.len()));
    head.iter().for_each(|line| println!("{line}"));
    for (rule, line) in RULES.iter().zip(rest) {
        if plan.has(rule.number) {
            println!("{line}");
        }
    }
    println!();
    for judged in all {
        for (number, (verdict, message)) in &judged.results {
            if *verdict != Verdict::Pass {
                let label = &judged.label;
                println!("{label}: R{number:02} {}: {message}", verdict.name());
            }
        }
        for trouble in &judged.trouble {
            println!("{}: {trouble}", judged.label);
        }
    }
    for judged in all {
        println!("{}: {}", judged.label, judged.summary());
    }
}

/// Adds what a target came to, to what it came to before.
fn keep(dir: &Path, judged: &Judged) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Failure::file("create", dir))?;
    let path = dir.join(format!("{}.txt", judged.label));
    let mut results = std::fs::read_to_string(&path)
        .map(|text| book::parse(&text))
        .unwrap_or_default();
    results.extend(judged.results.clone());
    let mut text = String::new();
    for (number, (verdict, message)) in &results {
        text += &format!("rule R{number:02} {} \"{message}\"\n", verdict.name());
    }
    std::fs::write(&path, text).map_err(Failure::file("write", &path))
}

/// Writes the book, with what every target came to last.
fn render(kept: &Path, file: &Path) -> Result<()> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(kept)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    // The model first.
    paths.sort_by_key(|path| (!path.ends_with("model.txt"), path.clone()));
    let mut targets = Vec::new();
    for path in &paths {
        let label = path.file_stem().and_then(|stem| stem.to_str());
        let text = std::fs::read_to_string(path).map_err(Failure::file("read", path))?;
        targets.push((label.unwrap_or_default(), book::parse(&text)));
    }
    std::fs::write(file, book::render(&targets)).map_err(Failure::file("write", file))?;
    ui::say(format!(
        "{}: {} rules, judged on {} targets",
        file.display(),
        RULES.len(),
        targets.len()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_kill_are_asked_for() {
        let all = Plan::new(&[], false).unwrap();
        assert!(all.all && all.kills.is_empty() && all.numbers.len() > 60);
        let kills = Plan::new(&[], true).unwrap();
        assert_eq!(kills.numbers, all.numbers);
        assert_eq!(kills.numbers.len() + kills.kills.len(), RULES.len());
        let one = Plan::new(&["R77".into(), "9".into()], false).unwrap();
        assert_eq!((&one.numbers[..], &one.kills[..]), (&[9][..], &[77][..]));
        let withheld = ["R78".into(), "9".into()];
        assert_eq!(Plan::new(&withheld, false).unwrap_err().status(), 2);
        assert_eq!(Plan::new(&withheld, true).unwrap().kills, [78]);
        assert_eq!(Plan::new(&["R999".into()], false).unwrap_err().status(), 2);
    }

    #[test]
    fn what_is_kept_is_added_to() {
        let dir = tempfile::tempdir().unwrap();
        let judged = |number, verdict| Judged {
            results: BTreeMap::from([(number, (verdict, String::from("so")))]),
            ..Judged::new("dom0-4.17".into())
        };
        keep(dir.path(), &judged(1, Verdict::Fail)).unwrap();
        keep(dir.path(), &judged(2, Verdict::Crash)).unwrap();
        keep(dir.path(), &judged(1, Verdict::Pass)).unwrap();
        let text = std::fs::read_to_string(dir.path().join("dom0-4.17.txt")).unwrap();
        let results = book::parse(&text);
        assert_eq!(results[&1], (Verdict::Pass, "so".into()));
        assert_eq!(results[&2], (Verdict::Crash, "so".into()));
    }

    #[test]
    fn a_rule_that_does_not_hold_is_a_failure() {
        for (verdict, good) in [
            (Verdict::Skip, true),
            (Verdict::Pass, true),
            (Verdict::Error, false),
            (Verdict::Fail, false),
            (Verdict::Crash, false),
        ] {
            let judged = Judged {
                results: BTreeMap::from([(9, (verdict, String::new()))]),
                ..Judged::new("dom0-4.17".into())
            };
            assert_eq!(judged.into_result().is_ok(), good, "{verdict:?}");
        }
    }
}
