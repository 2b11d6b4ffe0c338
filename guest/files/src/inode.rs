//! The seam to a file system: inodes, and what can be asked of them.
//!
//! What needs no knowledge of a file system (paths, symbolic links, rights, mounts, open files) is
//! done above it, once. A file system holds names and data, and keeps them whole when several ask
//! at once: what was looked up a moment ago may be gone, so each method checks for itself.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::task::{Poll, Waker};

use linux_raw_sys::general as linux;

use crate::errno::{Errno, Result};
use crate::file::File;
use crate::host::{Call, Page, Time};
use crate::transfer::{Sink, Source};
use crate::writers::Writers;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device of characters.
    CharDevice,
    /// A device of blocks.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    /// As the upper bits of `st_mode` have it.
    pub const fn bits(self) -> u32 {
        match self {
            Self::File => linux::S_IFREG,
            Self::Directory => linux::S_IFDIR,
            Self::Symlink => linux::S_IFLNK,
            Self::CharDevice => linux::S_IFCHR,
            Self::BlockDevice => linux::S_IFBLK,
            Self::Fifo => linux::S_IFIFO,
            Self::Socket => linux::S_IFSOCK,
        }
    }

    /// The kind in `mode`; `None` if it names none.
    pub const fn of_mode(mode: u32) -> Option<Self> {
        Some(match mode & linux::S_IFMT {
            linux::S_IFREG => Self::File,
            linux::S_IFDIR => Self::Directory,
            linux::S_IFLNK => Self::Symlink,
            linux::S_IFCHR => Self::CharDevice,
            linux::S_IFBLK => Self::BlockDevice,
            linux::S_IFIFO => Self::Fifo,
            linux::S_IFSOCK => Self::Socket,
            _ => return None,
        })
    }

    /// As a directory's entry has it (`d_type`).
    pub const fn entry_type(self) -> u8 {
        // Linux defines the one by the other (`include/linux/fs_types.h`).
        (self.bits() >> 12) as u8
    }
}

/// The number of a device, as programs see it in `st_rdev`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceNumber {
    /// Which driver.
    pub major: u32,
    /// Which device of it.
    pub minor: u32,
}

impl DeviceNumber {
    /// The number of a device.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// As `stat` and `mknod` encode it (`new_encode_dev` in Linux' `include/linux/kdev_t.h`).
    pub const fn encoded(self) -> u64 {
        (self.minor & 0xff) as u64
            | ((self.major as u64) & 0xfff) << 8
            | ((self.minor & !0xff) as u64) << 12
    }

    /// The number that is encoded so.
    pub const fn decode(encoded: u64) -> Self {
        Self {
            major: ((encoded >> 8) & 0xfff) as u32,
            minor: ((encoded & 0xff) | ((encoded >> 12) & 0xfff00)) as u32,
        }
    }
}

/// What `stat` tells of an inode.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// Its number in its file system.
    pub number: u64,
    /// The number of its file system.
    pub device: u64,
    /// What it is.
    pub kind: Kind,
    /// The rights, and the bits set-user, set-group and sticky: twelve bits.
    pub mode: u32,
    /// How many names it has.
    pub links: u32,
    /// Whose it is.
    pub user: u32,
    /// Whose group's it is.
    pub group: u32,
    /// Which device it stands for.
    pub names_device: DeviceNumber,
    /// Bytes.
    pub size: u64,
    /// 512-byte units of memory or disk.
    pub blocks: u64,
    /// When it was read last.
    pub accessed: Time,
    /// When its data changed last.
    pub modified: Time,
    /// When these attributes changed last.
    pub changed: Time,
    /// When it was made.
    pub born: Time,
}

