//! Spaces that nobody has, kept for the next who needs one.
//!
//! A table's life costs Xen much more than its use: some 11,000 instructions to validate it, as many to
//! let go of it. What processes are made of is alike, a few tables at the bottom and at the top, so the
//! roots and upper tables of one that ended serve the next as they are: pinned, typed and empty. They
//! are given back when memory runs out.

use heapless::Vec;
use hypercall::Pfn;

use super::Tables;
use crate::entry::{Entry, L2, TableLevel};
use crate::error::MmError;
use crate::locks::Part;
use crate::machine::Machine;
use crate::spaces::{AddressSpace, NotDestroyed, Roots};

/// Spaces that are kept: a cache, so that a few are enough.
const SPARES: usize = 16;
/// Tables below the roots that a space may be kept with.
const TABLES: usize = 12;
/// L1 tables that are given back in one section.
const GROUP: usize = 64;

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

    /// Gives back the tables of the spaces that are kept.
    ///
    /// # Errors
    /// Xen's refusal. What it refused to let go of is kept still.
    #[track_caller]
    pub fn release_spares(&mut self) -> Result<(), MmError> {
        while self.release_spare()? {}
        Ok(())
    }

    /// Gives back the tables of one space that is kept, if there is one.
    #[cold]
    #[track_caller]
    pub(crate) fn release_spare(&mut self) -> Result<bool, MmError> {
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
            let mut gone = Vec::new();
            let unlinked = self.unlink_tables(from, &mut gone);
            // From here on nothing leads to what they map; what Xen refused to unlink is as it was.
            let sent = self.flush();
            self.lazily(|tables| {
                for table in gone {
                    if tables.unreferenced(table)? {
                        tables.uncount_entries(table, 512);
                        tables.release_table(table)?;
                    }
                }
                Ok(())
            })?;
            next = unlinked?;
            sent?;
        }
        Ok(())
    }

    /// Clears L2 entries from an address on, as many as a group has, and notes the tables that nothing
    /// refers to then; returns where to go on.
    fn unlink_tables(
        &mut self,
        from: u64,
        gone: &mut Vec<Pfn, GROUP>,
    ) -> Result<Option<u64>, MmError> {
        let mut next = from;
        while let Some((va, pmd)) = self.next_table(next, 1 << 47)? {
            if gone.is_full() {
                return Ok(Some(va));
            }
            let table = self.value(self.entry(pmd));
            let table = table.ok_or(MmError::NotMapped { va })?.pfn;
            // SAFETY: nobody runs in the space, and its memory is user mode's.
            unsafe { self.set_pmd(pmd, Entry::NONE) }?;
            if self.unreferenced(table)? {
                // There is room, as was seen above.
                let _ = gone.push(table);
            }
            next = (va | (L2::SPAN - 1)) + 1;
        }
        Ok(None)
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
