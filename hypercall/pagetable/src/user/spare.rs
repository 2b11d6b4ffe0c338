//! Spaces that nobody has, kept for the next who needs one.
//!
//! A table's life costs Xen much more than its use: some 11,000 instructions to validate it, as many to
//! let go of it. What processes are made of is alike, a few tables at the bottom and at the top, so the
//! roots and upper tables of one that ended serve the next as they are: pinned, typed and empty. They
//! are given back when memory runs out.

use heapless::Vec;
use hypercall::Pfn;

use super::Tables;
use super::share::{END, GROUP, Group};
use super::table_pool::FEW;
use crate::entry::{Entry, L2};
use crate::error::MmError;
use crate::locks::Part;
use crate::machine::Machine;
use crate::spaces::{AddressSpace, NotDestroyed, Roots};

/// Spaces that are kept: a cache, so that a few are enough.
const SPARES: usize = 16;
/// Tables below the roots that a space may be kept with.
const TABLES: usize = 12;
/// Entries that are cleared in one section.
const PAGES: usize = 128;

/// An entry that is cleared so that its table can be kept, and what it maps.
struct Cleared {
    table: Pfn,
    index: u16,
    page: Pfn,
}

/// The roots of spaces that nobody has.
pub(crate) type Spares = Vec<Roots, SPARES>;

impl<M: Machine> Tables<M> {
    /// Ends a space as [`Tables::destroy_space`] does, and keeps its tables but the L1 tables for
    /// [`Tables::create_space`], as long as there is room. This vCPU holds the user half and the
    /// kernel's half afterwards, where the domain is shared.
    ///
    /// # Errors
    /// As [`Tables::destroy_space`].
    #[track_caller]
    pub fn spare_space(&mut self, space: AddressSpace) -> Result<(), NotDestroyed> {
        let checked = self
            .hold(Part::Space(&space))
            .and_then(|()| self.hold(Part::KernelHalf))
            .and_then(|()| self.check_left(space.roots()));
        if let Err(error) = checked {
            let space = Some(space);
            return Err(NotDestroyed { error, space });
        }
        let emptied = self.in_space(&space, |tables| {
            tables.empty_half()?;
            Ok(tables.tables_below(tables.root(), tables.fold().top()) <= TABLES)
        });
        let roots = space.roots();
        if emptied.is_ok_and(|is_small| is_small) && self.domain().spares.lock().push(roots).is_ok()
        {
            return Ok(());
        }
        self.destroy_space(space)
    }

    /// A space that was kept.
    pub(crate) fn take_spare(&mut self) -> Option<Roots> {
        self.domain().spares.lock().pop()
    }

    /// Gives back all tables that are kept, those of spaces and single ones.
    ///
    /// # Errors
    /// Xen's refusal. What it refused to let go of is kept still.
    #[track_caller]
    pub fn release_spares(&mut self) -> Result<(), MmError> {
        while self.release_spare()? {}
        Ok(())
    }

    /// Gives back a table that is kept for programs, or all of a space that is, if there are any.
    #[cold]
    #[track_caller]
    pub(crate) fn release_spare(&mut self) -> Result<bool, MmError> {
        if self.release_empty_table()? {
            return Ok(true);
        }
        let Some(roots) = self.take_spare() else {
            return Ok(false);
        };
        let Err(NotDestroyed { error, space }) = self.destroy_space(AddressSpace::new(roots))
        else {
            return Ok(true);
        };
        if space.is_some() {
            // There is room: it was taken out a moment ago. Were there none, it would be lost.
            let _ = self.domain().spares.lock().push(roots);
        }
        Err(error)
    }

    /// Clears all L2 entries of the space under work and gives back what only they led to.
    #[track_caller]
    fn empty_half(&mut self) -> Result<(), MmError> {
        let mut next = Some(0);
        while let Some(from) = next {
            let (mut gone, mut pages) = (Vec::new(), Vec::new());
            let unlinked = self.unlink_tables(from, &mut gone, &mut pages);
            // From here on nothing leads to what they map; what Xen refused to unlink is as it was.
            let sent = self.flush();
            for Cleared { table, index, page } in pages {
                if self.user_frame(table, index.into()) != Some(page) {
                    self.drop_page(page);
                }
            }
            self.lazily(|tables| {
                gone.into_iter()
                    .try_for_each(|table| tables.put_away(table))
            })?;
            next = unlinked?;
            sent?;
        }
        Ok(())
    }

