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

/// Where a byte lies behind the indices, from Xen 4.21 on, that says whether anybody takes what is put:
/// `connection`, which earlier tools leave 0.
pub const XENCONS_CONNECTION: usize = size_of::<xencons_interface>();
/// In `connection`: somebody does, or may.
pub const XENCONSOLE_CONNECTED: u8 = 0;
/// In `connection`: nobody does, until it is said to be otherwise.
pub const XENCONSOLE_DISCONNECTED: u8 = 1;
