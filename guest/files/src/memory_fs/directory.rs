//! Directories in memory: names, in the order in which they came.
//!
//! An entry keeps its position as long as it lives, so a program that reads a directory while it
//! removes what it read misses nothing and sees nothing twice.
//!
//! Names are found by a number made of their bytes: hardly two differ in their bytes alone, so that a look
//! compares numbers on its way and bytes once.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::cmp::Ordering;

use super::Shared;
use super::node::{Name, Node};
use crate::errno::{Errno, Result};
use crate::inode::{Entry, FIRST_ENTRY, Inode as _, New};

/// A name to look for, by its number first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Wanted<'a>(u64, &'a [u8]);

impl<'a> Wanted<'a> {
    /// FNV-1a: names that a program chooses to have one number cost it comparisons of bytes, no more.
    fn new(name: &'a [u8]) -> Self {
        let number = name.iter().fold(0xcbf2_9ce4_8422_2325, |number, &byte| {
            (number ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Self(number, name)
    }
}

/// A name that is there, or one to look for.
trait Named {
    fn wanted(&self) -> Wanted<'_>;
}

impl Named for Wanted<'_> {
    fn wanted(&self) -> Wanted<'_> {
        Wanted(self.0, self.1)
    }
}

impl PartialEq for dyn Named + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.wanted() == other.wanted()
    }
}

impl Eq for dyn Named + '_ {}

impl PartialOrd for dyn Named + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Named + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.wanted().cmp(&other.wanted())
    }
}

/// A name that is there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct There(u64, Name);

impl Named for There {
    fn wanted(&self) -> Wanted<'_> {
        Wanted(self.0, &self.1)
    }
}

impl<'a> Borrow<dyn Named + 'a> for There {
    fn borrow(&self) -> &(dyn Named + 'a) {
        self
    }
}

/// The entries of a directory.
#[derive(Default)]
pub(super) struct Directory {
    /// The position of each name, and what it stands for.
    by_name: BTreeMap<There, (u64, Arc<Node>)>,
    by_position: BTreeMap<u64, There>,
    /// The last position that was given.
    last: u64,
    /// It was removed: nothing can be made in it any more.
    removed: bool,
}

impl Directory {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<Arc<Node>> {
        let wanted = Wanted::new(name);
        let (_, node) = self.by_name.get(&wanted as &dyn Named)?;
        Some(node.clone())
    }

    /// Adds a name that is not there.
    pub(super) fn insert(&mut self, name: Name, node: Arc<Node>) {
        self.last = (self.last + 1).max(FIRST_ENTRY);
        let there = There(Wanted::new(&name).0, name);
        self.by_position.insert(self.last, there.clone());
        self.by_name.insert(there, (self.last, node));
    }

    /// Has a name that is there stand for something else, and returns what it stood for.
    pub(super) fn replace(&mut self, name: &[u8], node: Arc<Node>) -> Option<Arc<Node>> {
        let wanted = Wanted::new(name);
        let (_, there) = self.by_name.get_mut(&wanted as &dyn Named)?;
        Some(core::mem::replace(there, node))
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Arc<Node>> {
        let wanted = Wanted::new(name);
        let (position, node) = self.by_name.remove(&wanted as &dyn Named)?;
        self.by_position.remove(&position);
        Some(node)
    }

    /// Marks it as removed, if nothing is in it.
    pub(super) fn close(&mut self) -> Result<()> {
        if self.len() > 0 {
            return Err(Errno::ENOTEMPTY);
        }
        self.removed = true;
        Ok(())
    }

    /// Takes all that is in it.
    pub(super) fn clear(&mut self) -> Vec<Arc<Node>> {
        self.by_position.clear();
        let all = core::mem::take(&mut self.by_name);
        all.into_values().map(|(_, node)| node).collect()
    }

    pub(super) fn each(&self, from: u64, each: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        if self.removed {
            return Err(Errno::ENOENT);
        }
        for (&position, there) in self.by_position.range(from..) {
            let Some((_, node)) = self.by_name.get(there) else {
                continue;
            };
            let entry = Entry {
                name: &there.1,
                number: node.number,
                kind: node.kind(),
                next: position + 1,
            };
            if !each(entry) {
                break;
            }
        }
        Ok(())
    }
}

impl Node {
    /// Whether `name` can be added to this directory.
    fn check_free(&self, name: &[u8]) -> Result<()> {
        let directory = self.directory()?.lock();
        if directory.is_removed() {
            return Err(Errno::ENOENT);
        }
        match directory.get(name) {
            Some(_) => Err(Errno::EEXIST),
            None => Ok(()),
        }
    }

