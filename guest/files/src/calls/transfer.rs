//! Data: `read`, `write`, `pread64`, `pwrite64`, `lseek`, `ftruncate`, `fallocate`, `sendfile`.

use alloc::sync::Arc;
use core::task::{Poll, ready};

use linux_raw_sys::general as linux;

use super::Calls;
use crate::errno::{Errno, Result};
use crate::file::{OpenFile, drop_privileges};
use crate::inode::{Allocate, Kind};
use crate::mount::Place;
use crate::transfer::{Sink, Source};
use crate::walk::WRITE;
use crate::writers::Held;

/// What a position that a program gives can be.
fn position(at: i64) -> Result<u64> {
    u64::try_from(at).map_err(|_| Errno::EINVAL)
}

impl Calls<'_> {
    /// Reads (`read`, `readv`).
    ///
    /// # Errors
    /// Those of `read(2)`.
    pub fn read(&self, descriptor: i32, to: &mut dyn Sink) -> Poll<Result<usize>> {
        match self.descriptors.get(descriptor) {
            Ok(file) => file.read(&self.call(), None, to),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Reads from a byte on (`pread64`, `preadv`).
    ///
    /// # Errors
    /// Those of `pread(2)`.
    pub fn pread(&self, descriptor: i32, at: i64, to: &mut dyn Sink) -> Poll<Result<usize>> {
        let (at, file) = match self.at(descriptor, at) {
            Ok(found) => found,
            Err(error) => return Poll::Ready(Err(error)),
        };
        file.read(&self.call(), Some(at), to)
    }

    /// Writes (`write`, `writev`); see [`OpenFile::write`].
    ///
    /// # Errors
    /// Those of `write(2)`.
    pub fn write(&self, descriptor: i32, from: &mut dyn Source) -> Poll<Result<usize>> {
        match self.descriptors.get(descriptor) {
            Ok(file) => file.write(&self.call(), None, from),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Writes to a byte on (`pwrite64`, `pwritev`).
    ///
    /// # Errors
    /// Those of `pwrite(2)`.
    pub fn pwrite(&self, descriptor: i32, at: i64, from: &mut dyn Source) -> Poll<Result<usize>> {
        let (at, file) = match self.at(descriptor, at) {
            Ok(found) => found,
            Err(error) => return Poll::Ready(Err(error)),
        };
        file.write(&self.call(), Some(at), from)
    }

    fn at(&self, descriptor: i32, at: i64) -> Result<(u64, Arc<OpenFile>)> {
        let at = position(at)?;
        Ok((at, self.descriptors.get(descriptor)?))
    }

    /// Moves the position.
    ///
    /// # Errors
    /// Those of `lseek(2)`.
    pub fn lseek(&self, descriptor: i32, offset: i64, whence: u32) -> Poll<Result<u64>> {
        match self.descriptors.get(descriptor) {
            Ok(file) => file.seek(&self.call(), offset, whence),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Cuts a file off, or lets it grow.
    ///
    /// # Errors
    /// Those of `ftruncate(2)`.
    pub fn ftruncate(&self, descriptor: i32, size: i64) -> Poll<Result<()>> {
        let size = match position(size) {
            Ok(size) => size,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let file = match self.descriptors.get(descriptor) {
            Ok(file) if file.is_path() => return Poll::Ready(Err(Errno::EBADF)),
            Ok(file) => file,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if file.place.inode.kind() != Kind::File || !file.can_write() {
            return Poll::Ready(Err(Errno::EINVAL));
        }
        if size > self.caller.size_limit() {
            return Poll::Ready(Err(Errno::EFBIG));
        }
        self.cut(&file.place, size)
    }

    /// Sets the size of what may be changed. What is cut off is nobody's any more, who has it mapped either.
    pub(super) fn cut(&self, place: &Place, size: u64) -> Poll<Result<()>> {
        if let Err(error) = drop_privileges(self.who, &*place.inode) {
            return Poll::Ready(Err(error));
        }
        let was = place.inode.attributes().size;
        let done = ready!(place.inode.truncate(self.waker, size));
        if done.is_ok() && size < was {
            self.system.host.cut(&place.inode, size);
        }
        Poll::Ready(done)
    }

    /// Cuts off the file of a path, or lets it grow.
    ///
    /// # Errors
    /// Those of `truncate(2)`.
    pub fn truncate(&self, path: &[u8], size: i64) -> Poll<Result<()>> {
        let found = position(size).and_then(|size| {
            let place = self.resolve(linux::AT_FDCWD, path, true, 0)?;
            match place.inode.kind() {
                Kind::File => {}
                Kind::Directory => return Err(Errno::EISDIR),
                _ => return Err(Errno::EINVAL),
            }
            Self::check_writable(&place)?;
            self.check(&place.inode, WRITE)?;
            match size > self.caller.size_limit() {
                true => Err(Errno::EFBIG),
                false => Ok((Held::to_write(&place.inode)?, place, size)),
            }
        });
        match found {
            Ok((_writes, place, size)) => self.cut(&place, size),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Has memory for a part of a file, or gives it back.
    ///
    /// # Errors
    /// Those of `fallocate(2)`.
    pub fn fallocate(&self, descriptor: i32, mode: u32, at: i64, count: i64) -> Poll<Result<()>> {
        let found = self.fallocate_arguments(descriptor, mode, at, count);
        match found {
            Ok((file, how)) => {
                let inode = &file.place.inode;
                if let Err(error) = drop_privileges(self.who, &**inode) {
                    return Poll::Ready(Err(error));
                }
                inode.allocate(self.waker, how, at as u64, count as u64)
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn fallocate_arguments(
        &self,
        descriptor: i32,
        mode: u32,
        at: i64,
        count: i64,
    ) -> Result<(Arc<OpenFile>, Allocate)> {
        const PUNCH: u32 = linux::FALLOC_FL_PUNCH_HOLE | linux::FALLOC_FL_KEEP_SIZE;
        let file = self.descriptors.get(descriptor)?;
        if file.is_path() {
            return Err(Errno::EBADF);
        }
        if at < 0 || count <= 0 {
            return Err(Errno::EINVAL);
        }
        let how = match mode {
            0 => Allocate::Grow,
            linux::FALLOC_FL_KEEP_SIZE => Allocate::KeepSize,
            PUNCH => Allocate::Punch,
            linux::FALLOC_FL_ZERO_RANGE => Allocate::Zero,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        if !file.can_write() {
            return Err(Errno::EBADF);
        }
        match file.place.inode.kind() {
            Kind::File => {}
            Kind::Fifo => return Err(Errno::ESPIPE),
            Kind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::ENODEV),
        }
        let end = at.checked_add(count).ok_or(Errno::EFBIG)?;
        if matches!(how, Allocate::Grow | Allocate::Zero)
            && end as u64
                > self
                    .caller
                    .size_limit()
                    .max(file.place.inode.attributes().size)
        {
            return Err(Errno::EFBIG);
        }
        Ok((file, how))
    }

    /// Nothing is ever behind in memory: `fsync`, `fdatasync`, `syncfs`.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL` for what cannot be synced.
    pub fn fsync(&self, descriptor: i32) -> Result<()> {
        let file = self.descriptors.get(descriptor)?;
        if file.is_path() {
            return Err(Errno::EBADF);
        }
        match file.place.inode.kind() {
            Kind::File | Kind::Directory => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Copies up to `count` bytes from a file with positions to another one, by way of the
    /// kernel's memory (`sendfile`); from byte `at` on, or from the position, which it moves.
    /// Returns how many. A call that waited is made again with what is left.
    ///
    /// # Errors
    /// Those of `sendfile(2)`.
    pub fn sendfile(
        &self,
        to: i32,
        from: i32,
        at: Option<i64>,
        count: usize,
    ) -> Poll<Result<usize>> {
        const STEP: usize = 1024;
        let files = self.descriptors.get(from).and_then(|from| {
            let to = self.descriptors.get(to)?;
            match from.can_read() && to.can_write() {
                true => Ok((from, to)),
                false => Err(Errno::EBADF),
            }
        });
        let (from, to) = match files {
            Ok(files) => files,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if !from.file().has_positions() || from.place.inode.kind() != Kind::File {
            return Poll::Ready(Err(Errno::EINVAL));
        }
        let call = self.call();
        let start = match at {
            Some(at) => position(at),
            None => ready!(from.seek(&call, 0, linux::SEEK_CUR)),
        };
        let start = match start {
            Ok(start) => start,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let mut done = 0;
        let mut error = None;
        while done < count && error.is_none() {
            let mut memory = [0; STEP];
            let step = (count - done).min(STEP);
            let mut fill = crate::transfer::Fill::new(&mut memory[..step]);
            let read = ready!(from.read(&call, Some(start + done as u64), &mut fill));
            let filled = match read {
                Ok(0) => break,
                Ok(filled) => filled,
                Err(refused) => {
                    error = Some(refused);
                    break;
                }
            };
            let mut drain = crate::transfer::Drain::new(&memory[..filled]);
            match to.write(&call, None, &mut drain) {
                Poll::Ready(Ok(written)) => {
                    done += written;
                    if written < filled {
                        break;
                    }
                }
                Poll::Ready(Err(refused)) => error = Some(refused),
                Poll::Pending if done + drain.taken() == 0 => return Poll::Pending,
                Poll::Pending => {
                    done += drain.taken();
                    break;
                }
            }
        }
        if at.is_none() && done > 0 {
            let _ = ready!(from.seek(&call, (start + done as u64) as i64, linux::SEEK_SET));
        }
        Poll::Ready(match (done, error) {
            (0, Some(error)) => Err(error),
            _ => Ok(done),
        })
    }
}
