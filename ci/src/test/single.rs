//! A boot of one job by a stack of its own, for rows that share no stack with others.

use super::Suite;
use crate::console::transcript::Show;
use crate::console::verdict::judge;
use crate::exit::{Failure, Result};
use crate::report::Facts;
use crate::stack::{Job, Mode, Setting, Stack};

/// What came of it.
pub(super) struct Booted {
    /// Whether it passed, or the reason.
    pub(super) result: std::result::Result<(), String>,
    /// What else is known.
    pub(super) facts: Facts,
}

/// Boots the job and judges it; `check` looks at what a boot that passed has said. The reason of a
/// failure comes with the last lines of the console.
///
/// # Errors
/// The stack cannot be opened, its logs cannot be written, or the run was interrupted.
pub(super) fn boot(
    suite: &Suite,
    stack: &dyn Stack,
    job: Job,
    check: impl FnOnce(&[String]) -> std::result::Result<(), String>,
) -> Result<Booted> {
    let dir = suite.workspace.run_dir("test")?.join(&job.name);
    std::fs::create_dir_all(&dir).map_err(Failure::file("create", &dir))?;
    let setting = Setting {
        provision: &suite.provision,
        mode: Mode::default(),
        workspace: &suite.workspace.root,
        dir: &dir,
    };
    let ran = setting.run(stack, &job, Show::Nothing, None)?;
    let (transcript, end) = (ran.transcript, ran.end);
    let result = match end {
        Err(Failure::Interrupted) => return Err(Failure::Interrupted),
        Err(failure) => Err(failure.to_string()),
        Ok(end) => match judge(&transcript.guest, &end).into_result() {
            Err(failure) => Err(failure.to_string()),
            Ok(()) => check(&transcript.guest),
        },
    };
    Ok(Booted {
        result: result.map_err(|reason| format!("{reason}\n{}", transcript.tail(30).trim_end())),
        facts: Facts::of(&transcript),
    })
}
