//! An inode in memory.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering;
use core::task::{Poll, Waker};

use super::Shared;
use super::data::Data;
use super::directory::Directory;
use crate::errno::{Errno, Result};
use crate::host::{Call, PAGE, Page, Time};
use crate::inode::{
    Allocate, Attributes, Change, DeviceNumber, Entry, Inode, Kind, New, Rename, Where,
};
use crate::lock::Mutex;
use crate::transfer::{Sink, Source};
use crate::writers::Writers;

/// The name of something in a directory.
pub(super) type Name = Arc<[u8]>;

/// An inode in memory.
pub(super) struct Node {
    pub(super) shared: Arc<Shared>,
    pub(super) me: Weak<Node>,
    pub(super) number: u64,
    kind: Kind,
    names_device: DeviceNumber,
    pub(super) meta: Mutex<Meta>,
    pub(super) content: Content,
    writers: Writers,
}

/// What is in an inode.
pub(super) enum Content {
    File(Data),
    Directory(Mutex<Directory>),
    Symlink(Arc<[u8]>),
    Nothing,
}

/// What changes of an inode, but for its content.
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) links: u32,
    user: u32,
    group: u32,
    accessed: Time,
    modified: Time,
    changed: Time,
    born: Time,
    /// The last name that it got, and the directory of it. A directory that was removed keeps the
    /// one around it, for `..`.
    pub(super) place: Option<(Parent, Name)>,
}

/// The directory around an inode.
#[derive(Clone)]
pub(super) enum Parent {
    /// Of a directory.
    Held(Arc<Node>),
    /// Of anything else, which is not asked for `..`.
    Known(Weak<Node>),
}

impl Parent {
    pub(super) fn get(&self) -> Option<Arc<Node>> {
        match self {
            Self::Held(node) => Some(node.clone()),
            Self::Known(node) => node.upgrade(),
        }
    }
}

