//! Attributes: `stat`, `statx`, `statfs`, `faccessat2`, `fchmodat2`, `fchownat`, `utimensat`.

use linux_raw_sys::general as linux;

use super::Calls;
use crate::errno::{Errno, Result};
use crate::host::{Identity, PAGE, Time};
use crate::inode::{Attributes, Change, DeviceNumber, Kind, Usage};
use crate::mount::Place;
use crate::walk::{EXECUTE, READ, WRITE, may};

/// What `utimensat` does to a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// It becomes the present (`UTIME_NOW`).
    Now,
    /// It stays (`UTIME_OMIT`).
    Keep,
    /// It becomes this.
    To(Time),
}

impl SetTime {
    /// As a program says it, by a `timespec`.
    ///
    /// # Errors
    /// `EINVAL` for nanoseconds that there are not.
    pub fn from_program(seconds: i64, nanos: i64) -> Result<Self> {
        match u32::try_from(nanos) {
            Ok(linux::UTIME_NOW) => Ok(Self::Now),
            Ok(linux::UTIME_OMIT) => Ok(Self::Keep),
            Ok(nanos) if nanos < 1_000_000_000 => Ok(Self::To(Time { seconds, nanos })),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl Calls<'_> {
    /// What a descriptor's file is (`fstat`).
    ///
    /// # Errors
    /// `EBADF`.
    pub fn fstat(&self, descriptor: i32) -> Result<linux::stat> {
        let file = self.descriptors.get(descriptor)?;
        Ok(stat_of(&file.place.inode.attributes()))
    }

    /// What a path leads to (`newfstatat`).
    ///
    /// # Errors
    /// Those of `fstatat(2)`.
    pub fn fstatat(&self, directory: i32, path: &[u8], flags: u32) -> Result<linux::stat> {
        const KNOWN: u32 =
            linux::AT_SYMLINK_NOFOLLOW | linux::AT_NO_AUTOMOUNT | linux::AT_EMPTY_PATH;
        if flags & !KNOWN != 0 {
            return Err(Errno::EINVAL);
        }
        let follow = flags & linux::AT_SYMLINK_NOFOLLOW == 0;
        let place = self.resolve(directory, path, follow, flags)?;
        Ok(stat_of(&place.inode.attributes()))
    }

    /// What a path leads to, with more of it (`statx`). All that is known is told, whatever was
    /// asked for.
    ///
    /// # Errors
    /// Those of `statx(2)`.
    pub fn statx(
        &self,
        directory: i32,
        path: &[u8],
        flags: u32,
        mask: u32,
    ) -> Result<linux::statx> {
        const KNOWN: u32 = linux::AT_SYMLINK_NOFOLLOW
            | linux::AT_NO_AUTOMOUNT
            | linux::AT_EMPTY_PATH
            | linux::AT_STATX_SYNC_TYPE;
        let sync = flags & linux::AT_STATX_SYNC_TYPE;
        if mask & linux::STATX__RESERVED != 0
            || flags & !KNOWN != 0
            || sync == linux::AT_STATX_SYNC_TYPE
        {
            return Err(Errno::EINVAL);
        }
        let follow = flags & linux::AT_SYMLINK_NOFOLLOW == 0;
        let place = self.resolve(directory, path, follow, flags)?;
        Ok(statx_of(&place.inode.attributes()))
    }

    /// What the file system of a path is, and how full (`statfs`).
    ///
    /// # Errors
    /// Those of `statfs(2)`.
    pub fn statfs(&self, path: &[u8]) -> Result<linux::statfs> {
        let place = self.resolve(linux::AT_FDCWD, path, true, 0)?;
        Ok(statfs_of(&place))
    }

    /// The same of a descriptor's file (`fstatfs`).
    ///
    /// # Errors
    /// `EBADF`.
    pub fn fstatfs(&self, descriptor: i32) -> Result<linux::statfs> {
        Ok(statfs_of(&self.descriptors.get(descriptor)?.place))
    }

    /// Whether `real`, the caller by its real ids, may do something with a file (`faccessat2`).
    ///
    /// # Errors
    /// `EACCES` if not, and those of `faccessat2(2)`.
    pub fn faccessat2(
        &self,
        real: &Identity,
        directory: i32,
        path: &[u8],
        mode: u32,
        flags: u32,
    ) -> Result<()> {
        const KNOWN: u32 = linux::AT_EACCESS | linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH;
        if mode & !(READ | WRITE | EXECUTE) != 0 || flags & !KNOWN != 0 {
            return Err(Errno::EINVAL);
        }
        let who = match flags & linux::AT_EACCESS {
            0 => real,
            _ => self.who,
        };
        let calls = Calls {
            system: self.system,
            view: self.view,
            descriptors: self.descriptors,
            who,
            caller: self.caller,
            waker: self.waker,
            began: self.began,
        };
        let follow = flags & linux::AT_SYMLINK_NOFOLLOW == 0;
        let place = calls.resolve(directory, path, follow, flags)?;
        let attributes = place.inode.attributes();
        let stored = matches!(
            attributes.kind,
            Kind::File | Kind::Directory | Kind::Symlink
        );
        if mode & WRITE != 0 && stored {
            Self::check_writable(&place)?;
        }
        may(who, &attributes, mode)
    }

    /// Changes the rights of what a path leads to (`fchmodat2`, `chmod`).
    ///
    /// # Errors
    /// Those of `fchmodat(2)`.
    pub fn fchmodat(&self, directory: i32, path: &[u8], mode: u32, flags: u32) -> Result<()> {
        if flags & !(linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH) != 0 {
            return Err(Errno::EINVAL);
        }
        let follow = flags & linux::AT_SYMLINK_NOFOLLOW == 0;
        let place = self.resolve(directory, path, follow, flags)?;
        self.change_mode(&place, mode)
    }

    /// Changes the rights of a descriptor's file (`fchmod`).
    ///
    /// # Errors
    /// Those of `fchmod(2)`.
    pub fn fchmod(&self, descriptor: i32, mode: u32) -> Result<()> {
        let file = self.descriptors.get(descriptor)?;
        match file.is_path() {
            true => Err(Errno::EBADF),
            false => self.change_mode(&file.place, mode),
        }
    }

    fn change_mode(&self, place: &Place, mode: u32) -> Result<()> {
        Self::check_writable(place)?;
        let now = place.inode.attributes();
        if now.kind == Kind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        if !self.who.is_root() && self.who.user != now.user {
            return Err(Errno::EPERM);
        }
        let mut mode = mode & 0o7777;
        if !self.who.is_root() && !self.who.is_in(now.group) {
            mode &= !linux::S_ISGID;
        }
        place.inode.change(&Change {
            mode: Some(mode),
            ..Change::default()
        })
    }

    /// Changes whose what a path leads to is (`fchownat`); `u32::MAX` leaves an id.
    ///
    /// # Errors
    /// Those of `fchownat(2)`.
    pub fn fchownat(
        &self,
        directory: i32,
        path: &[u8],
        user: u32,
        group: u32,
        flags: u32,
    ) -> Result<()> {
        if flags & !(linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH) != 0 {
            return Err(Errno::EINVAL);
        }
        let follow = flags & linux::AT_SYMLINK_NOFOLLOW == 0;
        let place = self.resolve(directory, path, follow, flags)?;
        self.change_owner(&place, user, group)
    }

    /// Changes whose a descriptor's file is (`fchown`); `u32::MAX` leaves an id.
    ///
    /// # Errors
    /// Those of `fchown(2)`.
    pub fn fchown(&self, descriptor: i32, user: u32, group: u32) -> Result<()> {
        let file = self.descriptors.get(descriptor)?;
        match file.is_path() {
            true => Err(Errno::EBADF),
            false => self.change_owner(&file.place, user, group),
        }
    }

    fn change_owner(&self, place: &Place, user: u32, group: u32) -> Result<()> {
        Self::check_writable(place)?;
        let now = place.inode.attributes();
        let user = (user != u32::MAX).then_some(user);
        let group = (group != u32::MAX).then_some(group);
        if !self.who.is_root() {
            let owns = self.who.user == now.user;
            let keeps_user = user.is_none_or(|user| owns && user == now.user);
            let allowed = |group| owns && (group == now.group || self.who.is_in(group));
            if !keeps_user || !group.is_none_or(allowed) {
                return Err(Errno::EPERM);
            }
        }
        // A program that changes hands does not keep the right to run as someone.
        let mut mode = None;
        if now.kind != Kind::Directory {
            let mut lost = linux::S_ISUID;
            let keeps = self.who.is_root() || self.who.is_in(now.group);
            if now.mode & linux::S_IXGRP != 0 || !keeps {
                lost |= linux::S_ISGID;
            }
            mode = Some(now.mode & !lost).filter(|&mode| mode != now.mode);
        }
        if mode.is_some() && !self.who.is_root() && self.who.user != now.user {
            return Err(Errno::EPERM);
        }
        place.inode.change(&Change {
            mode,
            user,
            group,
            ..Change::default()
        })
    }

    /// Sets the times of what a path leads to, or of the descriptor `directory` without a path
    /// (`utimensat`).
    ///
    /// # Errors
    /// Those of `utimensat(2)`.
    pub fn utimensat(
        &self,
        directory: i32,
        path: Option<&[u8]>,
        accessed: SetTime,
        modified: SetTime,
        flags: u32,
    ) -> Result<()> {
        if (accessed, modified) == (SetTime::Keep, SetTime::Keep) {
            return Ok(());
        }
        if flags & !(linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH) != 0 {
            return Err(Errno::EINVAL);
        }
        let place = match path {
            Some(path) => {
                let follow = flags & linux::AT_SYMLINK_NOFOLLOW == 0;
                self.resolve(directory, path, follow, flags)?
            }
            None if flags != 0 => return Err(Errno::EINVAL),
            None => {
                let file = self.descriptors.get(directory)?;
                if file.is_path() {
                    return Err(Errno::EBADF);
                }
                file.place.clone()
            }
        };
        Self::check_writable(&place)?;
        let attributes = place.inode.attributes();
        if !self.who.is_root() && self.who.user != attributes.user {
            // Others may touch what they may write, and nothing else.
            if (accessed, modified) != (SetTime::Now, SetTime::Now) {
                return Err(Errno::EPERM);
            }
            may(self.who, &attributes, WRITE)?;
        }
        let now = self.system.host().now();
        let time = |set| match set {
            SetTime::Now => Some(now),
            SetTime::Keep => None,
            SetTime::To(time) => Some(time),
        };
        place.inode.change(&Change {
            accessed: time(accessed),
            modified: time(modified),
            ..Change::default()
        })
    }
}

/// As `stat` has it.
fn stat_of(inode: &Attributes) -> linux::stat {
    linux::stat {
        st_dev: inode.device,
        st_ino: inode.number,
        st_nlink: inode.links.into(),
        st_mode: inode.kind.bits() | inode.mode,
        st_uid: inode.user,
        st_gid: inode.group,
        __pad0: 0,
        st_rdev: inode.names_device.encoded(),
        st_size: inode.size as i64,
        st_blksize: PAGE as i64,
        st_blocks: inode.blocks as i64,
        st_atime: inode.accessed.seconds as u64,
        st_atime_nsec: inode.accessed.nanos.into(),
        st_mtime: inode.modified.seconds as u64,
        st_mtime_nsec: inode.modified.nanos.into(),
        st_ctime: inode.changed.seconds as u64,
        st_ctime_nsec: inode.changed.nanos.into(),
        __unused: [0; 3],
    }
}

/// As `statx` has it.
fn statx_of(inode: &Attributes) -> linux::statx {
    let time = |time: Time| linux::statx_timestamp {
        tv_sec: time.seconds,
        tv_nsec: time.nanos,
        __reserved: 0,
    };
    let device = DeviceNumber::decode(inode.device);
    linux::statx {
        stx_mask: linux::STATX_BASIC_STATS | linux::STATX_BTIME,
        stx_blksize: PAGE as u32,
        stx_nlink: inode.links,
        stx_uid: inode.user,
        stx_gid: inode.group,
        stx_mode: (inode.kind.bits() | inode.mode) as u16,
        stx_ino: inode.number,
        stx_size: inode.size,
        stx_blocks: inode.blocks,
        stx_atime: time(inode.accessed),
        stx_btime: time(inode.born),
        stx_ctime: time(inode.changed),
        stx_mtime: time(inode.modified),
        stx_rdev_major: inode.names_device.major,
        stx_rdev_minor: inode.names_device.minor,
        stx_dev_major: device.major,
        stx_dev_minor: device.minor,
        stx_attributes: 0,
        stx_attributes_mask: 0,
        stx_mnt_id: 0,
        stx_dio_mem_align: 0,
        stx_dio_offset_align: 0,
        stx_subvol: 0,
        stx_atomic_write_unit_min: 0,
        stx_atomic_write_unit_max: 0,
        stx_atomic_write_segments_max: 0,
        stx_dio_read_offset_align: 0,
        stx_atomic_write_unit_max_opt: 0,
        __spare0: [0; 1],
        __spare2: [0; 1],
        __spare3: [0; 8],
    }
}

/// As `statfs` has it.
fn statfs_of(place: &Place) -> linux::statfs {
    let Usage {
        magic,
        block,
        blocks,
        free,
        inodes,
        free_inodes,
    } = place.mount.fs.usage();
    // Linux' `ST_RDONLY` and `ST_VALID` (`include/linux/statfs.h`), which no header exports.
    const READ_ONLY: i64 = 0x1;
    const VALID: i64 = 0x20;
    let read_only = if place.mount.read_only { READ_ONLY } else { 0 };
    linux::statfs {
        f_type: magic.into(),
        f_bsize: block as i64,
        f_blocks: blocks as i64,
        f_bfree: free as i64,
        f_bavail: free as i64,
        f_files: inodes as i64,
        f_ffree: free_inodes as i64,
        f_fsid: linux::__kernel_fsid_t { val: [0; 2] },
        f_namelen: linux::NAME_MAX.into(),
        f_frsize: block as i64,
        f_flags: VALID | read_only,
        f_spare: [0; 4],
    }
}
