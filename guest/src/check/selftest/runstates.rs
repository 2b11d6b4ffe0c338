//! That Xen writes down how vCPUs spend their time, where it was told to.

use hypercall::abi::vcpu::{RUNSTATE_blocked, RUNSTATE_running};
use hypercall::event::bind_ipi;
use hypercall::sched::poll;
use hypercall::vcpu;

use super::context::Context;
use super::interrupt::Open;
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::xen::HV;
use crate::{runstate, time};

/// The boot vCPU sleeps: what Xen has written when it runs again says so, by a time that is no longer than
/// the clock's, and as Xen says it when it is asked.
fn written(_: &mut Context) -> TestResult {
    const SLEEP: u64 = 5_000_000;
    let spent = |state: i32| {
        let found = runstate::of(0).ok_or_else(|| Trouble::fail("Xen writes nothing"))?;
        Ok::<_, Trouble>((found.state, found.time[state as usize]))
    };
    let now = || time::monotonic().unwrap_or(0);
    let port = Open::masked(bind_ipi(&HV, 0)?);
    let (_, before) = spent(RUNSTATE_blocked)?;
    let mut slept = 0;
    while slept < SLEEP {
        let begin = now();
        poll(&HV, &[port.0.0], time::in_xen(begin + SLEEP))?;
        slept += now().saturating_sub(begin);
    }
    let (state, after) = spent(RUNSTATE_blocked)?;
    expect_eq!(state, RUNSTATE_running, "what the vCPU does");
    let asleep = after - before;
    expect_eq!(
        asleep > 0 && asleep <= slept,
        true,
        "asleep for {asleep} ns of {slept}"
    );
    let asked = vcpu::runstate(&HV, 0)?.time[RUNSTATE_blocked as usize];
    expect_eq!(asked >= after, true, "Xen has {asked}, and wrote {after}");
    Ok(())
}
selftest!("interrupt.runstate", written, needs HYPERCALLS);
