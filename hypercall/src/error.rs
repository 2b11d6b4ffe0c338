//! What Xen answers when it refuses: errno values, by name and in words.
//!
//! Xen has its own list of errno values (`xen/include/public/errno.h`), which happen to be
//! Linux's. A value Xen is not known to use is kept as it is, so that nothing is lost on the way
//! to whoever reads the message.
//!
//! ```
//! use hypercall::{Errno, Op, XenError};
//!
//! assert_eq!(XenError::check(Op::ConsoleIo, Some("read"), 5), Ok(5));
//! let refused = XenError::check(Op::ConsoleIo, Some("write"), -1).unwrap_err();
//! assert_eq!(refused.errno, Errno::EPERM);
//! assert!(refused.to_string().starts_with("console_io"));
//! ```

use core::fmt;

use crate::call::Op;

/// A positive errno value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Errno(u16);

macro_rules! errno {
    ($($name:ident = $value:literal, $words:literal;)*) => {
        #[allow(missing_docs, reason = "the words are the documentation")]
        impl Errno {
            $(#[doc = $words] pub const $name: Self = Self($value);)*
        }

        impl Errno {
            /// Every value in Xen's header, with its name there.
            pub const ALL: &[(&str, Errno)] = &[$((stringify!($name), Errno($value)),)*];

            /// The name, such as `EINVAL`, if Xen has one for it.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// What it means, in a few words.
            pub const fn words(self) -> &'static str {
                match self.0 {
                    $($value => $words,)*
                    _ => "not in Xen's list of errors",
                }
            }
        }
    };
}

errno! {
    EPERM = 1, "not permitted";
    ENOENT = 2, "no such thing";
    ESRCH = 3, "no such domain or vCPU";
    EIO = 5, "input or output failed";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "argument too long";
    ENOEXEC = 8, "not an executable image";
    EBADF = 9, "bad handle";
    ECHILD = 10, "no child";
    EAGAIN = 11, "try again";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "access denied";
    EFAULT = 14, "bad guest address";
    EBUSY = 16, "busy";
    EEXIST = 17, "exists already";
    EXDEV = 18, "crosses devices";
    ENODEV = 19, "no such device";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    ENFILE = 23, "too many handles in all";
    EMFILE = 24, "too many handles";
    ENOSPC = 28, "no space left";
    EROFS = 30, "read-only";
    EMLINK = 31, "too many links";
    EDOM = 33, "argument outside the function's domain";
    ERANGE = 34, "result out of range";
    EDEADLK = 35, "would deadlock";
    ENAMETOOLONG = 36, "name too long";
    ENOLCK = 37, "no locks left";
    ENOSYS = 38, "not implemented";
    ENOTEMPTY = 39, "not empty";
    ENODATA = 61, "no data";
    ETIME = 62, "time has passed";
    EBADMSG = 74, "not a message";
    EOVERFLOW = 75, "value too large";
    EILSEQ = 84, "malformed sequence";
    ENOTSOCK = 88, "not a socket";
    EMSGSIZE = 90, "message too large";
    EOPNOTSUPP = 95, "not supported";
    EADDRINUSE = 98, "address in use";
    EADDRNOTAVAIL = 99, "address not available";
    ENOBUFS = 105, "no buffer space";
    EISCONN = 106, "connected already";
    ENOTCONN = 107, "not connected";
    ETIMEDOUT = 110, "timed out";
    ECONNREFUSED = 111, "connection refused";
}

impl Errno {
    /// The largest errno a hypercall can return; below `-MAX` is a value, not an error.
    pub const MAX: u16 = 4095;

    /// The errno in a hypercall's return value, if that is one: −4095 to −1.
    #[inline]
    pub const fn from_return(value: i64) -> Option<Self> {
        if value < 0 && value >= -(Self::MAX as i64) {
            Some(Self(-value as u16))
        } else {
            None
        }
    }

    /// The value, positive.
    #[inline]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// As a hypercall returns it.
    #[inline]
    pub const fn to_return(self) -> i64 {
        -(self.0 as i64)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.words()),
            None => write!(f, "errno {} ({})", self.0, self.words()),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A hypercall that failed: which, which part of it, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XenError {
    /// The hypercall.
    pub op: Op,
    /// The sub-operation, as Xen's header spells it without the common prefix.
    pub sub: Option<&'static str>,
    /// Why.
    pub errno: Errno,
}

impl XenError {
    /// The meaning of a hypercall's return value: a number, or the error it stands for.
    #[inline]
    pub const fn check(op: Op, sub: Option<&'static str>, value: i64) -> Result<u64, Self> {
        match Errno::from_return(value) {
            None => Ok(value as u64),
            Some(errno) => Err(Self { op, sub, errno }),
        }
    }
}

impl fmt::Display for XenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sub {
            Some(sub) => write!(f, "{}({sub}): {}", self.op, self.errno),
            None => write!(f, "{}: {}", self.op, self.errno),
        }
    }
}

impl core::error::Error for XenError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_a_sentence() {
        let error = XenError::check(Op::MmuextOp, Some("PIN_L4_TABLE"), -22).unwrap_err();
        assert_eq!(
            error.to_string(),
            "mmuext_op(PIN_L4_TABLE): EINVAL (invalid argument)"
        );
        let error = XenError::check(Op::ConsoleIo, None, -4000).unwrap_err();
        assert_eq!(
            error.to_string(),
            "console_io: errno 4000 (not in Xen's list of errors)"
        );
    }

    /// An errno is its number to programs, and its name to whoever reads either way of printing it.
    #[test]
    fn an_errno_is_a_number_with_a_name() {
        assert_eq!(Errno::EINVAL.number(), 22);
        assert_eq!(format!("{:?}", Errno::EINVAL), "EINVAL (invalid argument)");
        let numbers = Errno::ALL.iter().map(|(_, errno)| errno.number());
        assert!(numbers.is_sorted_by(|a, b| a < b), "each once");
        for (name, errno) in Errno::ALL {
            assert_eq!(errno.name(), Some(*name));
            assert!(errno.to_string().starts_with(name));
        }
    }

    #[test]
    fn values_are_not_errors() {
        assert_eq!(XenError::check(Op::XenVersion, None, 0x40011), Ok(0x40011));
        assert_eq!(Errno::from_return(-4096), None);
        assert!(Errno::from_return(-4095).is_some());
        assert_eq!(Errno::from_return(i64::MIN), None);
        for (_, errno) in Errno::ALL {
            assert_eq!(Errno::from_return(errno.to_return()), Some(*errno));
        }
    }
}