    pub(super) fn add_new(&self, name: &[u8], new: &New<'_>) -> Result<Arc<Self>> {
        let _names = self.shared.names.lock();
        self.check_free(name)?;
        let me = self.me.upgrade().ok_or(Errno::ENOENT)?;
        let name: Name = name.into();
        let node = Self::new(&self.shared, Some((&me, name.clone())), new)?;
        self.directory()?.lock().insert(name, node.clone());
        if node.is_directory() {
            self.count_links(1);
        }
        self.touch_modified();
        Ok(node)
    }

    pub(super) fn add_link(&self, name: &[u8], node: &Self) -> Result<()> {
        let _names = self.shared.names.lock();
        if !Arc::ptr_eq(&self.shared, &node.shared) {
            return Err(Errno::EXDEV);
        }
        self.check_free(name)?;
        if node.is_directory() {
            return Err(Errno::EPERM);
        }
        let (me, node) = (self.me.upgrade(), node.me.upgrade());
        let (Some(me), Some(node)) = (me, node) else {
            return Err(Errno::ENOENT);
        };
        if node.meta.lock().links == 0 {
            return Err(Errno::ENOENT);
        }
        self.shared.charge_name()?;
        let name: Name = name.into();
        node.count_links(1);
        node.set_place(&me, name.clone());
        self.directory()?.lock().insert(name, node);
        self.touch_modified();
        Ok(())
    }

    pub(super) fn remove_name(&self, name: &[u8]) -> Result<()> {
        // Declared first and so dropped last: all its data may go with it, and others need not wait.
        let node;
        let _names = self.shared.names.lock();
        node = self.directory()?.lock().get(name).ok_or(Errno::ENOENT)?;
        if node.is_directory() {
            return Err(Errno::EISDIR);
        }
        let _old = self.directory()?.lock().remove(name);
        node.lose_name();
        self.touch_modified();
        Ok(())
    }

    pub(super) fn remove_empty(&self, name: &[u8]) -> Result<()> {
        let _names = self.shared.names.lock();
        let node = self.directory()?.lock().get(name).ok_or(Errno::ENOENT)?;
        node.directory()?.lock().close()?;
        let _old = self.directory()?.lock().remove(name);
        node.lose_directory();
        self.count_links(-1);
        self.touch_modified();
        Ok(())
    }

    /// What is no directory lost one of its names.
    pub(super) fn lose_name(&self) {
        self.count_links(-1);
        if self.meta.lock().links > 0 {
            // The last name is counted as the inode itself, and given back with it.
            self.shared.uncharge_name();
        }
    }

    /// A directory lost its name: it and its `.` are no links any more.
    pub(super) fn lose_directory(&self) {
        self.count_links(-2);
    }

    /// Whether this is `other` or somewhere in it.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        if core::ptr::eq(self, other) {
            return true;
        }
        let mut at = self.parent();
        while let Some(node) = at {
            if core::ptr::eq(&*node, other) {
                return true;
            }
            at = node.parent();
        }
        false
    }

    /// The shared state of the file system that both are in.
    pub(super) fn same_shared(&self, other: &Self) -> Result<&Shared> {
        if !Arc::ptr_eq(&self.shared, &other.shared) {
            return Err(Errno::EXDEV);
        }
        Ok(&self.shared)
    }
}
