//! Why xenstored refuses: the name of an errno value, as text.
//!
//! ```
//! use xenstore_wire::refusal::{Errno, Refusal};
//!
//! assert_eq!(Refusal::from_name(b"ENOENT"), Refusal::Known(Errno::ENOENT));
//! assert!(matches!(Refusal::from_name(b"ENEW"), Refusal::Other { length: 4, .. }));
//! ```

use core::fmt;

/// The names that `xs_wire.h` lists, and one more that oxenstored has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "errno's own names; Display says what each means here"
)]
pub enum Errno {
    EINVAL,
    EACCES,
    EEXIST,
    EISDIR,
    ENOENT,
    ENOMEM,
    ENOSPC,
    EIO,
    ENOTEMPTY,
    ENOSYS,
    EROFS,
    EBUSY,
    EAGAIN,
    EISCONN,
    E2BIG,
    EPERM,
    EQUOTA,
}

impl Errno {
    /// All of them, with their names and what they mean to who asked.
    pub const ALL: [(Errno, &'static str, &'static str); 17] = [
        (Errno::EINVAL, "EINVAL", "not a request that it understands"),
        (Errno::EACCES, "EACCES", "this domain may not"),
        (Errno::EEXIST, "EEXIST", "it is there"),
        (Errno::EISDIR, "EISDIR", "it is a directory"),
        (Errno::ENOENT, "ENOENT", "it is not there"),
        (Errno::ENOMEM, "ENOMEM", "no memory"),
        (Errno::ENOSPC, "ENOSPC", "this domain's quota is used up"),
        (Errno::EIO, "EIO", "an error of its data base"),
        (Errno::ENOTEMPTY, "ENOTEMPTY", "it has children"),
        (Errno::ENOSYS, "ENOSYS", "a request that it does not know"),
        (Errno::EROFS, "EROFS", "nothing can be written"),
        (Errno::EBUSY, "EBUSY", "too much at a time"),
        (Errno::EAGAIN, "EAGAIN", "somebody else changed the same"),
        (Errno::EISCONN, "EISCONN", "it is connected"),
        (
            Errno::E2BIG,
            "E2BIG",
            "too large for a message, or for a node",
        ),
        (Errno::EPERM, "EPERM", "not permitted"),
        (Errno::EQUOTA, "EQUOTA", "this domain's quota is used up"),
    ];
}

/// Bytes that are kept of a name that nothing lists.
const KEPT: usize = 24;

/// A request was refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// For a reason that is known.
    Known(Errno),
    /// For another: its name, of which the first 24 bytes are kept.
    Other {
        /// The name, and zeros.
        name: [u8; KEPT],
        /// Bytes it had.
        length: usize,
    },
}

impl Refusal {
    /// From the name, without the NUL behind it.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Refusal {
        let known = Errno::ALL
            .iter()
            .find(|(_, text, _)| text.as_bytes() == name);
        if let Some((errno, ..)) = known {
            return Refusal::Known(*errno);
        }
        let mut kept = [0; KEPT];
        let count = name.len().min(KEPT);
        kept[..count].copy_from_slice(&name[..count]);
        Refusal::Other {
            name: kept,
            length: name.len(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Known(errno) => {
                let mut all = Errno::ALL.iter();
                match all.find(|(listed, ..)| listed == errno) {
                    Some((_, name, meaning)) => write!(f, "{name}: {meaning}"),
                    None => fmt::Debug::fmt(errno, f),
                }
            }
            Refusal::Other { name, length } => {
                let kept = &name[..(*length).min(KEPT)];
                let cut = if *length > KEPT { "..." } else { "" };
                write!(
                    f,
                    "'{}{cut}', which is no error it is known for",
                    kept.escape_ascii()
                )
            }
        }
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Refusal({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_that_of_its_value() {
        for (errno, name, meaning) in Errno::ALL {
            assert_eq!(format!("{errno:?}"), name);
            let refusal = Refusal::from_name(name.as_bytes());
            assert_eq!(refusal, Refusal::Known(errno));
            assert_eq!(refusal.to_string(), format!("{name}: {meaning}"));
        }
    }

    #[test]
    fn an_unknown_name_is_kept() {
        let words = Refusal::from_name(b"EDOM\x1b").to_string();
        assert_eq!(words, "'EDOM\\x1b', which is no error it is known for");
        let words = Refusal::from_name(&[b'E'; 4096]).to_string();
        assert_eq!(
            words,
            format!("'{}...', which is no error it is known for", "E".repeat(24))
        );
    }
}
