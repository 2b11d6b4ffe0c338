//! Machines of QEMU's that lack what a PC has: nothing may take a bus where nobody answers for a device
//! that does.

use std::time::{Duration, Instant};

use super::{Suite, single};
use crate::exit::Result;
use crate::stack::bare::Bare;
use crate::stack::{Job, Via};

/// A machine, and what the kernel says of it.
struct Row {
    name: &'static str,
    /// As QEMU is told.
    machine: &'static str,
    /// What the console must say, each on some line.
    says: &'static [&'static str],
}

/// What is said of a test that needs a timer.
const NO_TIMER: &str =
    "selftest interrupt.timer .......................... skip: this machine has no timer";
/// Tests that need no device run everywhere.
const FAILS_NOT: &str = " failed=0 ";

const TABLE: &[Row] = &[
    Row {
        name: "no interval timer",
        machine: "pc,pit=off",
        says: &[
            "pc: no interval timer answers",
            "there is no clock",
            NO_TIMER,
            FAILS_NOT,
        ],
    },
    Row {
        name: "no interrupt controllers",
        machine: "pc,pic=off",
        says: &["pc: no interrupt controllers answer", NO_TIMER, FAILS_NOT],
    },
    Row {
        // It has the timer, but not the port by which a PC's third channel is watched.
        name: "a timer without its gate",
        machine: "microvm",
        says: &[
            "selftest interrupt.timer .......................... pass",
            FAILS_NOT,
        ],
    },
    Row {
        name: "hardly any device",
        machine: "microvm,pit=off,pic=off,rtc=off",
        says: &[NO_TIMER, FAILS_NOT],
    },
];

/// When a boot is given up.
const TIMEOUT: Duration = Duration::from_secs(90);

fn name(row: &Row) -> String {
    format!("bare: {}", row.name)
}

/// What the tests of a way are called.
pub(super) fn names(via: Via) -> Vec<String> {
    match via {
        Via::Bare => TABLE.iter().map(name).collect(),
        _ => Vec::new(),
    }
}

/// Runs them, if this way is among those asked for.
pub(super) fn run(suite: &mut Suite, vias: &[Via]) -> Result<()> {
    if !vias.contains(&Via::Bare) {
        return Ok(());
    }
    let kernel = suite.kernel()?;
    for row in TABLE {
        let since = Instant::now();
        let job = Job {
            cmdline: "log=warn selftest=interrupt".into(),
            timeout: Some(TIMEOUT),
            ..Job::new(
                format!("machine-{}", row.name.replace(' ', "-")),
                Via::Bare,
                kernel.clone(),
            )
        };
        let stack = Bare {
            la57: true,
            machine: Some(row.machine),
        };
        let booted = single::boot(suite, &stack, job, |lines| says(row, lines))?;
        suite.report_with(&name(row), since, booted.result, booted.facts);
    }
    Ok(())
}

fn says(row: &Row, lines: &[String]) -> std::result::Result<(), String> {
    let silent = |text: &&&str| !lines.iter().any(|line| line.contains(**text));
    match row.says.iter().find(silent) {
        Some(text) => Err(format!("the console never says \"{text}\"")),
        None => Ok(()),
    }
}