/// What to change of an inode's attributes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// The twelve bits.
    pub mode: Option<u32>,
    /// The owner.
    pub user: Option<u32>,
    /// The owning group.
    pub group: Option<u32>,
    /// When it was read last.
    pub accessed: Option<Time>,
    /// When its data changed last.
    pub modified: Option<Time>,
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// Its kind.
    pub kind: Kind,
    /// The twelve bits.
    pub mode: u32,
    /// Whose it is.
    pub user: u32,
    /// Whose group's.
    pub group: u32,
    /// Which device, for one.
    pub device: DeviceNumber,
    /// Where to, for a symbolic link.
    pub target: &'a [u8],
}

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The inode's number.
    pub number: u64,
    /// The inode's kind.
    pub kind: Kind,
    /// From where to go on behind this entry.
    pub next: u64,
}

/// Where the first entry of a directory is; those below are `.` and `..`.
pub const FIRST_ENTRY: u64 = 2;

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// To a byte of the file.
    At(u64),
    /// To its end, wherever that is by then.
    End,
}

/// How to rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// What has the new name gives way.
    Replace,
    /// What has the new name is in the way: `EEXIST`.
    Keep,
    /// The two change places.
    Exchange,
}

/// What `fallocate` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Has memory for a range, and grows the file.
    Grow,
    /// Has memory for a range, and leaves the size.
    KeepSize,
    /// Clears a range and gives back its memory.
    Punch,
    /// Clears a range, and grows the file.
    Zero,
}

/// An inode. What its kind cannot do says so by default.
pub trait Inode: Any + Send + Sync {
    /// What `stat` tells.
    fn attributes(&self) -> Attributes;

