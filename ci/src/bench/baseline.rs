//! The checked-in instruction counts, by version of Xen: what the regression gate compares to.
//!
//! A count depends on Xen and on the compiler, not on the machine or the version of QEMU. Another
//! Xen has an entry of its own or none; another compiler is named when something differs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::report::{Kind, Report};
use crate::exit::{Failure, Result};

/// How much more an operation may cost, in percent.
pub(crate) const TOLERANCE_PERCENT: u64 = 2;

/// Counts by operation and number of pages.
type Counts = BTreeMap<String, BTreeMap<u64, u64>>;

/// The counts on one Xen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    rustc: String,
    instructions: Counts,
}

/// All of it, by package version of Xen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Baseline {
    entries: BTreeMap<String, Entry>,
}

/// How one count differs from the baseline's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// The operation.
    pub(crate) name: String,
    /// On so many pages.
    pub(crate) pages: u64,
    /// The baseline's count.
    pub(crate) old: Option<u64>,
    /// The present one.
    pub(crate) new: Option<u64>,
}

/// What the gate says about one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// The operation.
    pub(crate) name: String,
    /// Counts beyond the tolerance, and sizes no longer measured.
    pub(crate) worse: Vec<Change>,
    /// Counts so much better that the baseline should say so, and new ones.
    pub(crate) other: Vec<Change>,
}

impl Change {
    /// Whether the gate must not let it pass.
    fn is_worse(&self) -> bool {
        match (self.old, self.new) {
            (Some(old), Some(new)) => new * 100 > old * (100 + TOLERANCE_PERCENT),
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    fn is_better(&self) -> bool {
        match (self.old, self.new) {
            (Some(old), Some(new)) => new * (100 + TOLERANCE_PERCENT) < old * 100,
            (old, _) => old.is_none(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, pages, .. } = self;
        write!(f, "{name} {pages}: ")?;
        match (self.old, self.new) {
            (Some(old), Some(new)) => {
                let percent = (new as f64 / old.max(1) as f64 - 1.0) * 100.0;
                write!(f, "{old} -> {new} instructions ({percent:+.1} %)")
            }
            (Some(old), None) => write!(f, "{old} -> not measured"),
            (None, Some(new)) => write!(f, "{new} instructions, new"),
            (None, None) => f.write_str("never measured"),
        }
    }
}

/// The counts that a report holds of the kernel's own path, and of programs.
fn counts(report: &Report) -> Counts {
    let mut counts = Counts::new();
    for measurement in report.of(Kind::Kernel).chain(report.of(Kind::Program)) {
        counts
            .entry(measurement.name.clone())
            .or_default()
            .insert(measurement.pages, measurement.instructions);
    }
    counts
}

/// Every pair that occurs in either.
fn changes(old: &Counts, new: &Counts) -> Vec<Change> {
    let pairs = |counts: &Counts| -> Vec<(String, u64)> {
        let sizes = |(name, sizes): (&String, &BTreeMap<u64, u64>)| {
            let name = name.clone();
            let pages: Vec<_> = sizes.keys().copied().collect();
            pages.into_iter().map(move |pages| (name.clone(), pages))
        };
        counts.iter().flat_map(sizes).collect()
    };
    let mut all = [pairs(old), pairs(new)].concat();
    all.sort();
    all.dedup();
    let find = |counts: &Counts, name: &str, pages| Some(*counts.get(name)?.get(&pages)?);
    all.into_iter()
        .map(|(name, pages)| Change {
            old: find(old, &name, pages),
            new: find(new, &name, pages),
            name,
            pages,
        })
        .collect()
}

impl Baseline {
    /// Where it is in the repository.
    pub(crate) fn path(root: &Path) -> PathBuf {
        root.join("ci/baseline.json")
    }

    /// Reads it; a file that does not exist is an empty one.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(Failure::file("read", path)(error)),
        };
        serde_json::from_str(&text).map_err(|error| {
            Failure::Guest(format!(
                "{} is no baseline: {error}; `cargo xtask bench --renew` writes one",
                path.display()
            ))
        })
    }

    /// As it is written.
    pub(crate) fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        text + "\n"
    }

