//! What all programs share of the files: mounts, devices, named pipes, locks.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general as linux;

use crate::errno::{Errno, Result};
use crate::file::{File, OpenFile};
use crate::host::{Call, Host, Identity, PAGE, Time};
use crate::inode::{Attributes, Change, DeviceNumber, FileSystem, Inode, Kind, Usage};
use crate::lock::Mutex;
use crate::locks::FileLocks;
use crate::mount::{Mount, Mounts, Place};
use crate::pipe::Pipe;
use crate::records::Records;

/// A device that can be opened by its number.
pub trait Device: Send + Sync {
    /// Opens it.
    ///
    /// # Errors
    /// Those of the device, such as `ENXIO`.
    fn open(&self, call: &Call<'_>, flags: u32) -> Result<Arc<dyn File>>;
}

/// All files of the system.
pub struct System {
    pub(crate) host: Arc<dyn Host>,
    /// What is mounted where.
    pub mounts: Mounts,
    devices: Mutex<BTreeMap<(bool, DeviceNumber), Arc<dyn Device>>>,
    fifos: Mutex<BTreeMap<(u64, u64), Weak<Pipe>>>,
    pub(crate) locks: Arc<FileLocks>,
    pub(crate) records: Arc<Records>,
    /// Held while a set of watched files comes to watch another one.
    pub(crate) nesting: Mutex<()>,
    nowhere: Arc<Mount>,
    next_anonymous: AtomicU64,
}

impl System {
    /// Files whose root is `root`.
    pub fn new(host: Arc<dyn Host>, root: Arc<dyn FileSystem>) -> Arc<Self> {
        Arc::new(Self {
            host,
            mounts: Mounts::new(Mount::alone(root, "rootfs")),
            devices: Mutex::default(),
            fifos: Mutex::default(),
            locks: Arc::default(),
            records: Arc::default(),
            nesting: Mutex::new(()),
            nowhere: Mount::alone(Arc::new(Nowhere), "none"),
            next_anonymous: AtomicU64::new(1),
        })
    }

    /// The kernel around it.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// Says what opening a device of that number gives, in whatever directory it is.
    pub fn add_device(&self, kind: Kind, number: DeviceNumber, device: Arc<dyn Device>) {
        let key = (kind == Kind::BlockDevice, number);
        self.devices.lock().insert(key, device);
    }

    pub(crate) fn device(&self, kind: Kind, number: DeviceNumber) -> Result<Arc<dyn Device>> {
        let key = (kind == Kind::BlockDevice, number);
        self.devices.lock().get(&key).cloned().ok_or(Errno::ENXIO)
    }

    /// The pipe of a FIFO's inode.
    pub(crate) fn fifo(&self, inode: &Attributes) -> Arc<Pipe> {
        let mut fifos = self.fifos.lock();
        let key = (inode.device, inode.number);
        if let Some(pipe) = fifos.get(&key).and_then(Weak::upgrade) {
            return pipe;
        }
        fifos.retain(|_, pipe| pipe.strong_count() > 0);
        let pipe = Pipe::new(self.host.clone());
        fifos.insert(key, Arc::downgrade(&pipe));
        pipe
    }

    /// An inode that lies in no directory, such as a socket's.
    pub(crate) fn anonymous(&self, kind: Kind, label: &'static str, who: &Identity) -> Place {
        self.anonymous_of(kind, label, Weak::new(), who)
    }

    /// The inode of a pipe, by which it can be opened once more.
    pub(crate) fn anonymous_pipe(&self, pipe: &Arc<Pipe>, who: &Identity) -> Place {
        self.anonymous_of(Kind::Fifo, "pipe", Arc::downgrade(pipe), who)
    }

    fn anonymous_of(
        &self,
        kind: Kind,
        label: &'static str,
        pipe: Weak<Pipe>,
        who: &Identity,
    ) -> Place {
        let number = self.next_anonymous.fetch_add(1, Ordering::Relaxed);
        Place {
            mount: self.nowhere.clone(),
            inode: Arc::new(Anonymous {
                kind,
                label,
                number,
                pipe,
                rights: Mutex::new(Rights {
                    mode: match kind {
                        Kind::Socket => 0o777,
                        _ => 0o600,
                    },
                    user: who.user,
                    group: who.group,
                }),
                born: self.host.now(),
            }),
        }
    }

