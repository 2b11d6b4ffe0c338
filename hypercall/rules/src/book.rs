//! The book as Markdown, with the verdicts of a run; and the lines of a run, read back.
//!
//! ```
//! use rules::{Verdict, book};
//!
//! let results = book::parse("rule R9 pass\nrule R10 fail slot 256 could be written\n");
//! assert_eq!(results[&9].0, Verdict::Pass);
//! assert_eq!(results[&10].1, "slot 256 could be written");
//! ```

use std::{
    collections::BTreeMap,
    fmt::Write,
    string::{String, ToString},
    vec::Vec,
};

use crate::{RULES, Rule, Verdict};

/// The results of one target: by rule, a verdict and the words with it.
pub type Results = BTreeMap<u16, (Verdict, String)>;

/// Reads the lines of a run, among whatever else a console printed. A rule that was announced and
/// did not report is a crash.
pub fn parse(console: &str) -> Results {
    let mut results = Results::new();
    for line in console.lines() {
        let Some((_, rest)) = line.split_once("rule R") else {
            continue;
        };
        let mut words = rest.splitn(3, ' ');
        let (Some(number), Some(verdict)) = (words.next(), words.next()) else {
            continue;
        };
        let Ok(number) = number.parse::<u16>() else {
            continue;
        };
        let verdict = verdict.trim_end();
        let message = words.next().unwrap_or_default().trim().trim_matches('"');
        if verdict == "run" {
            results.insert(
                number,
                (Verdict::Crash, "announced, never reported".to_string()),
            );
        } else if let Some(verdict) = Verdict::ALL.into_iter().find(|v| v.name() == verdict) {
            results.insert(number, (verdict, message.to_string()));
        }
    }
    results
}

/// A table of rules by targets.
pub fn matrix(targets: &[(&str, Results)]) -> String {
    let mut out = String::from("| Rule |");
    let mut line = String::from("|---|");
    for (name, _) in targets {
        let _ = write!(out, " {name} |");
        line.push_str("---|");
    }
    let _ = write!(out, "\n{line}\n");
    for rule in RULES {
        let _ = write!(out, "| {rule:?} |");
        for (_, results) in targets {
            let verdict = results.get(&rule.number).map_or("", |(v, _)| v.name());
            let _ = write!(out, " {verdict} |");
        }
        out.push('\n');
    }
    out
}

/// The whole book, but for what is withheld.
pub fn render(targets: &[(&str, Results)]) -> String {
    let mut out = String::from(
        "# The Xen PV memory ABI, rule by rule\n\nEach rule is a page and a test. The verdicts \
         are those of the last run, by target. A rule that is withheld concerns a fault of Xen's \
         that is not public.\n\n",
    );
    let mut targets = targets.to_vec();
    for (_, results) in &mut targets {
        results.retain(|number, _| !Rule::find(*number).is_some_and(|rule| rule.withheld));
    }
    let targets = targets.as_slice();
    out.push_str(&matrix(targets));
    for rule in RULES.iter().filter(|rule| !rule.withheld) {
        let _ = write!(
            out,
            "\n## {rule:?}\n\n{}\n\n**Why.** {}\n\n**Source.** {}\n\n**Test.** `src/rules/{}`{}\n",
            rule.statement,
            rule.why,
            rule.source,
            rule.file,
            if rule.kills {
                ", which can end the domain"
            } else {
                ""
            },
        );
        if !rule.costs.is_empty() {
            let _ = write!(out, "\n**Costs.** {}\n", rule.costs);
        }
        let told: Vec<_> = targets
            .iter()
            .filter_map(|(name, results)| {
                let (verdict, message) = results.get(&rule.number)?;
                Some((name, verdict.name(), message))
            })
            .collect();
        for (at, (name, verdict, message)) in told.into_iter().enumerate() {
            let start = if at == 0 { "\n" } else { "" };
            let dash = if message.is_empty() { "" } else { " — " };
            let _ = writeln!(out, "{start}- {name}: {verdict}{dash}{message}");
        }
    }
    out
}
