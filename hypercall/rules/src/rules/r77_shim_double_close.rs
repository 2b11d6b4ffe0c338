//! # R77: In the shim, a port closed twice is lost, and with it all new ones
//!
//! Closing a port that is closed gives `EINVAL` as anywhere (R67). But the shim notes the number as
//! taken, while the Xen below it has it free and gives it out next: from then on every new port is
//! refused with `EBUSY`. So close a port once.
//!
//! **Why.** The shim keeps its own table of ports beside that of the Xen below, and takes a close
//! that fails there for one that could not be done.
//!
//! **Source.** xen/arch/x86/pv/shim.c: `pv_shim_event_channel_op`, `EVTCHNOP_close`; seen on 4.20.
//!
//! **Kills.** Not the domain, but its ability to get ports.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    if machine.about().kind != Kind::Shim {
        skip!("this is no shim");
    }
    let bench = TestBench::new(machine);
    let port = bench.bind_ipi()?;
    expect_result!(bench.close_port(port), 0, "closing a port");
    let next = bench.bind_ipi()?;
    expect_eq!(next, port, "the number given out next");
    expect_result!(bench.close_port(next), 0, "closing it");
    expect_result!(bench.close_port(next), EINVAL, "closing it again");
    let mut ipi = abi::event::evtchn_bind_ipi { vcpu: 0, port: 0 };
    let result = bench.event_op(abi::event::EVTCHNOP_bind_ipi, &raw mut ipi as u64);
    expect_result!(result, EBUSY, "asking for a port");
    Ok(())
}
