//! The example kernel of the crate `pagetable`, booted as anybody else's kernel would be.

use std::time::{Duration, Instant};

use super::Suite;
use crate::console::transcript::{Show, Transcript};
use crate::console::verdict::judge;
use crate::exit::{Failure, Result};
use crate::stack::dom0::Dom0;
use crate::stack::{Job, Mode, Setting, Stack, Via};

const NAME: &str = "dom0: the example maps a page";
const PACKAGE: &str = "first-page";

/// Builds and boots it, if dom0 is among the ways asked for.
pub(super) fn run(suite: &mut Suite, vias: &[Via]) -> Result<()> {
    if !vias.contains(&Via::Dom0) {
        return Ok(());
    }
    let since = Instant::now();
    let jobs = [Job {
        name: PACKAGE.into(),
        via: Via::Dom0,
        kernel: suite.workspace.build(PACKAGE)?,
        cmdline: String::new(),
        mem_mib: None,
        vcpus: None,
        initrd: None,
        cpu: Vec::new(),
        config: Vec::new(),
        dump: None,
        timeout: Some(Duration::from_secs(60)),
    }];
    let dir = suite.workspace.run_dir("test")?.join(PACKAGE);
    let mut transcript = Transcript::create(&dir, Show::Nothing, None)?;
    let setting = Setting {
        provision: &suite.provision,
        mode: Mode::default(),
        workspace: &suite.workspace.root,
        dir: &dir,
    };
    let end = Dom0.open(setting, &jobs)?.run(&jobs[0], &mut transcript);
    transcript.finish();
    let result = match end {
        Err(Failure::Interrupted) => return Err(Failure::Interrupted),
        Err(failure) => Err(failure),
        Ok(end) => judge(&transcript.guest, &end).into_result(),
    };
    let result = result.map_err(|reason| format!("{reason}\n{}", transcript.tail(30).trim_end()));
    suite.report(NAME, since, result);
    Ok(())
}
