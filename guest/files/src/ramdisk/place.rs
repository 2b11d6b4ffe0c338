//! Making what an archive describes, by the calls that any program would use.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::Poll;

use linux_raw_sys::general as linux;

use super::input::{Bytes, Input};
use super::newc::Header;
use super::{Contents, Problem, Refusal};
use crate::calls::{Calls, Opening};
use crate::errno::{Errno, Result as Done};
use crate::file::OpenFile;
use crate::host::{Call, Time};
use crate::inode::{Change, Inode, Kind};
use crate::kernel::Own;
use crate::system::System;
use crate::transfer::Drain;

/// A file of an archive that may have more names there.
type LinkKey = (u32, u32, u32);

/// The tree that is being made.
pub(super) struct Tree<'a> {
    own: Own<'a>,
    /// What has several names, and the first of them.
    links: BTreeMap<LinkKey, Vec<u8>>,
    /// Directories, whose times are set when nothing more comes into them.
    directories: Vec<(Arc<dyn Inode>, u32)>,
    contents: Contents,
    /// The file that it is at.
    name: Vec<u8>,
}

/// What cannot happen to the kernel alone, which nobody makes wait.
fn at_once<T>(done: Poll<Done<T>>) -> Result<T, Problem> {
    match done {
        Poll::Ready(done) => done.map_err(Problem::Refused),
        Poll::Pending => Err(Problem::Refused(Errno::EAGAIN)),
    }
}

impl<'a> Tree<'a> {
    pub(super) fn new(system: &'a System) -> Self {
        Self {
            own: Own::new(system),
            links: BTreeMap::new(),
            directories: Vec::new(),
            contents: Contents::default(),
            name: Vec::new(),
        }
    }