    /// Replaces the entry for the report's Xen and returns what changed.
    pub(crate) fn renew(&mut self, report: &Report) -> Vec<Change> {
        let entry = Entry {
            rustc: report.rustc.clone(),
            instructions: counts(report),
        };
        let old = self.entries.insert(report.xen.clone(), entry.clone());
        let old = old.unwrap_or_default();
        let mut changes = changes(&old.instructions, &entry.instructions);
        changes.retain(|change| change.old != change.new);
        changes
    }

    /// Compares operation by operation; none if there is no entry for this Xen.
    pub(crate) fn judge(&self, report: &Report) -> Option<Vec<Judgement>> {
        let entry = self.entries.get(&report.xen)?;
        let mut judgements: Vec<Judgement> = Vec::new();
        for change in changes(&entry.instructions, &counts(report)) {
            if judgements
                .last()
                .is_none_or(|last| last.name != change.name)
            {
                judgements.push(Judgement {
                    name: change.name.clone(),
                    worse: Vec::new(),
                    other: Vec::new(),
                });
            }
            let Some(judgement) = judgements.last_mut() else {
                continue;
            };
            if change.is_worse() {
                judgement.worse.push(change);
            } else if change.is_better() {
                judgement.other.push(change);
            }
        }
        Some(judgements)
    }

    /// The compiler that the entry for this Xen was made with, if it is another one.
    pub(crate) fn other_compiler(&self, report: &Report) -> Option<&str> {
        let entry = self.entries.get(&report.xen)?;
        (entry.rustc != report.rustc).then_some(entry.rustc.as_str())
    }

    /// The versions of Xen that have an entry.
    pub(crate) fn versions(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{measurement, report};
    use super::*;

    fn baseline() -> Baseline {
        let mut baseline = Baseline::default();
        assert!(!baseline.renew(&report()).is_empty());
        baseline
    }

    fn verdict(report: &Report) -> (usize, usize) {
        let judged = baseline().judge(report).unwrap();
        let sum = |f: fn(&Judgement) -> usize| judged.iter().map(f).sum();
        (sum(|j| j.worse.len()), sum(|j| j.other.len()))
    }

    /// The report with map of one page, 300 in the baseline, at some other count.
    fn with(instructions: u64) -> Report {
        let mut report = report();
        report.kernel[0].instructions = instructions;
        report
    }

    #[test]
    fn two_percent_more_passes_and_anything_above_does_not() {
        assert_eq!(verdict(&report()), (0, 0));
        assert_eq!(verdict(&with(306)), (0, 0));
        assert_eq!(verdict(&with(307)), (1, 0));
        assert_eq!(verdict(&with(290)), (0, 1));
    }

    #[test]
    fn what_is_not_measured_any_more_fails_and_what_is_new_does_not() {
        let mut fewer = report();
        fewer.kernel.remove(0);
        assert_eq!(verdict(&fewer), (1, 0));
        let mut more = report();
        more.kernel.push(measurement("fork", 1, 1));
        assert_eq!(verdict(&more), (0, 1));
    }

    #[test]
    fn the_floor_is_not_judged() {
        let mut report = report();
        for measurement in &mut report.kernel {
            if measurement.kind() != Kind::Kernel {
                measurement.instructions *= 2;
            }
        }
        assert_eq!(verdict(&report), (0, 0));
    }

    #[test]
    fn another_xen_is_not_judged_and_renewing_keeps_the_first() {
        let mut other = with(1000);
        other.xen = "4.20".into();
        let mut baseline = baseline();
        assert_eq!(baseline.judge(&other), None);
        baseline.renew(&other);
        assert_eq!(baseline.versions(), ["4.17.7-0", "4.20"]);
        assert_eq!(baseline.renew(&other), []);
        let changed: Vec<_> = baseline
            .renew(&Report {
                xen: "4.20".into(),
                ..with(1100)
            })
            .iter()
            .map(Change::to_string)
            .collect();
        assert_eq!(changed, ["map 1: 1000 -> 1100 instructions (+10.0 %)"]);
    }

    #[test]
    fn the_checked_in_file_is_one() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let baseline = Baseline::read(&Baseline::path(&root)).unwrap();
        assert!(!baseline.versions().is_empty());
    }
}
