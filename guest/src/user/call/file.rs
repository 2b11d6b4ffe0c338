//! Calls about descriptors.

use core::cell::Cell;
use core::task::Poll;

use linux_raw_sys::general as linux;

use super::{Arguments, Family, descriptor};
use crate::user::errno::{Errno, RESTART, Result};
use crate::user::files::{From, Into, Last, PIECE};
use crate::user::process::{self, Target};
use crate::user::signal::Info;
use crate::user::thread::Current;

use guest_files::Source;

pub(super) const CALLS: Family = &[
    (linux::__NR_read, |c, [fd, at, count, ..]| {
        read(c, fd, at, count, None)
    }),
    (linux::__NR_write, |c, [fd, at, count, ..]| {
        write(c, fd, at, count, None)
    }),
    (linux::__NR_pread64, |c, [fd, at, count, offset, ..]| {
        read(c, fd, at, count, Some(offset))
    }),
    (linux::__NR_pwrite64, |c, [fd, at, count, offset, ..]| {
        write(c, fd, at, count, Some(offset))
    }),
    (linux::__NR_readv, |c, [fd, at, count, ..]| {
        vector(c, at, count, |c, at, count| read(c, fd, at, count, None))
    }),
    (linux::__NR_writev, |c, [fd, at, count, ..]| {
        vector(c, at, count, |c, at, count| write(c, fd, at, count, None))
    }),
    (linux::__NR_lseek, lseek),
    (linux::__NR_close, |c, [fd, ..]| {
        c.now(|calls| calls.close(descriptor(fd))).map(|()| 0)
    }),
    (linux::__NR_close_range, |c, [first, last, flags, ..]| {
        c.now(|calls| calls.close_range(first as u32, last as u32, flags as u32))
            .map(|()| 0)
    }),
    (linux::__NR_dup, |c, [fd, ..]| {
        number(c.now(|calls| calls.dup(descriptor(fd))))
    }),
    (linux::__NR_dup2, |c, [from, to, ..]| {
        number(c.now(|calls| calls.dup2(descriptor(from), descriptor(to))))
    }),
    (linux::__NR_dup3, |c, [from, to, flags, ..]| {
        number(c.now(|calls| calls.dup3(descriptor(from), descriptor(to), flags as u32)))
    }),
    (linux::__NR_fcntl, fcntl),
    (linux::__NR_ioctl, ioctl),
    (linux::__NR_pipe, |c, [at, ..]| pipe(c, at, 0)),
    (linux::__NR_pipe2, |c, [at, flags, ..]| pipe(c, at, flags)),
    (linux::__NR_memfd_create, |c, [name, flags, ..]| {
        let name = c.user().read_string(name, 250, Errno::EINVAL)?;
        number(c.waiting(|calls| calls.memfd_create(&name, flags as u32)))
    }),
    (linux::__NR_fstat, fstat),
    (linux::__NR_getdents64, getdents),
    (linux::__NR_ftruncate, |c, [fd, size, ..]| {
        c.waiting(|calls| calls.ftruncate(descriptor(fd), size as i64))
            .map(|()| 0)
    }),
    (linux::__NR_fallocate, |c, [fd, mode, at, count, ..]| {
        c.waiting(|calls| calls.fallocate(descriptor(fd), mode as u32, at as i64, count as i64))
            .map(|()| 0)
    }),
    (linux::__NR_fsync, |c, [fd, ..]| {
        c.now(|calls| calls.fsync(descriptor(fd))).map(|()| 0)
    }),
    (linux::__NR_fdatasync, |c, [fd, ..]| {
        c.now(|calls| calls.fsync(descriptor(fd))).map(|()| 0)
    }),
    (linux::__NR_fadvise64, |c, [fd, ..]| {
        c.now(|calls| calls.descriptors.get(descriptor(fd)))
            .map(|_| 0)
    }),
    (linux::__NR_flock, |c, [fd, operation, ..]| {
        c.waiting(|calls| calls.flock(descriptor(fd), operation as u32))
            .map(|()| 0)
    }),
    (linux::__NR_sendfile, sendfile),
    (linux::__NR_fchdir, |c, [fd, ..]| {
        c.now(|calls| calls.fchdir(descriptor(fd))).map(|()| 0)
    }),
    (linux::__NR_fchmod, |c, [fd, mode, ..]| {
        c.now(|calls| calls.fchmod(descriptor(fd), mode as u32))
            .map(|()| 0)
    }),
    (linux::__NR_fchown, |c, [fd, user, group, ..]| {
        c.now(|calls| calls.fchown(descriptor(fd), user as u32, group as u32))
            .map(|()| 0)
    }),
    (linux::__NR_fstatfs, |c, [fd, at, ..]| {
        let told = c.now(|calls| calls.fstatfs(descriptor(fd)))?;
        c.user().write(at, &told).map(|()| 0)
    }),
    (linux::__NR_sync, |_, _| Ok(0)),
];

/// A descriptor as a result.
fn number(result: Result<i32>) -> Result<u64> {
    result.map(|number| number as u64)
}

/// The position that a call with one gives.
fn position(offset: u64) -> Result<i64> {
    i64::try_from(offset).map_err(|_| Errno::EINVAL)
}

