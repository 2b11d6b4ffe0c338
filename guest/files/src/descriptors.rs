//! The descriptors of a process.

use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Once;

use crate::errno::{Errno, Result};
use crate::file::OpenFile;
use crate::lock::Mutex;
use crate::records::{Owner, Records};

/// A table of descriptors: what a process shares with its threads.
pub struct Descriptors {
    table: Mutex<Table>,
    /// Whose locks of parts of files are this table's.
    pub(crate) owner: Owner,
    /// Where they are, once it has taken one.
    records: Once<Arc<Records>>,
}

#[derive(Default)]
struct Table {
    slots: Vec<Option<Slot>>,
    /// No slot below is free.
    lowest: usize,
}

#[derive(Clone)]
struct Slot {
    file: Arc<OpenFile>,
    close_on_exec: bool,
}

impl Table {
    fn get(&self, number: i32) -> Result<&Slot> {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.slots.get(number)?.as_ref())
            .ok_or(Errno::EBADF)
    }

    fn get_mut(&mut self, number: i32) -> Result<&mut Slot> {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.slots.get_mut(number)?.as_mut())
            .ok_or(Errno::EBADF)
    }

    /// Makes sure that a slot of that number is there.
    fn grow(&mut self, number: usize) -> Result<()> {
        let more = (number + 1).saturating_sub(self.slots.len());
        self.slots.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
        if more > 0 {
            self.slots.resize(number + 1, None);
        }
        Ok(())
    }

    /// The lowest number from `from` on that is free.
    fn free_number(&self, from: usize, limit: u32) -> Result<usize> {
        let from = from.max(self.lowest);
        let free = self.slots.iter().skip(from).position(Option::is_none);
        let number = match free {
            Some(skipped) => from + skipped,
            None => from.max(self.slots.len()),
        };
        match number < limit as usize {
            true => Ok(number),
            false => Err(Errno::EMFILE),
        }
    }

    fn take(&mut self, number: usize) -> Option<Slot> {
        let slot = self.slots.get_mut(number)?.take()?;
        self.lowest = self.lowest.min(number);
        Some(slot)
    }
}

impl Default for Descriptors {
    fn default() -> Self {
        Self::with(Table::default())
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        if let Some(records) = self.records.get() {
            records.forget(None, self.owner);
        }
    }
}

