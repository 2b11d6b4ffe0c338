//! Names: `mkdirat`, `mknodat`, `symlinkat`, `linkat`, `unlinkat`, `renameat2`, `readlinkat`.

use linux_raw_sys::general as linux;

use super::Calls;
use crate::errno::{Errno, Result};
use crate::inode::{DeviceNumber, Kind, Rename};
use crate::mount::Place;
use crate::transfer::Sink;
use crate::walk::{EXECUTE, End, Last, READ, WRITE, Walk, may};

impl Calls<'_> {
    /// Makes a directory.
    ///
    /// # Errors
    /// Those of `mkdirat(2)`.
    pub fn mkdirat(&self, directory: i32, path: &[u8], mode: u32) -> Result<()> {
        // Set-user and set-group are not taken from here, sticky is.
        let mode = mode & 0o1777;
        self.make(directory, path, Kind::Directory, |place, name| {
            self.check_may_add(place)?;
            let none = DeviceNumber::default();
            let new = self.new_inode(place, Kind::Directory, mode, none, b"");
            place.inode.create(name, &new).map(drop)
        })
    }

    /// Makes a file, a named pipe, a socket's name or a device.
    ///
    /// # Errors
    /// Those of `mknodat(2)`.
    pub fn mknodat(&self, directory: i32, path: &[u8], mode: u32, device: u64) -> Result<()> {
        let kind = match mode & linux::S_IFMT {
            0 => Kind::File,
            linux::S_IFDIR => return Err(Errno::EPERM),
            _ => match Kind::of_mode(mode) {
                None | Some(Kind::Symlink) => return Err(Errno::EINVAL),
                Some(kind) => kind,
            },
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let device = match is_device {
            true => DeviceNumber::decode(device),
            false => DeviceNumber::default(),
        };
        self.make(directory, path, kind, |place, name| {
            self.check_may_add(place)?;
            if is_device && !self.who.is_root() {
                return Err(Errno::EPERM);
            }
            let new = self.new_inode(place, kind, mode, device, b"");
            place.inode.create(name, &new).map(drop)
        })
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// Those of `symlinkat(2)`.
    pub fn symlinkat(&self, target: &[u8], directory: i32, path: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target.len() >= linux::PATH_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        self.make(directory, path, Kind::Symlink, |place, name| {
            self.check_may_add(place)?;
            let none = DeviceNumber::default();
            let new = self.new_inode(place, Kind::Symlink, 0, none, target);
            place.inode.create(name, &new).map(drop)
        })
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// Those of `linkat(2)`.
    pub fn linkat(
        &self,
        from: i32,
        path: &[u8],
        to: i32,
        new_path: &[u8],
        flags: u32,
    ) -> Result<()> {
        if flags & !(linux::AT_SYMLINK_FOLLOW | linux::AT_EMPTY_PATH) != 0 {
            return Err(Errno::EINVAL);
        }
        let follow = flags & linux::AT_SYMLINK_FOLLOW != 0;
        let source = self.resolve(from, path, follow, flags)?;
        self.make(to, new_path, Kind::File, |place, name| {
            if !alloc::sync::Arc::ptr_eq(&place.mount, &source.mount) {
                return Err(Errno::EXDEV);
            }
            self.check_linkable(&source)?;
            self.check_may_add(place)?;
            if source.inode.kind() == Kind::Directory {
                return Err(Errno::EPERM);
            }
            place.inode.link(name, &*source.inode)
        })
    }

    /// Whether the caller may make a name in a directory (`may_create` in Linux' `fs/namei.c`).
    pub(super) fn check_may_add(&self, place: &Place) -> Result<()> {
        if place.is_removed() {
            return Err(Errno::ENOENT);
        }
        self.check(&place.inode, WRITE | EXECUTE)
    }

    /// Nobody gives names to what is another's and could not be changed or is a program of its
    /// rights: Linux' `fs.protected_hardlinks`, which distributions turn on.
    fn check_linkable(&self, source: &Place) -> Result<()> {
        let inode = source.inode.attributes();
        if self.who.is_root() || self.who.user == inode.user {
            return Ok(());
        }
        let takes_group = linux::S_ISGID | linux::S_IXGRP;
        let is_safe = inode.kind == Kind::File
            && inode.mode & linux::S_ISUID == 0
            && inode.mode & takes_group != takes_group
            && may(self.who, &inode, READ | WRITE).is_ok();
        match is_safe {
            true => Ok(()),
            false => Err(Errno::EPERM),
        }
    }

    /// Walks to where something is to be made, and has it made if the name is free.
    fn make(
        &self,
        directory: i32,
        path: &[u8],
        kind: Kind,
        make: impl FnOnce(&Place, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.with_walk(directory, path, |mut walk| {
            let end = walk.walk_to_last()?;
            let Last::Name(name) = &end.last else {
                return Err(Errno::EEXIST);
            };
            match walk.lookup(name.bytes()) {
                Ok(_) => return Err(Errno::EEXIST),
                Err(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
            if end.slash && kind != Kind::Directory {
                return Err(Errno::ENOENT);
            }
            Self::check_writable(&walk.place)?;
            make(&walk.place, name.bytes())
        })
    }

    /// Whether the caller may take a name from a directory (`may_delete` in Linux' `fs/namei.c`).
    fn check_removable(&self, place: &Place, victim: &Place) -> Result<()> {
        Self::check_writable(place)?;
        self.check(&place.inode, WRITE | EXECUTE)?;
        let around = place.inode.attributes();
        let sticky = around.mode & linux::S_ISVTX != 0;
        if sticky && !self.who.is_root() {
            let owner = victim.inode.attributes().user;
            if owner != self.who.user && around.user != self.who.user {
                return Err(Errno::EPERM);
            }
        }
        Ok(())
    }

    /// Takes a name away, or an empty directory with `AT_REMOVEDIR`.
    ///
    /// # Errors
    /// Those of `unlinkat(2)`.
    pub fn unlinkat(&self, directory: i32, path: &[u8], flags: u32) -> Result<()> {
        if flags & !linux::AT_REMOVEDIR != 0 {
            return Err(Errno::EINVAL);
        }
        let removes_directory = flags & linux::AT_REMOVEDIR != 0;
        self.with_walk(directory, path, |mut walk| {
            let end = walk.walk_to_last()?;
            let name = match &end.last {
                Last::Name(name) => name.bytes(),
                _ if !removes_directory => return Err(Errno::EISDIR),
                Last::Dot => return Err(Errno::EINVAL),
                Last::Up => return Err(Errno::ENOTEMPTY),
                Last::Root => return Err(Errno::EBUSY),
            };
            // What is mounted on it is not meant but in the way.
            let victim = walk.place.with(walk.place.inode.lookup(checked(name)?)?);
            let is_directory = victim.inode.kind() == Kind::Directory;
            if !removes_directory && end.slash {
                return Err(match is_directory {
                    true => Errno::EISDIR,
                    false => Errno::ENOTDIR,
                });
            }
            self.check_removable(&walk.place, &victim)?;
            match (removes_directory, is_directory) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                _ => {}
            }
            if is_directory && self.system.mounts.is_covered(&victim.inode) {
                return Err(Errno::EBUSY);
            }
            match removes_directory {
                true => walk.place.inode.remove_directory(name),
                false => walk.place.inode.unlink(name),
            }
        })
    }

    /// Gives something another name in place of the old one.
    ///
    /// # Errors
    /// Those of `renameat2(2)`.
    pub fn renameat2(
        &self,
        from: i32,
        path: &[u8],
        to: i32,
        new_path: &[u8],
        flags: u32,
    ) -> Result<()> {
        let how = match flags {
            0 => Rename::Replace,
            linux::RENAME_NOREPLACE => Rename::Keep,
            linux::RENAME_EXCHANGE => Rename::Exchange,
            _ => return Err(Errno::EINVAL),
        };
        self.with_walk(from, path, |mut old| {
            let old_end = old.walk_to_last()?;
            self.with_walk(to, new_path, |mut new| {
                let new_end = new.walk_to_last()?;
                self.rename_ends(&old, &old_end, &new, &new_end, how)
            })
        })
    }

    fn rename_ends(
        &self,
        old: &Walk<'_>,
        old_end: &End<'_>,
        new: &Walk<'_>,
        new_end: &End<'_>,
        how: Rename,
    ) -> Result<()> {
        if !alloc::sync::Arc::ptr_eq(&old.place.mount, &new.place.mount) {
            return Err(Errno::EXDEV);
        }
        let Last::Name(name) = &old_end.last else {
            return Err(Errno::EBUSY);
        };
        let Last::Name(new_name) = &new_end.last else {
            return Err(match how {
                Rename::Keep => Errno::EEXIST,
                _ => Errno::EBUSY,
            });
        };
        let (name, new_name) = (name.bytes(), new_name.bytes());
        Self::check_writable(&old.place)?;
        let lookup = |place: &Place, name: &[u8]| {
            let inode = place.inode.lookup(checked(name)?)?;
            Ok(place.with(inode))
        };
        let moved = lookup(&old.place, name)?;
        let there = match lookup(&new.place, new_name) {
            Ok(_) if how == Rename::Keep => return Err(Errno::EEXIST),
            Ok(there) => Some(there),
            Err(Errno::ENOENT) if how != Rename::Exchange => None,
            Err(error) => return Err(error),
        };
        let is_directory = moved.inode.kind() == Kind::Directory;
        let there_is_directory = there
            .as_ref()
            .is_some_and(|there| there.inode.kind() == Kind::Directory);
        if how == Rename::Exchange {
            if new_end.slash && !there_is_directory {
                return Err(Errno::ENOTDIR);
            }
            if old_end.slash && !is_directory {
                return Err(Errno::ENOTDIR);
            }
        } else if !is_directory && (old_end.slash || new_end.slash) {
            return Err(Errno::ENOTDIR);
        }
        if is_directory && contains(&moved, &new.place) {
            return Err(Errno::EINVAL);
        }
        if let Some(there) = &there
            && there_is_directory
            && contains(there, &old.place)
        {
            return Err(match how {
                Rename::Exchange => Errno::EINVAL,
                _ => Errno::ENOTEMPTY,
            });
        }
        if there.as_ref().is_some_and(|there| there.is(&moved)) {
            return Ok(());
        }
        self.check_removable(&old.place, &moved)?;
        match &there {
            None => self.check_may_add(&new.place)?,
            Some(there) => {
                self.check_removable(&new.place, there)?;
                match (is_directory, there_is_directory) {
                    _ if how == Rename::Exchange => {}
                    (true, false) => return Err(Errno::ENOTDIR),
                    (false, true) => return Err(Errno::EISDIR),
                    _ => {}
                }
            }
        }
        // A directory that moves has another `..`: that is a change to it.
        if !old.place.is(&new.place) {
            if is_directory {
                self.check(&moved.inode, WRITE)?;
            }
            if let (Rename::Exchange, true, Some(there)) = (how, there_is_directory, &there) {
                self.check(&there.inode, WRITE)?;
            }
        }
        let covered = |place: &Place| self.system.mounts.is_covered(&place.inode);
        if covered(&moved) || there.as_ref().is_some_and(covered) {
            return Err(Errno::EBUSY);
        }
        old.place
            .inode
            .rename(name, &*new.place.inode, new_name, how)
    }

    /// Reads where a symbolic link leads, as much as fits, and returns how much that is.
    ///
    /// # Errors
    /// Those of `readlinkat(2)`.
    pub fn readlinkat(&self, directory: i32, path: &[u8], to: &mut dyn Sink) -> Result<usize> {
        if to.room() == 0 {
            return Err(Errno::EINVAL);
        }
        let place = self.resolve(directory, path, false, linux::AT_EMPTY_PATH)?;
        if place.inode.kind() != Kind::Symlink {
            return Err(match path.is_empty() {
                true => Errno::ENOENT,
                false => Errno::EINVAL,
            });
        }
        let text = match place.inode.follow(&self.call()) {
            Some(target) => self.path_of(&target?)?.into(),
            None => place.inode.target(&self.call())?,
        };
        let count = text.len().min(to.room());
        match to.put(&text[..count]) {
            copied if copied == count => Ok(count),
            _ => Err(Errno::EFAULT),
        }
    }

    /// The path of a place as the caller sees it, with what Linux adds if it has none any more.
    fn path_of(&self, place: &Place) -> Result<alloc::vec::Vec<u8>> {
        let (mut path, _) = place.path(&self.view.root())?;
        if place.inode.label().is_none() && place.is_removed() {
            path.extend_from_slice(b" (deleted)");
        }
        Ok(path)
    }
}

/// A name that is not too long.
fn checked(name: &[u8]) -> Result<&[u8]> {
    match name.len() > linux::NAME_MAX as usize {
        true => Err(Errno::ENAMETOOLONG),
        false => Ok(name),
    }
}

/// Whether `inner` is `outer` or somewhere in it.
fn contains(outer: &Place, inner: &Place) -> bool {
    let mut at = Some(inner.inode.clone());
    while let Some(inode) = at {
        if crate::mount::is_same(&inode, &outer.inode) {
            return true;
        }
        at = inode.parent();
    }
    false
}
