//! Descriptors: `close`, `close_range`, `dup`, `dup2`, `dup3`, `fcntl`, `ioctl`, `flock`.

use alloc::sync::Arc;
use core::task::Poll;

use linux_raw_sys::{general as linux, ioctl};

use super::Calls;
use crate::errno::{Errno, Result};
use crate::file::OpenFile;
use crate::inode::Kind;
use crate::pipe::{Pipe, PipeEnd};
use crate::records::{Owner, Record};
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

    /// Takes, gives back or looks at a lock of a part of a file (`F_SETLK` and its like).
    ///
    /// # Errors
    /// Those of `fcntl(2)`; nobody looks for threads that wait for each other.
    pub fn record_lock(
        &self,
        descriptor: i32,
        command: u32,
        argument: &mut dyn Argument,
    ) -> Poll<Result<u64>> {
        let asked = self.descriptors.get(descriptor).and_then(|file| {
            if file.is_path() {
                return Err(Errno::EBADF);
            }
            let mut words = [0; FLOCK];
            argument.get(&mut words)?;
            Ok((file, words))
        });
        let (file, words) = match asked {
            Ok(asked) => asked,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let position = match words[2] {
            1 => match file.seek(&self.call(), 0, linux::SEEK_CUR) {
                Poll::Ready(at) => at.unwrap_or(0),
                Poll::Pending => return Poll::Pending,
            },
            2 => file.place.inode.attributes().size,
            _ => 0,
        };
        let of_file = matches!(
            command,
            linux::F_OFD_GETLK | linux::F_OFD_SETLK | linux::F_OFD_SETLKW
        );
        let owner = if of_file {
            file.owner
        } else {
            self.descriptors.owner
        };
        let process = if of_file {
            -1
        } else {
            self.caller.process() as i32
        };
        let (kind, part) = match part(&words, position, owner, process) {
            Ok((_, _)) if of_file && words[24..28] != [0; 4] => {
                return Poll::Ready(Err(Errno::EINVAL));
            }
            Ok(found) => found,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let inode = file.place.inode.attributes();
        let key = (inode.device, inode.number);
        let records = &self.system.records;
        if matches!(command, linux::F_GETLK | linux::F_OFD_GETLK) {
            let told = match kind {
                linux::F_UNLCK if !of_file => Err(Errno::EINVAL),
                _ => argument.put(&tell(words, records.against(key, &part))),
            };
            return Poll::Ready(told.map(|()| 0));
        }
        let allowed = match kind {
            linux::F_RDLCK => file.can_read(),
            linux::F_WRLCK => file.can_write(),
            _ => return Poll::Ready(records.release(key, &part).map(|()| 0)),
        };
        if !allowed {
            return Poll::Ready(Err(Errno::EBADF));
        }
        match of_file {
            true => {
                file.records.call_once(|| records.clone());
            }
            false => self.descriptors.locks_in(records),
        }
        let waits = matches!(command, linux::F_SETLKW | linux::F_OFD_SETLKW);
        let taken = records.take(key, part, waits.then_some(self.waker));
        taken.map(|taken| taken.map(|()| 0))
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
            _ => file.file().ioctl(&self.call(), request, argument),
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

/// Bytes of a `struct flock`: kind and whence, the start from byte 8 on, the length, the process.
const FLOCK: usize = size_of::<linux::flock>();

/// What a `struct flock` asks for: its kind, and the bytes.
fn part(words: &[u8; FLOCK], position: u64, owner: Owner, process: i32) -> Result<(u32, Record)> {
    let number = |at: usize| {
        let bytes = words[at..].first_chunk().copied();
        i64::from_ne_bytes(bytes.unwrap_or_default())
    };
    let kind = u32::from(u16::from_ne_bytes([words[0], words[1]]));
    let whence = u16::from_ne_bytes([words[2], words[3]]);
    if kind > linux::F_UNLCK || whence > 2 {
        return Err(Errno::EINVAL);
    }
    let start = (position as i64)
        .checked_add(number(8))
        .ok_or(Errno::EOVERFLOW)?;
    let length = number(16);
    let (start, last) = match length {
        0 => (start, i64::MAX),
        1.. => (
            start,
            start.checked_add(length - 1).ok_or(Errno::EOVERFLOW)?,
        ),
        _ => (start.checked_add(length).ok_or(Errno::EINVAL)?, start - 1),
    };
    if start < 0 {
        return Err(Errno::EINVAL);
    }
    let (start, last) = (start as u64, last as u64);
    let exclusive = kind == linux::F_WRLCK;
    let record = Record {
        owner,
        process,
        start,
        last,
        exclusive,
    };
    Ok((kind, record))
}

/// Writes what was found into a `struct flock`.
fn tell(mut words: [u8; FLOCK], found: Option<Record>) -> [u8; FLOCK] {
    let mut put = |at: usize, bytes: &[u8]| words[at..][..bytes.len()].copy_from_slice(bytes);
    match found {
        None => put(0, &(linux::F_UNLCK as u16).to_ne_bytes()),
        Some(found) => {
            let kind = if found.exclusive {
                linux::F_WRLCK
            } else {
                linux::F_RDLCK
            };
            let length = match found.last {
                last if last == i64::MAX as u64 => 0,
                last => last - found.start + 1,
            };
            put(0, &(kind as u16).to_ne_bytes());
            put(2, &[0; 2]);
            put(8, &found.start.to_ne_bytes());
            put(16, &length.to_ne_bytes());
            put(24, &found.process.to_ne_bytes());
        }
    }
    words
}

/// The pipe that a file is an end of.
fn pipe_of(file: &OpenFile) -> Result<&Arc<Pipe>> {
    let file = file.file();
    (file as &dyn core::any::Any)
        .downcast_ref::<PipeEnd>()
        .map(|end| &end.pipe)
        .ok_or(Errno::EBADF)
}
