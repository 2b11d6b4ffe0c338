//! # R66: A virtual interrupt has one port
//!
//! A VIRQ that belongs to a vCPU is bound once on each, a global one once, and on vCPU 0 only
//! (`EINVAL` else): a second time gives `EEXIST`. A number that is none gives `EINVAL`, a vCPU that
//! is none `ENOENT`.
//!
//! **Why.** Xen notes one port for each.
//!
//! **Source.** xen/common/event_channel.c: `evtchn_bind_virq`.

use crate::prelude::*;
use abi::{event::*, xen::*};

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let bind = |virq: u32, vcpu: u32| {
        let mut op = evtchn_bind_virq {
            virq,
            vcpu,
            port: 0,
        };
        (bench.event_op(EVTCHNOP_bind_virq, &raw mut op as u64), op.port)
    };
    // The kernel may have it bound already, and then the first attempt shows the rule.
    let (first, port) = bind(VIRQ_DEBUG, 0);
    expect!(first == 0 || first == EEXIST, "binding a VIRQ gave {first}");
    let (second, _) = bind(VIRQ_DEBUG, 0);
    if first == 0 {
        bench.close_port(port);
    }
    expect_result!(second, EEXIST, "binding it again");
    expect_result!(bind(NR_VIRQS, 0).0, EINVAL, "a VIRQ that is none");
    expect_result!(bind(VIRQ_TIMER, 8191).0, ENOENT, "a vCPU that is none");
    Ok(())
}
