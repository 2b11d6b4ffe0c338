//! What becomes of a page that is touched: by a fault, or by a program that asks for all of a range at once.
//!
//! Memory that is touched page after page is mapped ahead: with each fault that goes on where the last one
//! ended twice as many pages, so that never more is mapped than was touched. A file's pages are mapped
//! where they lie, those around with the one that is touched; a program that writes to them gets a copy of
//! its own, unless they are shared.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use guest_files::Page;

use super::{Backing, Content, GUARD, Inner, Memory, STACK, errno};
use crate::areas::{self, Area, Rights};
use crate::mm::MmError;
use crate::mm::user::OnWrite;
use crate::user::errno::{Errno, Room};
use crate::user::pages::{self, Fill, PAGE, TABLE};
use crate::usermode::END;

/// Pages that a fault maps at most: those of a whole table, which costs least a page.
const MOST: u64 = TABLE;
/// Pages of a file in a block, of which a fault maps those that are there.
const AROUND: u64 = 16;

/// What a page fault found wrong, by the signal that a program gets for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Nothing is there: SIGSEGV, SEGV_MAPERR.
    Nothing,
    /// What is there may not be touched so: SIGSEGV, SEGV_ACCERR.
    Rights,
    /// The file has nothing there: SIGBUS.
    Bus,
    /// There is no memory for it.
    NoMemory,
}

/// How a page is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Execute,
}

impl Access {
    /// By the error code of a page fault (SDM volume 3, 4.7).
    pub(crate) fn of(error: u64) -> Access {
        match (error >> 4 & 1, error >> 1 & 1) {
            (1, _) => Access::Execute,
            (_, 1) => Access::Write,
            _ => Access::Read,
        }
    }

    fn is_allowed(self, rights: Rights) -> bool {
        match self {
            Access::Read => !rights.is_empty(),
            Access::Write => rights.contains(Rights::WRITE),
            Access::Execute => rights.contains(Rights::EXECUTE),
        }
    }
}

/// Where a program goes on if it touches memory page after page, and how much was wanted there last: more
/// than was mapped where a table or an area ended.
#[derive(Default)]
pub(super) struct Ahead {
    next: u64,
    pages: u64,
}

impl Ahead {
    /// How many pages to map for a fault.
    fn pages(&self, va: u64) -> u64 {
        if va == self.next {
            (self.pages * 2).min(MOST)
        } else {
            1
        }
    }

    /// So many pages are there for a fault.
    fn note(&mut self, va: u64, pages: u64) {
        if pages > 0 {
            self.pages = self.pages(va);
            self.next = va + pages * PAGE;
        }
    }
}

fn no_memory(error: MmError) -> Refused {
    errno(error);
    Refused::NoMemory
}

impl Memory {
    /// Has a page there that may be touched so.
    ///
    /// # Errors
    /// See [`Refused`].
    pub(crate) fn fault(&self, address: u64, access: Access) -> Result<(), Refused> {
        self.0.lock().fault(address, access)
    }

    /// Has all pages of a range there, as far as they may be touched and there is memory for them.
    pub(crate) fn populate(&self, start: u64, bytes: u64) {
        let Ok(range) = super::check(start, bytes) else {
            return;
        };
        let mut next = range.start;
        while next < range.end {
            // Others of its threads have their turn between two tables.
            let Ok(pages) = self.0.lock().populate(next, range.end) else {
                return;
            };
            next += pages * PAGE;
        }
    }
}

impl Inner {
    /// The area that an address lies in; a stack grows for it.
    fn area(&mut self, address: u64) -> Result<Area<Backing>, Refused> {
        if let Some(area) = self.areas.find(address) {
            return Ok(area.clone());
        }
        let page = address & !(PAGE - 1);
        let above = self.areas.next(address).ok_or(Refused::Nothing)?;
        let is_stack = matches!(above.backing, Backing::Stack);
        let (start, end) = (above.range.start, above.range.end);
        let is_near = is_stack && end.saturating_sub(page) <= STACK;
        let guard = page.checked_sub(GUARD).ok_or(Refused::Nothing)?;
        if !is_near || !self.areas.is_free(guard..page) {
            return Err(Refused::Nothing);
        }
        self.areas.grow_down(start, page);
        self.areas.find(address).cloned().ok_or(Refused::Nothing)
    }

