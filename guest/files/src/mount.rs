//! Mounts: which file system lies over which directory, and places as programs know them.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general::PATH_MAX;

use crate::errno::{Errno, Result};
use crate::inode::{FileSystem, Inode, Kind};
use crate::lock::Mutex;

/// A file system where it is mounted.
pub struct Mount {
    /// The file system.
    pub fs: Arc<dyn FileSystem>,
    /// Its root.
    pub root: Arc<dyn Inode>,
    /// The directory that it covers; `None` for the root of all, and for what lies nowhere.
    pub over: Option<Place>,
    /// What is mounted, as `/proc/mounts` names it.
    pub source: &'static str,
    /// Whether nothing may be changed by it.
    pub read_only: bool,
}

impl Mount {
    /// A file system that lies nowhere yet, or that is the root of all.
    pub fn alone(fs: Arc<dyn FileSystem>, source: &'static str) -> Arc<Self> {
        Arc::new(Self {
            root: fs.root(),
            fs,
            over: None,
            source,
            read_only: false,
        })
    }
}

/// An inode, and the mount by which it was come to.
#[derive(Clone)]
pub struct Place {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The inode.
    pub inode: Arc<dyn Inode>,
}

/// Whether two are the same inode object.
pub(crate) fn is_same(one: &Arc<dyn Inode>, other: &Arc<dyn Inode>) -> bool {
    core::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

impl Place {
    /// The root of a mount.
    pub fn root_of(mount: &Arc<Mount>) -> Self {
        Self {
            mount: mount.clone(),
            inode: mount.root.clone(),
        }
    }

    /// Another inode of the same mount.
    pub fn with(&self, inode: Arc<dyn Inode>) -> Self {
        Self {
            mount: self.mount.clone(),
            inode,
        }
    }

    /// Whether both are the same.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && is_same(&self.inode, &other.inode)
    }

    /// Whether it is the root of its mount.
    fn is_mount_root(&self) -> bool {
        is_same(&self.inode, &self.mount.root)
    }

    /// The directory around it, as seen from below `root`; itself at a root.
    pub fn up(&self, root: &Self) -> Self {
        let mut place = self.clone();
        loop {
            if place.is(root) {
                return place;
            }
            if !place.is_mount_root() {
                break;
            }
            match place.mount.over.clone() {
                Some(over) => place = over,
                None => return place,
            }
        }
        match place.inode.parent() {
            Some(parent) => place.with(parent),
            None => place,
        }
    }

    /// Whether it can be come to no more, because it has no name left.
    pub fn is_removed(&self) -> bool {
        self.inode.attributes().links == 0
    }

    /// Its path as seen from below `root`, and whether it is below it at all.
    ///
    /// # Errors
    /// `ENAMETOOLONG` for one that no call takes, however deep programs made it.
    pub fn path(&self, root: &Self) -> Result<(Vec<u8>, bool)> {
        if let Some(label) = self.inode.label() {
            return Ok((label, true));
        }
        let mut names = Vec::new();
        let mut length = 0;
        let mut place = self.clone();
        let reached = loop {
            if place.is(root) {
                break true;
            }
            if place.is_mount_root() {
                match place.mount.over.clone() {
                    Some(over) => place = over,
                    None => break false,
                }
                continue;
            }
            match place.inode.place() {
                Some((parent, name)) => {
                    length += 1 + name.len();
                    if length >= PATH_MAX as usize {
                        return Err(Errno::ENAMETOOLONG);
                    }
                    names.push(name);
                    place = place.with(parent);
                }
                None => break false,
            }
        };
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok((path, reached))
    }
}

/// All mounts.
pub struct Mounts(Mutex<Vec<Arc<Mount>>>);

impl Mounts {
    /// Only the root of all.
    pub fn new(root: Arc<Mount>) -> Self {
        Self(Mutex::new(alloc::vec![root]))
    }

    /// The root of all.
    pub fn root(&self) -> Place {
        Place::root_of(&self.0.lock()[0])
    }

    /// All of them, in the order in which they were mounted.
    pub fn all(&self) -> Vec<Arc<Mount>> {
        self.0.lock().clone()
    }

    /// Lays a file system over a directory.
    ///
    /// # Errors
    /// `ENOTDIR` if it is none, `ENOENT` if it was removed.
    pub fn add(
        &self,
        over: Place,
        fs: Arc<dyn FileSystem>,
        source: &'static str,
        read_only: bool,
    ) -> Result<()> {
        if over.inode.kind() != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if over.is_removed() {
            return Err(Errno::ENOENT);
        }
        self.0.lock().push(Arc::new(Mount {
            root: fs.root(),
            fs,
            over: Some(over),
            source,
            read_only,
        }));
        Ok(())
    }

    /// Takes away the mount whose root `place` is.
    ///
    /// # Errors
    /// `EINVAL` if it is no mount's root, `EBUSY` while something is mounted in it, or open in it.
    pub fn remove(&self, place: Place) -> Result<()> {
        if !place.is_mount_root() || place.mount.over.is_none() {
            return Err(Errno::EINVAL);
        }
        let mount = place.mount;
        let mut mounts = self.0.lock();
        // The list's and ours.
        if Arc::strong_count(&mount) > 2 {
            return Err(Errno::EBUSY);
        }
        mounts.retain(|other| !Arc::ptr_eq(other, &mount));
        Ok(())
    }

    /// What lies over `place`, through all that is mounted there.
    pub fn covering(&self, mut place: Place) -> Place {
        let mounts = self.0.lock();
        // The first is the root of all and covers nothing.
        while let Some(mount) = mounts[1..]
            .iter()
            .rev()
            .find(|mount| mount.over.as_ref().is_some_and(|over| over.is(&place)))
        {
            place = Place::root_of(mount);
        }
        place
    }

    /// Whether something is mounted over an inode.
    pub fn is_covered(&self, inode: &Arc<dyn Inode>) -> bool {
        let mounts = self.0.lock();
        mounts
            .iter()
            .filter_map(|mount| mount.over.as_ref())
            .any(|over| is_same(&over.inode, inode))
    }
}
