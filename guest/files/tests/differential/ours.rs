//! The calls as this crate answers them.

use guest_files::{Argument, Drain, Fill, Identity, Opening, SetTime, Time};
use linux_raw_sys::general::{self as linux, pollfd};
use linux_raw_sys::ioctl;

use super::calls::Op;
use super::common::{Process, now, number};
use super::{Answer, BASE, bytes, digest, show};

/// An argument that points to a number.
struct Int(i32);

impl Argument for Int {
    fn value(&self) -> u64 {
        0
    }
    fn get(&mut self, into: &mut [u8]) -> guest_files::Result<()> {
        into.copy_from_slice(&self.0.to_ne_bytes());
        Ok(())
    }
    fn put(&mut self, bytes: &[u8]) -> guest_files::Result<()> {
        self.0 = i32::from_ne_bytes(bytes.try_into().unwrap());
        Ok(())
    }
}

/// This crate's side.
pub(super) struct Ours {
    pub(super) process: Process,
    /// Who runs the test.
    pub(super) first: Identity,
    pub(super) open: Vec<Option<i32>>,
}

impl Ours {
    pub(super) fn run(&mut self, op: &Op) -> Answer {
        let process = &self.process;
        let calls = process.calls();
        let cwd = linux::AT_FDCWD;
        // A file that was closed is nobody's to ask on either side.
        let slot = |slot: usize| self.open.get(slot).copied().flatten();
        macro_rules! slot {
            ($at:expr) => {
                match slot($at) {
                    Some(file) => file,
                    None => return Err(linux_raw_sys::errno::EBADF as i32),
                }
            };
        }
        let unit = |done: guest_files::Result<()>| number(done).map(|()| String::new());
        let stat = |stat: guest_files::Result<linux::stat>| {
            number(stat).map(|stat| show(stat.st_mode, stat.st_nlink, stat.st_size, stat.st_uid))
        };
        match op {
            Op::Open(path, flags, mode) => {
                let mut opening = Opening::default();
                let file = now(calls.openat(&mut opening, cwd, path.as_bytes(), *flags, *mode));
                let file = number(file)?;
                self.open.push(Some(file));
                Ok("open".into())
            }
            Op::Close(at) => {
                let done = number(calls.close(slot!(*at)));
                if let Some(open) = self.open.get_mut(*at) {
                    *open = None;
                }
                done.map(|()| String::new())
            }
            Op::Dup(at) => {
                let file = number(calls.dup(slot!(*at)))?;
                self.open.push(Some(file));
                Ok("dup".into())
            }
            Op::Read(at, count) => {
                number(process.read(slot!(*at), *count)).map(|bytes| digest(&bytes))
            }
            Op::Write(at, count, seed) => {
                number(process.write(slot!(*at), &bytes(*count, *seed))).map(|n| n.to_string())
            }
            Op::Pread(at, offset, count) => {
                let mut memory = vec![0; *count];
                let mut fill = Fill::new(&mut memory);
                let count = number(now(calls.pread(slot!(*at), *offset, &mut fill)))?;
                Ok(digest(&memory[..count]))
            }
            Op::Pwrite(at, offset, count, seed) => {
                let bytes = bytes(*count, *seed);
                let mut drain = Drain::new(&bytes);
                number(now(calls.pwrite(slot!(*at), *offset, &mut drain))).map(|n| n.to_string())
            }
            Op::Seek(at, offset, whence) => {
                number(now(calls.lseek(slot!(*at), *offset, *whence))).map(|at| at.to_string())
            }
            Op::Ftruncate(at, size) => unit(now(calls.ftruncate(slot!(*at), *size))),
            Op::Fallocate(at, mode, from, count) => {
                unit(now(calls.fallocate(slot!(*at), *mode, *from, *count)))
            }
            Op::Setfl(at, flags) => {
                let mut flags = guest_files::Number((*flags).into());
                let done = calls.fcntl(slot!(*at), linux::F_SETFL, &mut flags);
                number(done).map(|n| n.to_string())
            }
            Op::Getfl(at) => {
                let mut none = guest_files::Number(0);
                let done = calls.fcntl(slot!(*at), linux::F_GETFL, &mut none);
                number(done).map(|n| format!("{n:o}"))
            }
            Op::Fstat(at) => stat(calls.fstat(slot!(*at))),
            Op::Mkdir(path, mode) => unit(calls.mkdirat(cwd, path.as_bytes(), *mode)),
            Op::Mkfifo(path, mode) => {
                unit(calls.mknodat(cwd, path.as_bytes(), linux::S_IFIFO | mode, 0))
            }
            Op::Rmdir(path) => unit(calls.unlinkat(cwd, path.as_bytes(), linux::AT_REMOVEDIR)),
            Op::Unlink(path) => unit(calls.unlinkat(cwd, path.as_bytes(), 0)),
            Op::Link(old, new, flags) => {
                unit(calls.linkat(cwd, old.as_bytes(), cwd, new.as_bytes(), *flags))
            }
            Op::Symlink(target, path) => {
                unit(calls.symlinkat(target.as_bytes(), cwd, path.as_bytes()))
            }
            Op::Rename(old, new, flags) => {
                unit(calls.renameat2(cwd, old.as_bytes(), cwd, new.as_bytes(), *flags))
            }
            Op::Readlink(path) => {
                let mut memory = [0; 4096];
                let mut fill = Fill::new(&mut memory);
                let count = number(calls.readlinkat(cwd, path.as_bytes(), &mut fill))?;
                Ok(String::from_utf8_lossy(&memory[..count]).into_owned())
            }
            Op::Stat(path) => stat(calls.fstatat(cwd, path.as_bytes(), 0)),
            Op::Lstat(path) => {
                stat(calls.fstatat(cwd, path.as_bytes(), linux::AT_SYMLINK_NOFOLLOW))
            }
            Op::Access(path, mode) => {
                unit(calls.faccessat2(&self.first, cwd, path.as_bytes(), *mode, 0))
            }
            Op::Chmod(path, mode) => unit(calls.fchmodat(cwd, path.as_bytes(), *mode, 0)),
            Op::Names(path) => {
                let mut names = number(process.names(path))?;
                names.sort();
                Ok(names.join(" "))
            }
            Op::Chown(path, user, group, flags) => {
                unit(calls.fchownat(cwd, path.as_bytes(), *user, *group, *flags))
            }
            Op::Touch(path, now) => {
                let time = match now {
                    true => SetTime::Now,
                    false => SetTime::To(Time {
                        seconds: 5,
                        nanos: 7,
                    }),
                };
                unit(calls.utimensat(cwd, Some(path.as_bytes()), time, time, 0))
            }
            Op::Chdir(Some(path)) => unit(calls.chdir(path.as_bytes())),
            Op::Chdir(None) => unit(calls.chdir(BASE.as_bytes())),
            Op::Cwd => {
                let mut memory = [0; 4096];
                match calls.getcwd(&mut Fill::new(&mut memory)) {
                    Ok(count) => Ok(String::from_utf8_lossy(&memory[..count - 1]).into_owned()),
                    // It was removed.
                    Err(guest_files::Errno::ENOENT) => Ok("gone".into()),
                    Err(error) => Err(error.number()),
                }
            }
            Op::Pipe => {
                let pair = number(calls.pipe2(linux::O_NONBLOCK))?;
                self.open.extend(pair.map(Some));
                Ok("pipe".into())
            }
            Op::PipeSize(at, size) => {
                let mut size = guest_files::Number(*size as u64);
                let done = calls.fcntl(slot!(*at), linux::F_SETPIPE_SZ, &mut size);
                number(done).map(|size| size.to_string())
            }
            Op::Waiting(at) => {
                let mut count = Int(0);
                number(now(calls.ioctl(slot!(*at), ioctl::FIONREAD, &mut count)))?;
                Ok(count.0.to_string())
            }
            Op::Ready(at) => {
                let mut files = [pollfd {
                    fd: slot!(*at),
                    events: 0xff,
                    revents: 0,
                }];
                number(now(calls.poll(&mut files, Some(0))))?;
                Ok(format!("{:x}", files[0].revents))
            }
            Op::User(0) => {
                self.process.who = self.first.clone();
                Ok(String::new())
            }
            Op::User(user) => {
                self.process.who = Identity {
                    user: *user,
                    group: *user,
                    groups: Vec::new(),
                };
                Ok(String::new())
            }
        }
    }
}
