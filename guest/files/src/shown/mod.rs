//! File systems that hold nothing and show what the kernel knows: `/proc`, `/sys`.
//!
//! A directory is asked for a name when one is looked up, and a file's text is made when it is
//! opened, so a read that takes long sees one state.

mod describe;
mod processes;
mod table;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::Poll;

use linux_raw_sys::general as linux;

use crate::errno::{Errno, Result};
use crate::file::File;
use crate::host::{Call, PAGE, Time};
use crate::inode::{
    Attributes, Change, DeviceNumber, Entry, FIRST_ENTRY, FileSystem, Inode, Kind, Usage,
};
use crate::mount::Place;
use crate::transfer::Sink;
pub use describe::{Area, Status};
pub use processes::{ProcessFs, ProcessInfo, Processes};
pub(crate) use processes::{each_number, number};
pub use table::{Text, table_fs};

/// What is shown under a name.
#[derive(Clone)]
pub(crate) enum Shown {
    /// A directory.
    Directory(Arc<dyn Listing>),
    /// A file with a text, made when it is opened.
    Text(Arc<dyn Maker>),
    /// A symbolic link with a text, which may depend on who reads it.
    Link(fn(&Call<'_>) -> Vec<u8>),
    /// A device of characters.
    Device(Arc<dyn ShownDevice>),
    /// A symbolic link that leads to a place, whatever its name is by now.
    Place(Place),
}

/// A device that is there by itself.
pub(crate) trait ShownDevice: Send + Sync {
    /// Its number.
    fn number(&self) -> DeviceNumber;
    /// Whose it is: user and group.
    fn owner(&self) -> (u32, u32);
    /// Opens it.
    fn open(self: Arc<Self>, call: &Call<'_>, flags: u32) -> Result<Arc<dyn File>>;
}

/// Makes a file's text.
pub(crate) trait Maker: Send + Sync {
    fn make(&self) -> Result<Vec<u8>>;
}

impl<F: Fn() -> Result<Vec<u8>> + Send + Sync> Maker for F {
    fn make(&self) -> Result<Vec<u8>> {
        self()
    }
}

/// A directory's names.
pub(crate) trait Listing: Send + Sync {
    /// What has a name.
    fn find(&self, name: &[u8]) -> Option<Shown>;
    /// Calls `each` with the names from position `from` on, what they are and where they are, until
    /// it returns `false`. A name that stays keeps its position, whatever comes and goes beside it.
    fn each(&self, from: u64, each: &mut dyn FnMut(Named<'_>) -> bool);
    /// Whose it is: user and group.
    fn owner(&self) -> (u32, u32) {
        (0, 0)
    }
}

/// A name in a directory.
pub(crate) struct Named<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) kind: Kind,
    /// Not below [`FIRST_ENTRY`].
    pub(crate) position: u64,
}

impl Shown {
    fn kind(&self) -> Kind {
        match self {
            Self::Directory(_) => Kind::Directory,
            Self::Text(_) => Kind::File,
            Self::Device(_) => Kind::CharDevice,
            Self::Link(_) | Self::Place(_) => Kind::Symlink,
        }
    }
}

/// A file system that shows something.
pub(crate) struct ShownFs {
    name: &'static str,
    magic: u32,
    root: Arc<Node>,
}

impl ShownFs {
    pub(crate) fn new(
        name: &'static str,
        magic: u32,
        device: DeviceNumber,
        root: Arc<dyn Listing>,
        born: Time,
    ) -> Arc<Self> {
        let root = Node::new(Shown::Directory(root), None, device, 1, born);
        Arc::new(Self { name, magic, root })
    }
}

impl FileSystem for ShownFs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn usage(&self) -> Usage {
        Usage {
            magic: self.magic,
            block: PAGE as u64,
            blocks: 0,
            free: 0,
            inodes: 0,
            free_inodes: 0,
        }
    }
}

/// An inode of such a file system; made anew at each look-up.
struct Node {
    shown: Shown,
    around: Option<(Arc<Node>, Vec<u8>)>,
    device: DeviceNumber,
    number: u64,
    born: Time,
    me: alloc::sync::Weak<Node>,
}

/// The number of a name in a directory: always the same for the same path.
fn number_of(directory: u64, name: &[u8]) -> u64 {
    // FNV-1a; two paths by chance with one number harm nobody.
    let start = 0xcbf2_9ce4_8422_2325 ^ directory;
    let hash = name.iter().fold(start, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    hash >> 16 | 1 << 32
}

impl Node {
    fn new(
        shown: Shown,
        around: Option<(Arc<Self>, Vec<u8>)>,
        device: DeviceNumber,
        number: u64,
        born: Time,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            shown,
            around,
            device,
            number,
            born,
            me: me.clone(),
        })
    }

    fn listing(&self) -> Result<&Arc<dyn Listing>> {
        match &self.shown {
            Shown::Directory(listing) => Ok(listing),
            _ => Err(Errno::ENOTDIR),
        }
    }
}

impl Inode for Node {
    fn attributes(&self) -> Attributes {
        let (mode, links, owner) = match &self.shown {
            Shown::Directory(listing) => (0o555, 2, listing.owner()),
            Shown::Text(_) => (0o444, 1, (0, 0)),
            Shown::Device(device) => (0o620, 1, device.owner()),
            Shown::Link(_) | Shown::Place(_) => (0o777, 1, (0, 0)),
        };
        Attributes {
            number: self.number,
            device: self.device.encoded(),
            kind: self.shown.kind(),
            mode,
            links,
            user: owner.0,
            group: owner.1,
            names_device: match &self.shown {
                Shown::Device(device) => device.number(),
                _ => DeviceNumber::default(),
            },
            size: 0,
            blocks: 0,
            accessed: self.born,
            modified: self.born,
            changed: self.born,
            born: self.born,
        }
    }

