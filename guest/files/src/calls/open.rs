//! Opening: `openat`, `pipe2`.

use alloc::sync::Arc;
use core::task::Poll;

use linux_raw_sys::general as linux;

use super::Calls;
use crate::errno::{Errno, Result};
use crate::file::{OpenFile, PathFile};
use crate::inode::{DeviceNumber, Kind, New};
use crate::mount::Place;
use crate::pipe::{Meeting, Pipe};
use crate::walk::{Last, READ, WRITE};
use crate::writers::Held;

/// Opening that may have to wait, and how far it is: keep it while calling
/// [`Calls::openat`] again, drop it to give up.
#[derive(Default)]
pub struct Opening(Option<Waiting>);

/// A named pipe that waits for its other side.
struct Waiting {
    meeting: Meeting,
    place: Place,
}

/// What was found or made for an open.
struct Found {
    place: Place,
    is_new: bool,
}

impl Calls<'_> {
    /// Opens a file, and returns its descriptor.
    ///
    /// # Errors
    /// Those of `openat(2)`.
    pub fn openat(
        &self,
        opening: &mut Opening,
        directory: i32,
        path: &[u8],
        flags: u32,
        mode: u32,
    ) -> Poll<Result<i32>> {
        let limit = self.caller.descriptor_limit();
        let close = flags & linux::O_CLOEXEC != 0;
        self.open_file(opening, directory, path, flags, mode)
            .map(|file| self.descriptors.add(file?, 0, limit, close))
    }

    /// Opens a file without giving it a descriptor, as exec does.
    ///
    /// # Errors
    /// Those of `openat(2)`.
    pub fn open_file(
        &self,
        opening: &mut Opening,
        directory: i32,
        path: &[u8],
        flags: u32,
        mode: u32,
    ) -> Poll<Result<Arc<OpenFile>>> {
        if opening.0.is_none() {
            match self.begin_open(directory, path, flags, mode) {
                Ok(Begun::File(file)) => return Poll::Ready(Ok(file)),
                Ok(Begun::Truncates(place)) => {
                    return self.open_truncated(place, flags | LARGE_FILE);
                }
                Ok(Begun::Waits(waiting)) => opening.0 = Some(waiting),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let Some(waiting) = opening.0.take() else {
            return Poll::Pending;
        };
        match waiting.meeting.poll(&self.call(), flags) {
            Poll::Ready(file) => {
                let flags = flags | LARGE_FILE;
                Poll::Ready(Ok(OpenFile::new(file, waiting.place, flags)))
            }
            Poll::Pending => {
                opening.0 = Some(waiting);
                Poll::Pending
            }
        }
    }

    fn begin_open(&self, directory: i32, path: &[u8], flags: u32, mode: u32) -> Result<Begun> {
        let path_only = flags & linux::O_PATH != 0;
        if flags & linux::O_TMPFILE == linux::O_TMPFILE {
            return Err(Errno::EOPNOTSUPP);
        }
        let creates = !path_only && flags & linux::O_CREAT != 0;
        if creates && flags & linux::O_DIRECTORY != 0 {
            return Err(Errno::EINVAL);
        }
        let found = match creates {
            true => self.find_or_make(directory, path, flags, mode)?,
            false => Found {
                place: self.resolve(directory, path, flags & linux::O_NOFOLLOW == 0, 0)?,
                is_new: false,
            },
        };
        let Found { place, is_new } = found;
        let kind = place.inode.kind();
        if flags & linux::O_DIRECTORY != 0 && kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if path_only {
            let flags = flags & (linux::O_PATH | linux::O_DIRECTORY | linux::O_NOFOLLOW);
            return Ok(Begun::File(OpenFile::new(Arc::new(PathFile), place, flags)));
        }
        let wants = wants(flags);
        let flags = flags | LARGE_FILE;
        match kind {
            Kind::Symlink => return Err(Errno::ELOOP),
            Kind::Directory if creates || wants & WRITE != 0 => return Err(Errno::EISDIR),
            Kind::Socket => return Err(Errno::ENXIO),
            _ => {}
        }
        if !is_new {
            self.check(&place.inode, wants)?;
        }
        if wants & WRITE != 0 && matches!(kind, Kind::File | Kind::Directory) {
            Self::check_writable(&place)?;
        }
        if flags & linux::O_NOATIME != 0
            && !self.who.is_root()
            && place.inode.attributes().user != self.who.user
        {
            return Err(Errno::EPERM);
        }
        if let Some(file) = place.inode.open(&self.call(), flags)? {
            return Ok(Begun::File(OpenFile::new(file, place, flags)));
        }
        match kind {
            Kind::File if flags & linux::O_TRUNC != 0 && !is_new => Ok(Begun::Truncates(place)),
            Kind::Fifo => {
                let pipe = self.system.fifo(&place.inode.attributes());
                let meeting = Meeting::new(&pipe, flags)?;
                Ok(Begun::Waits(Waiting { meeting, place }))
            }
            Kind::CharDevice | Kind::BlockDevice => {
                let number = place.inode.attributes().names_device;
                let device = self.system.device(kind, number)?;
                let file = device.open(&self.call(), flags)?;
                Ok(Begun::File(OpenFile::new(file, place, flags)))
            }
            _ => Ok(Begun::File(OpenFile::plain(place, flags)?)),
        }
    }

    fn open_truncated(&self, place: Place, flags: u32) -> Poll<Result<Arc<OpenFile>>> {
        // As what is cut is written to, however it is opened.
        let _writes = match Held::to_write(&place.inode) {
            Ok(writes) => writes,
            Err(error) => return Poll::Ready(Err(error)),
        };
        self.cut(&place, 0)
            .map(|done| done.and_then(|()| OpenFile::plain(place.clone(), flags)))
    }

    /// Finds what `O_CREAT` opens, or makes it.
    fn find_or_make(&self, directory: i32, path: &[u8], flags: u32, mode: u32) -> Result<Found> {
        let exclusive = flags & linux::O_EXCL != 0;
        let follow = !exclusive && flags & linux::O_NOFOLLOW == 0;
        self.with_walk(directory, path, |mut walk| {
            loop {
                let end = walk.walk_to_last()?;
                let Last::Name(name) = &end.last else {
                    return match exclusive {
                        true => Err(Errno::EEXIST),
                        false => Err(Errno::EISDIR),
                    };
                };
                if end.slash {
                    return Err(Errno::EISDIR);
                }
                let found = loop {
                    match walk.lookup(name.bytes()) {
                        Ok(_) if exclusive => return Err(Errno::EEXIST),
                        Ok(_) => break walk.finish(&end, follow)?,
                        Err(Errno::ENOENT) => {}
                        Err(error) => return Err(error),
                    }
                    match self.make_file(&walk.place, name.bytes(), mode) {
                        Ok(place) => {
                            return Ok(Found {
                                place,
                                is_new: true,
                            });
                        }
                        // Another was faster: it is opened as if it had always been there.
                        Err(Errno::EEXIST) if !exclusive => {}
                        Err(error) => return Err(error),
                    }
                };
                if let Some(place) = found {
                    self.check_shared(&walk.place, &place)?;
                    return Ok(Found {
                        place,
                        is_new: false,
                    });
                }
            }
        })
    }

    /// Where everyone may make names, nobody is led to another's link or device by one that it
    /// meant to make (`may_create_in_sticky` in Linux' `fs/namei.c`).
    fn check_shared(&self, around: &Place, found: &Place) -> Result<()> {
        const SHARED: u32 = linux::S_ISVTX | linux::S_IWOTH;
        let plain = [Kind::File, Kind::Fifo, Kind::Directory];
        if plain.contains(&found.inode.kind()) {
            return Ok(());
        }
        let (around, found) = (around.inode.attributes(), found.inode.attributes());
        let is_own = found.user == around.user || found.user == self.who.user;
        match around.mode & SHARED == SHARED && !is_own {
            true => Err(Errno::EACCES),
            false => Ok(()),
        }
    }

    fn make_file(&self, place: &Place, name: &[u8], mode: u32) -> Result<Place> {
        Self::check_writable(place)?;
        self.check_may_add(place)?;
        let new = self.new_inode(place, Kind::File, mode, DeviceNumber::default(), b"");
        Ok(place.with(place.inode.create(name, &new)?))
    }

    /// What a new inode in a directory gets: the caller's ids, or the directory's group if that is
    /// passed on, and the rights that the mask leaves.
    pub(super) fn new_inode<'n>(
        &self,
        place: &Place,
        kind: Kind,
        mode: u32,
        device: DeviceNumber,
        target: &'n [u8],
    ) -> New<'n> {
        let around = place.inode.attributes();
        let passes_group = around.mode & linux::S_ISGID != 0;
        let mut mode = match kind {
            Kind::Symlink => 0o777,
            _ => mode & 0o7777 & !self.view.mask(),
        };
        if passes_group && kind == Kind::Directory {
            mode |= linux::S_ISGID;
        }
        New {
            kind,
            mode,
            user: self.who.user,
            group: if passes_group {
                around.group
            } else {
                self.who.group
            },
            device,
            target,
        }
    }

    /// Makes a pipe, and returns the descriptors to read and to write.
    ///
    /// # Errors
    /// `EINVAL` for flags that there are not, `EMFILE`.
    pub fn pipe2(&self, flags: u32) -> Result<[i32; 2]> {
        if flags & !(linux::O_CLOEXEC | linux::O_NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        let pipe = Pipe::new(self.system.host().clone());
        let place = self.system.anonymous_pipe(&pipe, self.who);
        let open = |reads, mode| {
            let file = Arc::new(pipe.open(reads, !reads));
            OpenFile::new(file, place.clone(), flags | mode)
        };
        self.descriptors.add_both(
            [open(true, linux::O_RDONLY), open(false, linux::O_WRONLY)],
            self.caller.descriptor_limit(),
            flags & linux::O_CLOEXEC != 0,
        )
    }
}

/// `O_LARGEFILE` as the kernel has it, and tells 64-bit programs that need not give it: their own
/// headers make it 0.
pub(super) const LARGE_FILE: u32 = 0o100_000;

/// How far an open comes by itself.
enum Begun {
    File(Arc<OpenFile>),
    /// A file whose data must go first.
    Truncates(Place),
    Waits(Waiting),
}

/// What rights an open needs.
fn wants(flags: u32) -> u32 {
    let mode = match flags & linux::O_ACCMODE {
        linux::O_RDONLY => READ,
        linux::O_WRONLY => WRITE,
        _ => READ | WRITE,
    };
    match flags & linux::O_TRUNC {
        0 => mode,
        _ => mode | WRITE,
    }
}
