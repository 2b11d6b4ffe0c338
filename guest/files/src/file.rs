//! Open files: what they do, and the description that descriptors share.

use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::{Poll, Waker, ready};

use linux_raw_sys::general as linux;
use spin::Once;

use crate::errno::{Errno, Result};
use crate::host::{Call, Identity, Page};
use crate::inode::{Change, Entry, FIRST_ENTRY, Inode, Kind, Where};
use crate::lock::{Mutex, Turn};
use crate::locks::FileLock;
use crate::mount::Place;
use crate::ready::Ready;
use crate::records::{Owner, Records};
use crate::transfer::{Argument, Sink, Source};
use crate::writers::Held;

/// What an open file can do. A call that would wait registers the call's waker, looks again and
/// gives `Poll::Pending`; with [`Call::nonblock`] it gives `EAGAIN`.
pub trait File: Any + Send + Sync {
    /// Whether it has positions; what has none (a pipe, a terminal) is read and written in order.
    fn has_positions(&self) -> bool {
        false
    }

    /// Reads, from byte `at` on if it has positions.
    ///
    /// # Errors
    /// Those of `read(2)`.
    fn read(&self, _call: &Call<'_>, _at: u64, _to: &mut dyn Sink) -> Poll<Result<usize>> {
        Poll::Ready(Err(Errno::EINVAL))
    }

    /// Writes what it can, and returns where and how much: with all there is to write it need not
    /// wait, it is called again.
    ///
    /// # Errors
    /// Those of `write(2)`; the kernel sends `SIGPIPE` on `EPIPE`.
    fn write(
        &self,
        _call: &Call<'_>,
        _at: Where,
        _from: &mut dyn Source,
    ) -> Poll<Result<(u64, usize)>> {
        Poll::Ready(Err(Errno::EINVAL))
    }

    /// Whether a write is one message, whatever else there is to write.
    fn writes_once(&self) -> bool {
        false
    }

    /// What it is ready for. With a waker, that is woken once this may have changed; it is
    /// registered before the look.
    fn ready(&self, _waker: Option<&Waker>) -> Ready {
        Ready::READ | Ready::WRITE
    }

    /// Whether epoll can watch it: what is always ready cannot be watched.
    fn can_be_watched(&self) -> bool {
        true
    }

    /// Does what an ioctl asks.
    ///
    /// # Errors
    /// `ENOTTY` for what it does not know.
    fn ioctl(
        &self,
        _call: &Call<'_>,
        _request: u32,
        _argument: &mut dyn Argument,
    ) -> Poll<Result<u64>> {
        Poll::Ready(Err(Errno::ENOTTY))
    }

    /// Where `lseek` comes to whatever it is asked for, of what has no real positions.
    fn fixed_position(&self) -> Option<u64> {
        None
    }
}

/// Who changes a program's data takes from it the right to run as someone, unless root does.
pub(crate) fn drop_privileges(who: &Identity, inode: &dyn Inode) -> Result<()> {
    if who.is_root() {
        return Ok(());
    }
    let now = inode.attributes();
    let mut lost = linux::S_ISUID;
    if now.mode & linux::S_IXGRP != 0 || !who.is_in(now.group) {
        lost |= linux::S_ISGID;
    }
    if now.kind != Kind::File || now.mode & lost == 0 {
        return Ok(());
    }
    inode.change(&Change {
        mode: Some(now.mode & !lost),
        ..Change::default()
    })
}

/// A regular file: its inode's data.
struct DataFile(Arc<dyn Inode>);

impl File for DataFile {
    fn has_positions(&self) -> bool {
        true
    }

    fn read(&self, _call: &Call<'_>, at: u64, to: &mut dyn Sink) -> Poll<Result<usize>> {
        Poll::Ready(self.0.read(at, to))
    }

    fn write(
        &self,
        call: &Call<'_>,
        at: Where,
        from: &mut dyn Source,
    ) -> Poll<Result<(u64, usize)>> {
        if from.left() > 0
            && let Err(error) = drop_privileges(call.who, &*self.0)
        {
            return Poll::Ready(Err(error));
        }
        self.0.write(call.waker, at, call.caller.size_limit(), from)
    }

    fn can_be_watched(&self) -> bool {
        false
    }
}

