//! Numbers of `xen/include/public/io/xs_wire.h`, by their names there.
//!
//! Compared with Debian's headers by the test of the ABI in the crate `hypercall`.
#![allow(missing_docs, reason = "the header's own names, explained there")]
#![allow(
    non_camel_case_types,
    non_upper_case_globals,
    reason = "the header's own names"
)]

/// Bytes of each of the two rings.
pub const XENSTORE_RING_SIZE: usize = 1024;
/// Bytes behind a header, in either direction. Who sends more is disconnected.
pub const XENSTORE_PAYLOAD_MAX: usize = 4096;
/// Bytes of a path from the root.
pub const XENSTORE_ABS_PATH_MAX: usize = 3072;
/// Bytes of a path from the domain's own directory.
pub const XENSTORE_REL_PATH_MAX: usize = 2048;

pub const XENSTORE_SERVER_FEATURE_RECONNECTION: u32 = 1;
/// Since Xen 4.17.
pub const XENSTORE_SERVER_FEATURE_ERROR: u32 = 2;

pub const XENSTORE_CONNECTED: u32 = 0;
pub const XENSTORE_RECONNECT: u32 = 1;

pub const XENSTORE_ERROR_NONE: u32 = 0;
pub const XENSTORE_ERROR_COMM: u32 = 1;
pub const XENSTORE_ERROR_RINGIDX: u32 = 2;
pub const XENSTORE_ERROR_PROTO: u32 = 3;

pub const XS_DIRECTORY: u32 = 1;
pub const XS_READ: u32 = 2;
pub const XS_GET_PERMS: u32 = 3;
pub const XS_WATCH: u32 = 4;
pub const XS_UNWATCH: u32 = 5;
pub const XS_TRANSACTION_START: u32 = 6;
pub const XS_TRANSACTION_END: u32 = 7;
pub const XS_GET_DOMAIN_PATH: u32 = 10;
pub const XS_WRITE: u32 = 11;
pub const XS_MKDIR: u32 = 12;
pub const XS_RM: u32 = 13;
pub const XS_SET_PERMS: u32 = 14;
pub const XS_WATCH_EVENT: u32 = 15;
pub const XS_ERROR: u32 = 16;
pub const XS_RESET_WATCHES: u32 = 21;
pub const XS_DIRECTORY_PART: u32 = 22;

/// The header of a message (`struct xsd_sockmsg`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct xsd_sockmsg {
    pub r#type: u32,
    pub req_id: u32,
    pub tx_id: u32,
    pub len: u32,
}

/// The shared page, as far as anything is in it (`struct xenstore_domain_interface`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct xenstore_domain_interface {
    pub req: [u8; XENSTORE_RING_SIZE],
    pub rsp: [u8; XENSTORE_RING_SIZE],
    pub req_cons: u32,
    pub req_prod: u32,
    pub rsp_cons: u32,
    pub rsp_prod: u32,
    pub server_features: u32,
    pub connection: u32,
    pub error: u32,
}
