//! Whether tests would notice: cargo-mutants breaks the code, one line at a time, and the host's
//! tests must fail. Optional: it takes cargo-mutants, and some twenty minutes for this sample.
//!
//! All of them, in hours: `cargo mutants --package hypercall --baseline skip -- --lib --tests`. Those
//! that nothing can notice are listed with their reasons in `.cargo/mutants.toml`.

use std::time::Instant;

use super::{Suite, checks};
use crate::exit::{Failure, Result};

/// How to get it.
const INSTALL: &str = "cargo install cargo-mutants --locked";

/// Where mutants are made: a file, what to match in a mutant's name, and the packages whose tests
/// must notice. Decisions whose loss would hurt most: what was carried out, who was refused, what
/// waits, what is flushed, what the base registers refer to. (cargo-mutants leaves functions alone
/// that are `unsafe`; what they decide by is in safe ones.)
const SAMPLE: &[(&str, &str, &[&str])] = &[
    (
        "hypercall/src/queue.rs",
        "send_interrupted|keep_refusal|with_kept|settle|flush_for|act",
        &["hypercall"],
    ),
    (
        "hypercall/src/batch/settle.rs",
        "Tally::count|Outcome",
        &["hypercall"],
    ),
    (
        "hypercall/src/batch/flush.rs",
        "lone|conclude|flush_again",
        &["hypercall"],
    ),
    ("hypercall/src/lazy.rs", "LazyMmu::", &["hypercall"]),
    (
        "hypercall/pagetable/src/frames/log.rs",
        "holds_all|links_at_least",
        &["pagetable"],
    ),
    (
        "hypercall/pagetable/src/spaces.rs",
        "is_recorded_table|unpin|fingerprint",
        &["pagetable"],
    ),
    (
        "hypercall/pagetable/src/domain.rs",
        "bases|changed",
        &["pagetable"],
    ),
];

/// Runs the sample, each file counted as one test.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    let mut version = suite.workspace.cargo();
    version.args(["mutants", "--version"]);
    if !version.output().is_ok_and(|output| output.status.success()) {
        return Err(Failure::host("cargo-mutants is not installed", INSTALL));
    }
    // Away from the workspace, whose own copies it would be asked to make.
    let out = std::env::temp_dir().join(format!("mutants-{}", std::process::id()));
    for (file, names, packages) in SAMPLE {
        let mut command = suite.workspace.cargo();
        command
            .args(["mutants", "--file", file, "--re", names])
            .args(["--jobs", "1", "--timeout", "120", "--build-timeout", "300"])
            .args(["--no-times", "--colors", "never", "--output"])
            .arg(&out);
        for package in *packages {
            command.args(["--package", package, "--test-package", package]);
        }
        command.args(["--", "--lib", "--tests"]);
        let name = format!("mutants: {file}");
        let since = Instant::now();
        let (success, text) = checks::run(&name, command)?;
        let result = match success {
            false => Err(text),
            // Names change; a sample that is empty would pass for ever.
            true if !tested(&text) => Err(format!("no mutant is named {names}\n{text}")),
            true => Ok(()),
        };
        suite.report(&name, since, result);
    }
    // What it says of survivors has been printed; the logs are as large as the tests' output.
    let _ = std::fs::remove_dir_all(&out);
    Ok(())
}

/// Whether any mutant was tested, by the summary: `12 mutants tested: 12 caught`.
fn tested(text: &str) -> bool {
    text.lines()
        .filter_map(|line| line.split_once(" mutants tested"))
        .any(|(count, _)| count.trim().parse().is_ok_and(|count: usize| count > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_sample_is_told_from_one_that_was_tested() {
        assert!(tested(
            "Found 12 mutants to test\n12 mutants tested: 11 caught, 1 unviable"
        ));
        assert!(!tested("Found 0 mutants to test\n"));
        assert!(!tested("0 mutants tested"));
    }

    #[test]
    fn the_sample_names_files_that_exist() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        for (file, ..) in SAMPLE {
            assert!(std::path::Path::new(root).join(file).is_file(), "{file}");
        }
    }
}