    fn fault(&mut self, address: u64, access: Access) -> Result<(), Refused> {
        if address >= END {
            return Err(Refused::Nothing);
        }
        // Most faults are of memory that needs no more to be known of.
        if let Some(area) = self.areas.find(address)
            && area.backing.is_memory()
            && access.is_allowed(area.rights)
        {
            let va = address & !(PAGE - 1);
            let (left, rights) = (area_left(area, va), area.rights);
            return self.fault_ahead(va, left, rights, access);
        }
        let area = self.area(address)?;
        if !access.is_allowed(area.rights) {
            return Err(Refused::Rights);
        }
        let va = address & !(PAGE - 1);
        let left = area_left(&area, va);
        match &area.backing {
            Backing::File(file, _) => {
                let around = (AROUND - va / PAGE % AROUND).min(left);
                self.fault_file(&area, file, va, around, access).map(drop)
            }
            Backing::Shared(file, _) => {
                let around = (AROUND - va / PAGE % AROUND).min(left);
                self.fault_shared(&area, file, va, around, access).map(drop)
            }
            Backing::Zeros | Backing::Stack | Backing::Heap => {
                self.fault_ahead(va, left, area.rights, access)
            }
        }
    }

    /// Resolves a fault in memory of zeros, with as many of the `left` pages of its area as are to be there
    /// ahead.
    fn fault_ahead(
        &mut self,
        va: u64,
        left: u64,
        rights: Rights,
        access: Access,
    ) -> Result<(), Refused> {
        let wanted = self.ahead.pages(va).min(left);
        let there = self.fault_zeros(rights, va, wanted, access)?;
        self.ahead.note(va, there);
        Ok(())
    }

    /// Maps what was added to the heap, if the program has touched all before it up to the end: it is to be
    /// touched next. Without memory that is left to the fault.
    pub(super) fn go_on(&mut self, added: Range<u64>) {
        let pages = (added.end - added.start) / PAGE;
        let rights = Rights::READ | Rights::WRITE;
        if added.start == self.ahead.next && pages <= self.ahead.pages(added.start) {
            match self.pages.add_zeros(added.start, pages, rights) {
                Ok(mapped) => self.ahead.note(added.start, mapped),
                Err(e) => log::debug!(target: "user", "the heap at {:#x}: {e}", added.start),
            }
        }
    }

    /// Has pages from an address on there, up to the end of a table's span at most; returns how many are.
    fn populate(&mut self, va: u64, end: u64) -> Result<u64, Refused> {
        let area = self.areas.find(va).cloned().ok_or(Refused::Nothing)?;
        let wanted = (TABLE - va / PAGE % TABLE).min((area.range.end.min(end) - va) / PAGE);
        let is_writable = area.rights.contains(Rights::WRITE);
        let access = if is_writable {
            Access::Write
        } else {
            Access::Read
        };
        if !access.is_allowed(area.rights) {
            return Ok(wanted);
        }
        let mapped = match &area.backing {
            Backing::File(file, _) => self.fault_file(&area, file, va, wanted, access)?,
            Backing::Shared(file, _) => self.fault_shared(&area, file, va, wanted, access)?,
            Backing::Zeros | Backing::Stack | Backing::Heap => {
                self.fault_zeros(area.rights, va, wanted, access)?
            }
        };
        // One that was there already is there as well.
        Ok(mapped.max(1))
    }

    /// Resolves a fault in memory of zeros; returns how many pages were mapped, `wanted` at most.
    fn fault_zeros(
        &mut self,
        rights: Rights,
        va: u64,
        wanted: u64,
        access: Access,
    ) -> Result<u64, Refused> {
        let write = access == Access::Write;
        let mapped = self.pages.fault(va, wanted, rights, write);
        match mapped {
            Err(e) if wanted > 1 => {
                log::debug!(target: "user", "{wanted} pages at {va:#x} are too many: {e}");
                let one = self.pages.fault(va, 1, rights, write);
                one.map_err(no_memory)
            }
            mapped => mapped.map_err(no_memory),
        }
    }

