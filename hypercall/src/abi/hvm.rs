//! `hvm/hvm_op.h` and `hvm/params.h`: parameters of a domain's virtual platform.

use super::domid_t;

/// Sets a parameter.
pub const HVMOP_set_param: u64 = 0;
/// Reads a parameter.
pub const HVMOP_get_param: u64 = 1;
/// How events are brought to vCPU 0: the way in bits 63-56, below what that way needs.
pub const HVM_PARAM_CALLBACK_IRQ: u32 = 0;
/// One of those ways: an interrupt of the vector in bits 7-0.
pub const HVM_PARAM_CALLBACK_TYPE_VECTOR: u64 = 2;
/// The frame of xenstore's page.
pub const HVM_PARAM_STORE_PFN: u32 = 1;
/// The event channel of xenstore.
pub const HVM_PARAM_STORE_EVTCHN: u32 = 2;
/// The frame of the console's page.
pub const HVM_PARAM_CONSOLE_PFN: u32 = 17;
/// The event channel of the console.
pub const HVM_PARAM_CONSOLE_EVTCHN: u32 = 18;

/// What is asked of `HVMOP_get_param` and `HVMOP_set_param`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct xen_hvm_param {
    /// The domain.
    pub domid: domid_t,
    /// Nothing.
    pub pad: u16,
    /// The parameter.
    pub index: u32,
    /// Its value.
    pub value: u64,
}
