//! Requests, checked and written as messages.
//!
//! ```
//! use xenstore_wire::{Path, Request};
//!
//! let mut payload = [0; 4096];
//! let write = Request::Write(Path::constant("data/x"), b"1");
//! let length = write.encode(&mut payload)?;
//! assert_eq!(&payload[..length], b"data/x\x001");
//! # Ok::<(), xenstore_wire::request::RequestError>(())
//! ```

use core::fmt::{self, Write};

use crate::abi::{XENSTORE_ABS_PATH_MAX, XENSTORE_PAYLOAD_MAX};
use crate::header::Kind;
use crate::path::Path;
use crate::permission::{LONGEST, Permission};

/// Bytes of the longest token: with the longest path, an event of the watch still fits into a message.
/// One that does not is an event that xenstored drops.
pub const TOKEN: usize = XENSTORE_PAYLOAD_MAX - XENSTORE_ABS_PATH_MAX - 2;

/// Something to ask of xenstored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The names of a node's children; refused with E2BIG if they do not fit into a message.
    Directory(Path<'a>),
    /// The names of a node's children, from so many bytes on into the list of all of them.
    DirectoryPart(Path<'a>, u32),
    /// The value of a node.
    Read(Path<'a>),
    /// Gives a node a value; it and those above it are made if they are not there.
    Write(Path<'a>, &'a [u8]),
    /// Makes a node, and those above it, if they are not there.
    Mkdir(Path<'a>),
    /// Removes a node and what is below.
    Rm(Path<'a>),
    /// Who may do what with a node.
    GetPermissions(Path<'a>),
    /// Says who may do what with a node; the first is the owner's.
    SetPermissions(Path<'a>, &'a [Permission]),
    /// Be told when a node or what is below changes, and at once; with a word that comes back.
    Watch(Path<'a>, &'a [u8]),
    /// Be told no more.
    Unwatch(Path<'a>, &'a [u8]),
    /// Begin a transaction.
    TransactionStart,
    /// End the transaction that the request is part of: commit it, or drop it.
    TransactionEnd {
        /// Commit it.
        commit: bool,
    },
    /// The directory of a domain.
    GetDomainPath(u16),
    /// Forget all of this domain's watches and transactions.
    ResetWatches,
}

/// Why a request is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// It does not fit into a message of 4096 bytes.
    Long,
    /// A token has a NUL, or more than 1022 bytes.
    Token,
    /// Permissions without an owner's.
    NoOwner,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Long => write!(
                f,
                "the request does not fit into a message of {XENSTORE_PAYLOAD_MAX} bytes"
            ),
            RequestError::Token => {
                write!(f, "a token has a NUL or more than {TOKEN} bytes")
            }
            RequestError::NoOwner => f.write_str("permissions without an owner's"),
        }
    }
}

impl core::error::Error for RequestError {}

/// What is behind the header, as it grows.
struct Payload<'a> {
    to: &'a mut [u8; XENSTORE_PAYLOAD_MAX],
    length: usize,
}

impl Payload<'_> {
    fn add(&mut self, bytes: &[u8]) -> Result<(), RequestError> {
        let to = self.to.get_mut(self.length..).unwrap_or_default();
        let to = to.get_mut(..bytes.len()).ok_or(RequestError::Long)?;
        to.copy_from_slice(bytes);
        self.length += bytes.len();
        Ok(())
    }

    fn path(&mut self, path: Path<'_>) -> Result<(), RequestError> {
        self.add(path.as_bytes())?;
        self.add(&[0])
    }

    /// Adds what `text` prints as, and a NUL.
    fn print(&mut self, text: impl fmt::Display) -> Result<(), RequestError> {
        write!(self, "{text}\0").map_err(|_| RequestError::Long)
    }
}

impl Write for Payload<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