/// Reads into a program's memory, piece by piece as long as each is filled.
fn read(current: &mut Current<'_>, fd: u64, at: u64, count: u64, from: Option<u64>) -> Result<u64> {
    let from = from.map(position).transpose()?;
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?.min(MOST);
    let mut done = 0;
    loop {
        let piece = (count - done).min(PIECE);
        let result = Into::new(current.user(), at + done as u64, piece).and_then(|mut sink| {
            let poll = |calls: &guest_files::Calls<'_>| match from {
                Some(from) => calls.pread(descriptor(fd), from + done as i64, &mut sink),
                None => calls.read(descriptor(fd), &mut sink),
            };
            if done == 0 {
                return current.waiting(poll);
            }
            // What was read is returned rather than waited with.
            match current.poll_files(&crate::task::waker(), &Cell::new(None), poll) {
                Poll::Ready(result) => result,
                Poll::Pending => Ok(0),
            }
        });
        match result {
            Ok(got) => {
                done += got;
                if got < piece || done == count {
                    return Ok(done as u64);
                }
                if !is_regular(current, fd) {
                    return Ok(done as u64);
                }
            }
            Err(e) if done == 0 => return Err(e),
            Err(_) => return Ok(done as u64),
        }
    }
}

/// Bytes that a call moves at most, as Linux (`MAX_RW_COUNT`).
const MOST: usize = 0x7fff_f000;

/// Whether more may be read without waiting.
fn is_regular(current: &Current<'_>, fd: u64) -> bool {
    let file = current.now(|calls| calls.descriptors.get(descriptor(fd)));
    file.is_ok_and(|file| file.place.inode.kind() == guest_files::Kind::File)
}

/// Writes from a program's memory, piece by piece.
fn write(current: &mut Current<'_>, fd: u64, at: u64, count: u64, to: Option<u64>) -> Result<u64> {
    let to = to.map(position).transpose()?;
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?.min(MOST);
    let mut done = 0;
    loop {
        let piece = (count - done).min(PIECE);
        let result = From::new(current.user(), at + done as u64, piece).and_then(|mut source| {
            let result = current.waiting(|calls| match to {
                Some(to) => calls.pwrite(descriptor(fd), to + done as i64, &mut source),
                None => calls.write(descriptor(fd), &mut source),
            });
            match result {
                Err(RESTART) if source.taken() > 0 => Ok(source.taken()),
                result => result,
            }
        });
        if let Err(Errno::EPIPE) = result {
            let process = current.thread.process.number;
            let info = Info::from_process(process, linux::SI_USER as i32);
            process::send(Target::Process(process), linux::SIGPIPE, info)?;
        }
        match result {
            Ok(got) => {
                done += got;
                if got < piece || done == count {
                    return Ok(done as u64);
                }
            }
            Err(e) if done == 0 => return Err(e),
            Err(_) => return Ok(done as u64),
        }
    }
}

/// Makes a call for each part of a list of parts of memory.
fn vector(
    current: &mut Current<'_>,
    list: u64,
    count: u64,
    mut each: impl FnMut(&mut Current<'_>, u64, u64) -> Result<u64>,
) -> Result<u64> {
    if count > linux::UIO_MAXIOV.into() {
        return Err(Errno::EINVAL);
    }
    let mut done = 0;
    for place in (0..count).map(|i| list + i * 16) {
        let part: linux::iovec = current.user().read(place)?;
        if part.iov_len == 0 {
            continue;
        }
        match each(current, part.iov_base as u64, part.iov_len) {
            Ok(got) => {
                done += got;
                if got < part.iov_len {
                    break;
                }
            }
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done)
}

fn lseek(current: &mut Current<'_>, [fd, offset, whence, ..]: Arguments) -> Result<u64> {
    current.waiting(|calls| calls.lseek(descriptor(fd), offset as i64, whence as u32))
}

fn fcntl(current: &mut Current<'_>, [fd, command, argument, ..]: Arguments) -> Result<u64> {
    let mut last = Last(current.user(), argument);
    current.now(|calls| calls.fcntl(descriptor(fd), command as u32, &mut last))
}

fn ioctl(current: &mut Current<'_>, [fd, request, argument, ..]: Arguments) -> Result<u64> {
    let mut last = Last(current.user(), argument);
    current.waiting(|calls| calls.ioctl(descriptor(fd), request as u32, &mut last))
}

fn pipe(current: &mut Current<'_>, at: u64, flags: u64) -> Result<u64> {
    let ends = current.now(|calls| calls.pipe2(flags as u32))?;
    let written = current.user().write(at, &ends);
    if written.is_err() {
        for end in ends {
            current.now(|calls| calls.close(end))?;
        }
    }
    written.map(|()| 0)
}

fn fstat(current: &mut Current<'_>, [fd, at, ..]: Arguments) -> Result<u64> {
    let stat = current.now(|calls| calls.fstat(descriptor(fd)))?;
    current.user().write(at, &stat).map(|()| 0)
}

fn getdents(current: &mut Current<'_>, [fd, at, count, ..]: Arguments) -> Result<u64> {
    let mut sink = Into::new(current.user(), at, count as usize)?;
    let done = current.waiting(|calls| calls.getdents64(descriptor(fd), &mut sink))?;
    Ok(done as u64)
}

fn sendfile(current: &mut Current<'_>, [to, from, at, count, ..]: Arguments) -> Result<u64> {
    let start = match at {
        0 => None,
        _ => Some(current.user().read::<i64>(at)?),
    };
    let (count, mut done) = ((count as usize).min(MOST), 0);
    while done < count {
        let place = start.map(|start| start + done as i64);
        let piece = (count - done).min(PIECE);
        let result =
            current.waiting(|calls| calls.sendfile(descriptor(to), descriptor(from), place, piece));
        match result {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    if let Some(start) = start {
        current.user().write(at, &(start + done as i64))?;
    }
    Ok(done as u64)
}