    /// Opens a file that lies in no directory.
    pub(crate) fn open_anonymous(
        &self,
        file: Arc<dyn File>,
        kind: Kind,
        label: &'static str,
        flags: u32,
        who: &Identity,
    ) -> Arc<OpenFile> {
        OpenFile::new(file, self.anonymous(kind, label, who), flags)
    }
}

/// The root and the current directory of a process, and what rights it never gives: what
/// `clone(CLONE_FS)` shares.
pub struct View(Mutex<Seen>);

#[derive(Clone)]
struct Seen {
    root: Place,
    current: Place,
    mask: u32,
}

impl View {
    /// All of the system, from its root.
    pub fn new(system: &System) -> Self {
        let root = system.mounts.root();
        Self(Mutex::new(Seen {
            current: root.clone(),
            root,
            mask: 0o022,
        }))
    }

    /// The same, for a child.
    pub fn fork(&self) -> Self {
        Self(Mutex::new(self.0.lock().clone()))
    }

    /// The root.
    pub fn root(&self) -> Place {
        self.0.lock().root.clone()
    }

    /// The current directory.
    pub fn current(&self) -> Place {
        self.0.lock().current.clone()
    }

    /// The rights that new files do not get.
    pub fn mask(&self) -> u32 {
        self.0.lock().mask
    }

    /// Sets the mask, and returns the old one (`umask`).
    pub fn set_mask(&self, mask: u32) -> u32 {
        core::mem::replace(&mut self.0.lock().mask, mask & 0o777)
    }

    pub(crate) fn set_root(&self, root: Place) {
        let _old = core::mem::replace(&mut self.0.lock().root, root);
    }

    pub(crate) fn set_current(&self, current: Place) {
        let _old = core::mem::replace(&mut self.0.lock().current, current);
    }
}

/// The inode of what lies in no directory.
struct Anonymous {
    kind: Kind,
    label: &'static str,
    number: u64,
    pipe: Weak<Pipe>,
    rights: Mutex<Rights>,
    born: Time,
}

/// What can be changed of it.
#[derive(Clone, Copy, Default)]
struct Rights {
    mode: u32,
    user: u32,
    group: u32,
}

impl Inode for Anonymous {
    fn attributes(&self) -> Attributes {
        let rights = *self.rights.lock();
        Attributes {
            number: self.number,
            device: NOWHERE.encoded(),
            kind: self.kind,
            mode: rights.mode,
            links: 1,
            user: rights.user,
            group: rights.group,
            names_device: DeviceNumber::default(),
            size: 0,
            blocks: 0,
            accessed: self.born,
            modified: self.born,
            changed: self.born,
            born: self.born,
        }
    }

    fn change(&self, change: &Change) -> Result<()> {
        let mut rights = self.rights.lock();
        rights.mode = change.mode.unwrap_or(rights.mode);
        rights.user = change.user.unwrap_or(rights.user);
        rights.group = change.group.unwrap_or(rights.group);
        Ok(())
    }

    /// By way of `/proc/PID/fd`: a pipe is opened once more, all else can only be shared.
    fn open(&self, _call: &Call<'_>, flags: u32) -> Result<Option<Arc<dyn File>>> {
        let pipe = self.pipe.upgrade().ok_or(Errno::ENXIO)?;
        let mode = flags & linux::O_ACCMODE;
        let end = pipe.open(mode != linux::O_WRONLY, mode != linux::O_RDONLY);
        Ok(Some(Arc::new(end)))
    }

    fn label(&self) -> Option<Vec<u8>> {
        Some(match self.kind {
            Kind::Fifo | Kind::Socket => {
                alloc::format!("{}:[{}]", self.label, self.number).into_bytes()
            }
            _ => alloc::format!("anon_inode:[{}]", self.label).into_bytes(),
        })
    }
}

/// The device number of what lies in no directory.
const NOWHERE: DeviceNumber = DeviceNumber::new(0, 1);

/// The file system of what lies in no directory: its root has nothing in it.
struct Nowhere;

impl FileSystem for Nowhere {
    fn name(&self) -> &'static str {
        "pipefs"
    }

    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(Anonymous {
            kind: Kind::Directory,
            label: "none",
            number: 0,
            pipe: Weak::new(),
            rights: Mutex::default(),
            born: Time::default(),
        })
    }

    fn usage(&self) -> Usage {
        Usage {
            magic: linux::PIPEFS_MAGIC,
            block: PAGE as u64,
            blocks: 0,
            free: 0,
            inodes: 0,
            free_inodes: 0,
        }
    }
}
