//! # R68: An unbound port swallows, a bound one starts pending
//!
//! Sending on a port that nobody has bound to yet succeeds and does nothing. When the other side
//! binds, its new port is pending at once: what was sent too early shows as that one event.
//!
//! **Why.** Neither side can know when the other comes; a spurious event is cheaper than a lost one.
//!
//! **Source.** xen/common/event_channel.c: `evtchn_send`, `evtchn_bind_interdomain`.

use crate::prelude::*;
use abi::event::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let lab = Lab::new(machine);
    let was = machine.hv().mask_upcalls();
    let result = loopback(&lab);
    machine.hv().restore_upcalls(was);
    result
}

fn loopback(lab: &Lab<'_>) -> Check {
    let mut unbound = evtchn_alloc_unbound {
        dom: DOMID_SELF,
        remote_dom: DOMID_SELF,
        port: 0,
    };
    let result = lab.event_op(EVTCHNOP_alloc_unbound, &raw mut unbound as u64);
    expect_result!(result, 0, "allocating an unbound port");
    let sent = lab.send(unbound.port);
    let mut bind = evtchn_bind_interdomain {
        remote_dom: DOMID_SELF,
        remote_port: unbound.port,
        local_port: 0,
    };
    let bound = lab.event_op(EVTCHNOP_bind_interdomain, &raw mut bind as u64);
    let (word, bit) = (bind.local_port as usize / 64, 1u64 << (bind.local_port % 64));
    let shared = lab.machine.shared_info();
    // SAFETY: the page is mapped as long as the kernel runs; with upcalls masked no handler of
    // this vCPU is in the way, and the port's bit is this test's.
    let pending = unsafe {
        let pending = &raw mut (*shared).evtchn_pending[word % 64];
        let found = pending.read_volatile() & bit != 0;
        pending.write_volatile(pending.read_volatile() & !bit);
        found
    };
    let closed = (lab.close_port(bind.local_port), lab.close_port(unbound.port));
    expect_result!(sent, 0, "sending on the unbound port");
    expect_result!(bound, 0, "binding to it");
    expect!(pending, "the new port is not pending");
    expect_eq!(closed, (0, 0), "closing both");
    Ok(())
}