    /// Keeps a table that was unlinked, if it is one to be kept, or gives it back with what it maps; one
    /// that Xen refused to unlink stays.
    fn put_away(&mut self, table: Pfn) -> Result<(), MmError> {
        let (_, state) = self.frames().states(table)?;
        if state.links > 0 {
            return match state.pinned {
                true => self.pin_l1(table, false),
                false => Ok(()),
            };
        }
        if state.pinned
            && self
                .few_entries(table)
                .is_some_and(|entries| entries.is_empty())
        {
            return self.keep_empty_table(table);
        }
        self.uncount_entries(table, 512);
        self.end_table(table)
    }

    /// The entries of a table that are present, if those are few.
    pub(super) fn few_entries(&self, table: Pfn) -> Option<Vec<u16, FEW>> {
        // SAFETY: what an entry of the user half refers to, or did until now, is a table.
        let words = unsafe { self.machine().live(table) }?;
        let mut entries = Vec::new();
        let mut next = 0;
        while let Some(index) = words.next_present(next) {
            entries.push(index as u16).ok()?;
            next = index + 1;
        }
        Some(entries)
    }

    /// Clears L2 entries from an address on, as many as a group has, and notes the tables that nothing
    /// refers to then, with the pages that were cleared in those that are to be kept; returns where to
    /// go on.
    fn unlink_tables(
        &mut self,
        from: u64,
        gone: &mut Vec<Pfn, GROUP>,
        pages: &mut Vec<Cleared, PAGES>,
    ) -> Result<Option<u64>, MmError> {
        let mut group = Group::new();
        let next = self.each_user_table(from..END, |start, pmd, table| {
            group.push((start, pmd, table)).is_ok()
        })?;
        for (start, pmd, table) in group {
            if pages.capacity() - pages.len() < FEW {
                return Ok(Some(start));
            }
            if self.sharers(table)? == 1 {
                // There is room: a group has no more.
                let _ = gone.push(table);
                if self.keeps_more_tables()
                    && let Some(entries) = self.few_entries(table)
                {
                    self.clear_entries(table, &entries, pages)?;
                    self.pin_l1(table, true)?;
                }
            }
            // SAFETY: nobody runs in the space, and its memory is user mode's.
            unsafe { self.set_pmd(pmd, Entry::NONE) }?;
        }
        Ok(next)
    }

    /// Clears entries of a table of a space where nobody runs, and notes what they mapped of user mode's.
    fn clear_entries(
        &mut self,
        table: Pfn,
        entries: &[u16],
        pages: &mut Vec<Cleared, PAGES>,
    ) -> Result<(), MmError> {
        for &index in entries {
            if let Some(page) = self.user_frame(table, index.into()) {
                // There is room: the caller saw to it.
                let _ = pages.push(Cleared { table, index, page });
            }
            self.set_unlinked(table, index, Entry::NONE)?;
        }
        Ok(())
    }

    /// How many tables there are below a table of the user half, more than so many not counted.
    fn tables_below(&self, table: Pfn, level: u8) -> usize {
        let last = if level == self.fold().top() { 256 } else { 512 };
        // SAFETY: a root, or what an entry refers to, is a table.
        let Some(words) = (unsafe { self.machine().live(table) }) else {
            return 0;
        };
        let (mut tables, mut next) = (0, 0);
        while let Some(index) = words.next_present(next).filter(|index| *index < last) {
            tables += 1;
            let entry = Entry::<L2>::from_table(words.get(index));
            if let Some(value) = self.value(entry).filter(|_| level > 3) {
                tables += self.tables_below(value.pfn, level - 1);
            }
            if tables > TABLES {
                break;
            }
            next = index + 1;
        }
        tables
    }
}
