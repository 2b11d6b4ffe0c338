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
    Hypervisor, MachAddr, Mfn, Op, XenError,
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
            devices.bind_virq(virq, vcpu),
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
        return check(Op::EventChannelOp, Some("bind_ipi"), devices.bind_ipi(vcpu));
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

/// Has Xen announce what is raised on `vcpu` in the control block at machine address `place`: the FIFO
/// ABI ([`fifo`](crate::fifo)). The first such call of a domain changes its ABI for good, for all vCPUs and ports:
/// what was raised stays so, and is seen when the array has grown to it ([`expand_array`]). Another
/// vCPU's is needed before any port of it is unmasked. `ENOSYS` where Xen has only two levels, `EINVAL` for a
/// vCPU that has one. Returns how many bits of a word are a link.
///
/// # Safety
/// From now on Xen writes to the 72 bytes at `place`, a [`Block`](crate::fifo::Block) of zeros, which lies within
/// a page and begins at a multiple of 8.
#[inline]
pub unsafe fn init_control<H: Hypervisor + ?Sized>(
    hv: &H,
    vcpu: u32,
    place: MachAddr,
) -> Result<u8, XenError> {
    // SAFETY: integers.
    let mut arg: event::evtchn_init_control = unsafe { core::mem::zeroed() };
    arg.control_gfn = place.frame().as_u64();
    arg.offset = place.page_offset() as u32;
    arg.vcpu = vcpu;
    op(hv, event::EVTCHNOP_init_control, "init_control", &mut arg)?;
    Ok(arg.link_bits)
}

/// Gives Xen a page of words for the next 1024 ports of the FIFO ABI.
///
/// # Safety
/// From now on Xen writes to the page, an array of [`fifo::Word`](crate::fifo::Word).
#[inline]
pub unsafe fn expand_array<H: Hypervisor + ?Sized>(hv: &H, page: Mfn) -> Result<(), XenError> {
    let array_gfn = page.as_u64();
    op(
        hv,
        event::EVTCHNOP_expand_array,
        "expand_array",
        &mut event::evtchn_expand_array { array_gfn },
    )
}

/// Has `port` served before those of larger numbers, from the next time on that it is raised; FIFO ABI
/// only (`ENOSYS` else). From [`EVTCHN_FIFO_PRIORITY_MAX`](event::EVTCHN_FIFO_PRIORITY_MAX), 0, to
/// [`EVTCHN_FIFO_PRIORITY_MIN`](event::EVTCHN_FIFO_PRIORITY_MIN), 15; a new port has 7.
///
/// To be changed while the port is masked: Xen loses an event of a port that changes its queue again and
/// again while it is raised.
#[inline]
pub fn set_priority<H: Hypervisor + ?Sized>(
    hv: &H,
    port: Port,
    priority: u32,
) -> Result<(), XenError> {
    let mut arg = event::evtchn_set_priority {
        port: port.0,
        priority,
    };
    op(hv, event::EVTCHNOP_set_priority, "set_priority", &mut arg)
}
