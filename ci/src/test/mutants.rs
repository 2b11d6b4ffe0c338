//! Whether tests would notice: cargo-mutants breaks the code, one line at a time, and the host's
//! tests must fail. Optional: it takes cargo-mutants, and some twenty minutes for this sample.
//!
//! All of them, in hours: `cargo mutants --package hypercall --baseline skip -- --lib --tests`. Those
//! that nothing can notice are listed with their reasons in `.cargo/mutants.toml`.

use std::time::Instant;

use super::{Suite, checks};
use crate::exit::{Failure, Result};
use crate::process;

/// How to get it.
const INSTALL: &str = "cargo install cargo-mutants --locked";

/// What it leaves alone, each with its reason.
const EXCLUDED: &str = ".cargo/mutants.toml";

/// Matches the name of no mutant. The tool lists some mutants whatever names it is asked for (fields
/// left out of an expression, in 27.1): this tells them from those that a pattern chose.
const NO_NAME: &str = "^$";

/// A file where mutants are made, what to find in a mutant's name, and the package whose tests must
/// notice.
struct Sample {
    file: &'static str,
    names: &'static [&'static str],
    package: &'static str,
}

/// Decisions whose loss would hurt most: what was carried out, who was refused, what waits, what is
/// flushed, what the base registers refer to. (cargo-mutants leaves functions alone that are
/// `unsafe`; what they decide by is in safe ones.)
const SAMPLE: &[Sample] = &[
    Sample {
        file: "hypercall/src/queue.rs",
        names: &[
            "::send_interrupted",
            "::keep_refusal",
            "::with_kept",
            "::apply",
            "::flush_for",
            "::act ",
            "::send_for_other",
        ],
        package: "hypercall",
    },
    Sample {
        file: "hypercall/src/batch/tlb.rs",
        names: &["Pending::widen"],
        package: "hypercall",
    },
    Sample {
        file: "hypercall/src/batch/results.rs",
        names: &["Tally::count", "CallResult::"],
        package: "hypercall",
    },
    Sample {
        file: "hypercall/src/batch/flush.rs",
        names: &["::lone", "::conclude", "::flush_again"],
        package: "hypercall",
    },
    Sample {
        file: "hypercall/src/lazy.rs",
        names: &["LazyMmu::"],
        package: "hypercall",
    },
    Sample {
        file: "hypercall/pagetable/src/frames/log.rs",
        names: &["holds_all", "links_at_least"],
        package: "pagetable",
    },
    Sample {
        file: "hypercall/pagetable/src/spaces.rs",
        names: &[
            "is_recorded_table",
            "give_back_root",
            "fingerprint",
            "retire",
        ],
        package: "pagetable",
    },
    Sample {
        file: "hypercall/pagetable/src/domain.rs",
        names: &["bases", "changed", "tlb_scope"],
        package: "pagetable",
    },
];

/// Runs the sample, each file counted as one test, if all that it and [`EXCLUDED`] name is there.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    let mut version = suite.workspace.cargo();
    version.args(["mutants", "--version"]);
    if !version.output().is_ok_and(|output| output.status.success()) {
        return Err(Failure::host("cargo-mutants is not installed", INSTALL));
    }
    let since = Instant::now();
    let stale = stale(suite)?;
    let result = if stale.is_empty() {
        Ok(())
    } else {
        Err(stale.join("\n"))
    };
    suite.report("mutants: names and patterns", since, result);
    // Away from the workspace, whose own copies it would be asked to make.
    let out = std::env::temp_dir().join(format!("mutants-{}", std::process::id()));
    for Sample {
        file,
        names,
        package,
    } in SAMPLE
    {
        let mut command = suite.workspace.cargo();
        command
            .args(["mutants", "--file", file, "--re", &names.join("|")])
            .args(["--jobs", "1", "--timeout", "120", "--build-timeout", "300"])
            .args(["--no-times", "--colors", "never", "--output"])
            .arg(&out)
            .args(["--package", package, "--test-package", package])
            .args(["--", "--lib", "--tests"]);
        let name = format!("mutants: {file}");
        let since = Instant::now();
        let (success, text) = checks::run(&name, command)?;
        suite.report(&name, since, if success { Ok(()) } else { Err(text) });
    }
    // What it says of survivors has been printed; the logs are as large as the tests' output.
    let _ = std::fs::remove_dir_all(&out);
    Ok(())
}