    /// Resolves a fault in a file of which the program has its own; returns how many pages were mapped.
    fn fault_file(
        &mut self,
        area: &Area<Backing>,
        file: &Arc<dyn Content>,
        va: u64,
        wanted: u64,
        access: Access,
    ) -> Result<u64, Refused> {
        let write = access == Access::Write;
        let ahead = self.ahead.pages(va).min(area_left(area, va));
        let there = self
            .pages
            .touch(va, ahead, area.rights, write, OnWrite::Copy);
        if let Some(pages) = there.map_err(no_memory)? {
            self.ahead.note(va, pages);
            return Ok(pages);
        }
        let at = |va: u64| offset(area, va);
        let page = match file.page(at(va), false) {
            Err(Errno::ENODEV) => return self.fault_read(area, &**file, va),
            Err(Errno::EFAULT) => return Err(Refused::Bus),
            Err(_) => return Err(Refused::NoMemory),
            Ok(None) => return self.fault_zeros(area.rights, va, 1, access),
            Ok(Some(page)) => page,
        };
        if write {
            let fill = Fill::Held(&*page);
            let mapped = self.pages.map(va, 1, area.rights, &fill);
            return mapped.map(|()| 1).map_err(no_memory);
        }
        let more = |va| file.page(at(va), false).ok().flatten();
        self.map_pages(va, page, wanted, area.rights - Rights::WRITE, more)
    }

    /// Resolves a fault in a file that is shared; returns how many pages were mapped.
    fn fault_shared(
        &mut self,
        area: &Area<Backing>,
        file: &Arc<dyn Content>,
        va: u64,
        wanted: u64,
        access: Access,
    ) -> Result<u64, Refused> {
        let write = access == Access::Write;
        let there = self
            .pages
            .touch(va, wanted, area.rights, write, OnWrite::Share);
        if let Some(pages) = there.map_err(no_memory)? {
            return Ok(pages);
        }
        let page = match file.page(offset(area, va), true) {
            Err(Errno::EFAULT) => return Err(Refused::Bus),
            Err(_) => return Err(Refused::NoMemory),
            Ok(page) => page.ok_or(Refused::Bus)?,
        };
        // Who asks for many wants them all; a fault those that are there.
        let make = wanted > AROUND;
        let more = |va| file.page(offset(area, va), make).ok().flatten();
        self.map_pages(va, page, wanted, area.rights, more)
    }

    /// Maps a file's page and those that follow, `wanted` in all, as far as `more` has them and nothing is
    /// mapped there.
    fn map_pages(
        &mut self,
        va: u64,
        page: Arc<dyn Page>,
        wanted: u64,
        rights: Rights,
        more: impl Fn(u64) -> Option<Arc<dyn Page>>,
    ) -> Result<u64, Refused> {
        let room = self.pages.room(va, wanted).map_err(no_memory)?;
        let mut all = Vec::new();
        all.room(room as usize).map_err(|_| Refused::NoMemory)?;
        all.push(page);
        let rest = (1..room).map_while(|page| more(va + page * PAGE));
        all.extend(rest);
        let mapped = self.pages.map_held(va, &all, rights);
        mapped.map(|()| all.len() as u64).map_err(no_memory)
    }

    /// Maps a page of a file that has none to map: a copy of what is read there.
    fn fault_read(
        &mut self,
        area: &Area<Backing>,
        file: &dyn Content,
        va: u64,
    ) -> Result<u64, Refused> {
        let mut frame = pages::zeroed().map_err(no_memory)?;
        let read = file.read(offset(area, va), pages::memory(&mut frame));
        let mapped = match read {
            Ok(count) if count > 0 => {
                let mapped = self.pages.map(va, 1, area.rights, &Fill::Copy(&frame));
                mapped.map(|()| 1).map_err(no_memory)
            }
            _ => Err(Refused::Bus),
        };
        pages::free(frame);
        mapped
    }
}

/// Pages of an area from an address on.
fn area_left(area: &Area<Backing>, va: u64) -> u64 {
    (area.range.end - va) / PAGE
}

/// The byte of a file that is at an address of an area.
fn offset(area: &Area<Backing>, va: u64) -> u64 {
    match areas::Backing::advanced(&area.backing, va - area.range.start) {
        Backing::File(_, at) | Backing::Shared(_, at) => at,
        Backing::Zeros | Backing::Stack | Backing::Heap => 0,
    }
}
