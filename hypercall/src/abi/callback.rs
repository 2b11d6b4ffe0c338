//! `callback.h`: entry points one at a time, syscall32, sysenter and NMI among them.

/// Registers an entry point.
pub const CALLBACKOP_register: u32 = 0;
/// Forgets one.
pub const CALLBACKOP_unregister: u32 = 1;
/// Events.
pub const CALLBACKTYPE_event: u16 = 0;
/// A segment register that did not load.
pub const CALLBACKTYPE_failsafe: u16 = 1;
/// `syscall` from 64-bit user mode.
pub const CALLBACKTYPE_syscall: u16 = 2;
/// Non-maskable interrupts.
pub const CALLBACKTYPE_nmi: u16 = 4;
/// `sysenter` from user mode.
pub const CALLBACKTYPE_sysenter: u16 = 5;
/// `syscall` from 32-bit user mode.
pub const CALLBACKTYPE_syscall32: u16 = 7;
/// Enter with upcalls masked.
pub const CALLBACKF_mask_events: u16 = 1;

/// Argument of `CALLBACKOP_register`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct callback_register {
    /// `CALLBACKTYPE_*`.
    pub r#type: u16,
    /// `CALLBACKF_*`.
    pub flags: u16,
    /// Virtual address.
    pub address: u64,
}

/// Argument of `CALLBACKOP_unregister`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct callback_unregister {
    /// `CALLBACKTYPE_*`.
    pub r#type: u16,
    /// Zero.
    pub _unused: u16,
}
