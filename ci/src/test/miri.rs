//! The host's tests of code that handles raw memory, run by Miri, which sees undefined behaviour
//! that happens to work. Optional: it takes nightly Rust, and a minute.

use super::{Suite, checks};
use crate::exit::Result;
use crate::provision::rust;

/// Tests that Miri gets through in a minute.
const TESTS: &[&[&str]] = &[
    &["--package", "hypercall", "--lib"],
    &["--package", "hypercall", "--test", "batch"],
    &["--package", "model", "--lib"],
    &["--package", "linker", "--lib"],
];

/// Hypercalls pass pointers as numbers; generated tests look for their past failures in files.
const FLAGS: &str = "-Zmiri-permissive-provenance -Zmiri-disable-isolation";

/// Cases of each generated test: Miri is some hundred times slower than the processor.
const CASES: &str = "16";

/// Runs all of it, each test counted.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    rust::ensure_miri(&suite.workspace.root)?;
    for test in TESTS {
        let mut command = rust::nightly(&suite.workspace.root, "cargo");
        command
            .args(["miri", "test", "--quiet", "--no-fail-fast"])
            .args(*test)
            .env("MIRIFLAGS", FLAGS)
            .env("PROPTEST_CASES", CASES);
        let name = format!("miri: {}", test[1..].join(" "));
        checks::counted(suite, &name, command)?;
    }
    Ok(())
}
