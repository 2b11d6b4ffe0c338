//! Directories: `getdents64`, `chdir`, `fchdir`, `chroot`, `getcwd`, `mount`, `umount2`.

use alloc::sync::Arc;
use core::mem::offset_of;
use core::task::Poll;

use linux_raw_sys::general::{self as linux, linux_dirent64};

use super::Calls;
use crate::errno::{Errno, Result};
use crate::inode::{Entry, FileSystem, Kind};
use crate::mount::Place;
use crate::transfer::Sink;
use crate::walk::EXECUTE;

/// The longest record: its fields, a name and its end.
const MOST: usize = 512;
const _: () = assert!(offset_of!(linux_dirent64, d_name) + linux::NAME_MAX as usize + 8 <= MOST);

impl Calls<'_> {
    /// Reads entries of a directory, as many as fit, and returns their bytes.
    ///
    /// # Errors
    /// Those of `getdents64(2)`.
    pub fn getdents64(&self, descriptor: i32, to: &mut dyn Sink) -> Poll<Result<usize>> {
        let file = match self.descriptors.get(descriptor) {
            Ok(file) => file,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let mut done = 0;
        let mut stop = None;
        let root = self.view.root();
        let read = file.entries(&self.call(), &root, &mut |entry| {
            let mut record = [0; MOST];
            let length = encode(&entry, &mut record);
            if to.room() < length {
                stop = Some(Errno::EINVAL);
                return false;
            }
            if to.put(&record[..length]) < length {
                stop = Some(Errno::EFAULT);
                return false;
            }
            done += length;
            true
        });
        read.map(|read| match stop {
            Some(error) if done == 0 => Err(error),
            _ => read.map(|()| done),
        })
    }

    /// Changes the current directory.
    ///
    /// # Errors
    /// Those of `chdir(2)`.
    pub fn chdir(&self, path: &[u8]) -> Result<()> {
        let place = self.resolve(linux::AT_FDCWD, path, true, 0)?;
        self.view.set_current(self.enterable(place)?);
        Ok(())
    }

    /// Changes the current directory to a descriptor's.
    ///
    /// # Errors
    /// Those of `fchdir(2)`.
    pub fn fchdir(&self, descriptor: i32) -> Result<()> {
        let place = self.descriptors.get(descriptor)?.place.clone();
        self.view.set_current(self.enterable(place)?);
        Ok(())
    }

    /// Changes the root.
    ///
    /// # Errors
    /// Those of `chroot(2)`.
    pub fn chroot(&self, path: &[u8]) -> Result<()> {
        let place = self.enterable(self.resolve(linux::AT_FDCWD, path, true, 0)?)?;
        if !self.who.is_root() {
            return Err(Errno::EPERM);
        }
        self.view.set_root(place);
        Ok(())
    }

    fn enterable(&self, place: Place) -> Result<Place> {
        if place.inode.kind() != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        self.check(&place.inode, EXECUTE)?;
        Ok(place)
    }

    /// Puts the path of the current directory and a zero, and returns their bytes.
    ///
    /// # Errors
    /// `ENOENT` if it was removed, `ERANGE` if there is no room, `ENAMETOOLONG`.
    pub fn getcwd(&self, to: &mut dyn Sink) -> Result<usize> {
        let current = self.view.current();
        if current.is_removed() {
            return Err(Errno::ENOENT);
        }
        let (mut path, reached) = current.path(&self.view.root())?;
        if !reached {
            path.splice(0..0, *b"(unreachable)");
        }
        path.push(0);
        if path.len() > linux::PATH_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        if path.len() > to.room() {
            return Err(Errno::ERANGE);
        }
        match to.put(&path) {
            count if count == path.len() => Ok(count),
            _ => Err(Errno::EFAULT),
        }
    }

    /// Lays a file system over the directory at `path`.
    ///
    /// # Errors
    /// `EPERM` for all but root, and those of paths.
    pub fn mount(
        &self,
        fs: Arc<dyn FileSystem>,
        source: &'static str,
        path: &[u8],
        read_only: bool,
    ) -> Result<()> {
        if !self.who.is_root() {
            return Err(Errno::EPERM);
        }
        let over = self.resolve(linux::AT_FDCWD, path, true, 0)?;
        self.system.mounts.add(over, fs, source, read_only)
    }

    /// Takes away what is mounted at `path`.
    ///
    /// # Errors
    /// `EPERM` for all but root, `EINVAL` if nothing is, `EBUSY` while it is used.
    pub fn umount(&self, path: &[u8]) -> Result<()> {
        if !self.who.is_root() {
            return Err(Errno::EPERM);
        }
        let place = self.resolve(linux::AT_FDCWD, path, true, 0)?;
        self.system.mounts.remove(place)
    }
}

/// Makes the record of an entry, and returns its length: a multiple of 8.
fn encode(entry: &Entry<'_>, record: &mut [u8; MOST]) -> usize {
    const NAME: usize = offset_of!(linux_dirent64, d_name);
    let name = &entry.name[..entry.name.len().min(linux::NAME_MAX as usize)];
    let length = (NAME + name.len() + 1).next_multiple_of(8);
    let mut put = |at: usize, bytes: &[u8]| record[at..][..bytes.len()].copy_from_slice(bytes);
    put(
        offset_of!(linux_dirent64, d_ino),
        &entry.number.to_ne_bytes(),
    );
    put(
        offset_of!(linux_dirent64, d_off),
        &(entry.next as i64).to_ne_bytes(),
    );
    put(
        offset_of!(linux_dirent64, d_reclen),
        &(length as u16).to_ne_bytes(),
    );
    put(
        offset_of!(linux_dirent64, d_type),
        &[entry.kind.entry_type()],
    );
    put(NAME, name);
    length
}
