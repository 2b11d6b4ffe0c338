//! What Xen's queues of events have beside two levels of bits: an order, more ports, and each port in the
//! queue of one vCPU.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hypercall::abi::xen::DOMID_SELF;
use hypercall::event::{Port, alloc_unbound, bind_interdomain, bind_ipi, send};
use hypercall::{Errno, Hypervisor};

use super::alloc::vec::Vec;
use super::context::Context;
use super::interrupt::Open;
use super::race::need_others;
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::event::{self, Handler};
use crate::xen::HV;
use crate::{cpu, mm, smp, time};

/// The ports that came, each in four bits, the last one lowest.
static ORDER: AtomicU64 = AtomicU64::new(0);

/// A handler that has a number.
struct Numbered(u64);

impl Handler for Numbered {
    fn raised(&self, _: Port) {
        let before = ORDER.load(Ordering::Relaxed);
        ORDER.store(before << 4 | self.0, Ordering::Relaxed);
    }
}

/// Those who are raised together are served by priority, and those of one priority in the order in which
/// they were raised.
fn priority(_: &mut Context) -> TestResult {
    static HANDLERS: [Numbered; 4] = [Numbered(1), Numbered(2), Numbered(3), Numbered(4)];
    ORDER.store(0, Ordering::Relaxed);
    let ports = [(); 4].map(|()| bind_ipi(&HV, 0).map(Open::masked));
    let [one, two, three, four] = ports;
    let ports = [one?, two?, three?, four?];
    if !event::make_urgent(ports[2].0)? {
        return Err(Trouble::skip("events come by two levels of bits"));
    }
    let mut bound = Vec::new();
    bound.try_reserve_exact(ports.len())?;
    for (port, handler) in ports.iter().zip(&HANDLERS) {
        bound.push(event::bind(port.0, handler)?);
    }
    mm::with(|_| {
        [3, 0, 2, 1]
            .into_iter()
            .try_for_each(|which: usize| send(&HV, ports[which].0))
    })?;
    // The ports are closed with their handlers.
    core::mem::forget(ports);
    expect_eq!(
        ORDER.load(Ordering::Relaxed),
        0x3412,
        "handlers in their order"
    );
    Ok(())
}
selftest!("interrupt.priority", priority, needs HYPERCALLS);

static CALLS: AtomicU32 = AtomicU32::new(0);
/// The vCPUs that took the event, a bit each.
static WHERE: AtomicU64 = AtomicU64::new(0);

fn counting() {
    CALLS.fetch_add(1, Ordering::SeqCst);
    WHERE.fetch_or(1 << cpu::here().number(), Ordering::SeqCst);
}

/// More ports than a page has words for: the array grows, and the last is served as the first is. Xen's
/// tools give a domain fewer, by themselves.
fn array(context: &mut Context) -> TestResult {
    const MANY: usize = 1100;
    let kept = || crate::heap::pages() + event::pages();
    let before = kept();
    CALLS.store(0, Ordering::Relaxed);
    let mut ports = Vec::new();
    ports.try_reserve_exact(MANY)?;
    while ports.len() < MANY {
        match bind_ipi(&HV, 0) {
            Err(e) if e.errno == Errno::ENOSPC => break,
            port => ports.push(Open::new(port?, &counting)?),
        }
    }
    for port in &ports {
        send(&HV, port.0)?;
    }
    expect_eq!(
        CALLS.load(Ordering::Relaxed) as usize,
        ports.len(),
        "events of as many ports"
    );
    context.note(format_args!("({} ports)", ports.len()));
    drop(ports);
    context.keep(kept() - before);
    Ok(())
}
selftest!("interrupt.array", array, needs HYPERCALLS);

/// A port that goes from one vCPU to another and back while it is raised: each event is served, and none
/// twice that was not raised twice.
fn moved(_: &mut Context) -> TestResult {
    const ROUNDS: u32 = 300;
    need_others()?;
    CALLS.store(0, Ordering::Relaxed);
    WHERE.store(0, Ordering::Relaxed);
    // Of a kind that is no vCPU's: the domain's own end of a channel to itself.
    let near = Open::masked(alloc_unbound(&HV, DOMID_SELF)?);
    let far = Open::new(bind_interdomain(&HV, DOMID_SELF, near.0.0)?, &counting)?;
    for round in 1..=ROUNDS {
        // In the queue of the one, and then the other's.
        let masked = HV.mask_upcalls();
        let moved = send(&HV, near.0).and_then(|()| event::move_to(round % 2, far.0));
        HV.restore_upcalls(masked);
        moved?;
        let begin = time::monotonic().unwrap_or(0);
        while CALLS.load(Ordering::SeqCst) < round {
            let now = time::monotonic().unwrap_or(0);
            let lost = now.saturating_sub(begin) > 20_000_000_000;
            expect_eq!(lost, false, "an event of round {round} is lost");
            core::hint::spin_loop();
        }
    }
    // What would come twice has come when every vCPU has had work.
    smp::on_all(&|_| {});
    expect_eq!(CALLS.load(Ordering::SeqCst), ROUNDS, "events");
    expect_eq!(WHERE.load(Ordering::SeqCst), 0b11, "vCPUs that took them");
    event::move_to(0, far.0)?;
    Ok(())
}
selftest!("interrupt.moved", moved, needs HYPERCALLS);