/// A directory: its entries are asked of the inode.
struct DirectoryFile;

impl File for DirectoryFile {
    fn has_positions(&self) -> bool {
        true
    }

    fn read(&self, _call: &Call<'_>, _at: u64, _to: &mut dyn Sink) -> Poll<Result<usize>> {
        Poll::Ready(Err(Errno::EISDIR))
    }

    fn can_be_watched(&self) -> bool {
        false
    }
}

/// What `O_PATH` opens: a place, and nothing that could be done with its file.
pub(crate) struct PathFile;

impl File for PathFile {
    fn can_be_watched(&self) -> bool {
        false
    }
}

/// What `fcntl(F_SETFL)` can change.
const CHANGEABLE: u32 = linux::O_APPEND | linux::O_NONBLOCK | linux::O_NOATIME | linux::O_DIRECT;

/// What an open file does; what files and directories do needs no place of its own.
enum Does {
    Data(DataFile),
    Directory,
    Other(Arc<dyn File>),
}

/// Writes to what takes bytes in order, until all are written.
fn write_in_order(file: &dyn File, call: &Call<'_>, from: &mut dyn Source) -> Poll<Result<usize>> {
    loop {
        let done = ready!(file.write(call, Where::End, from));
        let stop = match done {
            Ok((_, count)) => from.left() == 0 || count == 0 || file.writes_once(),
            Err(_) => true,
        };
        if stop {
            return Poll::Ready(match (done, from.taken()) {
                (Err(error), 0) => Err(error),
                (_, taken) => Ok(taken),
            });
        }
    }
}

/// An open file, as Linux' open file description: what `dup` and `fork` share.
pub struct OpenFile {
    does: Does,
    /// Where it was opened.
    pub place: Place,
    /// The access mode and the status flags.
    flags: AtomicU32,
    position: Mutex<u64>,
    /// Held over a call that uses the position, so that each sees the one before it.
    turn: Turn,
    /// The lock of `flock(2)` that it holds.
    pub(crate) lock: FileLock,
    /// Whose locks of parts of it are this open file's, and where they are once it has taken one.
    pub(crate) owner: Owner,
    pub(crate) records: Once<Arc<Records>>,
    /// That it writes, if somebody could run what it writes to.
    _writes: Option<Held>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(records) = self.records.get() {
            records.forget(None, self.owner);
        }
    }
}

impl OpenFile {
    /// Opens `file` at `place`.
    pub fn new(file: Arc<dyn File>, place: Place, flags: u32) -> Arc<Self> {
        Self::with(Does::Other(file), place, flags, None)
    }

    /// Opens a file or a directory by its inode's data.
    ///
    /// # Errors
    /// `ETXTBSY` if it would be written to and somebody runs it.
    pub(crate) fn plain(place: Place, flags: u32) -> Result<Arc<Self>> {
        if place.inode.kind() == Kind::Directory {
            return Ok(Self::with(Does::Directory, place, flags, None));
        }
        let writes = match flags & linux::O_ACCMODE {
            linux::O_RDONLY => None,
            _ => Held::to_write(&place.inode)?,
        };
        let does = Does::Data(DataFile(place.inode.clone()));
        Ok(Self::with(does, place, flags, writes))
    }

    /// What it does.
    pub fn file(&self) -> &dyn File {
        match &self.does {
            Does::Data(file) => file,
            Does::Directory => &DirectoryFile,
            Does::Other(file) => &**file,
        }
    }

    fn with(does: Does, place: Place, flags: u32, writes: Option<Held>) -> Arc<Self> {
        // What concerns only the opening itself is not kept.
        const ONCE: u32 =
            linux::O_CREAT | linux::O_EXCL | linux::O_NOCTTY | linux::O_TRUNC | linux::O_CLOEXEC;
        Arc::new(Self {
            does,
            place,
            flags: AtomicU32::new(flags & !ONCE),
            position: Mutex::new(0),
            turn: Turn::default(),
            lock: FileLock::default(),
            owner: Owner::new(),
            records: Once::new(),
            _writes: writes,
        })
    }

