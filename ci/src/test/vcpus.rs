//! Several vCPUs at what they share: on the host the kernel's lock by loom, in every order, and the page
//! tables on the model by seed, for longer than with the unit tests; on real Xen 64 vCPUs on two
//! processors, and all self-tests where the usual run has time for a part. Optional: loom is a large
//! dependency that nothing else has, and the long runs take two minutes each.

use std::time::Instant;

use super::{Suite, checks, quietly, session, smoke, typed};
use crate::cli::ProvisionArgs;
use crate::exit::{Failure, Result};
use crate::process;
use crate::stack::Via;

/// Operations of the long runs.
const OPERATIONS: &str = "10_000_000";

/// vCPUs of the largest domain: twice as many as `shared_info` has places for.
const MANY: &str = "64";
/// How long that may take, in seconds: it is half a minute on a machine that does nothing else.
const PATIENCE: &str = "300";

/// Runs all of it, each test counted.
pub(super) fn run(suite: &mut Suite, provision: &ProvisionArgs) -> Result<()> {
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
    checks::counted(suite, "vcpus: the page tables", command)?;
    let kernel = suite.kernel()?;
    for via in [Via::Dom0, Via::Shim, Via::Bare] {
        session::run(suite, &smoke::long_boots(&kernel, via))?;
    }
    many(suite, provision)
}

/// Boots a domain with more vCPUs than there are processors, all of which run the tests of vCPUs and threads.
fn many(suite: &mut Suite, provision: &ProvisionArgs) -> Result<()> {
    let name = format!("vcpus: {MANY} of them");
    let since = Instant::now();
    let kernel = suite.kernel()?;
    let mut command = typed::boot(provision, Via::Xl, &kernel, "selftest=smp,task")?;
    command.args(["--vcpus", MANY, "--timeout", PATIENCE]);
    command.current_dir(&suite.workspace.root);
    let failed = Failure::file("run", "cargo xtask boot");
    let output = quietly(&name, || process::output(&mut command, failed))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let runs = format!(" cpus={MANY} ");
    let result = match said.lines().find(|line| line.starts_with("verdict: pass")) {
        Some(verdict) if output.status.success() && verdict.contains(&runs) => Ok(()),
        _ => Err(format!("boot ended with {}\n{said}", output.status)),
    };
    suite.report(&name, since, result);
    Ok(())
}
