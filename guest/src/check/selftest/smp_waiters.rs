//! What vCPUs that wait for a lock take of the processors on which its holder runs: remarked, and judged by
//! whoever knows how many processors there are (`cargo xtask test vcpus`).

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hypercall::abi::vcpu::RUNSTATE_running;
use hypercall::{sched, vcpu};

use super::context::Context;
use super::race::{need_others, on_racers};
use super::{TestResult, expect_eq, selftest};
use crate::lock::Lock;
use crate::rank;
use crate::suspend;
use crate::xen::HV;

/// vCPUs of which one holds the lock and the others wait.
const VCPUS: u32 = 4;
/// How long it is held, in nanoseconds for which its holder runs.
const HELD: u64 = 50_000_000;

/// What is waited for.
static WANTED: Lock<(), rank::Check> = Lock::new(());

/// How long a vCPU has run so far, in nanoseconds, as Xen counts it; all that can be if Xen does not say.
fn ran(number: u32) -> u64 {
    vcpu::runstate(&HV, number).map_or(u64::MAX, |spent| spent.time[RUNSTATE_running as usize])
}

/// Those who wait take nothing from who holds the lock, but for what it costs to look now and then.
fn waiters(context: &mut Context) -> TestResult {
    let vcpus = need_others()?.min(VCPUS);
    let is_held = AtomicBool::new(false);
    let (waiting, of_others, of_all) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let is_anew = AtomicBool::new(false);
    let all = || (0..vcpus).map(ran).fold(0, u64::saturating_add);
    let wait = || {
        // Refused, it is asked again.
        let _ = sched::r#yield(&HV);
    };
    on_racers("waiting for a lock", &|number| {
        if number == 0 {
            let _held = WANTED.lock();
            is_held.store(true, Ordering::Release);
            while waiting.load(Ordering::Acquire) + 1 < vcpus.into() {
                wait();
            }
            let (times, own, before) = (suspend::times(), ran(0), all());
            let mut now = own;
            // Xen counts anew in a domain that was restored.
            while (own..own.saturating_add(HELD)).contains(&now) {
                (0..1000).for_each(|_| core::hint::spin_loop());
                now = ran(0);
            }
            let after = all();
            match (now.checked_sub(own), after.checked_sub(before)) {
                (Some(own), Some(all)) if suspend::times() == times => {
                    of_all.store(all, Ordering::Relaxed);
                    of_others.store(all.saturating_sub(own), Ordering::Relaxed);
                }
                _ => is_anew.store(true, Ordering::Relaxed),
            }
        } else if number < vcpus.into() {
            while !is_held.load(Ordering::Acquire) {
                wait();
            }
            waiting.fetch_add(1, Ordering::AcqRel);
            drop(WANTED.lock());
        }
        Ok(())
    })?;
    let (others, all) = (of_others.into_inner(), of_all.into_inner());
    if is_anew.into_inner() {
        context.note(format_args!(
            "(restored meanwhile, so that nothing was counted)"
        ));
        return Ok(());
    }
    expect_eq!(all >= HELD, true, "nanoseconds that vCPUs ran: {all}");
    let share = others.saturating_mul(1000) / all;
    context.note(format_args!(
        "({} of {vcpus} vCPUs wait, which takes {}.{} % of the time)",
        vcpus - 1,
        share / 10,
        share % 10
    ));
    Ok(())
}
selftest!("smp.waiters", waiters, needs HYPERCALLS);
