//! `hvm/hvm_op.h`, `hvm/params.h` and `hvm/hvm_vcpu.h`: a domain's virtual platform, and from what its vCPUs
//! start.

use super::domid_t;

/// Sets a parameter.
pub const HVMOP_set_param: u64 = 0;
/// Reads a parameter.
pub const HVMOP_get_param: u64 = 1;
/// Has all vCPUs of the domain forget their translations.
pub const HVMOP_flush_tlbs: u64 = 5;
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

/// A vCPU starts in long mode.
pub const VCPU_HVM_MODE_64B: u32 = 1;

/// The registers of a vCPU that starts in long mode.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct vcpu_hvm_x86_64 {
    /// A general register.
    pub rax: u64,
    /// A general register.
    pub rcx: u64,
    /// A general register.
    pub rdx: u64,
    /// A general register.
    pub rbx: u64,
    /// A general register.
    pub rsp: u64,
    /// A general register.
    pub rbp: u64,
    /// A general register.
    pub rsi: u64,
    /// A general register.
    pub rdi: u64,
    /// The first instruction.
    pub rip: u64,
    /// The flags.
    pub rflags: u64,
    /// Of the control registers, this one.
    pub cr0: u64,
    /// The root of the page tables.
    pub cr3: u64,
    /// Of the control registers, this one.
    pub cr4: u64,
    /// With LME and LMA.
    pub efer: u64,
}

/// Argument of `VCPUOP_initialise` in hardware virtualisation, of a vCPU that starts in long mode.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct vcpu_hvm_context {
    /// [`VCPU_HVM_MODE_64B`].
    pub mode: u32,
    /// Nothing.
    pub pad: u32,
    /// The registers.
    pub x86_64: vcpu_hvm_x86_64,
    /// Room for those of the other mode.
    pub rest: u64,
}
