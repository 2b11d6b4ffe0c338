//! `xen.h`, `arch-x86/xen.h`: the page every domain shares with Xen, and the time in it.
//!
//! Xen writes here while the guest runs. These types say where things are; read and write the
//! fields as volatile or atomic through a raw pointer, never through a reference.
//!
//! Defined here and not taken from `xen-sys`, whose interface version has no `flags` in the time.

pub use xen_sys::{
    XEN_LEGACY_MAX_VCPUS, XEN_PVCLOCK_GUEST_STOPPED, XEN_PVCLOCK_TSC_STABLE_BIT, arch_shared_info,
    arch_vcpu_info,
};

/// A vCPU's clock: system time at a TSC value, and the TSC's rate.
///
/// `version` is odd while Xen writes; read it before and after, until it is even and unchanged.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct vcpu_time_info {
    /// Even when the rest is consistent.
    pub version: u32,
    /// Nothing.
    pub pad0: u32,
    /// TSC at the last update.
    pub tsc_timestamp: u64,
    /// Nanoseconds since boot at the last update.
    pub system_time: u64,
    /// Nanoseconds = ((TSC difference << `tsc_shift`) × `tsc_to_system_mul`) >> 32.
    pub tsc_to_system_mul: u32,
    /// Negative: shift right.
    pub tsc_shift: i8,
    /// `XEN_PVCLOCK_*`.
    pub flags: u8,
    /// Nothing.
    pub pad1: [u8; 2],
}

/// What Xen and one vCPU share.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct vcpu_info {
    /// Nonzero: events wait. Cleared by the guest before it looks for them.
    pub evtchn_upcall_pending: u8,
    /// Nonzero: no upcall. The virtual interrupt flag, inverted.
    pub evtchn_upcall_mask: u8,
    /// Which words of `evtchn_pending` have something for this vCPU.
    pub evtchn_pending_sel: u64,
    /// The fault address.
    pub arch: arch_vcpu_info,
    /// The clock.
    pub time: vcpu_time_info,
}

/// What Xen and the domain share.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct shared_info {
    /// Of the first 32 vCPUs; later ones register theirs.
    pub vcpu_info: [vcpu_info; XEN_LEGACY_MAX_VCPUS as usize],
    /// One bit a port.
    pub evtchn_pending: [u64; 64],
    /// One bit a port, 1 means masked.
    pub evtchn_mask: [u64; 64],
    /// As `vcpu_time_info::version`, for the wall clock.
    pub wc_version: u32,
    /// Wall-clock seconds at boot, low half.
    pub wc_sec: u32,
    /// Wall-clock nanoseconds at boot.
    pub wc_nsec: u32,
    /// Wall-clock seconds at boot, high half.
    pub wc_sec_hi: u32,
    /// The p2m, as the tools see it.
    pub arch: arch_shared_info,
}
