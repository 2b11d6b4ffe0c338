//! Files that lie in no directory: `memfd_create`, `eventfd2`, `timerfd_create` and its like, `socketpair`.

use alloc::sync::Arc;
use core::task::{Poll, ready};

use linux_raw_sys::general as linux;

use super::Calls;
use super::open::LARGE_FILE;
use crate::errno::{Errno, Result};
use crate::event::{EventCounter, Timer, clock_is_wall};
use crate::file::{File, OpenFile};
use crate::inode::{DeviceNumber, Kind, New};
use crate::socket::{Shut, SocketEnd};

/// `AF_UNIX`, `SOCK_STREAM`, and the flags beside it (`include/linux/net.h`): as everywhere on
/// x86-64, the latter are those of files.
const UNIX: u32 = 1;
const STREAM: u32 = 1;
const KIND: u32 = 0xf;

impl Calls<'_> {
    /// Gives a file that lies in no directory a descriptor.
    pub(crate) fn add_anonymous(
        &self,
        file: Arc<dyn File>,
        label: &'static str,
        flags: u32,
        close_on_exec: bool,
    ) -> Result<i32> {
        let file = self
            .system
            .open_anonymous(file, Kind::File, label, flags, self.who);
        let limit = self.caller.descriptor_limit();
        self.descriptors.add(file, 0, limit, close_on_exec)
    }

    /// A file in memory that has no name, to read and write; `name` is what it is shown by.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn nameless(&self, name: &[u8], size: u64) -> Poll<Result<Arc<OpenFile>>> {
        let new = New {
            kind: Kind::File,
            mode: 0o777,
            user: self.who.user,
            group: self.who.group,
            device: DeviceNumber::default(),
            target: b"",
        };
        let root = self.system.mounts.root();
        let place = match root.mount.fs.nameless(name, &new) {
            Ok(inode) => root.with(inode),
            Err(error) => return Poll::Ready(Err(error)),
        };
        ready!(place.inode.truncate(self.waker, size))?;
        Poll::Ready(OpenFile::plain(place, linux::O_RDWR | LARGE_FILE))
    }

    /// Makes a file in memory, and returns its descriptor.
    ///
    /// # Errors
    /// `EINVAL` for flags that there are not or a name that is too long, `ENOSPC`, `EMFILE`.
    pub fn memfd_create(&self, name: &[u8], flags: u32) -> Poll<Result<i32>> {
        /// Bytes of a name (`MFD_NAME_MAX_LEN` in Linux' `mm/memfd.c`).
        const NAME: usize = 249;
        const PREFIX: &[u8] = b"memfd:";
        if flags & !(linux::MFD_CLOEXEC | linux::MFD_ALLOW_SEALING) != 0 || name.len() > NAME {
            return Poll::Ready(Err(Errno::EINVAL));
        }
        let file = ready!(self.nameless(&[PREFIX, name].concat(), 0))?;
        let limit = self.caller.descriptor_limit();
        let close = flags & linux::MFD_CLOEXEC != 0;
        Poll::Ready(self.descriptors.add(file, 0, limit, close))
    }

    /// Makes a counter, and returns its descriptor.
    ///
    /// # Errors
    /// `EINVAL` for flags that there are not, `EMFILE`.
    pub fn eventfd2(&self, count: u32, flags: u32) -> Result<i32> {
        const KNOWN: u32 = linux::EFD_SEMAPHORE | linux::EFD_CLOEXEC | linux::EFD_NONBLOCK;
        if flags & !KNOWN != 0 {
            return Err(Errno::EINVAL);
        }
        let is_semaphore = flags & linux::EFD_SEMAPHORE != 0;
        let counter = Arc::new(EventCounter::new(count.into(), is_semaphore));
        let status = linux::O_RDWR | flags & linux::O_NONBLOCK;
        self.add_anonymous(counter, "eventfd", status, flags & linux::EFD_CLOEXEC != 0)
    }

    /// Makes a timer, and returns its descriptor.
    ///
    /// # Errors
    /// `EINVAL` for flags or clocks that there are not, `EMFILE`.
    pub fn timerfd_create(&self, clock: u32, flags: u32) -> Result<i32> {
        if flags & !(linux::TFD_CLOEXEC | linux::TFD_NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        let timer = Timer::new(self.system.host().clone(), clock_is_wall(clock)?);
        let status = linux::O_RDWR | flags & linux::O_NONBLOCK;
        let close = flags & linux::TFD_CLOEXEC != 0;
        self.add_anonymous(Arc::new(timer), "timerfd", status, close)
    }

    /// Sets a timer by nanoseconds, and returns what it was before: the time left and the interval.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL` for what is no timer and for flags that there are not.
    pub fn timerfd_settime(
        &self,
        descriptor: i32,
        flags: u32,
        value: u64,
        interval: u64,
    ) -> Result<(u64, u64)> {
        if flags & !(linux::TFD_TIMER_ABSTIME | linux::TFD_TIMER_CANCEL_ON_SET) != 0 {
            return Err(Errno::EINVAL);
        }
        self.with_timer(descriptor, |timer| {
            let old = timer.get();
            timer.set(value, interval, flags & linux::TFD_TIMER_ABSTIME != 0);
            old
        })
    }

    /// The nanoseconds that a timer has left, and its interval.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL` for what is no timer.
    pub fn timerfd_gettime(&self, descriptor: i32) -> Result<(u64, u64)> {
        self.with_timer(descriptor, Timer::get)
    }

    fn with_timer<T>(&self, descriptor: i32, act: impl FnOnce(&Timer) -> T) -> Result<T> {
        let file = self.descriptors.get(descriptor)?;
        let timer = (file.file() as &dyn core::any::Any)
            .downcast_ref::<Timer>()
            .ok_or(Errno::EINVAL)?;
        Ok(act(timer))
    }

    /// Makes two sockets that are connected, and returns their descriptors. Only streams of
    /// `AF_UNIX`.
    ///
    /// # Errors
    /// `EAFNOSUPPORT`, `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT` for others, `EINVAL`, `EMFILE`.
    pub fn socketpair(&self, family: u32, kind: u32, protocol: u32) -> Result<[i32; 2]> {
        let flags = kind & !KIND;
        if flags & !(linux::O_CLOEXEC | linux::O_NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        if family != UNIX {
            return Err(Errno::EAFNOSUPPORT);
        }
        if protocol > UNIX {
            return Err(Errno::EPROTONOSUPPORT);
        }
        if kind & KIND != STREAM {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        let pair = SocketEnd::pair(self.system.host());
        let status = linux::O_RDWR | flags & linux::O_NONBLOCK;
        let open = |end: SocketEnd| {
            let place = self.system.anonymous(Kind::Socket, "socket", self.who);
            OpenFile::new(Arc::new(end), place, status)
        };
        self.descriptors.add_both(
            pair.map(open),
            self.caller.descriptor_limit(),
            flags & linux::O_CLOEXEC != 0,
        )
    }

    /// Ends one or both directions of a socket.
    ///
    /// # Errors
    /// `EBADF`, `ENOTSOCK`, `EINVAL`.
    pub fn shutdown(&self, descriptor: i32, how: u32) -> Result<()> {
        let file = self.descriptors.get(descriptor)?;
        let end = (file.file() as &dyn core::any::Any)
            .downcast_ref::<SocketEnd>()
            .ok_or(Errno::ENOTSOCK)?;
        end.shut(Shut::from_program(how).ok_or(Errno::EINVAL)?);
        Ok(())
    }
}
