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

/// The boot vCPU sleeps: what Xen has written when it runs again says so, as it does when it is asked. A
/// machine that is slow finds a short time over before the vCPU sleeps, and so it tries longer ones.
fn written(_: &mut Context) -> TestResult {
    const SLEEPS: [u64; 4] = [5_000_000, 20_000_000, 80_000_000, 320_000_000];
    let spent = |state: i32| {
        let found = runstate::of(0).ok_or_else(|| Trouble::fail("Xen writes nothing"))?;
        Ok::<_, Trouble>((found.state, found.time[state as usize]))
    };
    let now = || time::monotonic().unwrap_or(0);
    let port = Open::masked(bind_ipi(&HV, 0)?);
    let (_, before) = spent(RUNSTATE_blocked)?;
    let (mut state, mut after) = (RUNSTATE_running, before);
    for sleep in SLEEPS {
        poll(&HV, &[port.0.0], time::in_xen(now() + sleep))?;
        (state, after) = spent(RUNSTATE_blocked)?;
        if after != before {
            break;
        }
    }
    expect_eq!(state, RUNSTATE_running, "what the vCPU does");
    // How much more is not said: clocks of an emulated machine's processors drift apart.
    expect_eq!(after > before, true, "asleep for {before} ns, then {after}");
    let asked = vcpu::runstate(&HV, 0)?.time[RUNSTATE_blocked as usize];
    expect_eq!(asked >= after, true, "Xen has {asked}, and wrote {after}");
    Ok(())
}
selftest!("interrupt.runstate", written, needs HYPERCALLS);
