//! Empty L1 tables that nobody has: typed and pinned, so that the next who needs one pays neither for
//! its validation nor for its end.
//!
//! A table goes there from an L2 entry and comes back to one, and is pinned only in between: pinned
//! before it is unlinked, unpinned once it is linked, so that Xen never lets go of its type. It pays for
//! tables that map little: their entries are cleared and written one by one.

use heapless::Vec;
use hypercall::Pfn;
use hypercall::batch::Update;
use hypercall::mmu::{ExtOp, Level};

use super::Tables;
use crate::entry::{Flags, L1, L2, Pte, Value};
use crate::error::MmError;
use crate::machine::Machine;
use crate::ops::PAGE;
use crate::state::Transition;
use crate::tables::Place;

/// Tables that are kept: a cache, so that a few are enough.
const TABLES: usize = 32;
/// Most entries of a table for which it pays to keep it.
pub(super) const FEW: usize = 32;

/// Empty tables that nobody has.
pub(crate) type EmptyTables = Vec<Pfn, TABLES>;

impl<M: Machine> Tables<M> {
    /// An empty table, pinned, if one is kept.
    pub(super) fn take_empty_table(&mut self) -> Option<Pfn> {
        self.domain().empty_tables.lock().pop()
    }

    /// Whether one more can be kept.
    pub(super) fn keeps_more_tables(&self) -> bool {
        !self.domain().empty_tables.lock().is_full()
    }

    /// Keeps a table that is pinned, empty and unlinked.
    pub(super) fn keep_empty_table(&mut self, table: Pfn) -> Result<(), MmError> {
        let kept = self.domain().empty_tables.lock().push(table);
        // Others may have filled it meanwhile.
        kept.or_else(|table| self.end_table(table))
    }

    /// Gives back the memory of a table of the pool, if there is one.
    pub(super) fn release_empty_table(&mut self) -> Result<bool, MmError> {
        match self.take_empty_table() {
            Some(table) => self.end_table(table).map(|()| true),
            None => Ok(false),
        }
    }

    /// Gives back the memory of a table that nothing links.
    #[cold]
    #[track_caller]
    pub(crate) fn end_table(&mut self, table: Pfn) -> Result<(), MmError> {
        let (_, state) = self.frames().states(table)?;
        if state.pinned {
            self.or_orphan(table, |tables| {
                tables.pin_l1(table, false)?;
                tables.flush()
            })?;
        }
        self.release_table(table)
    }

    /// Pins an L1 table or has it pinned no more.
    #[track_caller]
    pub(super) fn pin_l1(&mut self, table: Pfn, pins: bool) -> Result<(), MmError> {
        let mfn = self.mfn(table)?;
        let (transition, op) = match pins {
            true => (Transition::Pin(1), ExtOp::Pin(Level::L1, mfn)),
            false => (Transition::Unpin, ExtOp::Unpin(mfn)),
        };
        let tag = self.plan(&[(table, transition)])?;
        // SAFETY: neither changes a mapping: a pin keeps the type that the table has, and what is
        // unpinned is linked by then, or maps nothing that is in use.
        unsafe { self.mmu.ext(op, tag) }?;
        Ok(())
    }

    /// Refers to a table of the pool from an entry, in place of whatever table that led to. In force
    /// when it returns.
    ///
    /// # Errors
    /// Xen's refusal: whichever of both tables the entry leads to, none is lost.
    ///
    /// # Safety
    /// What is in use below the entry must be mapped by the new table as it was.
    #[track_caller]
    pub(super) unsafe fn link_empty_table(
        &mut self,
        pmd: Place<L2>,
        table: Pfn,
    ) -> Result<(), MmError> {
        let linked = self.lazily(|tables| {
            let entry = tables.make_pmd(Value::new(table, Flags::TABLE))?;
            // SAFETY: the caller's promise.
            unsafe { tables.set_pmd(pmd, entry) }?;
            tables.pin_l1(table, false)
        });
        let linked = linked.and_then(|()| self.flush());
        let Err(error) = linked else {
            return Ok(());
        };
        self.flush()?;
        let (_, state) = self.frames().states(table)?;
        if state.links == 0 {
            // One that is pinned no more the log has given up.
            if state.pinned {
                self.end_table(table)?;
            }
        } else if state.pinned {
            // Linked it has its type without the pin.
            self.pin_l1(table, false).and_then(|()| self.flush())?;
        }
        Err(error)
    }

    /// Writes an entry of a table that the processor finds at no address.
    #[track_caller]
    pub(super) fn set_unlinked(
        &mut self,
        table: Pfn,
        index: u16,
        entry: Pte,
    ) -> Result<(), MmError> {
        let none = MmError::NoMemory {
            pfn: table.as_u64(),
        };
        let va = u64::from(index) * PAGE;
        let place = self.place_in::<L1>(table, va).ok_or(none)?;
        let old = self.entry(place);
        let update = Update::new(Level::L1, place.machine(), entry.bits()).old(old.bits());
        // SAFETY: nothing in use is reached through the table.
        unsafe { self.mmu.set(update) }?;
        Ok(())
    }
}