impl Descriptors {
    /// A table without descriptors.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(table: Table) -> Self {
        Self {
            table: Mutex::new(table),
            owner: Owner::new(),
            records: Once::new(),
        }
    }

    /// Has what closes a file give back the locks that this table has of its parts.
    pub(crate) fn locks_in(&self, records: &Arc<Records>) {
        self.records.call_once(|| records.clone());
    }

    /// Gives back what closing a file gives back.
    fn closed(&self, slot: Slot) {
        if let Some(records) = self.records.get() {
            let inode = slot.file.place.inode.attributes();
            records.forget(Some((inode.device, inode.number)), self.owner);
        }
        // The last descriptor of a file may wake others.
        drop(slot);
    }

    /// The open file of a descriptor.
    ///
    /// # Errors
    /// `EBADF` if there is none.
    pub fn get(&self, number: i32) -> Result<Arc<OpenFile>> {
        self.table.lock().get(number).map(|slot| slot.file.clone())
    }

    /// Gives a file the lowest descriptor that is free, from `from` on and below `limit`.
    ///
    /// # Errors
    /// `EMFILE` if none is free, `ENOMEM`.
    pub fn add(
        &self,
        file: Arc<OpenFile>,
        from: u32,
        limit: u32,
        close_on_exec: bool,
    ) -> Result<i32> {
        let mut table = self.table.lock();
        let number = table.free_number(from as usize, limit)?;
        table.grow(number)?;
        if number == table.lowest {
            table.lowest = number + 1;
        }
        table.slots[number] = Some(Slot {
            file,
            close_on_exec,
        });
        Ok(number as i32)
    }

    /// Gives several files a descriptor each, or none.
    ///
    /// # Errors
    /// Those of [`Descriptors::add`].
    pub fn add_both(
        &self,
        files: [Arc<OpenFile>; 2],
        limit: u32,
        close_on_exec: bool,
    ) -> Result<[i32; 2]> {
        let [first, second] = files;
        let first = self.add(first, 0, limit, close_on_exec)?;
        match self.add(second, 0, limit, close_on_exec) {
            Ok(second) => Ok([first, second]),
            Err(error) => {
                // It may be closed already: another thread can have guessed the number.
                let _ = self.close(first);
                Err(error)
            }
        }
    }

    /// Puts the file of a descriptor under another one as well, in place of what is there
    /// (`dup2`, `dup3`).
    ///
    /// # Errors
    /// `EBADF` if there is no file, or no such number below `limit`.
    pub fn copy(&self, from: i32, to: i32, limit: u32, close_on_exec: bool) -> Result<i32> {
        let mut table = self.table.lock();
        let file = table.get(from)?.file.clone();
        let number = usize::try_from(to).map_err(|_| Errno::EBADF)?;
        if number >= limit as usize {
            return Err(Errno::EBADF);
        }
        table.grow(number)?;
        let slot = Slot {
            file,
            close_on_exec,
        };
        let old = table.slots[number].replace(slot);
        drop(table);
        old.into_iter().for_each(|slot| self.closed(slot));
        Ok(to)
    }

    /// Takes a descriptor away. Its file is closed with the last of them.
    ///
    /// # Errors
    /// `EBADF` if there is none.
    pub fn close(&self, number: i32) -> Result<()> {
        let index = usize::try_from(number).map_err(|_| Errno::EBADF)?;
        let closed = self.table.lock().take(index);
        closed.map(|slot| self.closed(slot)).ok_or(Errno::EBADF)
    }

    /// Takes away all descriptors from `first` to `last`, or has them closed by exec
    /// (`close_range`).
    pub fn close_range(&self, first: u32, last: u32, only_on_exec: bool) {
        let mut number = first as usize;
        loop {
            let mut table = self.table.lock();
            if number > last as usize || number >= table.slots.len() {
                return;
            }
            if only_on_exec {
                if let Some(slot) = &mut table.slots[number] {
                    slot.close_on_exec = true;
                }
            } else {
                let closed = table.take(number);
                drop(table);
                closed.into_iter().for_each(|slot| self.closed(slot));
            }
            number += 1;
        }
    }

    /// Whether exec closes a descriptor.
    ///
    /// # Errors
    /// `EBADF` if there is none.
    pub fn closes_on_exec(&self, number: i32) -> Result<bool> {
        self.table.lock().get(number).map(|slot| slot.close_on_exec)
    }

    /// Says whether exec closes a descriptor.
    ///
    /// # Errors
    /// `EBADF` if there is none.
    pub fn set_close_on_exec(&self, number: i32, close: bool) -> Result<()> {
        self.table.lock().get_mut(number)?.close_on_exec = close;
        Ok(())
    }

    /// A table of the same files, for a child.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn fork(&self) -> Result<Self> {
        let table = self.table.lock();
        let used = table.slots.iter().rposition(Option::is_some);
        let used = &table.slots[..used.map_or(0, |last| last + 1)];
        let mut slots = Vec::new();
        slots
            .try_reserve_exact(used.len())
            .map_err(|_| Errno::ENOMEM)?;
        slots.extend_from_slice(used);
        let lowest = table.lowest.min(slots.len());
        Ok(Self::with(Table { slots, lowest }))
    }

    /// Closes what exec closes.
    pub fn exec(&self) {
        let mut number = 0;
        loop {
            let mut table = self.table.lock();
            if number >= table.slots.len() {
                return;
            }
            let closed = match &table.slots[number] {
                Some(slot) if slot.close_on_exec => table.take(number),
                _ => None,
            };
            drop(table);
            closed.into_iter().for_each(|slot| self.closed(slot));
            number += 1;
        }
    }

    /// The lowest descriptor that is in use, from `from` on.
    pub fn next_used(&self, from: u32) -> Option<u32> {
        let table = self.table.lock();
        let from = from as usize;
        let skipped = table.slots.get(from..)?.iter().position(Option::is_some)?;
        u32::try_from(from + skipped).ok()
    }
}
