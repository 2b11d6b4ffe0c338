//! Files in memory: Linux' tmpfs in what programs can see of it.
//!
//! Names change one at a time (`Shared::names`), lookups go on meanwhile: each directory has a lock
//! of its own, and only who changes names holds more than one. Memory is limited: pages of data and
//! inodes are counted, names and links with them, and what does not fit is `ENOSPC`.

mod data;
mod directory;
mod node;
mod rename;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general as linux;

use crate::errno::{Errno, Result};
use crate::host::{Host, PAGE};
use crate::inode::{DeviceNumber, FileSystem, Inode, Kind, New, Usage};
use crate::lock::Mutex;
use node::{Content, Node};

/// How much a file system in memory may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Pages of data.
    pub pages: u64,
    /// Inodes and further names of them.
    pub inodes: u64,
}

/// What all inodes of a file system in memory share.
struct Shared {
    host: Arc<dyn Host>,
    device: DeviceNumber,
    limits: Limits,
    pages: AtomicU64,
    inodes: AtomicU64,
    next_number: AtomicU64,
    /// Held by who changes names.
    names: Mutex<()>,
}

impl Shared {
    /// Counts `count` more of what `most` limits.
    fn charge(counter: &AtomicU64, count: u64, most: u64) -> Result<()> {
        counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(count).filter(|&used| used <= most)
            })
            .map(drop)
            .map_err(|_| Errno::ENOSPC)
    }

    fn charge_pages(&self, count: u64) -> Result<()> {
        Self::charge(&self.pages, count, self.limits.pages)
    }

    fn uncharge_pages(&self, count: u64) {
        self.pages.fetch_sub(count, Ordering::Relaxed);
    }

    fn charge_name(&self) -> Result<()> {
        Self::charge(&self.inodes, 1, self.limits.inodes)
    }

    fn uncharge_name(&self) {
        self.inodes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file system in memory.
pub struct MemoryFs {
    shared: Arc<Shared>,
    root: Arc<Node>,
}

impl MemoryFs {
    /// An empty one, whose files' `st_dev` is `device` and whose root has these rights.
    ///
    /// # Errors
    /// `ENOSPC` if `limits` allow not even a root.
    pub fn new(
        host: Arc<dyn Host>,
        device: DeviceNumber,
        limits: Limits,
        mode: u32,
    ) -> Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            host,
            device,
            limits,
            pages: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
            next_number: AtomicU64::new(1),
            names: Mutex::new(()),
        });
        let root = Node::new(
            &shared,
            None,
            &New {
                kind: Kind::Directory,
                mode,
                user: 0,
                group: 0,
                device: DeviceNumber::default(),
                target: b"",
            },
        )?;
        Ok(Arc::new(Self { shared, root }))
    }

    /// Pages of data that it holds.
    pub fn pages_used(&self) -> u64 {
        self.shared.pages.load(Ordering::Relaxed)
    }

    /// Inodes and further names that it holds.
    pub fn inodes_used(&self) -> u64 {
        self.shared.inodes.load(Ordering::Relaxed)
    }
}

impl FileSystem for MemoryFs {
    fn name(&self) -> &'static str {
        "tmpfs"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn nameless(&self, name: &[u8], new: &New<'_>) -> Result<Arc<dyn Inode>> {
        let node = Node::new(&self.shared, Some((&self.root, name.into())), new)?;
        node.count_links(-1);
        Ok(node)
    }

    fn usage(&self) -> Usage {
        let Limits { pages, inodes } = self.shared.limits;
        Usage {
            magic: linux::TMPFS_MAGIC,
            block: PAGE as u64,
            blocks: pages,
            free: pages.saturating_sub(self.pages_used()),
            inodes,
            free_inodes: inodes.saturating_sub(self.inodes_used()),
        }
    }
}

impl Drop for MemoryFs {
    /// Directories hold what is in them, and that holds its directory: takes all that apart, and
    /// not by recursion, which a deep tree would make as deep.
    fn drop(&mut self) {
        let mut left = Vec::from([self.root.clone()]);
        while let Some(node) = left.pop() {
            if let Content::Directory(directory) = &node.content {
                left.extend(directory.lock().clear());
            }
        }
    }
}
