//! Descriptors: `close`, `close_range`, `dup`, `dup2`, `dup3`, `fcntl`, `ioctl`, `flock`.

use alloc::sync::Arc;
use core::task::Poll;

use linux_raw_sys::{general as linux, ioctl};

use super::Calls;
use crate::errno::{Errno, Result};
use crate::file::{File, OpenFile};
use crate::inode::Kind;
use crate::pipe::{Pipe, PipeEnd};
use crate::transfer::Argument;

impl Calls<'_> {
    /// Closes a descriptor.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close(&self, descriptor: i32) -> Result<()> {
        self.descriptors.close(descriptor)
    }

    /// Closes descriptors from `first` to `last`, or has exec close them.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn close_range(&self, first: u32, last: u32, flags: u32) -> Result<()> {
        if first > last || flags & !CLOSE_RANGE_CLOEXEC != 0 {
            return Err(Errno::EINVAL);
        }
        self.descriptors.close_range(first, last, flags != 0);
        Ok(())
    }

    /// Gives a descriptor's file the lowest free descriptor too.
    ///
    /// # Errors
    /// Those of `dup(2)`.
    pub fn dup(&self, descriptor: i32) -> Result<i32> {
        let file = self.descriptors.get(descriptor)?;
        let limit = self.caller.descriptor_limit();
        self.descriptors.add(file, 0, limit, false)
    }

    /// Gives a descriptor's file another descriptor too, in place of what is there.
    ///
    /// # Errors
    /// Those of `dup2(2)`.
    pub fn dup2(&self, from: i32, to: i32) -> Result<i32> {
        if from == to {
            return self.descriptors.get(from).map(|_| to);
        }
        let limit = self.caller.descriptor_limit();
        self.descriptors.copy(from, to, limit, false)
    }

    /// As [`Calls::dup2`], with `O_CLOEXEC` or not.
    ///
    /// # Errors
    /// Those of `dup3(2)`.
    pub fn dup3(&self, from: i32, to: i32, flags: u32) -> Result<i32> {
        if from == to || flags & !linux::O_CLOEXEC != 0 {
            return Err(Errno::EINVAL);
        }
        let limit = self.caller.descriptor_limit();
        self.descriptors.copy(from, to, limit, flags != 0)
    }

    /// Does what `fcntl(2)` does, but for locks of parts of files.
    ///
    /// # Errors
    /// Those of `fcntl(2)`, `EINVAL` for a command that is not known.
    pub fn fcntl(&self, descriptor: i32, command: u32, argument: &mut dyn Argument) -> Result<u64> {
        let file = self.descriptors.get(descriptor)?;
        let value = argument.value();
        let allowed = matches!(
            command,
            linux::F_DUPFD
                | linux::F_DUPFD_CLOEXEC
                | linux::F_GETFD
                | linux::F_SETFD
                | linux::F_GETFL
        );
        if file.is_path() && !allowed {
            return Err(Errno::EBADF);
        }
        match command {
            linux::F_DUPFD | linux::F_DUPFD_CLOEXEC => {
                let limit = self.caller.descriptor_limit();
                let from = u32::try_from(value)
                    .ok()
                    .filter(|&from| from < limit)
                    .ok_or(Errno::EINVAL)?;
                let close = command == linux::F_DUPFD_CLOEXEC;
                let number = self.descriptors.add(file, from, limit, close)?;
                Ok(number as u64)
            }
            linux::F_GETFD => {
                let closes = self.descriptors.closes_on_exec(descriptor)?;
                Ok(if closes { linux::FD_CLOEXEC.into() } else { 0 })
            }
            linux::F_SETFD => {
                let close = value & u64::from(linux::FD_CLOEXEC) != 0;
                self.descriptors.set_close_on_exec(descriptor, close)?;
                Ok(0)
            }
            linux::F_GETFL => Ok(file.flags().into()),
            linux::F_SETFL => {
                file.set_flags(value as u32);
                Ok(0)
            }
            // Nobody gets signals for it.
            linux::F_GETOWN | linux::F_GETSIG => Ok(0),
            linux::F_GETPIPE_SZ => Ok(pipe_of(&file)?.capacity() as u64),
            linux::F_SETPIPE_SZ => {
                let bytes = usize::try_from(value).map_err(|_| Errno::EINVAL)?;
                Ok(pipe_of(&file)?.set_capacity(bytes)? as u64)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Does what an ioctl asks of a descriptor's file.
    ///
    /// # Errors
    /// `ENOTTY` for what the file does not know.
    pub fn ioctl(
        &self,
        descriptor: i32,
        request: u32,
        argument: &mut dyn Argument,
    ) -> Poll<Result<u64>> {
        let file = match self.descriptors.get(descriptor) {
            Ok(file) if file.is_path() => return Poll::Ready(Err(Errno::EBADF)),
            Ok(file) => file,
            Err(error) => return Poll::Ready(Err(error)),
        };
        match request {
            ioctl::FIOCLEX | ioctl::FIONCLEX => {
                let close = request == ioctl::FIOCLEX;
                let done = self.descriptors.set_close_on_exec(descriptor, close);
                Poll::Ready(done.map(|()| 0))
            }
            ioctl::FIONBIO => {
                let mut on = [0; 4];
                let done = argument.get(&mut on).map(|()| {
                    let flags = file.flags() & !linux::O_NONBLOCK;
                    let on = i32::from_ne_bytes(on) != 0;
                    file.set_flags(flags | if on { linux::O_NONBLOCK } else { 0 });
                    0
                });
                Poll::Ready(done)
            }
            ioctl::FIONREAD if file.place.inode.kind() == Kind::File => {
                let read = match file.seek(&self.call(), 0, linux::SEEK_CUR) {
                    Poll::Ready(read) => read,
                    Poll::Pending => return Poll::Pending,
                };
                let done = read.and_then(|at| {
                    let size = file.place.inode.attributes().size;
                    let left = size as i64 - at as i64;
                    argument.put(&(left as i32).to_ne_bytes())?;
                    Ok(0)
                });
                Poll::Ready(done)
            }
            _ => file.file.ioctl(&self.call(), request, argument),
        }
    }

    /// Locks a whole file, or gives the lock back.
    ///
    /// # Errors
    /// Those of `flock(2)`.
    pub fn flock(&self, descriptor: i32, operation: u32) -> Poll<Result<()>> {
        let file = match self.descriptors.get(descriptor) {
            Ok(file) if file.is_path() => return Poll::Ready(Err(Errno::EBADF)),
            Ok(file) => file,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let exclusive = match operation & !linux::LOCK_NB {
            linux::LOCK_SH => false,
            linux::LOCK_EX => true,
            linux::LOCK_UN => {
                file.lock.release();
                return Poll::Ready(Ok(()));
            }
            _ => return Poll::Ready(Err(Errno::EINVAL)),
        };
        let inode = file.place.inode.attributes();
        let waker = (operation & linux::LOCK_NB == 0).then_some(self.waker);
        let key = (inode.device, inode.number);
        file.lock.take(&self.system.locks, key, exclusive, waker)
    }
}

/// `close_range` only marks (`include/uapi/linux/close_range.h`, which the crate of Linux' numbers
/// leaves out).
const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;

/// The pipe that a file is an end of.
fn pipe_of(file: &OpenFile) -> Result<&Arc<Pipe>> {
    let file: &dyn File = &*file.file;
    (file as &dyn core::any::Any)
        .downcast_ref::<PipeEnd>()
        .map(|end| &end.pipe)
        .ok_or(Errno::EBADF)
}
