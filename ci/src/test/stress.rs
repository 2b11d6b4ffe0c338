//! The tests of vCPUs again and again: what fails once in a hundred boots does not show in one.
//!
//! All vCPUs map, protect, move and unmap pages in ranges and spaces of their own and in shared ones, go down
//! and up, and run threads; each boot audits the page tables at its end. They are the group `stress`, which
//! runs only by name.

use std::time::Duration;

use super::Suite;
use super::odd::odd;
use super::session::{self, Boot};
use super::smoke::{self, PASS, Smoke};
use crate::exit::{Failure, Result};
use crate::stack::{Job, Via};
use crate::words;

/// Where.
const VIAS: [Via; 3] = [Via::Dom0, Via::Xl, Via::Shim];
/// On so many vCPUs, in boots that follow each other on the same dom0. With eight, on two processors, a boot
/// takes five times as long as with four: whoever is waited for is often not running.
const VCPUS: [u32; 7] = [2, 4, 2, 4, 2, 4, 8];
/// How often those are booted in each way: 210 boots.
const TURNS: usize = 10;
/// How long a boot may take: three times what it takes beside other work.
const PATIENCE: Duration = Duration::from_secs(600);

/// What each does. How fast vCPUs are, and whether threads sleep as long as they should, is judged by other
/// boots.
const STRESS: Smoke = odd(
    "stress",
    &VIAS,
    "selftest=smp.d,smp.e,smp.f,smp.m,smp.o,smp.q,smp.r,smp.s,smp.t,task.across,task.spread,task.mix",
    PASS,
    &[
        "selftest smp.raced ................................ pass",
        "selftest smp.audit ................................ pass",
        " failed=0 ",
    ],
);

/// Runs all of them, each counted.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    // What is built meanwhile is not what is booted.
    let built = suite.kernel()?;
    let kernel = suite.workspace.target.join("stress-kernel");
    std::fs::copy(&built, &kernel).map_err(Failure::file("copy", &built))?;
    for turn in 0..TURNS {
        for via in VIAS {
            let numbers = turn * VCPUS.len()..;
            let boots: Vec<_> = numbers
                .zip(VCPUS)
                .map(|(number, vcpus)| Boot {
                    name: format!("{}: stress {number} on {vcpus} vCPUs", via.name()),
                    job: Job {
                        cmdline: words::once(STRESS.cmdline),
                        vcpus: Some(vcpus),
                        timeout: Some(PATIENCE),
                        ..Job::new(format!("stress-{number}-{vcpus}"), via, &kernel)
                    },
                    check: Box::new(move |transcript, end| {
                        smoke::check(&STRESS, &transcript.guest, end)?;
                        let all = format!(" cpus={vcpus} ");
                        let runs = transcript.guest.iter().any(|line| line.contains(&all));
                        let missing = || format!("the console never says \"{all}\"");
                        runs.then_some(()).ok_or_else(missing)
                    }),
                })
                .collect();
            session::run(suite, &boots)?;
        }
    }
    Ok(())
}
