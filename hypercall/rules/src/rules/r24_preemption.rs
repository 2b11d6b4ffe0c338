//! # R24: A batch can be interrupted, and the handler runs in its middle
//!
//! With upcalls unmasked and an event pending, Xen stops a list between two requests, moves the
//! instruction pointer back onto the hypercall, and delivers the event; when the handler returns,
//! the call goes on where it was. The handler sees a batch half done. Mask upcalls over a batch
//! that a handler must not see so.
//!
//! **Why.** A list can be as long as the guest likes, and Xen must not keep a CPU for that long.
//!
//! **Source.** xen/arch/x86/mm.c, xen/common/multicall.c: `hypercall_preempt_check`;
//! xen/arch/x86/hypercall.c: `hypercall_create_continuation`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let page = bench.page()?;
    let port = bench.bind_ipi()?;
    bench.unmask_port(port)?;
    let send = abi::event::evtchn_send { port };
    let sent = [abi::event::EVTCHNOP_send as u64, &raw const send as u64, 0, 0, 0];
    let list = [request(slot(&page, 0), 1), request(slot(&page, 1), 1)];
    let update = [list.as_ptr() as u64, 2, 0, DOMID_SELF as u64, 0];
    let mut calls = [
        entry_for(Op::EventChannelOp as u64, sent),
        entry_for(Op::MmuUpdate as u64, update),
    ];
    let mut result = 0;
    let observed = machine.observe_upcall(&page, &mut || result = bench.multicall(&mut calls));
    // The handler has cleared what was pending; the port goes as well.
    bench.close_port(port);
    let Some(observed) = observed else {
        skip!("this machine cannot look into an upcall");
    };
    expect_result!(result, 0, "the multicall");
    expect!(observed.upcalls >= 1, "no upcall was taken");
    expect_eq!(observed.word, 0, "the word that the second entry writes, seen by the handler");
    expect_eq!((word(&page, 0), word(&page, 1)), (1, 1), "the words in the end");
    expect_result!(calls[1].result as i64, 0, "the second entry");
    Ok(())
}