    /// Its kind, which never changes.
    fn kind(&self) -> Kind {
        self.attributes().kind
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// Those of the file system, such as `EROFS`.
    fn change(&self, change: &Change) -> Result<()>;

    /// What opening it gives; `None` for what its kind says: its data, a pipe, a device by number.
    ///
    /// # Errors
    /// Those of the file system.
    fn open(&self, _call: &Call<'_>, _flags: u32) -> Result<Option<Arc<dyn File>>> {
        Ok(None)
    }

    /// The inode that a name stands for; never asked for `.` or `..`.
    ///
    /// # Errors
    /// `ENOENT` without it, `ENOTDIR` of what is no directory.
    fn lookup(&self, _name: &[u8]) -> Result<Arc<dyn Inode>> {
        Err(Errno::ENOTDIR)
    }

    /// The directory around it and its name there, as far as it is known: the last name that it got.
    /// `None` for a root.
    fn place(&self) -> Option<(Arc<dyn Inode>, Vec<u8>)> {
        None
    }

    /// The directory around it, for `..`; `None` for a root.
    fn parent(&self) -> Option<Arc<dyn Inode>> {
        self.place().map(|(parent, _)| parent)
    }

    /// What it is called, if it lies in no directory: `pipe:[12]`.
    fn label(&self) -> Option<Vec<u8>> {
        None
    }

    /// Makes something.
    ///
    /// # Errors
    /// `EEXIST` if the name is taken, `ENOENT` if the directory was removed, `ENOSPC`.
    fn create(&self, _name: &[u8], _new: &New<'_>) -> Result<Arc<dyn Inode>> {
        Err(Errno::EPERM)
    }

    /// Gives an inode of this file system another name.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT` if either was removed, `EPERM` for a directory, `EMLINK`, `ENOSPC`.
    fn link(&self, _name: &[u8], _inode: &dyn Inode) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Takes a name from what is no directory.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`.
    fn unlink(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`.
    fn remove_directory(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Gives what has `name` here the name `new_name` in the directory `to` of the same file
    /// system.
    ///
    /// # Errors
    /// Those of `rename(2)`.
    fn rename(&self, _name: &[u8], _to: &dyn Inode, _new: &[u8], _how: Rename) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Calls `each` with the entries from position `from` on, until it returns `false`. `each`
    /// must not call back.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOENT` if the directory was removed.
    fn entries(&self, _from: u64, _each: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        Err(Errno::ENOTDIR)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// `EINVAL` of what is none.
    fn target(&self, _call: &Call<'_>) -> Result<Arc<[u8]>> {
        Err(Errno::EINVAL)
    }

    /// What following a symbolic link gives, where that is not what its text says: links such as
    /// `/proc/self/exe`.
    fn follow(&self, _call: &Call<'_>) -> Option<Result<crate::mount::Place>> {
        None
    }

    /// Reads data from byte `at` on; 0 bytes at the end.
    ///
    /// # Errors
    /// `EFAULT` if no byte could be put where it should.
    fn read(&self, _at: u64, _to: &mut dyn Sink) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes data, and returns where and how much. `Poll::Pending` while another writes.
    ///
    /// # Errors
    /// `EFBIG`, `ENOSPC`, `EFAULT`.
    fn write(
        &self,
        _waker: &Waker,
        _at: Where,
        _limit: u64,
        _from: &mut dyn Source,
    ) -> Poll<Result<(u64, usize)>> {
        Poll::Ready(Err(Errno::EINVAL))
    }

    /// Cuts the data off at `size`, or adds a hole up to there. `Poll::Pending` while another
    /// writes.
    ///
    /// # Errors
    /// `EINVAL` of what has no data, `EFBIG`.
    fn truncate(&self, _waker: &Waker, _size: u64) -> Poll<Result<()>> {
        Poll::Ready(Err(Errno::EINVAL))
    }

    /// Does what `fallocate` asks for `count` bytes from byte `at` on.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where it cannot be done, `ENOSPC`, `EFBIG`.
    fn allocate(&self, _waker: &Waker, _how: Allocate, _at: u64, _count: u64) -> Poll<Result<()>> {
        Poll::Ready(Err(Errno::EOPNOTSUPP))
    }

    /// The next byte from `at` on that is data, or that is in a hole.
    ///
    /// # Errors
    /// `ENXIO` behind the last of them.
    fn seek(&self, at: u64, data: bool) -> Result<u64> {
        let size = self.attributes().size;
        if at >= size {
            return Err(Errno::ENXIO);
        }
        Ok(if data { at } else { size })
    }

    /// The page of data that begins at byte `index * 4096`, to map it: `None` for a hole, unless
    /// `make` has it filled by zeros.
    ///
    /// # Errors
    /// `ENODEV` of what cannot be mapped, `ENOSPC`; `EFAULT` behind the file's last page.
    fn page(&self, _index: u64, _make: bool) -> Result<Option<Arc<dyn Page>>> {
        Err(Errno::ENODEV)
    }

    /// Has an empty file hold bytes that lie somewhere for good, without a copy of them as long as nobody
    /// changes or maps them.
    ///
    /// # Errors
    /// `EINVAL` of what cannot, or is not empty; `ENOSPC`.
    fn keep(&self, _bytes: &'static [u8]) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// Who writes to its data and who runs it; `None` for what no program is made of.
    fn writers(&self) -> Option<&Writers> {
        None
    }
}

/// What `statfs` tells of a file system.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Its magic number.
    pub magic: u32,
    /// Bytes of a block.
    pub block: u64,
    /// Blocks in all; 0 for no limit.
    pub blocks: u64,
    /// Blocks that are free.
    pub free: u64,
    /// Inodes in all; 0 for no limit.
    pub inodes: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
}

/// A file system.
pub trait FileSystem: Send + Sync {
    /// Its name in `/proc/mounts`, such as `tmpfs`.
    fn name(&self) -> &'static str;
    /// Its root.
    fn root(&self) -> Arc<dyn Inode>;
    /// What `statfs` tells.
    fn usage(&self) -> Usage;
    /// Makes a file that has no name, and is gone with the last who has it open; `name` is what it is shown
    /// by.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where there are none, `ENOSPC`.
    fn nameless(&self, _name: &[u8], _new: &New<'_>) -> Result<Arc<dyn Inode>> {
        Err(Errno::EOPNOTSUPP)
    }
}
