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
    let lab = Lab::new(machine);
    let page = lab.page()?;
    let mut ipi = abi::event::evtchn_bind_ipi { vcpu: 0, port: 0 };
    let args = [abi::event::EVTCHNOP_bind_ipi as u64, &raw mut ipi as u64, 0, 0, 0];
    expect_result!(lab.call(Op::EventChannelOp, args), 0, "binding an IPI");
    let unmask = abi::event::evtchn_unmask { port: ipi.port };
    let arg = &raw const unmask as u64;
    lab.call(Op::EventChannelOp, [abi::event::EVTCHNOP_unmask as u64, arg, 0, 0, 0]);
    let send = abi::event::evtchn_send { port: ipi.port };
    let sent = [abi::event::EVTCHNOP_send as u64, &raw const send as u64, 0, 0, 0];
    let list = [request(slot(&page, 0), 1), request(slot(&page, 1), 1)];
    let update = [list.as_ptr() as u64, 2, 0, DOMID_SELF as u64, 0];
    let mut calls = [
        entry_for(Op::EventChannelOp as u64, sent),
        entry_for(Op::MmuUpdate as u64, update),
    ];
    let mut result = 0;
    let observed = machine.observe_upcall(&page, &mut || result = lab.multicall(&mut calls));
    // The handler has cleared what was pending; the port goes as well.
    let close = abi::event::evtchn_close { port: ipi.port };
    let arg = &raw const close as u64;
    lab.call(Op::EventChannelOp, [abi::event::EVTCHNOP_close as u64, arg, 0, 0, 0]);
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
