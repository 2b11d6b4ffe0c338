//! The rules on the model, and what random requests come to there.

use std::ops::Range;
use std::time::Instant;

use model::{Kind, Layout};
use rules::on_model::OnModel;
use rules::{Rule, differential};

use super::{Judged, Plan};
use crate::stack::Via;

/// Pages of a domain.
const PAGES: u64 = 4096;
/// Requests of a random sequence: the kernel's default for the word `differential`.
const STEPS: u32 = 500;

fn domain(kind: Kind) -> OnModel {
    OnModel::new(&Layout {
        survive_crash: true,
        ..Layout::new(kind, PAGES)
    })
}

/// Judges by the plan's rules, as each kind of domain; of the verdicts the worst counts.
pub(super) fn judge(plan: &Plan) -> Judged {
    let mut judged = Judged::new("model".into());
    for kind in [Kind::DomU, Kind::Dom0, Kind::Shim] {
        let shared = domain(kind);
        for &number in plan.numbers.iter().chain(&plan.kills) {
            let Some(rule) = Rule::find(number) else {
                continue;
            };
            let since = Instant::now();
            let own = rule.kills.then(|| domain(kind));
            let outcome = rule.run(own.as_ref().unwrap_or(&shared)).outcome;
            *judged.seconds.entry(number).or_default() += since.elapsed().as_secs_f64();
            let found = (outcome.verdict(), outcome.message().to_owned());
            let worst = judged.results.entry(number).or_insert(found.clone());
            if found.0 > worst.0 {
                *worst = found;
            }
        }
    }
    judged
}

/// What a random sequence comes to, in the words that the kernel uses.
pub(super) fn differential(via: Via, seeds: Range<u64>) -> Vec<String> {
    let machine = domain(match via {
        Via::Dom0 => Kind::Dom0,
        Via::Shim | Via::KvmShim => Kind::Shim,
        // The others have no PV kernel, and are no targets of the rules.
        Via::Xl | Via::Pvh | Via::Bare | Via::Bare4 => Kind::DomU,
    });
    seeds
        .map(
            |seed| match differential::run(&machine, seed, STEPS, None) {
                Ok(digest) => digest.to_string(),
                Err(outcome) => outcome.message().to_owned(),
            },
        )
        .collect()
}
