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
/// Hundredths of their processor that vCPUs take of it which wait: less.
const WAITERS: f64 = 5.0;

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
    many(suite, provision)?;
    waiters(suite, provision)
}

/// Boots a domain with more vCPUs than there are processors, all of which run the tests of vCPUs and threads.
fn many(suite: &mut Suite, provision: &ProvisionArgs) -> Result<()> {
    let name = format!("vcpus: {MANY} of them");
    let arguments = ["--vcpus", MANY];
    booted(
        suite,
        provision,
        &name,
        "selftest=smp,task",
        &arguments,
        |said| {
            let runs = format!(" cpus={MANY} ");
            let verdict = said.lines().find(|line| line.starts_with("verdict: pass"));
            verdict.is_some_and(|verdict| verdict.contains(&runs))
        },
    )
}

/// Boots a domain whose four vCPUs have one processor, on a machine that counts instructions: those that wait
/// for a lock leave it to the holder.
fn waiters(suite: &mut Suite, provision: &ProvisionArgs) -> Result<()> {
    let name = format!("vcpus: less than {WAITERS} % are for those who wait");
    let arguments = ["--vcpus", "4", "--config", "cpus=\"0\"", "--icount"];
    booted(
        suite,
        provision,
        &name,
        "selftest=smp.waiters",
        &arguments,
        |said| share_of_waiters(said).is_some_and(|share| share < WAITERS),
    )
}

/// What those take who wait, in hundredths of the time, as the test of that says.
fn share_of_waiters(said: &str) -> Option<f64> {
    let (_, share) = said.split_once("(3 of 4 vCPUs wait, which takes ")?;
    share.split_whitespace().next()?.parse().ok()
}

/// Boots a domain of xl's, which passes, and whose output is as it should be.
fn booted(
    suite: &mut Suite,
    provision: &ProvisionArgs,
    name: &str,
    cmdline: &str,
    arguments: &[&str],
    is_right: impl Fn(&str) -> bool,
) -> Result<()> {
    let since = Instant::now();
    let kernel = suite.kernel()?;
    let mut command = typed::boot(provision, Via::Xl, &kernel, cmdline)?;
    command.args(arguments).args(["--timeout", PATIENCE]);
    command.current_dir(&suite.workspace.root);
    let failed = Failure::file("run", "cargo xtask boot");
    let output = quietly(name, || process::output(&mut command, failed))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let result = match output.status.success() && is_right(&said) {
        true => Ok(()),
        false => Err(format!("boot ended with {}\n{said}", output.status)),
    };
    suite.report(name, since, result);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::share_of_waiters;

    #[test]
    fn the_share_is_found() {
        let line =
            "selftest smp.waiters ... pass (3 of 4 vCPUs wait, which takes 1.1 % of the time)";
        assert_eq!(share_of_waiters(line), Some(1.1));
        assert_eq!(share_of_waiters("selftest smp.waiters ... skip"), None);
    }
}
