//! `io/console.h`: the page a domU shares with the console daemon.
//!
//! Indices run freely over 32 bits and are masked by the size of their array.

/// The page.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct xencons_interface {
    /// Bytes for the guest.
    pub r#in: [u8; 1024],
    /// Bytes from the guest.
    pub out: [u8; 2048],
    /// Bytes of `in` consumed, written by the guest.
    pub in_cons: u32,
    /// Bytes of `in` produced, written by the daemon.
    pub in_prod: u32,
    /// Bytes of `out` consumed, written by the daemon.
    pub out_cons: u32,
    /// Bytes of `out` produced, written by the guest.
    pub out_prod: u32,
}