    fn kind(&self) -> Kind {
        self.shown.kind()
    }

    fn change(&self, _change: &Change) -> Result<()> {
        Err(Errno::EPERM)
    }

    fn open(&self, call: &Call<'_>, flags: u32) -> Result<Option<Arc<dyn File>>> {
        Ok(match &self.shown {
            Shown::Device(device) => Some(device.clone().open(call, flags)?),
            Shown::Text(text) => Some(Arc::new(Snapshot(text.make()?))),
            _ => None,
        })
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let shown = self.listing()?.find(name).ok_or(Errno::ENOENT)?;
        let me = self.me.upgrade().ok_or(Errno::ENOENT)?;
        let number = number_of(self.number, name);
        let around = Some((me, name.into()));
        Ok(Self::new(shown, around, self.device, number, self.born))
    }

    fn place(&self) -> Option<(Arc<dyn Inode>, Vec<u8>)> {
        let (around, name) = self.around.clone()?;
        Some((around, name))
    }

    fn entries(&self, from: u64, each: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        self.listing()?.each(from.max(FIRST_ENTRY), &mut |named| {
            each(Entry {
                name: named.name,
                number: number_of(self.number, named.name),
                kind: named.kind,
                next: named.position + 1,
            })
        });
        Ok(())
    }

    fn target(&self, call: &Call<'_>) -> Result<Arc<[u8]>> {
        match &self.shown {
            Shown::Link(text) => Ok(text(call).into()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn follow(&self, _call: &Call<'_>) -> Option<Result<Place>> {
        match &self.shown {
            Shown::Place(place) => Some(Ok(place.clone())),
            _ => None,
        }
    }
}

/// A text as it was when it was opened.
struct Snapshot(Vec<u8>);

impl File for Snapshot {
    fn has_positions(&self) -> bool {
        true
    }

    fn read(&self, _call: &Call<'_>, at: u64, to: &mut dyn Sink) -> Poll<Result<usize>> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let rest = self.0.get(at..).unwrap_or_default();
        let count = rest.len().min(to.room());
        Poll::Ready(match to.put(&rest[..count]) {
            0 if count > 0 => Err(Errno::EFAULT),
            copied => Ok(copied),
        })
    }

    fn can_be_watched(&self) -> bool {
        false
    }
}

/// The magic number of `/sys`.
const SYSFS: u32 = linux::SYSFS_MAGIC;