/// What is named but not there, a sentence each. Code is renamed and moved: a name that matches
/// nothing any more makes a sample smaller, or excludes nothing, and neither would be seen.
fn stale(suite: &Suite) -> Result<Vec<String>> {
    let mut stale = Vec::new();
    for Sample {
        file,
        names,
        package,
    } in SAMPLE
    {
        let options = ["--list", "--package", package, "--file", file, "--re"];
        let mutants = |name| listed(suite, &[&options[..], &[name]].concat());
        let always = mutants(NO_NAME)?;
        for name in *names {
            if mutants(name)? == always {
                stale.push(format!(
                    "the sample: no mutant of {file} has {name} in its name"
                ));
            }
        }
    }
    let path = suite.workspace.root.join(EXCLUDED);
    let text = std::fs::read_to_string(&path).map_err(Failure::file("read", &path))?;
    let strings = |array| strings(&text, array).map_err(Failure::Guest);
    // Whatever it leaves alone.
    const EVERYWHERE: [&str; 2] = ["--no-config", "--workspace"];
    let everywhere = |options: &[&str]| listed(suite, &[&EVERYWHERE[..], options].concat());
    for glob in strings("exclude_globs")? {
        if everywhere(&["--list-files", "--file", &glob])?.is_empty() {
            stale.push(format!("{EXCLUDED}: no file matches {glob}"));
        }
    }
    let mutants = |pattern: &str| everywhere(&["--list", "--re", pattern]);
    let always = mutants(NO_NAME)?;
    for pattern in strings("exclude_re")? {
        if mutants(&pattern)? == always {
            stale.push(format!("{EXCLUDED}: no mutant matches {pattern}"));
        }
    }
    Ok(stale)
}

/// What cargo-mutants lists for `options`, a line each.
fn listed(suite: &Suite, options: &[&str]) -> Result<Vec<String>> {
    let mut command = suite.workspace.cargo();
    command.args(["mutants", "--colors", "never"]).args(options);
    let output = process::output(&mut command, Failure::file("run", "cargo"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::Guest(format!(
            "cargo mutants {}: {said}",
            options.join(" ")
        )));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}

/// The strings of an array of [`EXCLUDED`], where each has a line. TOML escapes them as JSON does.
fn strings(text: &str, array: &str) -> std::result::Result<Vec<String>, String> {
    let mut lines = text.lines().map(str::trim);
    if !lines.any(|line| line == format!("{array} = [")) {
        return Err(format!("{EXCLUDED}: no line says {array} = ["));
    }
    lines
        .take_while(|line| *line != "]")
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            serde_json::from_str(line.trim_end_matches(','))
                .map_err(|error| format!("{EXCLUDED}: {line} is no string: {error}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Patterns come out as the tool takes them, and what is not one a line is not passed over.
    #[test]
    fn patterns_are_read_as_the_tool_reads_them() {
        let text = r#"
# Why.
first = [
    # A reason.
    "a/**",

    "b\\.rs:\\d+ \"c\"",
]
second = ["d"]
third = [
    nothing
]
"#;
        let first = [r"a/**", r#"b\.rs:\d+ "c""#].map(String::from);
        assert_eq!(strings(text, "first"), Ok(first.into()));
        for array in ["second", "third", "fourth"] {
            assert!(strings(text, array).is_err(), "{array}");
        }
    }

    #[test]
    fn what_is_left_alone_can_be_read() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cargo/mutants.toml");
        let text = std::fs::read_to_string(path).unwrap();
        for array in ["exclude_globs", "exclude_re"] {
            assert!(strings(&text, array).is_ok_and(|strings| !strings.is_empty()));
        }
    }

    #[test]
    fn the_sample_names_files_that_exist() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        for Sample { file, .. } in SAMPLE {
            assert!(std::path::Path::new(root).join(file).is_file(), "{file}");
        }
    }
}
