//! # R67: A port that is not open is `EINVAL`
//!
//! Sending to or closing a port that is closed, or that cannot exist, gives `EINVAL`; so does
//! sending to a port that is bound to a VIRQ. A closed port's number is given out again. An
//! operation that does not exist gives `ENOSYS`, in the shim `EOPNOTSUPP`.
//!
//! **Why.** A port is a number, and Xen looks at what it is bound to now.
//!
//! **Source.** xen/common/event_channel.c: `evtchn_send`, `evtchn_close`.

use crate::prelude::*;
use abi::event::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let port = bench.bind_ipi()?;
    let mut status = evtchn_status {
        dom: DOMID_SELF,
        port,
        status: 0,
        vcpu: 99,
        u: evtchn_status_u { virq: 0 },
    };
    let result = bench.event_op(EVTCHNOP_status, &raw mut status as u64);
    let closed = bench.close_port(port);
    expect_result!(result, 0, "the status of an IPI port");
    expect_eq!((status.status, status.vcpu), (EVTCHNSTAT_ipi, 0), "status and vCPU");
    expect_result!(closed, 0, "closing it");
    // In the shim that would do harm: R77.
    if bench.kind() != Kind::Shim {
        expect_result!(bench.close_port(port), EINVAL, "closing it again");
    }
    expect_result!(bench.send(port), EINVAL, "sending to a closed port");
    expect_result!(bench.send(1 << 20), EINVAL, "sending to a port that cannot exist");
    expect_result!(bench.event_op(EVTCHNOP_send, BAD_POINTER), EFAULT, "a bad argument");
    let unknown = match bench.kind() {
        Kind::Shim => EOPNOTSUPP,
        Kind::DomU | Kind::Dom0 => ENOSYS,
    };
    expect_result!(bench.event_op(99, 0), unknown, "an operation that is none");
    Ok(())
}
