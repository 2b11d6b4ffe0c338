//! Calls about paths.

extern crate alloc;

use alloc::vec::Vec;

use guest_files::{Calls, Identity, Opening};
use linux_raw_sys::general as linux;

use super::{Arguments, Family, descriptor};
use crate::user::errno::{Errno, Result};
use crate::user::files::Into;
use crate::user::thread::Current;

/// Where paths begin for calls that name no directory.
const HERE: u64 = linux::AT_FDCWD as u64;
/// Bytes of a path with its 0.
const PATH: usize = linux::PATH_MAX as usize;

pub(super) const CALLS: Family = &[
    (linux::__NR_open, |c, [path, flags, mode, ..]| {
        open(c, [HERE, path, flags, mode, 0, 0])
    }),
    (linux::__NR_openat, open),
    (linux::__NR_creat, |c, [path, mode, ..]| {
        let flags = linux::O_CREAT | linux::O_WRONLY | linux::O_TRUNC;
        open(c, [HERE, path, flags.into(), mode, 0, 0])
    }),
    (linux::__NR_stat, |c, [path, at, ..]| {
        stat(c, [HERE, path, at, 0, 0, 0])
    }),
    (linux::__NR_lstat, |c, [path, at, ..]| {
        stat(c, [HERE, path, at, linux::AT_SYMLINK_NOFOLLOW.into(), 0, 0])
    }),
    (linux::__NR_newfstatat, stat),
    (linux::__NR_statx, statx),
    (linux::__NR_statfs, |c, [path, at, ..]| {
        let told = with_path(c, path, |calls, path| calls.statfs(path))?;
        c.user().write(at, &told).map(|()| 0)
    }),
    (linux::__NR_access, |c, [path, mode, ..]| {
        access(c, HERE, path, mode, 0)
    }),
    (linux::__NR_faccessat, |c, [fd, path, mode, ..]| {
        access(c, fd, path, mode, 0)
    }),
    (linux::__NR_faccessat2, |c, [fd, path, mode, flags, ..]| {
        access(c, fd, path, mode, flags)
    }),
    (linux::__NR_mkdir, |c, [path, mode, ..]| {
        mkdir(c, HERE, path, mode)
    }),
    (linux::__NR_mkdirat, |c, [fd, path, mode, ..]| {
        mkdir(c, fd, path, mode)
    }),
    (linux::__NR_mknod, |c, [path, mode, device, ..]| {
        mknod(c, HERE, path, mode, device)
    }),
    (linux::__NR_mknodat, |c, [fd, path, mode, device, ..]| {
        mknod(c, fd, path, mode, device)
    }),
    (linux::__NR_unlink, |c, [path, ..]| unlink(c, HERE, path, 0)),
    (linux::__NR_rmdir, |c, [path, ..]| {
        unlink(c, HERE, path, linux::AT_REMOVEDIR.into())
    }),
    (linux::__NR_unlinkat, |c, [fd, path, flags, ..]| {
        unlink(c, fd, path, flags)
    }),
    (linux::__NR_symlink, |c, [target, path, ..]| {
        symlink(c, target, HERE, path)
    }),
    (linux::__NR_symlinkat, |c, [target, fd, path, ..]| {
        symlink(c, target, fd, path)
    }),
    (linux::__NR_link, |c, [from, to, ..]| {
        link(c, [HERE, from, HERE, to, 0, 0])
    }),
    (linux::__NR_linkat, link),
    (linux::__NR_rename, |c, [from, to, ..]| {
        rename(c, [HERE, from, HERE, to, 0, 0])
    }),
    (linux::__NR_renameat, |c, [a, from, b, to, ..]| {
        rename(c, [a, from, b, to, 0, 0])
    }),
    (linux::__NR_renameat2, rename),
    (linux::__NR_readlink, |c, [path, at, count, ..]| {
        readlink(c, [HERE, path, at, count, 0, 0])
    }),
    (linux::__NR_readlinkat, readlink),
    (linux::__NR_chdir, |c, [path, ..]| {
        with_path(c, path, |calls, path| calls.chdir(path)).map(|()| 0)
    }),
    (linux::__NR_chroot, |c, [path, ..]| {
        with_path(c, path, |calls, path| calls.chroot(path)).map(|()| 0)
    }),
    (linux::__NR_getcwd, getcwd),
    (linux::__NR_umask, |c, [mask, ..]| {
        Ok(c.thread.process.view.set_mask(mask as u32).into())
    }),
    (linux::__NR_chmod, |c, [path, mode, ..]| {
        chmod(c, HERE, path, mode, 0)
    }),
    (linux::__NR_fchmodat, |c, [fd, path, mode, ..]| {
        chmod(c, fd, path, mode, 0)
    }),
    (linux::__NR_fchmodat2, |c, [fd, path, mode, flags, ..]| {
        chmod(c, fd, path, mode, flags)
    }),
    (linux::__NR_chown, |c, [path, user, group, ..]| {
        chown(c, [HERE, path, user, group, 0, 0])
    }),
    (linux::__NR_lchown, |c, [path, user, group, ..]| {
        chown(
            c,
            [
                HERE,
                path,
                user,
                group,
                linux::AT_SYMLINK_NOFOLLOW.into(),
                0,
            ],
        )
    }),
    (linux::__NR_fchownat, chown),
    (linux::__NR_utimensat, utimensat),
    (linux::__NR_truncate, |c, [path, size, ..]| {
        let path = c.path(path)?;
        c.waiting(|calls| calls.truncate(&path, size as i64))
            .map(|()| 0)
    }),
];

