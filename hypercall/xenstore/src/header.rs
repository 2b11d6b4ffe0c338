//! The header of a message: sixteen bytes, four numbers.
//!
//! ```
//! use xenstore_wire::header::{Header, Kind};
//!
//! let header = Header { kind: 2, id: 1, transaction: 0, length: 5 };
//! assert_eq!(Header::from_bytes(header.to_bytes()), header);
//! assert_eq!(Kind::from_number(header.kind), Some(Kind::Read));
//! ```

use core::fmt;

use crate::abi;

/// Bytes of a header.
pub const LENGTH: usize = size_of::<abi::xsd_sockmsg>();

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is, by its number in Xen's header: the other side may say any.
    pub kind: u32,
    /// Which request it is, or answers. 0 for events.
    pub id: u32,
    /// The transaction that it is part of; 0 for none.
    pub transaction: u32,
    /// Bytes that follow. The other side may claim more than 4096.
    pub length: u32,
}

impl Header {
    /// As it is in the ring.
    #[must_use]
    pub fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let fields = [self.kind, self.id, self.transaction, self.length];
        for (to, field) in bytes.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// From how it is in the ring.
    #[must_use]
    pub fn from_bytes(bytes: [u8; LENGTH]) -> Header {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Header {
            kind: u32::from_le_bytes([a, b, c, d]),
            id: u32::from_le_bytes([e, f, g, h]),
            transaction: u32::from_le_bytes([i, j, k, l]),
            length: u32::from_le_bytes([m, n, o, p]),
        }
    }
}

/// The requests that this crate makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// The names of a node's children.
    Directory = abi::XS_DIRECTORY,
    /// The value of a node.
    Read = abi::XS_READ,
    /// Who may do what with a node.
    GetPermissions = abi::XS_GET_PERMS,
    /// Be told of changes.
    Watch = abi::XS_WATCH,
    /// Be told no more.
    Unwatch = abi::XS_UNWATCH,
    /// Begin a transaction.
    TransactionStart = abi::XS_TRANSACTION_START,
    /// Commit a transaction, or drop it.
    TransactionEnd = abi::XS_TRANSACTION_END,
    /// The directory of a domain.
    GetDomainPath = abi::XS_GET_DOMAIN_PATH,
    /// Give a node a value, and make it if it is not there.
    Write = abi::XS_WRITE,
    /// Make a node.
    Mkdir = abi::XS_MKDIR,
    /// Remove a node and what is below.
    Rm = abi::XS_RM,
    /// Say who may do what with a node.
    SetPermissions = abi::XS_SET_PERMS,
    /// Forget all watches and transactions.
    ResetWatches = abi::XS_RESET_WATCHES,
    /// The names of a node's children, a message full at a time.
    DirectoryPart = abi::XS_DIRECTORY_PART,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 14] = [
        Kind::Directory,
        Kind::Read,
        Kind::GetPermissions,
        Kind::Watch,
        Kind::Unwatch,
        Kind::TransactionStart,
        Kind::TransactionEnd,
        Kind::GetDomainPath,
        Kind::Write,
        Kind::Mkdir,
        Kind::Rm,
        Kind::SetPermissions,
        Kind::ResetWatches,
        Kind::DirectoryPart,
    ];

    /// The request that has this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u32 == number)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Directory => "DIRECTORY",
            Kind::Read => "READ",
            Kind::GetPermissions => "GET_PERMS",
            Kind::Watch => "WATCH",
            Kind::Unwatch => "UNWATCH",
            Kind::TransactionStart => "TRANSACTION_START",
            Kind::TransactionEnd => "TRANSACTION_END",
            Kind::GetDomainPath => "GET_DOMAIN_PATH",
            Kind::Write => "WRITE",
            Kind::Mkdir => "MKDIR",
            Kind::Rm => "RM",
            Kind::SetPermissions => "SET_PERMS",
            Kind::ResetWatches => "RESET_WATCHES",
            Kind::DirectoryPart => "DIRECTORY_PART",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_four_numbers_in_the_order_of_the_abi() {
        let header = Header {
            kind: 1,
            id: 0x0203_0405,
            transaction: 6,
            length: 7,
        };
        let bytes = header.to_bytes();
        assert_eq!(bytes, [1, 0, 0, 0, 5, 4, 3, 2, 6, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(Header::from_bytes(bytes), header);
    }

    #[test]
    fn every_kind_is_found_by_its_number() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind as u32), Some(kind));
        }
        assert_eq!(Kind::from_number(abi::XS_ERROR), None);
        assert_eq!(Kind::from_number(0xffff), None);
    }
}
