//! A run by seed on real Xen: one boot, with the processor's own translations to look through.

use std::time::Duration;

use super::{On, Run};
use crate::console::transcript::Show;
use crate::console::verdict::{Outcome, judge};
use crate::exit::{Failure, Result};
use crate::provision::Provision;
use crate::stack::{Job, Mode, Setting, Via};
use crate::ui;
use crate::workspace::Workspace;

/// For the boot itself.
const BOOT: Duration = Duration::from_secs(60);
/// Operations a second on a machine too slow to be used.
const SLOWEST: u64 = 2000;
/// So little that frames run out now and then.
const MEM_MIB: u32 = 24;
/// How much of the logs a failure shows.
const TAIL_LINES: usize = 30;

/// Boots, waits, reports.
pub(super) fn run(workspace: &Workspace, provision: &Provision, run: Run) -> Result<()> {
    let via = match run.on {
        On::Domu => Via::Xl,
        On::Dom0 | On::Model => Via::Dom0,
    };
    let job = Job {
        cmdline: words(run),
        mem_mib: Some(MEM_MIB),
        timeout: Some(timeout(run.ops)),
        ..Job::new("fuzz", via, workspace.build_kernel()?)
    };
    let dir = workspace.run_dir("fuzz")?;
    let setting = Setting {
        provision,
        mode: Mode::default(),
        workspace: &workspace.root,
        dir: &dir,
    };
    let stack = via.stack();
    let ran = setting.run(&*stack, &job, Show::Nothing, None)?;
    let (transcript, end) = (ran.transcript, ran.end?);
    let done = transcript
        .guest
        .iter()
        .find(|line| line.starts_with("fuzz: "));
    match (judge(&transcript.guest, &end), done) {
        (Outcome::Pass, Some(line)) => {
            println!("{}: {line}", run.on.name());
            Ok(())
        }
        (Outcome::Pass, None) => Err(Failure::Guest("the kernel did not report the run".into())),
        (Outcome::Fail(reason), _) => {
            ui::say(transcript.tail(TAIL_LINES));
            Err(run.failure(&reason))
        }
        (outcome, _) => {
            ui::say(transcript.tail(TAIL_LINES));
            outcome.into_result()
        }
    }
}

fn words(run: Run) -> String {
    format!("log=warn fuzz={:#x}:{}", run.seed, run.ops)
}

fn timeout(ops: u64) -> Duration {
    BOOT.saturating_add(Duration::from_secs(ops / SLOWEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_to_the_kernel_and_given_time() {
        let run = Run {
            on: On::Dom0,
            seed: 42,
            ops: 1_000_000,
        };
        assert_eq!(words(run), "log=warn fuzz=0x2a:1000000");
        assert_eq!(timeout(run.ops), Duration::from_secs(560));
        assert!(timeout(u64::MAX) > timeout(1 << 40));
    }
}
