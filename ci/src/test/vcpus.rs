//! Several vCPUs at what they share, on the host: the kernel's lock by loom, in every order, and the page
//! tables on the model by seed, for longer than with the unit tests. Optional: loom is a large
//! dependency that nothing else has, and the long runs take two minutes.

use super::{Suite, checks};
use crate::exit::Result;

/// Operations of the long runs.
const OPERATIONS: &str = "10_000_000";

/// Runs all of it, each test counted.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    const LOCK: &[&str] = &["--package", "guest", "--features", "interleavings"];
    let mut command = suite.workspace.cargo();
    command
        .args(["clippy", "--quiet", "--test", "interleavings"])
        .args(LOCK)
        .args(["--", "-D", "warnings"]);
    checks::single(suite, "vcpus: clippy", command)?;

    let mut command = suite.workspace.cargo();
    command
        .args([
            "test",
            "--quiet",
            "--no-fail-fast",
            "--test",
            "interleavings",
        ])
        .args(LOCK);
    checks::counted(suite, "vcpus: the lock in every order", command)?;

    let mut command = suite.workspace.cargo();
    command
        .args([
            "test",
            "--quiet",
            "--release",
            "--package",
            "pagetable",
            "--test",
            "smp",
        ])
        .env("FUZZ_OPS", OPERATIONS);
    checks::counted(suite, "vcpus: the page tables", command)
}
