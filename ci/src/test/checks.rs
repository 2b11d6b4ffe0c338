//! The groups that are cargo's own work: formatting, lints, unit tests, documentation.

use std::process::Command;
use std::time::Instant;

use super::{Suite, examples, quietly};
use crate::exit::{Failure, Result};
use crate::process;
use crate::provision::rust;
use crate::report::{Facts, State};
use crate::workspace::{FUZZER, LEAN};

/// Crates that are part of an image without an operating system's target, and lint as such too.
const FREESTANDING: &[&str] = &[
    "byte-ring",
    "calls",
    "guest",
    "guest-files",
    "hostile",
    "hypercall",
    "linker",
    "linux-bench",
    "linux-program",
    "pagetable",
    "xen-pv-rt",
    "xenstore-wire",
];

/// Whether a crate is among them.
pub(super) fn is_freestanding(package: &str) -> bool {
    FREESTANDING.contains(&package)
}

/// What of them is there only when asked for.
pub(super) const OPTIONAL: &[&str] = &["--features", "xen-pv-rt/pagetable"];

/// `cargo fmt --check`.
pub(super) fn fmt(suite: &mut Suite) -> Result<()> {
    let mut command = suite.workspace.cargo();
    command.args(["fmt", "--all", "--check"]);
    single(suite, "fmt: all files", command)?;

    let mut command = suite.workspace.cargo();
    command.args(["fmt", "--check", "--manifest-path", FUZZER]);
    single(suite, "fmt: guest/fuzz", command)?;

    for (example, _) in examples::ALL {
        let mut command = suite.workspace.cargo();
        let manifest = examples::manifest(example);
        command.args(["fmt", "--check", "--manifest-path", &manifest]);
        single(suite, &format!("fmt: {manifest}"), command)?;
    }
    Ok(())
}

/// `cargo clippy`: as the host's tests see the code, as the fuzzer's workspace has it, and as the
/// kernel is built.
pub(super) fn clippy(suite: &mut Suite) -> Result<()> {
    let mut command = suite.workspace.cargo();
    command.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]);
    single(suite, "clippy: host", command)?;

    let mut command = suite.workspace.fuzzer_cargo("clippy");
    command
        // Without the engine, which takes a C++ compiler.
        .args(["--quiet", "--no-default-features", "--target-dir"])
        .arg(suite.workspace.fuzzer_target())
        .args(["--", "-D", "warnings"]);
    single(suite, "clippy: guest/fuzz", command)?;

    rust::ensure_target(&suite.workspace.root)?;
    let mut command = suite.workspace.cargo();
    command.args(["clippy", "--quiet", "--target", rust::TARGET]);
    for package in FREESTANDING {
        command.args(["--package", package]);
    }
    command.args(OPTIONAL).args(["--", "-D", "warnings"]);
    single(suite, "clippy: freestanding", command)?;

    let mut command = suite.workspace.cargo();
    command.args(["clippy", "--quiet", "--target", rust::TARGET]);
    command.args(["--package", "guest"]).args(LEAN);
    command.args(["--", "-D", "warnings"]);
    single(suite, "clippy: lean", command)?;

    for (example, _) in examples::ALL {
        let mut command = examples::cargo(&suite.workspace, example, "clippy");
        command.args(["--quiet", "--", "-D", "warnings"]);
        let manifest = examples::manifest(example);
        single(suite, &format!("clippy: {manifest}"), command)?;
    }
    Ok(())
}