impl Request<'_> {
    /// What kind of request it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Request::Directory(_) => Kind::Directory,
            Request::DirectoryPart(..) => Kind::DirectoryPart,
            Request::Read(_) => Kind::Read,
            Request::Write(..) => Kind::Write,
            Request::Mkdir(_) => Kind::Mkdir,
            Request::Rm(_) => Kind::Rm,
            Request::GetPermissions(_) => Kind::GetPermissions,
            Request::SetPermissions(..) => Kind::SetPermissions,
            Request::Watch(..) => Kind::Watch,
            Request::Unwatch(..) => Kind::Unwatch,
            Request::TransactionStart => Kind::TransactionStart,
            Request::TransactionEnd { .. } => Kind::TransactionEnd,
            Request::GetDomainPath(_) => Kind::GetDomainPath,
            Request::ResetWatches => Kind::ResetWatches,
        }
    }

    /// Writes what is behind the header and returns how many bytes that is.
    ///
    /// # Errors
    /// What keeps it from being sent.
    pub fn encode(&self, to: &mut [u8; XENSTORE_PAYLOAD_MAX]) -> Result<usize, RequestError> {
        let mut payload = Payload { to, length: 0 };
        match self {
            Request::Directory(path)
            | Request::Read(path)
            | Request::Mkdir(path)
            | Request::Rm(path)
            | Request::GetPermissions(path) => payload.path(*path)?,
            Request::DirectoryPart(path, offset) => {
                payload.path(*path)?;
                payload.print(offset)?;
            }
            Request::Write(path, value) => {
                payload.path(*path)?;
                payload.add(value)?;
            }
            Request::SetPermissions(path, permissions) => {
                if permissions.is_empty() {
                    return Err(RequestError::NoOwner);
                }
                payload.path(*path)?;
                permissions.iter().try_for_each(|p| payload.print(p))?;
            }
            Request::Watch(path, token) | Request::Unwatch(path, token) => {
                if token.len() > TOKEN || token.contains(&0) {
                    return Err(RequestError::Token);
                }
                payload.path(*path)?;
                payload.add(token)?;
                payload.add(&[0])?;
            }
            Request::TransactionStart | Request::ResetWatches => payload.add(&[0])?,
            Request::TransactionEnd { commit } => {
                payload.add(if *commit { b"T\0" } else { b"F\0" })?;
            }
            Request::GetDomainPath(domain) => payload.print(domain)?,
        }
        Ok(payload.length)
    }
}

/// A permission has room in any message that its path has left place in.
const _: () = assert!(XENSTORE_ABS_PATH_MAX + 1 + LONGEST < XENSTORE_PAYLOAD_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::Access;

    fn path(text: &str) -> Path<'_> {
        Path::new(text.as_bytes()).unwrap()
    }

    fn encode(request: Request<'_>) -> Result<Vec<u8>, RequestError> {
        let mut buffer = [0xaa; 4096];
        let length = request.encode(&mut buffer)?;
        Ok(buffer[..length].to_vec())
    }

    #[test]
    fn each_is_as_the_protocol_has_it() {
        let (a, name) = (path("/a"), path("name"));
        let permissions = [
            Permission {
                access: Access::None,
                domain: 0,
            },
            Permission {
                access: Access::Both,
                domain: 7,
            },
        ];
        let expected: [(Request<'_>, &[u8]); 14] = [
            (Request::Directory(a), b"/a\0"),
            (Request::DirectoryPart(a, 4090), b"/a\x004090\0"),
            (Request::Read(name), b"name\0"),
            (Request::Write(name, b"v\0w"), b"name\0v\0w"),
            (Request::Mkdir(a), b"/a\0"),
            (Request::Rm(a), b"/a\0"),
            (Request::GetPermissions(a), b"/a\0"),
            (Request::SetPermissions(a, &permissions), b"/a\0n0\0b7\0"),
            (Request::Watch(name, b"tok"), b"name\0tok\0"),
            (Request::Unwatch(name, b""), b"name\0\0"),
            (Request::TransactionStart, b"\0"),
            (Request::TransactionEnd { commit: true }, b"T\0"),
            (Request::GetDomainPath(12), b"12\0"),
            (Request::ResetWatches, b"\0"),
        ];
        for (request, bytes) in expected {
            assert_eq!(encode(request).as_deref(), Ok(bytes), "{request:?}");
        }
        let dropped = Request::TransactionEnd { commit: false };
        assert_eq!(encode(dropped).as_deref(), Ok(&b"F\0"[..]));
    }

    #[test]
    fn a_message_may_be_full_and_no_more() {
        let name = path("name");
        let value = [7; 4092];
        assert_eq!(
            encode(Request::Write(name, &value[..4091])).unwrap().len(),
            4096
        );
        assert_eq!(
            encode(Request::Write(name, &value)),
            Err(RequestError::Long)
        );
        let many = [Permission {
            access: Access::Both,
            domain: 65535,
        }; 600];
        assert_eq!(
            encode(Request::SetPermissions(name, &many)),
            Err(RequestError::Long)
        );
        assert_eq!(
            encode(Request::SetPermissions(name, &[])),
            Err(RequestError::NoOwner)
        );
    }

    #[test]
    fn a_token_leaves_room_for_the_longest_path() {
        let name = path("name");
        let token = [b't'; TOKEN + 1];
        assert_eq!(TOKEN, 1022);
        assert!(encode(Request::Watch(name, &token[..TOKEN])).is_ok());
        assert_eq!(
            encode(Request::Watch(name, &token)),
            Err(RequestError::Token)
        );
        assert_eq!(
            encode(Request::Unwatch(name, b"a\0b")),
            Err(RequestError::Token)
        );
    }
}
