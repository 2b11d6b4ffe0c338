//! Calls about descriptors.

use core::cell::Cell;
use core::task::Poll;

use linux_raw_sys::general as linux;

use super::{Arguments, Family, calls, descriptor};
use crate::user::errno::{Errno, RESTART, Result};
use crate::user::files::{From, Into, Last, PIECE};
use crate::user::process::{self, Target};
use crate::user::signal::Info;
use crate::user::thread::Current;

use guest_files::{OpenFile, Source};

use crate::usermode::END;

pub(super) const CALLS: Family = calls![
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
        vector(c, fd, at, count, None, read)
    }),
    (linux::__NR_writev, |c, [fd, at, count, ..]| {
        vector(c, fd, at, count, None, write)
    }),
    (linux::__NR_preadv, |c, [fd, at, count, from, ..]| {
        vector(c, fd, at, count, Some(from), read)
    }),
    (linux::__NR_pwritev, |c, [fd, at, count, to, ..]| {
        vector(c, fd, at, count, Some(to), write)
    }),
    (linux::__NR_preadv2, |c, [fd, at, count, from, _, flags]| {
        vector(c, fd, at, count, plain(from, flags)?, read)
    }),
    (linux::__NR_pwritev2, |c, [fd, at, count, to, _, flags]| {
        vector(c, fd, at, count, plain(to, flags)?, write)
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
    (linux::__NR_fadvise64, |c, [fd, _, _, advice, ..]| {
        let file = c.now(|calls| calls.descriptors.get(descriptor(fd)))?;
        match file.place.inode.kind() {
            guest_files::Kind::Fifo => Err(Errno::ESPIPE),
            _ if advice as u32 > linux::POSIX_FADV_NOREUSE => Err(Errno::EINVAL),
            _ => Ok(0),
        }
    }),
    (linux::__NR_readahead, |c, [fd, ..]| {
        let file = c.now(|calls| calls.descriptors.get(descriptor(fd)))?;
        match file.place.inode.kind() {
            _ if !file.can_read() => Err(Errno::EBADF),
            guest_files::Kind::File => Ok(0),
            _ => Err(Errno::EINVAL),
        }
    }),
    (linux::__NR_flock, |c, [fd, operation, ..]| {
        c.waiting(|calls| calls.flock(descriptor(fd), operation as u32))
            .map(|()| 0)
    }),
    (linux::__NR_sendfile, sendfile),
    (linux::__NR_copy_file_range, copy_file_range),
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
    (linux::__NR_syncfs, |c, [fd, ..]| {
        c.now(|calls| calls.descriptors.get(descriptor(fd)))
            .map(|_| 0)
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

/// Where `preadv2` begins: -1 is where the file stands. No flags are known.
fn plain(offset: u64, flags: u64) -> Result<Option<u64>> {
    match (flags as u32, offset) {
        (0, u64::MAX) => Ok(None),
        (0, offset) => Ok(Some(offset)),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// Bytes that are moved to or from a program's memory.
///
/// # Errors
/// `EINVAL` for less than none, `EFAULT` for what no program has; `EBADF` before that if the descriptor
/// does not allow it, which `allows` says.
fn bytes(
    current: &Current<'_>,
    fd: u64,
    at: u64,
    count: u64,
    allows: fn(&OpenFile) -> bool,
) -> Result<usize> {
    if at.checked_add(count).is_some_and(|end| end <= END) {
        return Ok((count as usize).min(MOST));
    }
    let file = current.now(|calls| calls.descriptors.get(descriptor(fd)))?;
    Err(match (allows(&file), i64::try_from(count)) {
        (false, _) => Errno::EBADF,
        (true, Ok(_)) => Errno::EFAULT,
        (true, Err(_)) => Errno::EINVAL,
    })
}

/// What a call fails by whose memory is not there: what is wrong with its descriptor comes first.
fn fault(current: &Current<'_>, fd: u64, allows: fn(&OpenFile) -> bool) -> Errno {
    match bytes(current, fd, END, 1, allows) {
        Ok(_) => Errno::EFAULT,
        Err(e) => e,
    }
}

/// Reads into a program's memory, piece by piece as long as each is filled.
fn read(current: &mut Current<'_>, fd: u64, at: u64, count: u64, from: Option<u64>) -> Result<u64> {
    let from = from.map(position).transpose()?;
    let count = bytes(current, fd, at, count, OpenFile::can_read)?;
    let mut done = 0;
    loop {
        let piece = (count - done).min(PIECE);
        let sink = Into::new(current.user(), at + done as u64, piece);
        let sink = sink.map_err(|_| fault(current, fd, OpenFile::can_read));
        let result = sink.and_then(|mut sink| {
            let poll = |calls: &guest_files::Calls<'_>| match from {
                Some(from) => calls.pread(descriptor(fd), from + done as i64, &mut sink),
                None => calls.read(descriptor(fd), &mut sink),
            };
            if done == 0 {
                return current.waiting(poll);
            }
            // What was read is returned rather than waited with.
            match current.poll_files(current.thread.waker(), &Cell::new(None), poll) {
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
                if !has_more(current, fd) {
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

/// Whether more may be read without waiting: from a file, or a device that gives without an end.
fn has_more(current: &Current<'_>, fd: u64) -> bool {
    let file = current.now(|calls| calls.descriptors.get(descriptor(fd)));
    file.is_ok_and(|file| {
        file.place.inode.kind() == guest_files::Kind::File || file.file().fixed_position().is_some()
    })
}

/// Tells the process that calls of what its write came to.
fn signal_self(current: &Current<'_>, signal: u32) -> Result<()> {
    let process = current.thread.process.number;
    let info = Info::from_process(process, linux::SI_USER as i32);
    process::send(process, Target::Process(process), signal, info)
}

/// Writes from a program's memory, piece by piece.
fn write(current: &mut Current<'_>, fd: u64, at: u64, count: u64, to: Option<u64>) -> Result<u64> {
    let to = to.map(position).transpose()?;
    let count = bytes(current, fd, at, count, OpenFile::can_write)?;
    let mut done = 0;
    loop {
        let piece = (count - done).min(PIECE);
        let source = From::new(current.user(), at + done as u64, piece);
        let source = source.map_err(|_| fault(current, fd, OpenFile::can_write));
        let result = source.and_then(|mut source| {
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
            signal_self(current, linux::SIGPIPE)?;
        }
        if let Err(Errno::EFBIG) = result {
            let limit = current.thread.process.settings.limit(linux::RLIMIT_FSIZE)?;
            if limit[0] != u64::MAX {
                signal_self(current, linux::SIGXFSZ)?;
            }
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

/// A call that moves bytes between a file and a program's memory: from where the file stands, or from a
/// place on.
type Move = fn(&mut Current<'_>, u64, u64, u64, Option<u64>) -> Result<u64>;

/// Makes a call for each part of a list of parts of memory.
fn vector(
    current: &mut Current<'_>,
    fd: u64,
    list: u64,
    count: u64,
    mut place: Option<u64>,
    each: Move,
) -> Result<u64> {
    place.map(position).transpose()?;
    let file = current.now(|calls| calls.descriptors.get(descriptor(fd)))?;
    if place.is_some() && file.place.inode.kind() == guest_files::Kind::Fifo {
        return Err(Errno::ESPIPE);
    }
    drop(file);
    if count > linux::UIO_MAXIOV.into() {
        return Err(Errno::EINVAL);
    }
    let part = |current: &Current<'_>, i: u64| -> Result<linux::iovec> {
        let part: linux::iovec = current.user().read(list + i * 16)?;
        match i64::try_from(part.iov_len) {
            Ok(_) => Ok(part),
            Err(_) => Err(Errno::EINVAL),
        }
    };
    // A list that is wrong anywhere moves nothing.
    for i in 0..count {
        part(current, i)?;
    }
    let mut done = 0;
    for i in 0..count {
        let part = part(current, i)?;
        if part.iov_len == 0 {
            continue;
        }
        match each(current, fd, part.iov_base as u64, part.iov_len, place) {
            Ok(got) => {
                done += got;
                place = place.map(|place| place + got);
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
    if matches!(
        command as u32,
        linux::F_GETLK
            | linux::F_SETLK
            | linux::F_SETLKW
            | linux::F_OFD_GETLK
            | linux::F_OFD_SETLK
            | linux::F_OFD_SETLKW
    ) {
        return current
            .waiting(|calls| calls.record_lock(descriptor(fd), command as u32, &mut last));
    }
    current.now(|calls| calls.fcntl(descriptor(fd), command as u32, &mut last))
}

fn ioctl(current: &mut Current<'_>, [fd, request, argument, ..]: Arguments) -> Result<u64> {
    let mut last = Last(current.user(), argument);
    current.waiting(|calls| calls.ioctl(descriptor(fd), request as u32, &mut last))
}

/// Copies a part of a file to another one.
fn copy_file_range(
    current: &mut Current<'_>,
    [from, from_at, to, to_at, count, flags]: Arguments,
) -> Result<u64> {
    let user = current.user();
    let read = |at: u64| match at {
        0 => Ok(None),
        at => user.read::<i64>(at).map(Some),
    };
    let (start, target) = (read(from_at)?, read(to_at)?);
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (from, to) = (descriptor(from), descriptor(to));
    for fd in [from, to] {
        let file = current.now(|calls| calls.descriptors.get(fd))?;
        match file.place.inode.kind() {
            guest_files::Kind::File => {}
            guest_files::Kind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
    }
    let stood = match target {
        None => None,
        Some(target) => {
            let stood = current.waiting(|calls| calls.lseek(to, 0, linux::SEEK_CUR))?;
            current.waiting(|calls| calls.lseek(to, target, linux::SEEK_SET))?;
            Some(stood)
        }
    };
    let count = (count as usize).min(MOST);
    let copied = current.waiting(|calls| calls.sendfile(to, from, start, count));
    if let Some(stood) = stood {
        current.waiting(|calls| calls.lseek(to, stood as i64, linux::SEEK_SET))?;
    }
    let copied = copied? as u64;
    for (at, place) in [(from_at, start), (to_at, target)] {
        if let Some(place) = place {
            current.user().write(at, &(place + copied as i64))?;
        }
    }
    Ok(copied)
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
