//! The calls as the host's Linux answers them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linux_raw_sys::general as linux;
use rustix::event;
use rustix::fs as host;

use super::calls::Op;
use super::{Answer, bytes, digest, show};

/// The host's side: all paths are relative to a directory.
pub(super) struct Theirs {
    pub(super) top: String,
    pub(super) first: OwnedFd,
    pub(super) base: OwnedFd,
    pub(super) open: Vec<Option<OwnedFd>>,
}

impl Theirs {
    pub(super) fn run(&mut self, op: &Op) -> Answer {
        let base = self.base.as_fd();
        let number = |error: rustix::io::Errno| error.raw_os_error();
        let stat = |stat: rustix::io::Result<host::Stat>| {
            stat.map(|stat| show(stat.st_mode, stat.st_nlink, stat.st_size, stat.st_uid))
                .map_err(number)
        };
        let unit = |done: rustix::io::Result<()>| done.map(|()| String::new()).map_err(number);
        let oflags = host::OFlags::from_bits_retain;
        let mode_of = host::Mode::from_bits_retain;
        macro_rules! slot {
            ($at:expr) => {
                match self.open.get(*$at).and_then(Option::as_ref) {
                    Some(file) => file.as_fd(),
                    None => return Err(linux_raw_sys::errno::EBADF as i32),
                }
            };
        }
        match op {
            Op::Open(path, flags, mode) => {
                let file = host::openat(base, path, oflags(*flags), mode_of(*mode));
                self.open.push(Some(file.map_err(number)?));
                Ok("open".into())
            }
            Op::Close(at) => {
                let there = self.open.get_mut(*at).and_then(Option::take);
                there
                    .map(|_| String::new())
                    .ok_or(linux_raw_sys::errno::EBADF as i32)
            }
            Op::Dup(at) => {
                let file = rustix::io::dup(slot!(at)).map_err(number)?;
                self.open.push(Some(file));
                Ok("dup".into())
            }
            Op::Read(at, count) => {
                let mut memory = vec![0; *count];
                let count = rustix::io::read(slot!(at), &mut memory).map_err(number)?;
                Ok(digest(&memory[..count]))
            }
            Op::Write(at, count, seed) => rustix::io::write(slot!(at), &bytes(*count, *seed))
                .map(|n| n.to_string())
                .map_err(number),
            Op::Pread(at, offset, count) => {
                let mut memory = vec![0; *count];
                let read = rustix::io::pread(slot!(at), &mut memory, *offset as u64);
                let count = read.map_err(number)?;
                Ok(digest(&memory[..count]))
            }
            Op::Pwrite(at, offset, count, seed) => {
                rustix::io::pwrite(slot!(at), &bytes(*count, *seed), *offset as u64)
                    .map(|n| n.to_string())
                    .map_err(number)
            }
            Op::Seek(at, offset, whence) => {
                let to = match *whence {
                    linux::SEEK_SET => host::SeekFrom::Start(*offset as u64),
                    linux::SEEK_CUR => host::SeekFrom::Current(*offset),
                    linux::SEEK_END => host::SeekFrom::End(*offset),
                    linux::SEEK_DATA => host::SeekFrom::Data(*offset as u64),
                    _ => host::SeekFrom::Hole(*offset as u64),
                };
                host::seek(slot!(at), to)
                    .map(|at| at.to_string())
                    .map_err(number)
            }
            Op::Ftruncate(at, size) => unit(host::ftruncate(slot!(at), *size as u64)),
            Op::Fallocate(at, mode, from, count) => unit(host::fallocate(
                slot!(at),
                host::FallocateFlags::from_bits_retain(*mode),
                *from as u64,
                *count as u64,
            )),
            Op::Setfl(at, flags) => host::fcntl_setfl(slot!(at), oflags(*flags))
                .map(|()| "0".into())
                .map_err(number),
            Op::Getfl(at) => host::fcntl_getfl(slot!(at))
                .map(|flags| format!("{:o}", flags.bits()))
                .map_err(number),
            Op::Fstat(at) => stat(host::fstat(slot!(at))),
            Op::Mkdir(path, mode) => unit(host::mkdirat(base, path, mode_of(*mode))),
            Op::Mkfifo(path, mode) => unit(host::mknodat(
                base,
                path,
                host::FileType::Fifo,
                mode_of(*mode),
                0,
            )),
            Op::Rmdir(path) => unit(host::unlinkat(base, path, host::AtFlags::REMOVEDIR)),
            Op::Unlink(path) => unit(host::unlinkat(base, path, host::AtFlags::empty())),
            Op::Link(old, new, flags) => {
                let flags = host::AtFlags::from_bits_retain(*flags);
                unit(host::linkat(base, old, base, new, flags))
            }
            Op::Symlink(target, path) => unit(host::symlinkat(target, base, path)),
            Op::Rename(old, new, flags) => {
                let flags = host::RenameFlags::from_bits_retain(*flags);
                unit(host::renameat_with(base, old, base, new, flags))
            }
            Op::Readlink(path) => host::readlinkat(base, path, Vec::new())
                .map(|target| target.to_string_lossy().into_owned())
                .map_err(number),
            Op::Stat(path) => stat(host::statat(base, path, host::AtFlags::empty())),
            Op::Lstat(path) => stat(host::statat(base, path, host::AtFlags::SYMLINK_NOFOLLOW)),
            Op::Access(path, mode) => unit(host::accessat(
                base,
                path,
                host::Access::from_bits_retain(*mode),
                host::AtFlags::empty(),
            )),
            Op::Chmod(path, mode) => unit(host::chmodat(
                base,
                path,
                mode_of(*mode),
                host::AtFlags::empty(),
            )),
            Op::Names(path) => self.names(base, path).map_err(number),
            Op::Chown(path, user, group, flags) => {
                let id = |id: u32| (id != u32::MAX).then_some(id);
                unit(host::chownat(
                    base,
                    path,
                    id(*user).map(host::Uid::from_raw),
                    id(*group).map(host::Gid::from_raw),
                    host::AtFlags::from_bits_retain(*flags),
                ))
            }
            Op::Touch(path, now) => {
                let time = host::Timespec {
                    tv_sec: if *now { 0 } else { 5 },
                    tv_nsec: if *now { linux::UTIME_NOW.into() } else { 7 },
                };
                let times = host::Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                unit(host::utimensat(base, path, &times, host::AtFlags::empty()))
            }
            Op::Chdir(path) => {
                let directory = host::OFlags::PATH | host::OFlags::DIRECTORY;
                let none = host::Mode::empty();
                let found = match path {
                    Some(path) => host::openat(base, path, directory, none),
                    None => self.first.try_clone().map_err(|_| rustix::io::Errno::IO),
                };
                self.base = found.map_err(number)?;
                Ok(String::new())
            }
            Op::Cwd => {
                use std::os::fd::AsRawFd as _;
                let link = format!("/proc/self/fd/{}", self.base.as_raw_fd());
                let path = std::fs::read_link(link).unwrap();
                let path = path.to_str().unwrap();
                Ok(match path.ends_with(" (deleted)") {
                    true => "gone".into(),
                    false => path.strip_prefix(&self.top).unwrap().into(),
                })
            }
            Op::Pipe => {
                let flags = rustix::pipe::PipeFlags::NONBLOCK;
                let (from, to) = rustix::pipe::pipe_with(flags).map_err(number)?;
                self.open.extend([from, to].map(Some));
                Ok("pipe".into())
            }
            Op::PipeSize(at, size) => rustix::pipe::fcntl_setpipe_size(slot!(at), *size)
                .map(|size| size.to_string())
                .map_err(number),
            Op::Waiting(at) => rustix::io::ioctl_fionread(slot!(at))
                .map(|count| (count as i32).to_string())
                .map_err(number),
            Op::Ready(at) => {
                let file = slot!(at);
                let all = event::PollFlags::from_bits_retain(0xff);
                let mut files = [event::PollFd::from_borrowed_fd(file, all)];
                event::poll(&mut files, Some(&event::Timespec::default())).map_err(number)?;
                Ok(format!("{:x}", files[0].revents().bits()))
            }
            Op::User(user) => {
                self.become_user(*user);
                Ok(String::new())
            }
        }
    }

    /// Has the host judge this thread's calls as another user's; only root can.
    pub(super) fn become_user(&self, user: u32) {
        if rustix::process::geteuid().is_root() {
            // SAFETY: it changes only whom this thread's calls on files are judged as.
            unsafe {
                libc::setfsgid(user);
                libc::setfsuid(user);
            }
        }
    }

    fn names(&self, base: BorrowedFd<'_>, path: &str) -> rustix::io::Result<String> {
        let flags = host::OFlags::RDONLY | host::OFlags::DIRECTORY;
        let file = host::openat(base, path, flags, host::Mode::empty())?;
        let mut memory = Vec::with_capacity(4096);
        let mut directory = host::RawDir::new(&file, memory.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = directory.next() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names.join(" "))
    }
}
