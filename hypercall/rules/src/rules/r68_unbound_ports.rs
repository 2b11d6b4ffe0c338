//! # R68: An unbound port swallows, a bound one starts pending
//!
//! Sending on a port that nobody has bound to yet succeeds and does nothing. When the other side
//! binds, its new port is pending at once: what was sent too early shows as that one event. The
//! shim has ports that lead outside of it from the Xen below, whose event reaches the guest only
//! when the shim next takes an interrupt: there it is pending soon.
//!
//! **Why.** Neither side can know when the other comes; a spurious event is cheaper than a lost one.
//!
//! **Source.** xen/common/event_channel.c: `evtchn_send`, `evtchn_bind_interdomain`;
//! xen/arch/x86/pv/shim.c: `pv_shim_event_channel_op`, `pv_shim_inject_evtchn`.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::prelude::*;
use abi::event::*;
use abi::sched::SCHEDOP_yield;

/// Yields until an event counts as lost: each is a round trip through the shim at least.
const PATIENCE: u32 = 100_000;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let was = machine.hv().mask_upcalls();
    let result = loopback(&bench);
    machine.hv().restore_upcalls(was);
    result
}

fn loopback(bench: &TestBench<'_>) -> Check {
    let mut unbound = evtchn_alloc_unbound {
        dom: DOMID_SELF,
        remote_dom: DOMID_SELF,
        port: 0,
    };
    let result = bench.event_op(EVTCHNOP_alloc_unbound, &raw mut unbound as u64);
    expect_result!(result, 0, "allocating an unbound port");
    let sent = bench.send(unbound.port);
    let mut bind = evtchn_bind_interdomain {
        remote_dom: DOMID_SELF,
        remote_port: unbound.port,
        local_port: 0,
    };
    let bound = bench.event_op(EVTCHNOP_bind_interdomain, &raw mut bind as u64);
    let (word, bit) = (bind.local_port as usize / 64, 1u64 << (bind.local_port % 64));
    let shared = bench.machine.shared_info();
    // SAFETY: the page is mapped as long as the kernel runs; the word is accessed as Xen does, at
    // once, and the port's bit is this test's.
    let pending = unsafe { AtomicU64::from_ptr(&raw mut (*shared).evtchn_pending[word % 64]) };
    let turns = if bench.kind() == Kind::Shim { PATIENCE } else { 1 };
    let arrived = (0..turns).any(|turn| {
        if turn > 0 {
            bench.call(Op::SchedOp, [SCHEDOP_yield as u64, 0, 0, 0, 0]);
        }
        pending.fetch_and(!bit, Ordering::Relaxed) & bit != 0
    });
    let closed = (bench.close_port(bind.local_port), bench.close_port(unbound.port));
    expect_result!(sent, 0, "sending on the unbound port");
    expect_result!(bound, 0, "binding to it");
    expect!(arrived, "the new port is not pending");
    expect_eq!(closed, (0, 0), "closing both");
    Ok(())
}
