//! Replies, understood by what was asked.
//!
//! ```
//! use xenstore_wire::header::Kind;
//! use xenstore_wire::reply::Reply;
//!
//! assert_eq!(Reply::parse(Kind::Read, b"guest")?, Reply::Value(b"guest"));
//! assert!(Reply::parse(Kind::Write, b"not OK").is_err());
//! # Ok::<(), xenstore_wire::reply::Malformed>(())
//! ```

use core::fmt;
use core::num::NonZeroU32;

use crate::header::Kind;
use crate::permission::Permission;

/// A transaction that xenstored has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction(pub NonZeroU32);

/// The answer to a request that was granted. What it refers to is memory of the client's, into which
/// it was copied before it was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// It is done.
    Done,
    /// Names of children.
    Names(Names<'a>),
    /// Some of the names of children.
    Part(Part<'a>),
    /// The value of a node: any bytes.
    Value(&'a [u8]),
    /// Who may do what, the owner first.
    Permissions(Permissions<'a>),
    /// A transaction has begun.
    Transaction(Transaction),
    /// The directory of a domain.
    Path(&'a [u8]),
}

/// A reply of the right kind, but not as such a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What it answers; none for an event.
    pub kind: Option<Kind>,
    /// What is wrong with it.
    pub what: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Some(kind) => write!(f, "the reply to {kind} is none: {}", self.what),
            None => write!(f, "the event of a watch is none: {}", self.what),
        }
    }
}

impl core::error::Error for Malformed {}

/// Names, each of at least one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a>(&'a [u8]);

impl<'a> Iterator for Names<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (name, rest) = split(self.0)?;
        self.0 = rest;
        Some(name)
    }
}

/// A piece of a list of names that is too long for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Which state of the node it is of: pieces of one list have the same.
    pub generation: &'a [u8],
    /// The names in it.
    pub names: Names<'a>,
    /// Whether it is the last.
    pub is_last: bool,
}

impl Part<'_> {
    /// Bytes of the list that it has: so much further the next one begins.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.names.0.len() as u32
    }
}

/// Permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions<'a>(&'a [u8]);

impl Iterator for Permissions<'_> {
    type Item = Permission;

    fn next(&mut self) -> Option<Permission> {
        let (text, rest) = split(self.0)?;
        self.0 = rest;
        Permission::parse(text)
    }
}

/// The bytes before the first NUL, and those behind it.
pub(crate) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Checks that there are whole names only.
fn names(bytes: &[u8]) -> Result<Names<'_>, &'static str> {
    match bytes {
        [] => return Ok(Names(bytes)),
        [.., 0] => {}
        _ => return Err("the last name does not end"),
    }
    match bytes[0] == 0 || bytes.windows(2).any(|pair| pair == [0, 0]) {
        true => Err("a name is empty"),
        false => Ok(Names(bytes)),
    }
}

/// One text, and nothing behind it.
fn text(bytes: &[u8]) -> Result<&[u8], &'static str> {
    match split(bytes) {
        Some(([], _)) => Err("an empty text"),
        Some((text, [])) => Ok(text),
        Some(_) => Err("something behind the text"),
        None => Err("a text that does not end"),
    }
}

fn part(bytes: &[u8]) -> Result<Part<'_>, &'static str> {
    let (generation, rest) = split(bytes).ok_or("no generation")?;
    if generation.is_empty() || !generation.iter().all(u8::is_ascii_digit) {
        return Err("a generation that is no number");
    }
    // The list ends with an empty name.
    let (list, is_last) = match rest {
        [0] => (&rest[..0], true),
        [list @ .., 0, 0] => (&rest[..=list.len()], true),
        list => (list, false),
    };
    if list.is_empty() && !is_last {
        // Who asks for the rest would ask for ever.
        return Err("nothing of the list, and not its end");
    }
    Ok(Part {
        generation,
        names: names(list)?,
        is_last,
    })
}

fn permissions(bytes: &[u8]) -> Result<Permissions<'_>, &'static str> {
    let mut rest = bytes;
    while let Some((text, behind)) = split(rest) {
        Permission::parse(text).ok_or("a permission that is none")?;
        rest = behind;
    }
    match (bytes, rest) {
        ([], _) => Err("no permissions"),
        (_, []) => Ok(Permissions(bytes)),
        _ => Err("the last permission does not end"),
    }
}

fn transaction(bytes: &[u8]) -> Result<Transaction, &'static str> {
    let digits = text(bytes)?;
    let number = core::str::from_utf8(digits)
        .ok()
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok());
    let number = number.ok_or("a transaction that is no number of 32 bits, or is 0")?;
    Ok(Transaction(number))
}

