//! Crashes with file and line, as a person sees them: behind the lines of the kernel and of Xen, and
//! seen by no expression.

use std::time::Instant;

use super::{Suite, quietly, title, titles, typed};
use crate::cli::ProvisionArgs;
use crate::exit::{Failure, Result};
use crate::process;
use crate::stack::Via;

/// Where the kernel fails on purpose.
const SOURCE: &str = "guest/src/boot/provoke.rs";

/// A boot that ends in a crash.
struct Row {
    name: &'static str,
    vias: &'static [Via],
    /// Words for the kernel.
    words: &'static str,
    /// How the raw line begins, without blanks before it.
    raw: &'static str,
    /// What the line of the source has that is named behind it.
    code: &'static str,
    /// How that place ends.
    ends: &'static str,
}

const TABLE: &[Row] = &[
    Row {
        name: "a fault has file and line, and what is inlined",
        vias: &[Via::Dom0, Via::Bare],
        words: "provoke=pagefault",
        raw: "#0 ",
        code: "nowhere.read_volatile()",
        ends: "in fault, inlined",
    },
    Row {
        name: "what Xen says of a crash has file and line",
        vias: &[Via::Dom0],
        words: "provoke=stackoverflow",
        raw: "(XEN) RIP: ",
        code: "black_box([depth; 64])",
        ends: "in guest::boot::provoke::recurse",
    },
];

/// Fits what is added and nothing that the kernel says.
const ADDED: &str = "^ *-->";

/// What the tests of a way are called.
pub(super) fn names(via: Via) -> Vec<String> {
    titles(TABLE.iter().map(|row| (row.name, row.vias)), via)
}

/// Runs those of these ways.
pub(super) fn run(suite: &mut Suite, provision: &ProvisionArgs, vias: &[Via]) -> Result<()> {
    let source = suite.workspace.root.join(SOURCE);
    let source = std::fs::read_to_string(&source).map_err(Failure::file("read", &source))?;
    for &via in vias {
        for row in TABLE.iter().filter(|row| row.vias.contains(&via)) {
            let since = Instant::now();
            let kernel = suite.kernel()?;
            let mut command = typed::boot(provision, via, &kernel, row.words)?;
            command.args(["--expect", ADDED]);
            command.current_dir(&suite.workspace.root);
            let failed = Failure::file("run", "cargo xtask boot");
            let output = quietly(&title(row.name, via), || {
                process::output(&mut command, failed)
            })?;
            let said = String::from_utf8_lossy(&output.stdout);
            let result = match output.status.code() {
                Some(1) => check(row, &source, &said),
                _ => Err(format!("boot ended with {}", output.status)),
            };
            let result = result.map_err(|reason| {
                let more = String::from_utf8_lossy(&output.stderr);
                format!("{reason}\n{said}{more}")
            });
            suite.report(&title(row.name, via), since, result);
        }
    }
    Ok(())
}

/// Looks behind the raw line for the place in the source.
fn check(row: &Row, source: &str, said: &str) -> std::result::Result<(), String> {
    let line = source.lines().position(|line| line.contains(row.code));
    let line = line.ok_or(format!("{SOURCE} has no '{}'", row.code))? + 1;
    let mut lines = said.lines();
    let raw = lines.find(|line| line.trim_start().starts_with(row.raw));
    raw.ok_or(format!("no line begins with '{}'", row.raw))?;
    let place = format!("--> {SOURCE}:{line}:");
    let mut added = lines.take_while(|line| line.trim_start().starts_with("-->"));
    let found = added.any(|line| line.trim_start().starts_with(&place) && line.ends_with(row.ends));
    match found {
        true => Ok(()),
        false => Err(format!(
            "'{place}... {}' is not behind '{}'",
            row.ends, row.raw
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_must_stand_behind_the_raw_line() {
        let row = &TABLE[0];
        let source = format!("one\n{}\n", row.code);
        let added = format!(
            "   --> core/src/x.rs:1 in y, inlined\n   --> {SOURCE}:2:9 {}\n",
            row.ends
        );
        let good = format!("x\n  #0  1234 f\n{added}  #1  5\n");
        assert_eq!(check(row, &source, &good), Ok(()));
        for bad in [
            good.replace(":2:", ":3:"),
            good.replace(", inlined", ""),
            good.replace("#0", "#1"),
            format!("{added}  #0  1234 f\n"),
            "  #0  1234 f\nx\n".to_owned() + &added,
        ] {
            assert!(check(row, &source, &bad).is_err(), "{bad}");
        }
        assert!(check(row, "one\n", &good).is_err());
    }
}
