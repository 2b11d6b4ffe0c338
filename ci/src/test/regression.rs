//! The group `bench`: no operation costs more instructions than the checked-in baseline says.

use std::time::Instant;

use super::Suite;
use crate::bench::{
    self, Baseline, Change, Compared, Judgement, Measurement, RISE_FROM_ONE_PERCENT, RISE_PERCENT,
    Report, TOLERANCE_PERCENT,
};
use crate::exit::{Failure, Result};
use crate::report::Facts;

/// What the comparison with the README is called.
const README: &str = "bench: README.md has the figures that were counted";

/// What the look at the curves is called.
const CURVE: &str = "bench: a page of many costs no more than one of fewer";

/// Why it fails.
fn curve(rises: &[String]) -> std::result::Result<(), String> {
    match rises {
        [] => Ok(()),
        rises => Err(format!(
            "{}\nmore than {RISE_PERCENT} % above, or {RISE_FROM_ONE_PERCENT} from one page to two: another way is cheaper there, see \
             hypercall/pagetable/src/cost.rs",
            rises.join("\n")
        )),
    }
}

/// Why it fails.
fn stale(found: &[String]) -> String {
    format!(
        "{}\n`cargo xtask bench --renew --readme` writes the baseline and README.md anew",
        found.join("\n")
    )
}

/// Measures once and judges every operation.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    let kernel = suite.kernel()?;
    let baseline = Baseline::read(&Baseline::path(&suite.workspace.root))?;
    let since = Instant::now();
    let report = match bench::for_gate(&suite.workspace, &suite.provision, &kernel) {
        Ok(report) => report,
        Err(Failure::Guest(reason)) => {
            suite.report("bench: measures", since, Err(reason));
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    suite.report("bench: measures", since, Ok(()));
    suite.report(CURVE, Instant::now(), curve(&bench::rises(&report)));
    match bench::compare(&suite.workspace.root, &report)? {
        Compared::Same => suite.report(README, Instant::now(), Ok(())),
        Compared::Differs(found) => suite.report(README, Instant::now(), Err(stale(&found))),
        Compared::Elsewhere => println!(
            "      README.md tells of another Xen or compiler than {} and {}, so its figures are not \
             compared",
            report.xen, report.rustc
        ),
    }
    let Some(judgements) = baseline.judge(&report) else {
        println!(
            "      no baseline for Xen {}, so nothing is compared (there is one for {}); \
             `cargo xtask bench --renew` adds one",
            report.xen,
            baseline.versions().join(", ")
        );
        return Ok(());
    };
    let compiler = baseline.other_compiler(&report).map(|other| {
        format!(
            "\nthe baseline was made by {other}, this kernel by {}",
            report.rustc
        )
    });
    for judgement in judgements {
        let name = format!("bench: {}", judgement.name);
        let result = verdict(&judgement, compiler.as_deref().unwrap_or_default());
        suite.report_with(
            &name,
            Instant::now(),
            result,
            facts(&report, &judgement.name),
        );
        for change in &judgement.other {
            println!("      {change}; `cargo xtask bench --renew` takes it over");
        }
    }
    Ok(())
}

/// What an operation costs, by number of pages.
fn facts(report: &Report, name: &str) -> Facts {
    let counted = report.kernel.iter().filter(|row| row.name == name);
    let figure = |row: &Measurement| {
        let name = format!("instructions.{}", row.pages);
        (name, row.instructions.to_string())
    };
    Facts {
        figures: counted.map(figure).collect(),
        logs: Vec::new(),
    }
}

/// Why an operation fails, if it does.
fn verdict(judgement: &Judgement, compiler: &str) -> std::result::Result<(), String> {
    if judgement.worse.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = judgement.worse.iter().map(Change::to_string).collect();
    Err(format!(
        "{}\nmore than {TOLERANCE_PERCENT} % above the baseline: bring it down, or take it over with \
         `cargo xtask bench --renew` and say why{compiler}",
        lines.join("\n")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_more_fails_and_says_how_much() {
        let mut judgement = Judgement {
            name: "map".into(),
            worse: vec![],
            other: vec![],
        };
        assert_eq!(verdict(&judgement, ""), Ok(()));
        judgement.worse.push(Change {
            name: "map".into(),
            pages: 1,
            old: Some(300),
            new: Some(330),
        });
        let reason = verdict(&judgement, "\nanother compiler").unwrap_err();
        assert!(
            reason.contains("map 1: 300 -> 330 instructions (+10.0 %)"),
            "{reason}"
        );
        assert!(reason.ends_with("another compiler"), "{reason}");
    }

    #[test]
    fn a_curve_that_rises_fails() {
        assert_eq!(curve(&[]), Ok(()));
        let reason = curve(&["map: so much".into()]).unwrap_err();
        assert!(
            reason.starts_with("map: so much\nmore than 5 % above"),
            "{reason}"
        );
    }
}
