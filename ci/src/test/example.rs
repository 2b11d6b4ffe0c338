//! The example kernel of the crate `pagetable`, booted as anybody else's kernel would be.

use std::time::{Duration, Instant};

use super::{Suite, single};
use crate::exit::Result;
use crate::stack::dom0::Dom0;
use crate::stack::{Job, Via};

const NAME: &str = "dom0: the example maps a page";
const PACKAGE: &str = "first-page";

/// Builds and boots it, if dom0 is among the ways asked for.
pub(super) fn run(suite: &mut Suite, vias: &[Via]) -> Result<()> {
    if !vias.contains(&Via::Dom0) {
        return Ok(());
    }
    let since = Instant::now();
    let kernel = suite.workspace.build(PACKAGE)?;
    let job = Job {
        timeout: Some(Duration::from_secs(60)),
        ..Job::new(PACKAGE, Via::Dom0, kernel)
    };
    let booted = single::boot(suite, &Dom0, job, |_| Ok(()))?;
    suite.report_with(NAME, since, booted.result, booted.facts);
    Ok(())
}