impl<'a> Reply<'a> {
    /// Understands what is behind the header of a reply to a request of this kind.
    ///
    /// # Errors
    /// It is not what such a reply is.
    pub fn parse(kind: Kind, payload: &'a [u8]) -> Result<Reply<'a>, Malformed> {
        let reply = match kind {
            Kind::Directory => names(payload).map(Reply::Names),
            Kind::DirectoryPart => part(payload).map(Reply::Part),
            Kind::Read => Ok(Reply::Value(payload)),
            Kind::GetPermissions => permissions(payload).map(Reply::Permissions),
            Kind::TransactionStart => transaction(payload).map(Reply::Transaction),
            Kind::GetDomainPath => text(payload).map(Reply::Path),
            Kind::Watch
            | Kind::Unwatch
            | Kind::TransactionEnd
            | Kind::Write
            | Kind::Mkdir
            | Kind::Rm
            | Kind::SetPermissions
            | Kind::ResetWatches => match payload {
                b"OK\0" => Ok(Reply::Done),
                _ => Err("it does not say OK"),
            },
        };
        reply.map_err(|what| Malformed {
            kind: Some(kind),
            what,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(kind: Kind, payload: &[u8]) -> &'static str {
        Reply::parse(kind, payload).unwrap_err().what
    }

    #[test]
    fn names_are_whole() {
        let listed = |payload: &[u8]| match Reply::parse(Kind::Directory, payload) {
            Ok(Reply::Names(names)) => names.map(<[u8]>::to_vec).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(listed(b"a\0bc\0"), [&b"a"[..], b"bc"]);
        assert!(listed(b"").is_empty());
        assert_eq!(wrong(Kind::Directory, b"a"), "the last name does not end");
        assert_eq!(wrong(Kind::Directory, b"\0"), "a name is empty");
        assert_eq!(wrong(Kind::Directory, b"a\0\0b\0"), "a name is empty");
    }

    #[test]
    fn a_part_says_whether_it_is_the_last() {
        let part = |payload: &[u8]| match Reply::parse(Kind::DirectoryPart, payload) {
            Ok(Reply::Part(part)) => (part.names.count(), part.length(), part.is_last),
            other => panic!("{other:?}"),
        };
        assert_eq!(part(b"17\0a\0bc\0"), (2, 5, false));
        assert_eq!(part(b"17\0a\0bc\0\0"), (2, 5, true));
        assert_eq!(part(b"17\0\0"), (0, 0, true));
        for payload in [&b"17\0"[..], b"\0a\0", b"x\0a\0", b"17", b"", b"1\0a\0\0\0"] {
            assert!(
                Reply::parse(Kind::DirectoryPart, payload).is_err(),
                "{payload:?}"
            );
        }
    }

    #[test]
    fn a_transaction_is_a_number_and_not_0() {
        let number = NonZeroU32::new(4_294_967_295).unwrap();
        let reply = Reply::parse(Kind::TransactionStart, b"4294967295\0");
        assert_eq!(reply, Ok(Reply::Transaction(Transaction(number))));
        for payload in [
            &b"0\0"[..],
            b"4294967296\0",
            b"+1\0",
            b"1",
            b"1\0x",
            b"\0",
            b"",
        ] {
            assert!(
                Reply::parse(Kind::TransactionStart, payload).is_err(),
                "{payload:?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_was_asked() {
        let error = Reply::parse(Kind::Write, b"NO\0").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the reply to WRITE is none: it does not say OK"
        );
    }

    #[test]
    fn the_rest_is_as_the_protocol_has_it() {
        assert_eq!(Reply::parse(Kind::Read, b"\0x"), Ok(Reply::Value(b"\0x")));
        assert_eq!(Reply::parse(Kind::Write, b"OK\0"), Ok(Reply::Done));
        assert_eq!(wrong(Kind::Write, b"OK"), "it does not say OK");
        let path = Reply::parse(Kind::GetDomainPath, b"/local/domain/3\0");
        assert_eq!(path, Ok(Reply::Path(b"/local/domain/3")));
        assert_eq!(
            wrong(Kind::GetDomainPath, b"/a\0b\0"),
            "something behind the text"
        );
        match Reply::parse(Kind::GetPermissions, b"n0\0r7\0") {
            Ok(Reply::Permissions(all)) => assert_eq!(all.count(), 2),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            wrong(Kind::GetPermissions, b"n0\0q7\0"),
            "a permission that is none"
        );
        assert_eq!(
            wrong(Kind::GetPermissions, b"n0\0r7"),
            "the last permission does not end"
        );
        assert_eq!(wrong(Kind::GetPermissions, b""), "no permissions");
    }
}
