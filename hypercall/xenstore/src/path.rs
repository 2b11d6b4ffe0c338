//! Names of nodes, checked before they are sent: xenstored refuses a bad one with no more than EINVAL.
//!
//! ```
//! use xenstore_wire::Path;
//!
//! const NAME: Path<'static> = Path::constant("name");
//! assert_eq!(NAME.as_bytes(), b"name");
//! assert!(Path::new(b"two//slashes").is_err());
//! ```

use core::fmt;

use crate::abi::{XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX};

/// The name of a node: from the root if it begins with `/`, otherwise from the domain's own directory,
/// `/local/domain/DOMID`; or, with `@`, of an event that xenstored invents, to be watched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Path<'a>(&'a [u8]);

/// Why something is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// Nothing there.
    Empty,
    /// So many bytes, and the most that such a path may have.
    Long {
        /// Bytes there are.
        length: usize,
        /// Bytes there may be.
        most: usize,
    },
    /// A byte that no name has, and where.
    Byte {
        /// The byte.
        byte: u8,
        /// Its place in the path.
        at: usize,
    },
    /// Two slashes in a row, or one at the end; where.
    Slash(usize),
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            PathError::Empty => f.write_str("the path is empty"),
            PathError::Long { length, most } => {
                write!(f, "the path has {length} bytes, more than {most}")
            }
            PathError::Byte { byte, at } => write!(
                f,
                "the path has '{}' at {at}: not a letter, a digit or one of -/_@",
                byte.escape_ascii()
            ),
            PathError::Slash(at) => {
                write!(f, "the path has a slash too many at {at}")
            }
        }
    }
}

impl core::error::Error for PathError {}

impl<'a> Path<'a> {
    /// Checks a name by the rules of `docs/misc/xenstore.txt`: at most 3072 bytes from the root, 2048
    /// otherwise.
    ///
    /// # Errors
    /// What is wrong with it, first of all.
    pub const fn new(path: &'a [u8]) -> Result<Path<'a>, PathError> {
        let most = match path {
            [] => return Err(PathError::Empty),
            [b'/', ..] => XENSTORE_ABS_PATH_MAX,
            _ => XENSTORE_REL_PATH_MAX,
        };
        let length = path.len();
        if length > most {
            return Err(PathError::Long { length, most });
        }
        let mut at = 0;
        while at < length {
            match path[at] {
                b'/' if at > 0 && path[at - 1] == b'/' => return Err(PathError::Slash(at)),
                b'/' if at > 0 && at + 1 == length => return Err(PathError::Slash(at)),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'/' | b'_' | b'@' => {}
                byte => return Err(PathError::Byte { byte, at }),
            }
            at += 1;
        }
        Ok(Path(path))
    }

    /// A name that is written in the program, checked when that is compiled: for constants.
    ///
    /// # Panics
    /// It is no name.
    #[must_use]
    pub const fn constant(path: &'static str) -> Path<'static> {
        match Path::new(path.as_bytes()) {
            Ok(path) => path,
            Err(_) => panic!("no name of a node"),
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_are_good() {
        for path in [
            "/",
            "/a",
            "name",
            "control/shutdown",
            "/a-b/c_d/0@",
            "@releaseDomain",
        ] {
            assert!(Path::new(path.as_bytes()).is_ok(), "{path}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |path: &str| Path::new(path.as_bytes()).unwrap_err();
        assert_eq!(error(""), PathError::Empty);
        assert_eq!(error("a b"), PathError::Byte { byte: b' ', at: 1 });
        assert_eq!(error("a\0"), PathError::Byte { byte: 0, at: 1 });
        assert_eq!(error("a//b"), PathError::Slash(2));
        assert_eq!(error("//"), PathError::Slash(1));
        assert_eq!(error("a/"), PathError::Slash(1));
    }

    #[test]
    fn both_limits_are_to_the_byte() {
        let relative = "a".repeat(2049);
        let absolute = format!("/{}", "a".repeat(3072));
        assert!(Path::new(&relative.as_bytes()[..2048]).is_ok());
        assert!(Path::new(&absolute.as_bytes()[..3072]).is_ok());
        for (path, length, most) in [(relative, 2049, 2048), (absolute, 3073, 3072)] {
            let error = PathError::Long { length, most };
            assert_eq!(Path::new(path.as_bytes()), Err(error));
        }
    }
}
