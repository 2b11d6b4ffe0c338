//! `boot --expect` and `--fail` on real Xen, as somebody uses them whose kernel gives no verdict. The
//! stand-in is the kernel itself: it hangs or panics when told to, and says other things before.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Suite, quietly, title, titles, typed};
use crate::cli::ProvisionArgs;
use crate::exit::{Failure, Result};
use crate::process;
use crate::stack::Via;

/// A boot.
struct Row {
    name: &'static str,
    vias: &'static [Via],
    /// Words for the kernel.
    words: &'static str,
    /// `--expect`, `--fail`.
    expect: &'static str,
    fail: Option<&'static str>,
    /// The exit status.
    status: i32,
    /// What the report says of it: its verdict, and a part of its message.
    verdict: &'static str,
    says: &'static str,
}

const TABLE: &[Row] = &[
    Row {
        // The first line of the log, long before the kernel hangs: no verdict and no power-off.
        name: "a text passes a kernel that never ends",
        vias: &[Via::Dom0, Via::Xl, Via::Shim, Via::Bare],
        words: "provoke=hang",
        expect: r"^\[ *0\.0\d+\] info  boot: ",
        fail: Some("never said"),
        status: 0,
        verdict: "pass",
        says: "passed: the console says [",
    },
    Row {
        name: "a text of failure outweighs one of success",
        vias: &[Via::Dom0, Via::Xl],
        words: "provoke=panic",
        expect: "info  boot: ",
        fail: Some("^provoked"),
        status: 1,
        verdict: "crash",
        says: "the console says what --fail '^provoked' fits: provoked",
    },
    Row {
        name: "a text does not pass a kernel that crashes",
        vias: &[Via::Dom0, Via::Xl],
        words: "provoke=panic",
        expect: "info  boot: ",
        fail: None,
        status: 1,
        verdict: "crash",
        says: "the guest crashed: panic",
    },
    Row {
        name: "a text that is never said is named",
        vias: &[Via::Dom0],
        words: "",
        expect: "never said",
        fail: None,
        status: 1,
        verdict: "fail",
        says: "no line of the console fits --expect 'never said'",
    },
];

/// When a boot is given up. One that goes on although all is said takes as long.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What the tests of a way are called.
pub(super) fn names(via: Via) -> Vec<String> {
    titles(TABLE.iter().map(|row| (row.name, row.vias)), via)
}

/// Runs those of these ways.
pub(super) fn run(suite: &mut Suite, provision: &ProvisionArgs, vias: &[Via]) -> Result<()> {
    for &via in vias {
        for row in TABLE.iter().filter(|row| row.vias.contains(&via)) {
            let kernel = suite.kernel()?;
            let since = Instant::now();
            let mut command = typed::boot(provision, via, &kernel, row.words)?;
            command.args(["--expect", row.expect]);
            command.args(row.fail.iter().flat_map(|fail| ["--fail", fail]));
            command.args(["--timeout", &TIMEOUT.as_secs().to_string()]);
            command.args(["--json", "/dev/stderr"]);
            command.current_dir(&suite.workspace.root);
            let failed = Failure::file("run", "cargo xtask boot");
            let output = quietly(&title(row.name, via), || {
                process::output(&mut command, failed)
            })?;
            let said = String::from_utf8_lossy(&output.stderr);
            let report = report(&said);
            let result = check(row, output.status.code(), &report, since.elapsed());
            let result = result.map_err(|reason| {
                format!(
                    "{reason}\n{}{said}",
                    String::from_utf8_lossy(&output.stdout)
                )
            });
            suite.report(&title(row.name, via), since, result);
        }
    }
    Ok(())
}

/// The report behind everything else on the standard error.
fn report(said: &str) -> Value {
    let start = said.find("\n{\n").map_or(0, |at| at + 1);
    let mut values = serde_json::Deserializer::from_str(&said[start..]).into_iter();
    values
        .next()
        .and_then(|value| value.ok())
        .unwrap_or_default()
}

fn check(
    row: &Row,
    status: Option<i32>,
    report: &Value,
    took: Duration,
) -> std::result::Result<(), String> {
    let told = &report["rows"][0];
    let message = told["message"].as_str().unwrap_or_default();
    if status != Some(row.status) || report["status"] != row.status {
        return Err(format!(
            "the exit status should be {} and is {status:?}",
            row.status
        ));
    }
    if told["verdict"] != row.verdict || !message.contains(row.says) {
        return Err(format!("the report says {}: {message}", told["verdict"]));
    }
    match took < TIMEOUT {
        true => Ok(()),
        false => Err("it went on until its time was over".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_holds_only_if_all_of_it_does() {
        let row = &TABLE[0];
        let report = |verdict: &str, status: i32| json!({"status": status, "rows": [{"verdict": verdict, "message": row.says}]});
        let quick = Duration::from_secs(3);
        assert_eq!(check(row, Some(0), &report("pass", 0), quick), Ok(()));
        assert!(check(row, Some(1), &report("pass", 0), quick).is_err());
        assert!(check(row, Some(0), &report("pass", 1), quick).is_err());
        assert!(check(row, Some(0), &report("fail", 0), quick).is_err());
        assert!(check(row, Some(0), &report("pass", 0), TIMEOUT).is_err());
        assert!(check(row, Some(0), &Value::Null, quick).is_err());
    }

    #[test]
    fn the_report_is_found_behind_what_else_is_said() {
        let said = "passed: {x}\n{\n  \"status\": 1\n}\nerror: x\n";
        assert_eq!(report(said)["status"], 1);
        assert_eq!(report("error: x\n"), Value::Null);
    }
}