impl Current<'_> {
    /// Reads a path.
    ///
    /// # Errors
    /// `EFAULT`, `ENAMETOOLONG`.
    pub(crate) fn path(&self, at: u64) -> Result<Vec<u8>> {
        self.user().read_string(at, PATH, Errno::ENAMETOOLONG)
    }
}

/// Makes a call that has one path.
fn with_path<R>(
    current: &Current<'_>,
    at: u64,
    f: impl FnOnce(&Calls<'_>, &[u8]) -> Result<R>,
) -> Result<R> {
    let path = current.path(at)?;
    current.now(|calls| f(calls, &path))
}

fn open(current: &mut Current<'_>, [fd, path, flags, mode, ..]: Arguments) -> Result<u64> {
    let path = current.path(path)?;
    let mut opening = Opening::default();
    let opened = current.waiting(|calls| {
        calls.openat(
            &mut opening,
            descriptor(fd),
            &path,
            flags as u32,
            mode as u32,
        )
    })?;
    Ok(opened as u64)
}

fn stat(current: &mut Current<'_>, [fd, path, at, flags, ..]: Arguments) -> Result<u64> {
    let stat = with_path(current, path, |calls, path| {
        calls.fstatat(descriptor(fd), path, flags as u32)
    })?;
    current.user().write(at, &stat).map(|()| 0)
}

fn statx(current: &mut Current<'_>, [fd, path, flags, mask, at, _]: Arguments) -> Result<u64> {
    let told = with_path(current, path, |calls, path| {
        calls.statx(descriptor(fd), path, flags as u32, mask as u32)
    })?;
    current.user().write(at, &told).map(|()| 0)
}

fn access(current: &Current<'_>, fd: u64, path: u64, mode: u64, flags: u64) -> Result<u64> {
    with_path(current, path, |calls, path| {
        calls.faccessat2(
            &Identity::ROOT,
            descriptor(fd),
            path,
            mode as u32,
            flags as u32,
        )
    })
    .map(|()| 0)
}

fn mkdir(current: &Current<'_>, fd: u64, path: u64, mode: u64) -> Result<u64> {
    with_path(current, path, |calls, path| {
        calls.mkdirat(descriptor(fd), path, mode as u32)
    })
    .map(|()| 0)
}

fn mknod(current: &Current<'_>, fd: u64, path: u64, mode: u64, device: u64) -> Result<u64> {
    with_path(current, path, |calls, path| {
        calls.mknodat(descriptor(fd), path, mode as u32, device)
    })
    .map(|()| 0)
}

fn unlink(current: &Current<'_>, fd: u64, path: u64, flags: u64) -> Result<u64> {
    with_path(current, path, |calls, path| {
        calls.unlinkat(descriptor(fd), path, flags as u32)
    })
    .map(|()| 0)
}

fn symlink(current: &Current<'_>, target: u64, fd: u64, path: u64) -> Result<u64> {
    let target = current.path(target)?;
    with_path(current, path, |calls, path| {
        calls.symlinkat(&target, descriptor(fd), path)
    })
    .map(|()| 0)
}

fn link(current: &mut Current<'_>, [a, from, b, to, flags, _]: Arguments) -> Result<u64> {
    let from = current.path(from)?;
    with_path(current, to, |calls, to| {
        calls.linkat(descriptor(a), &from, descriptor(b), to, flags as u32)
    })
    .map(|()| 0)
}

fn rename(current: &mut Current<'_>, [a, from, b, to, flags, _]: Arguments) -> Result<u64> {
    let from = current.path(from)?;
    with_path(current, to, |calls, to| {
        calls.renameat2(descriptor(a), &from, descriptor(b), to, flags as u32)
    })
    .map(|()| 0)
}

fn readlink(current: &mut Current<'_>, [fd, path, at, count, ..]: Arguments) -> Result<u64> {
    if count as i64 <= 0 {
        return Err(Errno::EINVAL);
    }
    let mut sink = Into::new(current.user(), at, count as usize)?;
    let done = with_path(current, path, |calls, path| {
        calls.readlinkat(descriptor(fd), path, &mut sink)
    })?;
    Ok(done as u64)
}

fn getcwd(current: &mut Current<'_>, [at, count, ..]: Arguments) -> Result<u64> {
    let mut sink = Into::new(current.user(), at, count as usize)?;
    Ok(current.now(|calls| calls.getcwd(&mut sink))? as u64)
}

fn chmod(current: &Current<'_>, fd: u64, path: u64, mode: u64, flags: u64) -> Result<u64> {
    with_path(current, path, |calls, path| {
        calls.fchmodat(descriptor(fd), path, mode as u32, flags as u32)
    })
    .map(|()| 0)
}

fn chown(current: &mut Current<'_>, [fd, path, user, group, flags, _]: Arguments) -> Result<u64> {
    with_path(current, path, |calls, path| {
        calls.fchownat(
            descriptor(fd),
            path,
            user as u32,
            group as u32,
            flags as u32,
        )
    })
    .map(|()| 0)
}

fn utimensat(current: &mut Current<'_>, [fd, path, times, flags, ..]: Arguments) -> Result<u64> {
    let path = match path {
        0 => None,
        path => Some(current.path(path)?),
    };
    let [accessed, modified] = match times {
        0 => [guest_files::SetTime::Now; 2],
        times => {
            let words: [u64; 4] = current.user().read(times)?;
            let time = |s, n| guest_files::SetTime::from_program(s as i64, n as i64);
            [time(words[0], words[1])?, time(words[2], words[3])?]
        }
    };
    current
        .now(|calls| {
            calls.utimensat(
                descriptor(fd),
                path.as_deref(),
                accessed,
                modified,
                flags as u32,
            )
        })
        .map(|()| 0)
}
