//! Calls about paths.

extern crate alloc;

use alloc::sync::Arc;

use guest_files::{Calls, FileSystem, Fill, Identity, Opening};
use linux_raw_sys::general as linux;

use super::{Arguments, Family, calls, descriptor};
use crate::user::access::Text;
use crate::user::errno::{Errno, Result};
use crate::user::files::Into;
use crate::user::thread::Current;

/// Where paths begin for calls that name no directory.
pub(super) const HERE: u64 = linux::AT_FDCWD as u64;
/// Bytes of a path with its 0.
const PATH: usize = linux::PATH_MAX as usize;

pub(super) const CALLS: Family = calls![
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
    (linux::__NR_utimes, |c, [path, times, ..]| {
        utimes(c, [HERE, path, times, 0, 0, 0])
    }),
    (linux::__NR_futimesat, utimes),
    (linux::__NR_utime, utime),
    (linux::__NR_mount, mount),
    (linux::__NR_umount2, umount),
    // No file system here has attributes beside those that all have.
    (linux::__NR_getxattr, no_attributes),
    (linux::__NR_lgetxattr, no_attributes),
    (linux::__NR_fgetxattr, no_attributes),
    (linux::__NR_setxattr, no_attributes),
    (linux::__NR_lsetxattr, no_attributes),
    (linux::__NR_fsetxattr, no_attributes),
    (linux::__NR_listxattr, no_attributes),
    (linux::__NR_llistxattr, no_attributes),
    (linux::__NR_flistxattr, no_attributes),
    (linux::__NR_removexattr, no_attributes),
    (linux::__NR_lremovexattr, no_attributes),
    (linux::__NR_fremovexattr, no_attributes),
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
    pub(crate) fn path(&self, at: u64) -> Result<Text> {
        self.user().read_string(at, PATH, Errno::ENAMETOOLONG)
    }

    /// Reads a path into an empty string.
    ///
    /// # Errors
    /// As [`path`](Self::path).
    fn read_path(&self, path: &mut Text, at: u64) -> Result<()> {
        let user = self.user();
        user.read_string_into(path, at, PATH, Errno::ENAMETOOLONG)
    }
}

/// Makes a call that has one path.
fn with_path<R>(
    current: &Current<'_>,
    at: u64,
    f: impl FnOnce(&Calls<'_>, &[u8]) -> Result<R>,
) -> Result<R> {
    let mut path = Text::new();
    current.read_path(&mut path, at)?;
    current.now(|calls| f(calls, &path))
}

fn open(current: &mut Current<'_>, [fd, path, flags, mode, ..]: Arguments) -> Result<u64> {
    let (at, mut path) = (path, Text::new());
    current.read_path(&mut path, at)?;
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
    let mut bytes = [0; PATH];
    let room = (count as usize).min(PATH);
    let mut fill = Fill::new(&mut bytes[..room]);
    let done = current.now(|calls| calls.getcwd(&mut fill))?;
    current.user().write_bytes(at, &bytes[..done])?;
    Ok(done as u64)
}

fn no_attributes(_: &mut Current<'_>, _: Arguments) -> Result<u64> {
    Err(Errno::EOPNOTSUPP)
}

/// Sets times of a path.
fn set_times(
    current: &Current<'_>,
    fd: u64,
    path: u64,
    times: Option<[(u64, u64); 2]>,
) -> Result<u64> {
    let [accessed, modified] = match times {
        None => [guest_files::SetTime::Now; 2],
        Some([accessed, modified]) => {
            let time = |(s, n)| guest_files::SetTime::from_program(s as i64, n as i64);
            [time(accessed)?, time(modified)?]
        }
    };
    with_path(current, path, |calls, path| {
        calls.utimensat(descriptor(fd), Some(path), accessed, modified, 0)
    })
    .map(|()| 0)
}

fn utimes(current: &mut Current<'_>, [fd, path, times, ..]: Arguments) -> Result<u64> {
    if times == 0 {
        return set_times(current, fd, path, None);
    }
    let [a, b, c, d]: [u64; 4] = current.user().read(times)?;
    if b >= 1_000_000 || d >= 1_000_000 {
        return Err(Errno::EINVAL);
    }
    set_times(current, fd, path, Some([(a, b * 1000), (c, d * 1000)]))
}

fn utime(current: &mut Current<'_>, [path, times, ..]: Arguments) -> Result<u64> {
    if times == 0 {
        return set_times(current, HERE, path, None);
    }
    let [accessed, modified]: [u64; 2] = current.user().read(times)?;
    set_times(current, HERE, path, Some([(accessed, 0), (modified, 0)]))
}

/// Mounts what needs no device: files in memory, and what the kernel shows.
fn mount(current: &mut Current<'_>, [_, path, kind, flags, ..]: Arguments) -> Result<u64> {
    /// What is no matter here, or always so: devices, programs, times, and what is said.
    const PLAIN: u32 = linux::MS_NOSUID
        | linux::MS_NODEV
        | linux::MS_NOEXEC
        | linux::MS_SYNCHRONOUS
        | linux::MS_NOATIME
        | linux::MS_NODIRATIME
        | linux::MS_SILENT
        | linux::MS_RELATIME
        | linux::MS_STRICTATIME;
    // The upper half was a word that told the call from an older one (`MS_MGC_VAL`).
    const WORD: u64 = 0xc0ed_0000;
    let flags = if flags & 0xffff_0000 == WORD {
        flags & 0xffff
    } else {
        flags
    };
    let kind = match kind {
        0 => Text::new(),
        kind => current.path(kind)?,
    };
    let path = current.path(path)?;
    let read_only = flags as u32 & linux::MS_RDONLY != 0;
    if flags as u32 & !(PLAIN | linux::MS_RDONLY) != 0 {
        return Err(Errno::EINVAL);
    }
    current.now(|calls| {
        calls.statfs(&path)?;
        let (fs, name) = fs_of(calls, &kind)?;
        calls.mount(fs, name, &path, read_only)
    })?;
    Ok(0)
}

/// A new file system of a kind.
///
/// # Errors
/// `ENODEV` for a kind that there is not.
fn fs_of(calls: &Calls<'_>, kind: &[u8]) -> Result<(Arc<dyn FileSystem>, &'static str)> {
    let system = crate::user::files::system()?;
    match kind {
        b"tmpfs" | b"ramfs" => Ok((crate::user::memory_files(calls.system.host())?, "tmpfs")),
        b"proc" => Ok((crate::user::proc::processes(&system), "proc")),
        b"sysfs" => Ok((crate::user::proc::tables(), "sysfs")),
        // The devices and terminals that there are have their names in the first `/dev`.
        b"devtmpfs" | b"devpts" => Err(Errno::EBUSY),
        _ => Err(Errno::ENODEV),
    }
}

fn umount(current: &mut Current<'_>, [path, flags, ..]: Arguments) -> Result<u64> {
    /// Also if it is used, or soon, or only if it has not been for a while; and not through a link.
    const KNOWN: u32 = 1 | 2 | 4 | 8;
    if flags as u32 & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    with_path(current, path, |calls, path| calls.umount(path)).map(|()| 0)
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
