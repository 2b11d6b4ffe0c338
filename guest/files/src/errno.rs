//! Why a call failed, as Linux numbers it.

use core::fmt;

use linux_raw_sys::errno as numbers;

/// An error of Linux: the positive number, `ENOENT` as 2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(u16);

/// What a call gives, or why it failed.
pub type Result<T, E = Errno> = core::result::Result<T, E>;

macro_rules! errnos {
    ($($name:ident)*) => {
        impl Errno {
            $(
                #[doc = concat!("Linux' `", stringify!($name), "`.")]
                pub const $name: Self = Self(numbers::$name as u16);
            )*

            /// Its name in Linux' headers; empty if this crate never gives it.
            pub const fn name(self) -> &'static str {
                $(
                    if self.0 == numbers::$name as u16 {
                        return stringify!($name);
                    }
                )*
                ""
            }
        }
    };
}

errnos! {
    EPERM ENOENT EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV
    ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK
    EPIPE ERANGE EDEADLK ENAMETOOLONG ENOSYS ENOTEMPTY ELOOP EOVERFLOW EOPNOTSUPP ENOTSOCK ESRCH
    ENODATA ETIMEDOUT ECANCELED ENOLCK ENOTCONN EPROTOTYPE EAFNOSUPPORT ESOCKTNOSUPPORT
    EPROTONOSUPPORT
}

impl Errno {
    /// The number, as a program gets it in `errno`.
    pub const fn number(self) -> i32 {
        self.0 as i32
    }

    /// The error of a number; `None` if no error has it.
    pub const fn from_number(number: i32) -> Option<Self> {
        if number > 0 && number < 4096 {
            Some(Self(number as u16))
        } else {
            None
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "" => write!(f, "errno {}", self.0),
            name => f.write_str(name),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl core::error::Error for Errno {}