    fn calls(&self) -> Calls<'_> {
        self.own.calls()
    }

    /// An archive begins: inodes are numbered anew.
    pub(super) fn begin(&mut self) {
        self.contents.archives += 1;
        self.links.clear();
        self.name.clear();
    }

    pub(super) fn refusal(&self, problem: Problem, at: u64) -> Refusal {
        Refusal {
            problem,
            name: self.name.clone(),
            archive: self.contents.archives.max(1),
            at,
        }
    }

    /// All is there.
    pub(super) fn finish(self) -> Contents {
        for (inode, modified) in &self.directories {
            // A file system that keeps no times is none that refuses the root.
            let _ = inode.change(&Change {
                modified: Some(time(*modified)),
                ..Default::default()
            });
        }
        self.contents
    }

    /// Makes a file of an archive, and takes its data from there.
    pub(super) fn add<B: Bytes>(
        &mut self,
        header: &Header,
        input: &mut Input<B>,
    ) -> Result<(), Problem> {
        self.name.clone_from(&header.name);
        let path = below_root(&header.name).ok_or(Problem::NamePath)?;
        let most = match header.kind {
            Kind::File => u32::MAX,
            Kind::Symlink => linux::PATH_MAX - 1,
            _ => 0,
        };
        if header.size > most {
            return Err(Problem::Size(header.size));
        }
        match header.kind {
            Kind::Directory => self.add_directory(header, &path)?,
            Kind::File => self.add_file(header, &path, input)?,
            Kind::Symlink => self.add_symlink(header, &path, input)?,
            _ => self.add_node(header, &path)?,
        }
        self.contents.names += 1;
        self.contents.bytes += u64::from(header.size);
        self.name.clear();
        Ok(())
    }

    /// Takes away what is at `path`, unless it is of a kind that stays. Whether something is left.
    fn make_way(&self, path: &[u8], stays: Option<Kind>) -> Result<bool, Problem> {
        let there = self
            .calls()
            .fstatat(linux::AT_FDCWD, path, linux::AT_SYMLINK_NOFOLLOW);
        let there = match there {
            Ok(there) => Kind::of_mode(there.st_mode),
            Err(Errno::ENOENT) => return Ok(false),
            Err(error) => return Err(Problem::Refused(error)),
        };
        if there == stays {
            return Ok(true);
        }
        let flags = match there {
            Some(Kind::Directory) => linux::AT_REMOVEDIR,
            _ => 0,
        };
        let removed = self.calls().unlinkat(linux::AT_FDCWD, path, flags);
        removed.map_err(Problem::Refused)?;
        Ok(false)
    }

    fn add_directory(&mut self, header: &Header, path: &[u8]) -> Result<(), Problem> {
        if !self.make_way(path, Some(Kind::Directory))? {
            let made = self.calls().mkdirat(linux::AT_FDCWD, path, 0o700);
            made.map_err(Problem::Refused)?;
        }
        self.set_attributes(header, path)?;
        let file = self.open(path, linux::O_RDONLY | linux::O_DIRECTORY)?;
        self.directories
            .try_reserve(1)
            .map_err(|_| Problem::Memory)?;
        self.directories
            .push((file.place.inode.clone(), header.modified));
        Ok(())
    }

    fn add_file<B: Bytes>(
        &mut self,
        header: &Header,
        path: &[u8],
        input: &mut Input<B>,
    ) -> Result<(), Problem> {
        let mut flags = linux::O_WRONLY | linux::O_CREAT | linux::O_NOFOLLOW;
        // A further name of a file comes without its data, or brings the data that is its last.
        if !self.add_link(header, path)? || header.size > 0 {
            flags |= linux::O_TRUNC;
            self.make_way(path, Some(Kind::File))?;
        }
        let file = self.open(path, flags)?;
        if header.sum.is_none()
            && header.size > 0
            && let Some(bytes) = input.lasting(header.size as usize)
        {
            let kept = file.place.inode.keep(bytes);
            kept.map_err(Problem::Refused)?;
            return self.set_attributes(header, path);
        }
        let calls = self.calls();
        let call = Call {
            caller: calls.caller,
            who: calls.who,
            waker: calls.waker,
            nonblock: false,
            began: calls.began,
        };
        let mut sum = 0_u32;
        input.each(header.size.into(), &mut |piece| {
            if header.sum.is_some() {
                for &byte in piece {
                    sum = sum.wrapping_add(byte.into());
                }
            }
            let written = at_once(file.write(&call, None, &mut Drain::new(piece)))?;
            match written == piece.len() {
                true => Ok(()),
                false => Err(Problem::Refused(Errno::ENOSPC)),
            }
        })?;
        if header.sum.is_some_and(|said| said != sum) {
            return Err(Problem::Sum);
        }
        self.set_attributes(header, path)
    }

    fn add_symlink<B: Bytes>(
        &mut self,
        header: &Header,
        path: &[u8],
        input: &mut Input<B>,
    ) -> Result<(), Problem> {
        let mut target = Vec::new();
        let size = header.size as usize;
        target
            .try_reserve_exact(size)
            .map_err(|_| Problem::Memory)?;
        target.resize(size, 0);
        input.fill(&mut target)?;
        // Some archives count the zero at its end.
        let end = target.iter().position(|&byte| byte == 0);
        let target = &target[..end.unwrap_or(target.len())];
        let make = |tree: &Self| tree.calls().symlinkat(target, linux::AT_FDCWD, path);
        let made = match make(self) {
            // Of the many that most archives have hardly one is in the way of another.
            Err(Errno::EEXIST) => {
                self.make_way(path, None)?;
                make(self)
            }
            made => made,
        };
        made.map_err(Problem::Refused)?;
        self.set_attributes(header, path)
    }

    fn add_node(&mut self, header: &Header, path: &[u8]) -> Result<(), Problem> {
        self.make_way(path, None)?;
        if !self.add_link(header, path)? {
            let mode = header.kind.bits() | header.mode;
            let device = header.device.encoded();
            let made = self.calls().mknodat(linux::AT_FDCWD, path, mode, device);
            made.map_err(Problem::Refused)?;
        }
        self.set_attributes(header, path)
    }

    /// Makes a further name of a file that the archive had before. Whether it was one.
    fn add_link(&mut self, header: &Header, path: &[u8]) -> Result<bool, Problem> {
        if header.links < 2 {
            return Ok(false);
        }
        let Some(first) = self.links.get(&header.inode) else {
            let path = path.into();
            self.links.insert(header.inode, path);
            return Ok(false);
        };
        if first != path {
            self.make_way(path, None)?;
            let linked = self
                .calls()
                .linkat(linux::AT_FDCWD, first, linux::AT_FDCWD, path, 0);
            linked.map_err(Problem::Refused)?;
        }
        Ok(true)
    }

    fn open(&self, path: &[u8], flags: u32) -> Result<Arc<OpenFile>, Problem> {
        let mut opening = Opening::default();
        at_once(
            self.calls()
                .open_file(&mut opening, linux::AT_FDCWD, path, flags, 0o600),
        )
    }

    /// Sets whose it is, its rights and when it changed: as root may, and so without asking.
    fn set_attributes(&self, header: &Header, path: &[u8]) -> Result<(), Problem> {
        let set = || {
            let place = self.calls().resolve(linux::AT_FDCWD, path, false, 0)?;
            place.inode.change(&Change {
                mode: (header.kind != Kind::Symlink).then_some(header.mode),
                user: Some(header.user),
                group: Some(header.group),
                modified: Some(time(header.modified)),
                accessed: None,
            })
        };
        set().map_err(Problem::Refused)
    }
}

fn time(seconds: u32) -> Time {
    Time {
        seconds: seconds.into(),
        nanos: 0,
    }
}

/// The path of an archive's name from the root on; `None` if it does not lead below that.
fn below_root(name: &[u8]) -> Option<Vec<u8>> {
    if name.is_empty() || name[0] == b'/' {
        return None;
    }
    let mut path = Vec::new();
    path.try_reserve_exact(name.len() + 1).ok()?;
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b".." => return None,
            b"" | b"." => {}
            _ => {
                path.push(b'/');
                path.extend_from_slice(part);
            }
        }
    }
    if path.is_empty() {
        path.push(b'/');
    }
    Some(path)
}
