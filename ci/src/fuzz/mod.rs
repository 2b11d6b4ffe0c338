//! `cargo xtask fuzz`: random page-table operations against a reference, for as long as one likes:
//! by seed on the model or on real Xen, or with coverage as the guide.
//!
//! A divergence is shown with the command that brings it about again.

mod coverage;
mod model;
mod xen;

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::cli::FuzzArgs;
use crate::exit::{Failure, Result};
use crate::ui;
use crate::workspace::Workspace;

/// `--on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum On {
    /// Xen's page tables as the host-side model has them
    Model,
    /// The kernel as Xen's first domain
    Dom0,
    /// The kernel as an ordinary domain
    Domu,
}

impl On {
    fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dom0 => "dom0",
            Self::Domu => "domu",
        }
    }

    /// Some half a minute's work.
    fn ops(self) -> u64 {
        match self {
            Self::Model => 10_000_000,
            Self::Dom0 | Self::Domu => 1_000_000,
        }
    }
}

/// What a run by seed is; shown as the command that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    on: On,
    seed: u64,
    ops: u64,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { on, seed, ops } = self;
        write!(
            f,
            "cargo xtask fuzz --on {} --seed {seed:#x} --ops {ops}",
            on.name()
        )
    }
}

impl Run {
    fn new(on: On, seed: Option<u64>, ops: Option<u64>) -> Run {
        Run {
            on,
            seed: seed.unwrap_or_else(random),
            ops: ops.unwrap_or(on.ops()),
        }
    }

    /// The shortest run that ends in the same divergence.
    fn replay(self, found: Found) -> Run {
        // A long run on the model is one seed after the other.
        let before = match self.on {
            On::Model => found.seed.wrapping_sub(self.seed),
            On::Dom0 | On::Domu => 0,
        };
        let left = self.ops.saturating_sub(before.saturating_mul(model::EACH));
        // One found by what ends a run, after the last of its operations, needs them all.
        let all = match self.on {
            On::Model => left.min(model::EACH),
            On::Dom0 | On::Domu => left,
        };
        Run {
            seed: found.seed,
            ops: found.step.saturating_add(1).min(all),
            ..self
        }
    }

    /// The failure that a run came to, by what was printed, and the way back to it.
    fn failure(self, text: &str) -> Failure {
        match text
            .lines()
            .find_map(|line| Found::parse(line).map(|found| (line, found)))
        {
            Some((line, found)) => {
                Failure::Guest(format!("{line}\n  to replay: {}", self.replay(found)))
            }
            None => Failure::Guest(format!("{}\n  to replay: {self}", text.trim_end())),
        }
    }
}

/// Where a divergence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    seed: u64,
    step: u64,
}

impl Found {
    /// From the line that the fuzzer prints, `seed 0x1 step 4711 Map { ... }: ...`.
    fn parse(line: &str) -> Option<Found> {
        let (_, rest) = line.split_once("seed ")?;
        let mut words = rest.split(' ');
        let seed = number(words.next()?).ok()?;
        let step = (words.next()? == "step").then(|| words.next())??;
        Some(Found {
            seed,
            step: number(step).ok()?,
        })
    }
}

/// A number as the kernel's command line takes it: decimal or, with `0x`, hexadecimal; `_` is for
/// the eye.
pub(crate) fn number(text: &str) -> std::result::Result<u64, String> {
    let digits = text.replace('_', "");
    match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    }
    .map_err(|error| error.to_string())
}

/// Another number at each call.
fn random() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

/// Runs what is asked for.
pub(crate) fn fuzz(arguments: &FuzzArgs) -> Result<()> {
    let workspace = Workspace::find()?;
    if let Some(list) = &arguments.replay {
        return coverage::replay(&workspace, list);
    }
    if arguments.coverage {
        return coverage::run(&workspace, arguments.seconds);
    }
    let run = Run::new(arguments.on, arguments.seed, arguments.ops);
    ui::say(run.to_string());
    match run.on {
        On::Model => model::run(&workspace, run),
        On::Dom0 | On::Domu => xen::run(&workspace, &arguments.provision.open()?, run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "seed 0x2b step 4711 Map { at: 5, n: 2, frame: 9, kind: 1 }: \
        0xffffe000c0005000: Entry is 0x0, expected 0x8000000000000001";

    fn run(on: On, ops: u64) -> Run {
        Run { on, seed: 42, ops }
    }

    #[test]
    fn a_divergence_is_found_wherever_it_is_printed() {
        let found = Some(Found {
            seed: 0x2b,
            step: 4711,
        });
        assert_eq!(Found::parse(LINE), found);
        assert_eq!(
            Found::parse(&format!("the guest failed: fuzz: {LINE}")),
            found
        );
        for other in ["seed 0x1: Counts { done: 7 }", "seed x step 1", "seed 1"] {
            assert_eq!(Found::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_replay_is_as_short_as_can_be() {
        let replay = |on, ops, step| run(on, ops).replay(Found { seed: 43, step });
        // The second million of the run.
        let short = replay(On::Model, 10_000_000, 4711);
        assert_eq!(
            short.to_string(),
            "cargo xtask fuzz --on model --seed 0x2b --ops 4712"
        );
        assert_eq!(replay(On::Model, 10_000_000, 1_000_002).ops, 1_000_000);
        assert_eq!(replay(On::Model, 1_500_000, 500_002).ops, 500_000);
        assert_eq!(replay(On::Dom0, 3_000_000, 2_999_999).ops, 3_000_000);
    }

    #[test]
    fn a_failure_says_how_to_replay_it() {
        let text = format!("running 1 test\npanicked at x:\n{LINE}; None\nmore");
        let shown = run(On::Model, 10_000_000).failure(&text).to_string();
        assert_eq!(
            shown,
            format!(
                "{LINE}; None\n  to replay: cargo xtask fuzz --on model --seed 0x2b --ops 4712"
            )
        );
        let other = run(On::Dom0, 9).failure("the guest ended without a verdict");
        assert_eq!(other.status(), 1);
        let whole = "cargo xtask fuzz --on dom0 --seed 0x2a --ops 9";
        assert!(other.to_string().ends_with(whole), "{other}");
    }

    #[test]
    fn numbers_are_as_the_kernel_takes_them() {
        assert_eq!(number("1_000"), Ok(1000));
        assert_eq!(number("0x2a"), Ok(42));
        assert!(number("").is_err() && number("ten").is_err() && number("-1").is_err());
    }

    #[test]
    fn without_a_seed_it_is_another_each_time() {
        let seeds: Vec<_> = (0..4).map(|_| Run::new(On::Model, None, None)).collect();
        assert!(seeds.iter().any(|run| run.seed != seeds[0].seed));
        assert_eq!(seeds[0].ops, 10_000_000);
    }
}
