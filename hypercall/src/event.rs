//! `event_channel_op`: making, using and closing event-channel ports (`event_channel.h`).
//!
//! A [`Port`] is a number, not a handle: closing it does not stop others from naming it.
//!
//! `says(0)` stands for a Xen that answers 0.
//!
//! ```
#![doc = include_str!("says.in")]
//! use hypercall::event::{self, Port};
//! use hypercall::Errno;
//!
//! event::send(&says(0), Port(3))?;
//! let unbound = event::send(&says(-22), Port(3)).unwrap_err();
//! assert_eq!((unbound.sub, unbound.errno), (Some("send"), Errno::EINVAL));
//! # Ok::<(), hypercall::XenError>(())
//! ```

use core::fmt;

use crate::{
    Hypervisor, Op, XenError,
    abi::{
        domid_t,
        event::{self, evtchn_port_t},
    },
    instead::check,
};

/// An event-channel port of this domain. 0 is never bound.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Port(pub evtchn_port_t);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Calls with `arg`, which Xen may write its answer into.
#[inline]
fn op<H: Hypervisor + ?Sized, A>(
    hv: &H,
    cmd: u32,
    name: &'static str,
    arg: &mut A,
) -> Result<(), XenError> {
    let args = [cmd as u64, core::ptr::from_mut(arg) as u64, 0, 0, 0];
    // SAFETY: `arg` is the structure that `cmd` reads and writes, during the call; the callers
    // below pair them.
    let value = unsafe { hv.call(Op::EventChannelOp, args) };
    XenError::check(Op::EventChannelOp, Some(name), value).map(drop)
}

/// Raises the event on the other end of `port`. `EINVAL` if it has none.
#[inline]
pub fn send<H: Hypervisor + ?Sized>(hv: &H, port: Port) -> Result<(), XenError> {
    if let Some(devices) = hv.devices() {
        return check(Op::EventChannelOp, Some("send"), devices.send(port));
    }
    op(
        hv,
        event::EVTCHNOP_send,
        "send",
        &mut event::evtchn_send { port: port.0 },
    )
}

/// Unmasks `port`, raising the upcall again if it is pending; also for a port of another vCPU.
#[inline]
pub fn unmask<H: Hypervisor + ?Sized>(hv: &H, port: Port) -> Result<(), XenError> {
    if let Some(devices) = hv.devices() {
        return check(Op::EventChannelOp, Some("unmask"), devices.unmask(port));
    }
    op(
        hv,
        event::EVTCHNOP_unmask,
        "unmask",
        &mut event::evtchn_unmask { port: port.0 },
    )
}

/// Closes `port`, whatever it is bound to.
#[inline]
pub fn close<H: Hypervisor + ?Sized>(hv: &H, port: Port) -> Result<(), XenError> {
    if let Some(devices) = hv.devices() {
        return check(Op::EventChannelOp, Some("close"), devices.close(port));
    }
    op(
        hv,
        event::EVTCHNOP_close,
        "close",
        &mut event::evtchn_close { port: port.0 },
    )
}

/// A port for `virq` (`VIRQ_*`) on `vcpu`. A per-vCPU VIRQ can be bound once a vCPU, a global one
/// once, on vCPU 0: `EEXIST` else.
#[inline]
pub fn bind_virq<H: Hypervisor + ?Sized>(hv: &H, virq: u32, vcpu: u32) -> Result<Port, XenError> {
    if let Some(devices) = hv.devices() {
        return check(
            Op::EventChannelOp,
            Some("bind_virq"),
            devices.bind_virq(virq),
        );
    }
    let mut arg = event::evtchn_bind_virq {
        virq,
        vcpu,
        port: 0,
    };
    op(hv, event::EVTCHNOP_bind_virq, "bind_virq", &mut arg)?;
    Ok(Port(arg.port))
}

/// A port that interrupts `vcpu` when sent to.
#[inline]
pub fn bind_ipi<H: Hypervisor + ?Sized>(hv: &H, vcpu: u32) -> Result<Port, XenError> {
    if let Some(devices) = hv.devices() {
        return check(Op::EventChannelOp, Some("bind_ipi"), devices.bind_ipi());
    }
    let mut arg = event::evtchn_bind_ipi { vcpu, port: 0 };
    op(hv, event::EVTCHNOP_bind_ipi, "bind_ipi", &mut arg)?;
    Ok(Port(arg.port))
}

/// A port connected to the port that `remote` allocated for this domain.
#[inline]
pub fn bind_interdomain<H: Hypervisor + ?Sized>(
    hv: &H,
    remote: domid_t,
    remote_port: evtchn_port_t,
) -> Result<Port, XenError> {
    let mut arg = event::evtchn_bind_interdomain {
        remote_dom: remote,
        remote_port,
        local_port: 0,
    };
    op(
        hv,
        event::EVTCHNOP_bind_interdomain,
        "bind_interdomain",
        &mut arg,
    )?;
    Ok(Port(arg.local_port))
}

/// A port that `remote` may bind to.
#[inline]
pub fn alloc_unbound<H: Hypervisor + ?Sized>(hv: &H, remote: domid_t) -> Result<Port, XenError> {
    let mut arg = event::evtchn_alloc_unbound {
        dom: crate::abi::xen::DOMID_SELF,
        remote_dom: remote,
        port: 0,
    };
    op(hv, event::EVTCHNOP_alloc_unbound, "alloc_unbound", &mut arg)?;
    Ok(Port(arg.port))
}

/// Delivers `port` to `vcpu` from now on. Not for per-vCPU VIRQs and IPIs (`EINVAL`).
#[inline]
pub fn bind_vcpu<H: Hypervisor + ?Sized>(hv: &H, port: Port, vcpu: u32) -> Result<(), XenError> {
    let mut arg = event::evtchn_bind_vcpu { port: port.0, vcpu };
    op(hv, event::EVTCHNOP_bind_vcpu, "bind_vcpu", &mut arg)
}

/// What `port` is bound to (`EVTCHNSTAT_*` in `status`).
#[inline]
pub fn status<H: Hypervisor + ?Sized>(
    hv: &H,
    port: Port,
) -> Result<event::evtchn_status, XenError> {
    let mut arg = event::evtchn_status {
        dom: crate::abi::xen::DOMID_SELF,
        port: port.0,
        status: 0,
        vcpu: 0,
        u: event::evtchn_status_u { virq: 0 },
    };
    op(hv, event::EVTCHNOP_status, "status", &mut arg)?;
    Ok(arg)
}

/// Closes every port of this domain, those of the console and xenstore included.
#[inline]
pub fn reset<H: Hypervisor + ?Sized>(hv: &H) -> Result<(), XenError> {
    let mut arg = event::evtchn_reset {
        dom: crate::abi::xen::DOMID_SELF,
    };
    op(hv, event::EVTCHNOP_reset, "reset", &mut arg)
}