/// `cargo doc`, with broken links and the like as errors: as the host has it, where half of the kernel's
/// modules do not exist, and what is freestanding as it is built.
pub(super) fn docs(suite: &mut Suite) -> Result<()> {
    rust::ensure_target(&suite.workspace.root)?;
    let doc = |suite: &Suite| {
        let mut command = suite.workspace.cargo();
        command
            .args(["doc", "--no-deps", "--document-private-items", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings");
        command
    };
    let mut command = doc(suite);
    command.arg("--workspace");
    single(suite, "docs: host", command)?;

    let mut command = doc(suite);
    command.args(["--target", rust::TARGET]);
    for package in FREESTANDING {
        command.args(["--package", package]);
    }
    command.args(OPTIONAL);
    single(suite, "docs: freestanding", command)
}

/// All unit tests, each counted.
pub(super) fn unit(suite: &mut Suite) -> Result<()> {
    let mut command = suite.workspace.cargo();
    command.args(["test", "--workspace", "--quiet", "--no-fail-fast"]);
    counted(suite, "unit: workspace", command)
}

/// The ABI test of the hypercall crate, against the headers that Debian packages.
pub(super) fn abi(suite: &mut Suite) -> Result<()> {
    if !suite
        .workspace
        .root
        .join("hypercall/tests/abi_headers.rs")
        .is_file()
    {
        println!("      hypercall/tests/abi_headers.rs does not exist");
        return Ok(());
    }
    let headers = suite.provision.headers()?;
    let mut command = suite.workspace.cargo();
    command
        .args([
            "test",
            "--quiet",
            "--package",
            "hypercall",
            "--test",
            "abi_headers",
        ])
        .env("XEN_INCLUDE", headers);
    counted(suite, "abi: layouts against Xen's headers", command)
}

/// Runs a command that is one test.
pub(super) fn single(suite: &mut Suite, name: &str, command: Command) -> Result<()> {
    let since = Instant::now();
    let (success, text) = run(name, command)?;
    suite.report(name, since, if success { Ok(()) } else { Err(text) });
    Ok(())
}

/// Runs a command that reports a number of tests.
pub(super) fn counted(suite: &mut Suite, name: &str, command: Command) -> Result<()> {
    let since = Instant::now();
    let (success, text) = run(name, command)?;
    let (passed, failed) = count(&text);
    let facts = Facts {
        figures: vec![
            ("tests".into(), (passed + failed).to_string()),
            ("failed".into(), failed.to_string()),
        ],
        ..Facts::default()
    };
    if success && failed == 0 && passed > 0 {
        suite.passed += passed;
        suite.write(name, since, State::Pass, "", facts);
        println!(
            "ok    {name}: {passed} tests ({:.1} s)",
            since.elapsed().as_secs_f64()
        );
        return Ok(());
    }
    // Something that does not compile runs no test at all, and is a failure all the same.
    suite.passed += passed;
    suite.failed += failed.saturating_sub(1);
    let reason = format!("{failed} of {} failed\n{}", passed + failed, digest(&text));
    suite.report_with(name, since, Err(reason), facts);
    Ok(())
}

/// Runs a command; whether it succeeded, and all it said.
pub(super) fn run(name: &str, mut command: Command) -> Result<(bool, String)> {
    let output = quietly(name, || {
        process::output(&mut command, Failure::file("run", "cargo"))
    })?;
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok((output.status.success(), text.concat().trim_end().to_owned()))
}

/// What is left of the output of tests without those that passed.
fn digest(text: &str) -> String {
    let passing = |line: &&str| {
        let line = line.trim();
        line.is_empty()
            || line.starts_with("test result: ok")
            || (line.starts_with("running ") && line.contains(" test"))
            || line
                .trim_start_matches('.')
                .trim_start()
                .split('/')
                .all(|part| part.trim().chars().all(|c| c.is_ascii_digit()))
    };
    text.lines()
        .filter(|line| !passing(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Adds up cargo's `test result:` lines.
fn count(text: &str) -> (usize, usize) {
    let number = |line: &str, word: &str| -> usize {
        line.split([';', '.'])
            .filter_map(|part| part.trim().strip_suffix(word))
            .find_map(|number| number.trim().parse().ok())
            .unwrap_or(0)
    };
    text.lines()
        .filter(|line| line.starts_with("test result:"))
        .map(|line| (number(line, "passed"), number(line, "failed")))
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_is_not_shown_again() {
        let text = "\nrunning 3 tests\n...\ntest result: ok. 3 passed; 0 failed\n\n\
            running 2 tests\n. 1/2\nrules --- FAILED\n\nfailures:\n\n---- rules stdout ----\nleft: 1\n";
        assert_eq!(
            digest(text),
            "rules --- FAILED\nfailures:\n---- rules stdout ----\nleft: 1"
        );
    }

    #[test]
    fn results_of_all_crates_add_up() {
        let text = "running 3 tests\n...\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(count(text), (4, 2));
        assert_eq!(count("error: could not compile"), (0, 0));
    }
}
