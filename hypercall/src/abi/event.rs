//! `event_channel.h`: ports, what they are bound to, and the FIFO ABI's numbers.

pub use xen_sys::{
    BIND_PIRQ__WILL_SHARE, EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_BITS, EVTCHN_FIFO_LINK_MASK,
    EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_NR_CHANNELS,
    EVTCHN_FIFO_PENDING, EVTCHN_FIFO_PRIORITY_DEFAULT, EVTCHN_FIFO_PRIORITY_MAX,
    EVTCHN_FIFO_PRIORITY_MIN, EVTCHNOP_alloc_unbound, EVTCHNOP_bind_interdomain, EVTCHNOP_bind_ipi,
    EVTCHNOP_bind_pirq, EVTCHNOP_bind_vcpu, EVTCHNOP_bind_virq, EVTCHNOP_close,
    EVTCHNOP_expand_array, EVTCHNOP_init_control, EVTCHNOP_reset, EVTCHNOP_send,
    EVTCHNOP_set_priority, EVTCHNOP_status, EVTCHNOP_unmask, EVTCHNSTAT_closed,
    EVTCHNSTAT_interdomain, EVTCHNSTAT_ipi, EVTCHNSTAT_pirq, EVTCHNSTAT_unbound, EVTCHNSTAT_virq,
    evtchn_alloc_unbound, evtchn_bind_interdomain, evtchn_bind_ipi, evtchn_bind_pirq,
    evtchn_bind_vcpu, evtchn_bind_virq, evtchn_close, evtchn_expand_array,
    evtchn_fifo_control_block, evtchn_init_control, evtchn_port_t, evtchn_reset, evtchn_send,
    evtchn_set_priority, evtchn_status, evtchn_status__bindgen_ty_1 as evtchn_status_u,
    evtchn_unmask,
};

/// Ports of the 2-level ABI on a 64-bit guest.
pub const EVTCHN_2L_NR_CHANNELS: usize = 64 * 64;
