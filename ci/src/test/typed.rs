//! Typing to the kernel: `boot --interactive` as a script uses it, with the keys on its standard
//! input and the console on its output.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::Suite;
use crate::cli::ProvisionArgs;
use crate::exit::{Failure, Result};
use crate::process;
use crate::stack::Via;

/// What is typed. A typing error is taken back on the way.
/// In the end there is no more, which powers it off.
const KEYS: &str = "help\rfeatures\rlayout\rwalk ffffffff80300000\raudig\x7ft\rflx\x1b[D\x1b[3~y\r\
                    time\rmem\rlazy\rselftest nosuch\rselftest lazy.nest\r\x1b[A\x1b[A\x1b[H\x0bcrash\x03";

/// What the console must say to it, in this order, each on a line of its own.
const ANSWERS: &[&str] = &[
    "reboot   ",
    "has  kernel",
    "page tables of ",
    "L1[256]",
    "pages: clean",
    "no command 'fly'",
    " since the kernel started",
    " page tables",
    " hypercalls: ",
    "there is no 'nosuch'",
    "selftest lazy.nesting.8",
    "selftests=3 failed=0",
    "crash^C",
    "end of input",
    "verdict: pass",
];

/// What the test is called, for the stacks that differ in how keys arrive: by a hypercall, through a
/// ring with a callback or an interrupt, and from a serial port.
pub(super) fn name(via: Via) -> Option<String> {
    matches!(via, Via::Dom0 | Via::Xl | Via::Pvh | Via::Bare)
        .then(|| format!("{}: the monitor answers", via.name()))
}

/// Runs the tests of these stacks.
pub(super) fn run(suite: &mut Suite, provision: &ProvisionArgs, vias: &[Via]) -> Result<()> {
    for &via in vias {
        let Some(name) = name(via) else { continue };
        let since = Instant::now();
        let kernel = suite.kernel()?;
        let mut command = boot(provision, via, &kernel, "log=warn")?;
        command.args(["--interactive", "--timeout", "60"]);
        command.current_dir(&suite.workspace.root).stdin(keys()?);
        let output = process::output(&mut command, Failure::file("run", "cargo xtask boot"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let result = check(&said).and_then(|()| match output.status.code() {
            Some(0) => Ok(()),
            _ => Err(format!("boot ended with {}", output.status)),
        });
        let result = result.map_err(|reason| {
            format!(
                "{reason}\n{said}{}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
        suite.report(&name, since, result);
    }
    Ok(())
}

/// The keys, as a standard input.
fn keys() -> Result<File> {
    let failed = || Failure::file("write", "a temporary file");
    let mut file = tempfile::tempfile().map_err(failed())?;
    file.write_all(KEYS.as_bytes()).map_err(failed())?;
    file.rewind().map_err(failed())?;
    Ok(file)
}

/// This program's own command that boots an image with these words.
///
/// # Errors
/// The system does not say where this program is.
pub(super) fn boot(
    provision: &ProvisionArgs,
    via: Via,
    kernel: &Path,
    words: &str,
) -> Result<Command> {
    let mut command = process::own()?;
    command.args(["boot", "--via", via.name(), "--cmdline", words]);
    command.arg("--kernel").arg(kernel);
    command.args(provision.xen.iter().flat_map(|xen| ["--xen", xen]));
    let mirror = provision.mirror.mirror.iter();
    command.args(mirror.flat_map(|mirror| ["--mirror", mirror]));
    for (flag, path) in [
        ("--qemu", &provision.qemu),
        ("--dom0-root", &provision.dom0_root),
    ] {
        if let Some(path) = path {
            command.arg(flag).arg(path);
        }
    }
    Ok(command)
}

/// Looks for the answers, and for the line ends that a terminal in raw mode needs.
fn check(said: &str) -> std::result::Result<(), String> {
    let mut ends = said
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    if let Some(line) = ends.find(|line| !line.ends_with("\r\n")) {
        return Err(format!("a line does not end in CR LF: {line:?}"));
    }
    let mut lines = said.lines();
    match ANSWERS
        .iter()
        .find(|answer| !lines.any(|line| line.contains(**answer)))
    {
        Some(answer) => Err(format!(
            "the console does not answer \"{answer}\" in its turn"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_must_come_in_order() {
        let all = ANSWERS.join("\r\n");
        assert_eq!(check(&all), Ok(()));
        let mut swapped = ANSWERS.to_vec();
        swapped.swap(2, 3);
        assert!(check(&swapped.join("\r\n")).is_err());
        assert!(check(&ANSWERS[1..].join("\r\n")).is_err());
        assert!(check(&all.replacen('\r', "", 1)).is_err());
    }
}
