//! `hvm/hvm_op.h` and `hvm/params.h`: parameters of a domain's virtual platform.

use super::domid_t;

/// Reads a parameter.
pub const HVMOP_get_param: u64 = 1;
/// The frame of the console's page.
pub const HVM_PARAM_CONSOLE_PFN: u32 = 17;
/// The event channel of the console.
pub const HVM_PARAM_CONSOLE_EVTCHN: u32 = 18;

/// What is asked of `HVMOP_get_param`.
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