impl Node {
    /// A new inode that has no name yet.
    pub(super) fn new(
        shared: &Arc<Shared>,
        place: Option<(&Arc<Node>, Name)>,
        new: &New<'_>,
    ) -> Result<Arc<Self>> {
        shared.charge_name()?;
        let now = shared.host.stamp();
        let number = shared.next_number.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new_cyclic(|me| Self {
            shared: shared.clone(),
            me: me.clone(),
            number,
            kind: new.kind,
            names_device: new.device,
            meta: Mutex::new(Meta {
                mode: new.mode,
                links: if new.kind == Kind::Directory { 2 } else { 1 },
                user: new.user,
                group: new.group,
                accessed: now,
                modified: now,
                changed: now,
                born: now,
                place: place.map(|(parent, name)| (Self::parent_of_kind(new.kind, parent), name)),
            }),
            content: match new.kind {
                Kind::File => Content::File(Data::default()),
                Kind::Directory => Content::Directory(Mutex::new(Directory::default())),
                Kind::Symlink => Content::Symlink(new.target.into()),
                _ => Content::Nothing,
            },
            writers: Writers::default(),
        }))
    }

    fn parent_of_kind(kind: Kind, parent: &Arc<Self>) -> Parent {
        match kind {
            Kind::Directory => Parent::Held(parent.clone()),
            _ => Parent::Known(Arc::downgrade(parent)),
        }
    }

    /// Notes its new name.
    pub(super) fn set_place(&self, parent: &Arc<Self>, name: Name) {
        let place = Some((Self::parent_of_kind(self.kind, parent), name));
        // Dropped behind the lock: it may be the last that holds a directory.
        let _old = core::mem::replace(&mut self.meta.lock().place, place);
    }

    /// The directory around it; itself for a root.
    pub(super) fn parent(&self) -> Option<Arc<Self>> {
        self.meta.lock().place.as_ref()?.0.get()
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    pub(super) fn directory(&self) -> Result<&Mutex<Directory>> {
        match &self.content {
            Content::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn data(&self) -> Result<&Data> {
        match &self.content {
            Content::File(data) => Ok(data),
            Content::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// An inode of another kind of file system is no node of this one.
    pub(super) fn of(inode: &dyn Inode) -> Result<&Self> {
        (inode as &dyn Any)
            .downcast_ref::<Self>()
            .ok_or(Errno::EXDEV)
    }

    /// Counts a name more, or fewer, and notes when.
    pub(super) fn count_links(&self, by: i32) {
        let now = self.shared.host.stamp();
        let mut meta = self.meta.lock();
        meta.links = meta.links.saturating_add_signed(by);
        meta.changed = now;
    }

    /// Its attributes changed.
    pub(super) fn touch_changed(&self) {
        let now = self.shared.host.stamp();
        self.meta.lock().changed = now;
    }

    /// Its data changed.
    pub(super) fn touch_modified(&self) {
        let now = self.shared.host.stamp();
        let mut meta = self.meta.lock();
        meta.modified = now;
        meta.changed = now;
    }

    /// Its data was read. The time is kept as `relatime` has it, Linux' default: once after each
    /// change, and once a day.
    pub(super) fn touch_accessed(&self) {
        const DAY: i64 = 24 * 60 * 60;
        let now = self.shared.host.stamp();
        let mut meta = self.meta.lock();
        if meta.accessed <= meta.modified
            || meta.accessed <= meta.changed
            || now.seconds.saturating_sub(meta.accessed.seconds) >= DAY
        {
            meta.accessed = now;
        }
    }
}

impl Inode for Node {
    fn attributes(&self) -> Attributes {
        let (size, blocks) = match &self.content {
            Content::File(data) => {
                let (size, pages) = data.size_and_pages();
                (size, pages * (PAGE as u64 / 512))
            }
            // tmpfs' made-up size of an entry (`BOGO_DIRENT_SIZE`), `.` and `..` included.
            Content::Directory(directory) => ((directory.lock().len() as u64 + 2) * 20, 0),
            Content::Symlink(target) => (target.len() as u64, 0),
            Content::Nothing => (0, 0),
        };
        let meta = self.meta.lock();
        Attributes {
            number: self.number,
            device: self.shared.device.encoded(),
            kind: self.kind,
            mode: meta.mode,
            links: meta.links,
            user: meta.user,
            group: meta.group,
            names_device: self.names_device,
            size,
            blocks,
            accessed: meta.accessed,
            modified: meta.modified,
            changed: meta.changed,
            born: meta.born,
        }
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn change(&self, change: &Change) -> Result<()> {
        let now = self.shared.host.stamp();
        let mut meta = self.meta.lock();
        let meta = &mut *meta;
        meta.mode = change.mode.unwrap_or(meta.mode);
        meta.user = change.user.unwrap_or(meta.user);
        meta.group = change.group.unwrap_or(meta.group);
        meta.accessed = change.accessed.unwrap_or(meta.accessed);
        meta.modified = change.modified.unwrap_or(meta.modified);
        meta.changed = now;
        Ok(())
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let found = self.directory()?.lock().get(name).ok_or(Errno::ENOENT)?;
        Ok(found)
    }

    fn place(&self) -> Option<(Arc<dyn Inode>, Vec<u8>)> {
        let (parent, name) = self.meta.lock().place.clone()?;
        Some((parent.get()?, name.to_vec()))
    }

    fn parent(&self) -> Option<Arc<dyn Inode>> {
        // By its path: the method of the same name that a node has itself is meant.
        let parent = Node::parent(self)?;
        Some(parent)
    }

    fn create(&self, name: &[u8], new: &New<'_>) -> Result<Arc<dyn Inode>> {
        Ok(self.add_new(name, new)?)
    }

    fn link(&self, name: &[u8], inode: &dyn Inode) -> Result<()> {
        self.add_link(name, Self::of(inode)?)
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.remove_name(name)
    }

    fn remove_directory(&self, name: &[u8]) -> Result<()> {
        self.remove_empty(name)
    }

    fn rename(&self, name: &[u8], to: &dyn Inode, new: &[u8], how: Rename) -> Result<()> {
        self.move_name(name, Self::of(to)?, new, how)
    }

    fn entries(&self, from: u64, each: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        self.directory()?.lock().each(from, each)?;
        self.touch_accessed();
        Ok(())
    }

    fn target(&self, _call: &Call<'_>) -> Result<Arc<[u8]>> {
        match &self.content {
            Content::Symlink(target) => {
                self.touch_accessed();
                Ok(target.clone())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn read(&self, at: u64, to: &mut dyn Sink) -> Result<usize> {
        let wanted = to.room();
        let count = self.data()?.read(at, to)?;
        if wanted > 0 {
            self.touch_accessed();
        }
        Ok(count)
    }

    fn write(
        &self,
        waker: &Waker,
        at: Where,
        limit: u64,
        from: &mut dyn Source,
    ) -> Poll<Result<(u64, usize)>> {
        let written = match self.data() {
            Ok(data) => data.write(&self.shared, waker, at, limit, from),
            Err(error) => return Poll::Ready(Err(error)),
        };
        if let Poll::Ready(Ok((_, 1..))) = written {
            self.touch_modified();
        }
        written
    }

    fn truncate(&self, waker: &Waker, size: u64) -> Poll<Result<()>> {
        let done = match self.data() {
            Ok(data) => data.truncate(&self.shared, waker, size),
            Err(error) => return Poll::Ready(Err(error)),
        };
        if let Poll::Ready(Ok(())) = done {
            self.touch_modified();
        }
        done
    }

    fn allocate(&self, waker: &Waker, how: Allocate, at: u64, count: u64) -> Poll<Result<()>> {
        let done = match self.data() {
            Ok(data) => data.allocate(&self.shared, waker, how, at, count),
            Err(error) => return Poll::Ready(Err(error)),
        };
        if let Poll::Ready(Ok(())) = done {
            match how {
                Allocate::KeepSize => self.touch_changed(),
                _ => self.touch_modified(),
            }
        }
        done
    }

    fn seek(&self, at: u64, data: bool) -> Result<u64> {
        self.data()?.seek(at, data)
    }

    fn page(&self, index: u64, make: bool) -> Result<Option<Arc<dyn Page>>> {
        match &self.content {
            Content::File(data) => data.page(&self.shared, index, make),
            _ => Err(Errno::ENODEV),
        }
    }

    fn keep(&self, bytes: &'static [u8]) -> Result<()> {
        self.data()?.keep(&self.shared, bytes)
    }

    fn writers(&self) -> Option<&Writers> {
        self.data().is_ok().then_some(&self.writers)
    }
}

impl Drop for Node {
    /// Gives back what it was counted for, and the directories around it that only it still held:
    /// one by one, since there may be as many as a program likes.
    fn drop(&mut self) {
        self.shared.uncharge_name();
        if let Content::File(data) = &self.content {
            self.shared.uncharge_pages(data.size_and_pages().1);
        }
        let mut held = self.meta.get_mut().place.take();
        while let Some((Parent::Held(parent), _)) = held {
            held = Arc::into_inner(parent).and_then(|node| node.meta.lock().place.take());
        }
    }
}
