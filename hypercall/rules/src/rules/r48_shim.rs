//! # R48: The shim offers less
//!
//! In the PV shim there are no FIFO event channels (`EOPNOTSUPP`), no physical interrupts, and of
//! the grant operations only those a guest needs on its own pages; memory beyond what it started
//! with cannot be had. `CONSOLEIO_write` is for dom0, the shim's guest and debug builds: an
//! ordinary domU on a release Xen gets `EPERM`.
//!
//! **Why.** The shim is a Xen that passes on to another; what it cannot pass on it does not have.
//!
//! **Source.** xen/arch/x86/pv/shim.c: `pv_shim_event_channel_op`; include/xsm/dummy.h:
//! `xsm_console_io`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    // A bad offset, so that nobody changes its event channels over this.
    let mut control = abi::event::evtchn_init_control {
        control_gfn: 0,
        offset: 4,
        vcpu: 0,
        link_bits: 0,
        _pad: [0; 7],
    };
    let arg = &raw mut control as u64;
    let result = bench.call(
        Op::EventChannelOp,
        [abi::event::EVTCHNOP_init_control as u64, arg, 0, 0, 0],
    );
    let expected = match bench.kind() {
        Kind::Shim => EOPNOTSUPP,
        Kind::DomU | Kind::Dom0 => EINVAL,
    };
    expect_result!(result, expected, "FIFO event channels at an odd offset");
    let empty = [abi::xen::CONSOLEIO_write as u64, 0, 4096, 0, 0];
    let result = bench.call(Op::ConsoleIo, empty);
    match bench.kind() {
        Kind::DomU if !machine.about().debug => {
            expect_result!(result, EPERM, "an empty write to Xen's console");
        }
        Kind::Dom0 => expect_result!(result, 0, "an empty write to Xen's console"),
        _ => expect!(result == 0 || result == EPERM, "an empty write gave {result}"),
    }
    Ok(())
}
