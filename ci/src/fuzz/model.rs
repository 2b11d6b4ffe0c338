//! A run by seed on the host-side model: the fuzzer among the kernel's tests, optimized and for
//! longer.

use super::Run;
use crate::exit::{Failure, Result};
use crate::process;
use crate::ui;
use crate::workspace::Workspace;

/// Operations after which the test goes on in a new domain, with the next seed.
pub(super) const EACH: u64 = 1_000_000;

const TEST: &[&str] = &["test", "--quiet", "--release", "--package", "pagetable"];

/// Builds, runs, reports.
pub(super) fn run(workspace: &Workspace, run: Run) -> Result<()> {
    let mut build = workspace.cargo();
    build.args(TEST).args(["--test", "fuzz", "--no-run"]);
    let status = process::status(&mut build, Failure::file("run", "cargo"))?;
    if !status.success() {
        return Err(Failure::Guest(
            "the fuzzer does not build; see cargo's message".into(),
        ));
    }
    let step = ui::spinner("random operations on the model");
    let mut fuzz = workspace.cargo();
    fuzz.args(TEST)
        .args(["--test", "fuzz", "--"])
        .args(["--exact", "seeds_run_clean", "--nocapture"])
        .env("FUZZ_SEED", run.seed.to_string())
        .env("FUZZ_OPS", run.ops.to_string());
    let output = process::output(&mut fuzz, Failure::file("run", "cargo"));
    step.clear();
    let output = output?;
    let text = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    let text = text.concat();
    let rate = text.lines().find(|line| line.contains(" operations, "));
    match rate {
        Some(rate) if output.status.success() => {
            println!("model: {rate}, no divergence");
            Ok(())
        }
        _ => Err(run.failure(&text)),
    }
}