    /// The access mode and the status flags.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Changes those status flags that can be changed.
    pub fn set_flags(&self, flags: u32) {
        let change = |old: u32| Some((old & !CHANGEABLE) | (flags & CHANGEABLE));
        // The closure always gives a value.
        let _ = self
            .flags
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    /// Whether it stands for a place only (`O_PATH`).
    pub fn is_path(&self) -> bool {
        self.flags() & linux::O_PATH != 0
    }

    /// Whether it was opened to read.
    pub fn can_read(&self) -> bool {
        let flags = self.flags();
        flags & linux::O_PATH == 0 && flags & linux::O_ACCMODE != linux::O_WRONLY
    }

    /// Whether it was opened to write.
    pub fn can_write(&self) -> bool {
        let flags = self.flags();
        flags & linux::O_PATH == 0 && flags & linux::O_ACCMODE != linux::O_RDONLY
    }

    /// A call with the way of waiting that a file's flags ask for, in `fails` if that is another than its own.
    #[inline(always)]
    fn as_asked<'a, 'c>(
        call: &'a Call<'c>,
        flags: u32,
        fails: &'a mut Option<Call<'c>>,
    ) -> &'a Call<'c> {
        match flags & linux::O_NONBLOCK != 0 && !call.nonblock {
            true => fails.insert(call.without_waiting()),
            false => call,
        }
    }

    /// Refuses a file with these flags that was opened with the access mode `wrong`, and a place in what has
    /// no positions, however it was opened.
    fn check(flags: u32, wrong: u32, at: Option<u64>, has_positions: bool) -> Result<()> {
        if flags & linux::O_PATH != 0 {
            return Err(Errno::EBADF);
        }
        if at.is_some() && !has_positions {
            return Err(Errno::ESPIPE);
        }
        match flags & linux::O_ACCMODE == wrong {
            true => Err(Errno::EBADF),
            false => Ok(()),
        }
    }

    /// Reads at the position, and moves it (`read`), or at byte `at` (`pread`).
    ///
    /// # Errors
    /// Those of `read(2)` and `pread(2)`.
    pub fn read(&self, call: &Call<'_>, at: Option<u64>, to: &mut dyn Sink) -> Poll<Result<usize>> {
        let (file, flags) = (self.file(), self.flags());
        let has_positions = file.has_positions();
        if let Err(error) = Self::check(flags, linux::O_WRONLY, at, has_positions) {
            return Poll::Ready(Err(error));
        }
        let mut fails = None;
        let call = Self::as_asked(call, flags, &mut fails);
        match at {
            Some(at) => file.read(call, at, to),
            None if !has_positions => file.read(call, 0, to),
            None => {
                let _turn = ready!(self.turn.take(call.waker));
                let at = *self.position.lock();
                let done = ready!(file.read(call, at, to));
                if let Ok(count) = done {
                    *self.position.lock() = at + count as u64;
                }
                Poll::Ready(done)
            }
        }
    }

    /// Writes at the position, and moves it (`write`), or at byte `at` (`pwrite`). All that is in
    /// `from` is written: after `Poll::Pending` the same call goes on where it waited, and a call
    /// that is given up has written [`Source::taken`] bytes.
    ///
    /// # Errors
    /// Those of `write(2)` and `pwrite(2)`.
    pub fn write(
        &self,
        call: &Call<'_>,
        at: Option<u64>,
        from: &mut dyn Source,
    ) -> Poll<Result<usize>> {
        let (file, flags) = (self.file(), self.flags());
        let has_positions = file.has_positions();
        if let Err(error) = Self::check(flags, linux::O_RDONLY, at, has_positions) {
            return Poll::Ready(Err(error));
        }
        let mut fails = None;
        let call = Self::as_asked(call, flags, &mut fails);
        if !has_positions {
            return write_in_order(file, call, from);
        }
        let append = flags & linux::O_APPEND != 0;
        if let Some(at) = at {
            // As Linux does, against POSIX: what appends does so wherever it is told to write.
            let at = if append { Where::End } else { Where::At(at) };
            let done = ready!(file.write(call, at, from));
            return Poll::Ready(done.map(|(_, count)| count));
        }
        let _turn = ready!(self.turn.take(call.waker));
        let position = *self.position.lock();
        if position
            .checked_add(from.left() as u64)
            .is_none_or(|end| end > i64::MAX as u64)
        {
            return Poll::Ready(Err(Errno::EINVAL));
        }
        let at = match append {
            true => Where::End,
            false => Where::At(position),
        };
        let done = ready!(file.write(call, at, from));
        // Nothing written moves nothing, not even to the end of what appends.
        if let Ok((at, count @ 1..)) = done {
            *self.position.lock() = at + count as u64;
        }
        Poll::Ready(done.map(|(_, count)| count))
    }

    /// Moves the position, and returns it.
    ///
    /// # Errors
    /// Those of `lseek(2)`.
    pub fn seek(&self, call: &Call<'_>, offset: i64, whence: u32) -> Poll<Result<u64>> {
        if self.is_path() {
            return Poll::Ready(Err(Errno::EBADF));
        }
        if !self.file().has_positions() {
            return Poll::Ready(Err(Errno::ESPIPE));
        }
        let _turn = ready!(self.turn.take(call.waker));
        let mut position = self.position.lock();
        if let Some(fixed) = self.file().fixed_position() {
            *position = fixed;
            return Poll::Ready(Ok(fixed));
        }
        let end = || self.place.inode.attributes().size;
        let from_base = |base: u64| {
            base.checked_add_signed(offset)
                .filter(|&at| at <= i64::MAX as u64)
                .ok_or(Errno::EINVAL)
        };
        let unsigned = u64::try_from(offset);
        let directory = self.place.inode.kind() == Kind::Directory;
        let at = match whence {
            linux::SEEK_SET => from_base(0),
            linux::SEEK_CUR => from_base(*position),
            linux::SEEK_END if directory => Err(Errno::EINVAL),
            linux::SEEK_END => from_base(end()),
            linux::SEEK_DATA | linux::SEEK_HOLE if directory => Err(Errno::EINVAL),
            linux::SEEK_DATA | linux::SEEK_HOLE => unsigned
                .map_err(|_| Errno::ENXIO)
                .and_then(|at| self.place.inode.seek(at, whence == linux::SEEK_DATA)),
            _ => Err(Errno::EINVAL),
        };
        if let Ok(at) = at {
            *position = at;
        }
        Poll::Ready(at)
    }

    /// Calls `each` with the entries of a directory from the position on, and moves that behind the
    /// last for which `each` gave `true`.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOENT` if the directory was removed.
    pub fn entries(
        &self,
        call: &Call<'_>,
        root: &Place,
        each: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> Poll<Result<()>> {
        if self.is_path() {
            return Poll::Ready(Err(Errno::EBADF));
        }
        let inode = &self.place.inode;
        if inode.kind() != Kind::Directory {
            return Poll::Ready(Err(Errno::ENOTDIR));
        }
        let _turn = ready!(self.turn.take(call.waker));
        let mut position = *self.position.lock();
        let mut go_on = true;
        if position < FIRST_ENTRY && self.place.is_removed() {
            return Poll::Ready(Err(Errno::ENOENT));
        }
        while position < FIRST_ENTRY && go_on {
            let (name, number) = match position {
                0 => (&b"."[..], inode.attributes().number),
                _ => {
                    let up = self.place.up(root).inode.attributes();
                    (&b".."[..], up.number)
                }
            };
            go_on = each(Entry {
                name,
                number,
                kind: Kind::Directory,
                next: position + 1,
            });
            if go_on {
                position += 1;
            }
        }
        let mut done = Ok(());
        if go_on {
            done = inode.entries(position, &mut |entry| {
                let went_on = each(entry);
                if went_on {
                    position = entry.next;
                }
                went_on
            });
        }
        *self.position.lock() = position;
        Poll::Ready(done)
    }

    /// What it is ready for; see [`File::ready`].
    pub fn ready(&self, waker: Option<&Waker>) -> Ready {
        if self.is_path() {
            return Ready::NVAL;
        }
        self.file().ready(waker)
    }

    /// A page of its data, to map it; see [`Inode::page`].
    ///
    /// # Errors
    /// Those of [`Inode::page`], `EACCES` if it was not opened to read.
    pub fn page(&self, index: u64, make: bool) -> Result<Option<Arc<dyn Page>>> {
        if !self.can_read() {
            return Err(Errno::EACCES);
        }
        self.place.inode.page(index, make)
    }
}
