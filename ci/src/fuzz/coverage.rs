//! Fuzzing with coverage as the guide: builds `guest/fuzz` with instrumentation, which stable Rust
//! has as plain LLVM options, and lets libFuzzer run it for a while.
//!
//! Lists of operations that reached new code are kept below the target directory: the next run
//! goes on from there.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::exit::{Failure, Result};
use crate::process;
use crate::ui;
use crate::workspace::{FUZZER, Workspace};

const PROGRAM: &str = "tables";

/// What tells libFuzzer where a run has been and what it compared.
const RUSTFLAGS: &str = "--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Bytes of a list: what its longest takes.
const MAX_LEN: &str = "-max_len=1800";
/// A list takes milliseconds; one that takes these seconds hangs.
const HANG: &str = "-timeout=20";

/// Each list has a domain of its own. An allocator that keeps the domain's memory makes that four
/// times as fast as one that returns it to the system.
const ALLOCATOR: [(&str, &str); 2] = [
    ("MALLOC_MMAP_THRESHOLD_", "1073741824"),
    ("MALLOC_TRIM_THRESHOLD_", "8589934592"),
];

/// Fuzzes for so many seconds.
pub(super) fn run(workspace: &Workspace, seconds: u64) -> Result<()> {
    let program = build(workspace)?;
    let home = workspace.target.join("fuzz");
    let (corpus, findings) = (home.join("corpus"), home.join("findings"));
    for dir in [&corpus, &findings] {
        std::fs::create_dir_all(dir).map_err(Failure::file("create", dir))?;
    }
    let step = ui::spinner(format!("lists of operations on the model for {seconds} s"));
    let mut fuzzer = command(&program);
    fuzzer
        .args([MAX_LEN, HANG, "-len_control=0", "-print_final_stats=1"])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .arg(&corpus);
    let output = process::output(&mut fuzzer, Failure::file("run", &program));
    step.clear();
    let text = judge(output?)?;
    println!("coverage: {}", summary(&text));
    Ok(())
}

/// Runs one list, such as a failure left behind.
pub(super) fn replay(workspace: &Workspace, list: &Path) -> Result<()> {
    let list = list
        .canonicalize()
        .map_err(|error| Failure::Usage(format!("cannot open {}: {error}", list.display())))?;
    let program = build(workspace)?;
    let mut fuzzer = command(&program);
    fuzzer.arg(HANG).arg(&list);
    judge(process::output(
        &mut fuzzer,
        Failure::file("run", &program),
    )?)?;
    println!("coverage: {} runs clean", list.display());
    Ok(())
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.envs(ALLOCATOR).env("RUST_BACKTRACE", "0");
    command
}

/// Builds the program and returns its path.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        return Err(Failure::host(
            format!("no C++ compiler: {}", compiler.display()),
            "install one, such as g++, or name it in CXX: libFuzzer is written in C++",
        ));
    }
    let host = host(workspace)?;
    let target = workspace.fuzzer_target();
    let mut cargo = workspace.fuzzer_cargo("build");
    cargo
        .args(["--quiet", "--release"])
        // Named, so that build scripts go without instrumentation.
        .args(["--target", &host, "--target-dir"])
        .arg(&target)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", RUSTFLAGS);
    let status = process::status(&mut cargo, Failure::file("run", "cargo"))?;
    if !status.success() {
        return Err(Failure::Guest(format!(
            "{FUZZER} does not build; see cargo's message"
        )));
    }
    Ok(target.join(host).join("release").join(PROGRAM))
}

/// The target that cargo itself runs on.
fn host(workspace: &Workspace) -> Result<String> {
    let output = workspace
        .cargo()
        .arg("-vV")
        .output()
        .map_err(Failure::file("run", "cargo"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| Failure::host("cargo -vV names no host", "update cargo"))
}

/// What the program said, if it found nothing.
fn judge(output: Output) -> Result<String> {
    let [list, text] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if output.status.success() {
        Ok(text)
    } else {
        Err(Failure::Guest(finding(&list, &text)))
    }
}

/// A failure in short: what panicked, the operations, and how to run them again.
fn finding(list: &str, text: &str) -> String {
    let said = match text.split_once(" panicked at ") {
        Some((_, rest)) => rest.lines().take(2).collect::<Vec<_>>().join("\n"),
        None => {
            let errors = text.lines().filter(|line| line.contains("ERROR: "));
            errors.collect::<Vec<_>>().join("\n")
        }
    };
    let unit = text
        .lines()
        .find_map(|line| line.split_once("Test unit written to "));
    let again = unit.map_or(String::new(), |(_, path)| {
        format!("\n  to replay: cargo xtask fuzz --replay {path}")
    });
    format!("{}\n{}{again}", said.trim_end(), list.trim_end())
}

/// libFuzzer's numbers, for a person.
fn summary(text: &str) -> String {
    let after = |word: &str| {
        let rest = text.rsplit_once(word).map(|(_, rest)| rest.trim_start());
        rest.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
            .unwrap_or("?")
            .to_owned()
    };
    format!(
        "{} lists, {} a second, {} of them new; {} of {} edges reached; no divergence",
        after("stat::number_of_executed_units:"),
        after("stat::average_exec_per_sec:"),
        after("stat::new_units_added:"),
        after(" cov: "),
        after("PC tables ("),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_from_what_libfuzzer_says() {
        let text = "INFO: Loaded 1 PC tables (7960 PCs): 7960 [0x1,0x2)\n\
            #2\tINITED cov: 10 ft: 11 corp: 1/1b\n#9\tDONE   cov: 2345 ft: 9 corp: 7/9b\n\
            stat::number_of_executed_units: 1829\nstat::average_exec_per_sec:     87\n\
            stat::new_units_added:          492\n";
        assert_eq!(
            summary(text),
            "1829 lists, 87 a second, 492 of them new; 2345 of 7960 edges reached; no divergence"
        );
    }

    #[test]
    fn a_finding_is_shown_with_its_list_and_its_replay() {
        let text = "INFO: x\nthread '<unnamed>' (7) panicked at src/main.rs:9:9:\nseed 0x0 step 3\n\
            note: run with\n==1== ERROR: libFuzzer: deadly signal\n\
            artifact_prefix='/t/'; Test unit written to /t/crash-1\n";
        let shown = finding("    Op::Enter,\n", text);
        assert!(
            shown.starts_with("src/main.rs:9:9:\nseed 0x0 step 3\n"),
            "{shown}"
        );
        assert!(
            shown.ends_with("Op::Enter,\n  to replay: cargo xtask fuzz --replay /t/crash-1"),
            "{shown}"
        );
        let hang = finding("", "==1== ERROR: libFuzzer: timeout after 20 seconds\n");
        assert!(hang.contains("timeout after 20 seconds"), "{hang}");
    }
}
