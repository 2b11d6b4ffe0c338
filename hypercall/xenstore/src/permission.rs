//! Who may do what with a node.
//!
//! ```
//! use xenstore_wire::permission::{Access, Permission};
//!
//! let everyone_reads = Permission::parse(b"r0");
//! assert_eq!(everyone_reads, Some(Permission { access: Access::Read, domain: 0 }));
//! assert_eq!(Permission::parse(b"x0"), None);
//! ```

use core::fmt;

/// What a domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Write.
    Write,
    /// Both.
    Both,
}

/// One line of a node's permissions. The first of them is of the owner, who may do everything, and says
/// what those may who are not named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// What it may do.
    pub access: Access,
    /// The number of the domain.
    pub domain: u16,
}

/// The longest text of one: a letter and a domain's number.
pub(crate) const LONGEST: usize = 6;

impl Permission {
    /// From its text, `b0`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Permission> {
        let (letter, number) = text.split_first()?;
        let access = match letter {
            b'n' => Access::None,
            b'r' => Access::Read,
            b'w' => Access::Write,
            b'b' => Access::Both,
            _ => return None,
        };
        let digits = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
        let number = core::str::from_utf8(number).ok().filter(|_| digits)?;
        Some(Permission {
            access,
            domain: number.parse().ok()?,
        })
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.access {
            Access::None => 'n',
            Access::Read => 'r',
            Access::Write => 'w',
            Access::Both => 'b',
        };
        write!(f, "{letter}{}", self.domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["n0", "r7", "w65535", "b32752"] {
            let permission = Permission::parse(text.as_bytes()).unwrap();
            assert_eq!(permission.to_string(), text);
            assert!(text.len() <= LONGEST);
        }
        for text in ["", "n", "x0", "r65536", "r-1", "r+1", "r 1", "b1x"] {
            assert_eq!(Permission::parse(text.as_bytes()), None, "{text}");
        }
    }
}
