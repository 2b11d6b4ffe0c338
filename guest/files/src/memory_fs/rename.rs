//! Renaming: the one change that concerns two directories.

use alloc::sync::Arc;

use super::node::{Name, Node};
use crate::errno::{Errno, Result};
use crate::inode::Rename;

impl Node {
    pub(super) fn move_name(&self, name: &[u8], to: &Self, new: &[u8], how: Rename) -> Result<()> {
        // Declared first and so dropped last: all its data may go with it, and others need not wait.
        let _gone;
        let _names = self.same_shared(to)?.names.lock();
        let moved = self.directory()?.lock().get(name).ok_or(Errno::ENOENT)?;
        let there = to.directory()?.lock().get(new);
        _gone = there.clone();
        if to.directory()?.lock().is_removed() {
            return Err(Errno::ENOENT);
        }
        match (&there, how) {
            (Some(_), Rename::Keep) => return Err(Errno::EEXIST),
            (None, Rename::Exchange) => return Err(Errno::ENOENT),
            _ => {}
        }
        // A directory cannot come to lie in itself.
        if moved.is_directory() && to.is_within(&moved) {
            return Err(Errno::EINVAL);
        }
        if let Some(there) = &there
            && there.is_directory()
            && self.is_within(there)
        {
            return Err(match how {
                Rename::Exchange => Errno::EINVAL,
                _ => Errno::ENOTEMPTY,
            });
        }
        match there {
            // Two names of one inode: both stay, says POSIX.
            Some(there) if Arc::ptr_eq(&there, &moved) => Ok(()),
            Some(there) if how == Rename::Exchange => self.exchange(name, moved, to, new, there),
            Some(there) => self.move_over(name, moved, to, new, there),
            None => {
                self.take_over(name, &moved, to, new)?;
                to.directory()?.lock().insert(new.into(), moved);
                Ok(())
            }
        }
    }

    /// Takes `name` out of this directory and notes its new place; the caller adds it there.
    fn take_over(&self, name: &[u8], moved: &Arc<Self>, to: &Self, new: &[u8]) -> Result<()> {
        let to_node = to.me.upgrade().ok_or(Errno::ENOENT)?;
        let new_name: Name = new.into();
        let _old = self.directory()?.lock().remove(name);
        moved.set_place(&to_node, new_name);
        moved.touch_changed();
        if moved.is_directory() {
            self.count_links(-1);
            to.count_links(1);
        }
        self.touch_modified();
        to.touch_modified();
        Ok(())
    }

    fn move_over(
        &self,
        name: &[u8],
        moved: Arc<Self>,
        to: &Self,
        new: &[u8],
        there: Arc<Self>,
    ) -> Result<()> {
        match (moved.is_directory(), there.is_directory()) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            (true, true) => there.directory()?.lock().close()?,
            (false, false) => {}
        }
        // The new name leads somewhere at every moment: first it leads to what is moved.
        let _old = to.directory()?.lock().replace(new, moved.clone());
        self.take_over(name, &moved, to, new)?;
        if there.is_directory() {
            there.lose_directory();
            to.count_links(-1);
        } else {
            there.lose_name();
        }
        Ok(())
    }

    fn exchange(
        &self,
        name: &[u8],
        moved: Arc<Self>,
        to: &Self,
        new: &[u8],
        there: Arc<Self>,
    ) -> Result<()> {
        let from_node = self.me.upgrade().ok_or(Errno::ENOENT)?;
        let to_node = to.me.upgrade().ok_or(Errno::ENOENT)?;
        to.directory()?.lock().replace(new, moved.clone());
        self.directory()?.lock().replace(name, there.clone());
        moved.set_place(&to_node, new.into());
        there.set_place(&from_node, name.into());
        let difference = i32::from(there.is_directory()) - i32::from(moved.is_directory());
        self.count_links(difference);
        to.count_links(-difference);
        moved.touch_changed();
        there.touch_changed();
        self.touch_modified();
        to.touch_modified();
        Ok(())
    }
}
