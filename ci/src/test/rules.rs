//! The rule book on real Xen in every way of running, with some random requests; on the model it
//! runs among the unit tests.

use std::time::Instant;

use super::Suite;
use crate::exit::Result;
use crate::report::Facts;
use crate::rules::{Bench, Plan, on_xen};
use crate::stack::{Via, XenLog};

/// In the order of running.
pub(super) const VIAS: &[Via] = &[Via::Dom0, Via::Xl, Via::Shim];

/// Random sequences, each of 500 requests.
const SEEDS: u64 = 10;

/// What the test is called.
pub(super) fn name(via: Via) -> String {
    format!("rules: {}", via.name())
}

/// Judges, a report a target.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    let plan = Plan::new(&[], false)?.with_differential(0..SEEDS);
    let kernel = suite.kernel()?;
    let dir = suite.workspace.run_dir("rules")?;
    // What shares a host shares its boot.
    for vias in VIAS.chunk_by(|a, b| a.shares_host_with(*b)) {
        let since = Instant::now();
        let bench = Bench {
            provision: &suite.provision,
            kernel: kernel.clone(),
            dir: dir.clone(),
            workspace: &suite.workspace.root,
            xen_log: XenLog::default(),
        };
        let all = on_xen(&bench, vias, &plan, &mut |_| {})?;
        for (&via, judged) in vias.iter().zip(all) {
            let facts = Facts {
                figures: judged.figures(),
                logs: judged.logs.clone(),
            };
            let result = judged.into_result().map_err(|e| e.to_string());
            suite.report_with(&name(via), since, result, facts);
        }
    }
    Ok(())
}
