//! # R70: A poll names at most 128 ports
//!
//! `SCHEDOP_poll` with more gives `EINVAL`, and so does a port that cannot exist. A deadline in the
//! past ends it at once. It sleeps whether or not upcalls are masked, and unlike `SCHEDOP_block`
//! leaves the mask as it is.
//!
//! **Why.** The list is copied from the guest while the vCPU is about to stop.
//!
//! **Source.** xen/common/sched/core.c: `do_poll`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let poll = |ports: &[u32]| {
        let arg = abi::sched::sched_poll {
            ports: ports.as_ptr().cast_mut(),
            nr_ports: ports.len() as u32,
            // The first nanosecond of the host's life: long past.
            timeout: 1,
        };
        let args = [abi::sched::SCHEDOP_poll as u64, &raw const arg as u64, 0, 0, 0];
        bench.call(Op::SchedOp, args)
    };
    expect_result!(poll(&[0; 129]), EINVAL, "129 ports");
    expect_result!(poll(&[1 << 20]), EINVAL, "a port that cannot exist");
    let was = machine.hv().mask_upcalls();
    let port = bench.bind_ipi()?;
    let result = poll(&[port]);
    let masked = machine.hv().mask_upcalls();
    machine.hv().restore_upcalls(was);
    bench.close_port(port);
    expect_result!(result, 0, "a deadline in the past");
    expect!(masked, "the poll unmasked upcalls");
    Ok(())
}
