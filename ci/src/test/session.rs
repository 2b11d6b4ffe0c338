//! Boots that share what they run on, one after the other: a dom0 for all domains of a way, or of
//! several.

use std::time::Instant;

use super::{Suite, skips};
use crate::console::transcript::{Show, Transcript};
use crate::console::verdict::End;
use crate::exit::{Failure, Result};
use crate::report::Facts;
use crate::stack::{Job, Mode, Session, Setting};

/// A test that is one boot.
pub(super) struct Boot {
    /// What it is called in reports.
    pub(super) name: String,
    pub(super) job: Job,
    /// Looks at what was said and how it ended.
    pub(super) check: Check,
}

/// Says why a boot is not what it should be.
pub(super) type Check = Box<dyn Fn(&Transcript, &End) -> std::result::Result<(), String>>;

/// Runs boots of ways that share what they run on.
pub(super) fn run(suite: &mut Suite, boots: &[Boot]) -> Result<()> {
    let jobs: Vec<_> = boots.iter().map(|boot| boot.job.clone()).collect();
    let mut session: Option<Box<dyn Session + '_>> = None;
    let dir = suite.workspace.run_dir("test")?;
    for (boot, job) in boots.iter().zip(&jobs) {
        let since = Instant::now();
        let dir = dir.join(format!("{}-{}", job.via.name(), job.name));
        let mut transcript = Transcript::create(&dir, Show::Nothing, None)?.explaining(job);
        // A stack that broke down is opened anew for the tests that are left.
        let mut open = match session.take() {
            Some(open) => open,
            None => {
                let provision = &suite.provision;
                let workspace = &suite.workspace.root;
                let setting = Setting {
                    provision,
                    mode: Mode::default(),
                    workspace,
                    dir: &dir,
                };
                job.via.stack().open(setting, &jobs)?
            }
        };
        let end = match open.run(job, &mut transcript) {
            Ok(end) => end,
            Err(Failure::Interrupted) => {
                transcript.finish();
                return Err(suite.interrupted(&boot.name, since, Facts::of(&transcript)));
            }
            Err(failure) => End::Broken(failure.to_string()),
        };
        transcript.finish();
        let result = (boot.check)(&transcript, &end)
            .and_then(|()| skips::check(&transcript.guest, job.via, job.mem_mib))
            .map_err(|reason| format!("{reason}\n{}", transcript.tail(30).trim_end()));
        if !matches!(end, End::Broken(_) | End::Zombie { .. }) {
            session = Some(open);
        }
        suite.report_with(&boot.name, since, result, Facts::of(&transcript));
    }
    Ok(())
}
