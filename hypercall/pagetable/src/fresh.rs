//! Tables that are built before Xen sees them, and their way back.
//!
//! Filling a table with plain stores while it is ordinary memory and having Xen validate it once
//! costs 225 instructions an entry; updating it entry by entry costs 555. The types are the
//! protocol: a [`Fresh`] table may be written and not linked, a [`Sealed`] one may be linked and
//! not written, and each becomes the other only through the page-table path.
//!
//! ```text
//! Frame ─empty/filled─▶ Fresh ──seal──▶ Sealed ──link──▶ (in the tables)
//!   ▲                                     │ ▲               │
//!   └─────────────release◀────────────────┘ └────unlink─────┘
//! ```

use core::marker::PhantomData;

use crate::entry::{Entry, Flags, TableLevel, UpperLevel, Value};
use crate::error::MmError;
use crate::frames::Frame;
use crate::machine::{Machine, Words};
use crate::state::Kind;
use crate::tables::{Place, Tables};
use hypercall::Pfn;

/// A table under construction: ordinary memory that is the holder's alone.
#[must_use = "a table that is dropped is lost"]
pub struct Fresh<L> {
    frame: Frame,
    level: PhantomData<L>,
}

/// A finished table that nothing refers to: read-only, ready to be linked.
#[must_use = "a table that is dropped is lost"]
pub struct Sealed<L> {
    pfn: Pfn,
    level: PhantomData<L>,
}

impl<L: TableLevel> Fresh<L> {
    /// An empty table.
    pub fn empty<M: Machine>(tables: &mut Tables<M>, mut frame: Frame) -> Fresh<L> {
        *tables.frame_memory(&mut frame) = [0; 512];
        Fresh {
            frame,
            level: PhantomData,
        }
    }

    /// A table whose every entry `fill` writes: the frame's old content must not show through.
    ///
    /// `fill` gets the words to write; it must leave no word as it found it. (A word that is left
    /// is validated by Xen like any other and refused when the table is linked.) If it fails, the
    /// frame goes back to the allocator.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn filled<M: Machine>(
        tables: &mut Tables<M>,
        mut frame: Frame,
        fill: impl FnOnce(&Tables<M>, &mut Words) -> Result<(), MmError>,
    ) -> Result<Fresh<L>, MmError> {
        let memory = tables.machine().memory(frame.pfn());
        // SAFETY: the frame is the caller's alone and no part of what `fill` reads of `tables`.
        let words = unsafe { &mut *memory };
        match fill(tables, words) {
            Ok(()) => Ok(Fresh {
                frame,
                level: PhantomData,
            }),
            Err(e) => {
                // Nothing of a half-built table survives.
                *tables.frame_memory(&mut frame) = [0; 512];
                tables.free_frame(frame)?;
                Err(e)
            }
        }
    }

    /// Its frame.
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.frame.pfn()
    }

    /// Writes one entry.
    pub fn set<M: Machine>(&mut self, tables: &mut Tables<M>, index: usize, entry: Entry<L>) {
        tables.frame_memory(&mut self.frame)[index & 511] = entry.bits();
    }

    /// Gives its frame back.
    ///
    /// # Errors
    /// It is not a frame in use.
    pub fn discard<M: Machine>(self, tables: &mut Tables<M>) -> Result<(), MmError> {
        tables.free_frame(self.frame)
    }

    /// Makes it read-only.
    ///
    /// # Errors
    /// Xen's refusal; the frame is then still ordinary memory, and lost.
    #[track_caller]
    pub fn seal<M: Machine>(self, tables: &mut Tables<M>) -> Result<Sealed<L>, MmError> {
        let pfn = tables.seal(self.frame, L::NUMBER as u8)?;
        Ok(Sealed {
            pfn,
            level: PhantomData,
        })
    }
}

impl<L: TableLevel> Sealed<L> {
    /// Its frame.
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Gives its frame back, after everything queued has been carried out.
    ///
    /// # Errors
    /// Something refers to it still, or Xen's refusal.
    #[track_caller]
    pub fn release<M: Machine>(self, tables: &mut Tables<M>) -> Result<(), MmError> {
        tables.release_table(self.pfn)
    }
}

impl<M: Machine> Tables<M> {
    /// Refers to a table from an entry, in place of whatever the entry held.
    ///
    /// # Errors
    /// Xen's refusal.
    ///
    /// # Safety
    /// What is in use below the entry must be mapped by the new table as it was.
    #[track_caller]
    pub unsafe fn link_table<L: UpperLevel>(
        &mut self,
        slot: Place<L>,
        table: Sealed<L::Below>,
        flags: Flags,
    ) -> Result<(), MmError> {
        let entry = self.make(Value::<L>::new(table.pfn, flags))?;
        // SAFETY: what is in use below the entry stays mapped, as the caller says.
        unsafe { self.set_upper(slot, entry) }
    }

    /// Seals a table and refers to it from an entry. If that fails, now or when the queue is carried
    /// out, its frame goes back to the allocator.
    ///
    /// # Errors
    /// Xen's refusal.
    ///
    /// # Safety
    /// As [`Tables::link_table`].
    #[inline(never)]
    #[track_caller]
    pub(super) unsafe fn install<L: UpperLevel>(
        &mut self,
        slot: Place<L>,
        table: Fresh<L::Below>,
        flags: Flags,
    ) -> Result<(), MmError> {
        let pfn = table.pfn();
        self.or_orphan(pfn, |tables| {
            let sealed = table.seal(tables)?;
            // SAFETY: what is in use below the entry stays mapped, as the caller says.
            unsafe { tables.link_table(slot, sealed, flags) }
        })
    }

    /// Sees to it that a table that nothing refers to is not lost with an error of what is done with it.
    /// Another vCPU may give back what this one's log gave up, and hand it out anew: it is not for two to
    /// give up the same.
    #[track_caller]
    pub(super) fn or_orphan<T>(
        &mut self,
        table: Pfn,
        f: impl FnOnce(&mut Self) -> Result<T, MmError>,
    ) -> Result<T, MmError> {
        self.log_mut().answer_for_none();
        let result = f(self);
        if result.is_err() {
            self.apply_log();
            if self.log().answers_for() != Some(table) {
                self.frames().orphan_unless_linked(table);
            }
        }
        result
    }

    /// Gives frames that Xen's refusals orphaned back to the allocator.
    #[cold]
    pub(super) fn reclaim_orphans(&mut self) {
        for _ in 0..self.frames().orphans() {
            let Some(pfn) = self.frames().next_orphan() else {
                return;
            };
            let Ok((state, planned)) = self.frames().states(pfn) else {
                continue;
            };
            let linked = state.links > 0 || planned.links > 0;
            let reclaimed = match state.kind {
                // SAFETY: whoever held the frame gave it up with an error, and it is taken off the
                // list of those only once.
                Kind::Owned | Kind::Code => self.free_frame(unsafe { Frame::from_pfn(pfn) }),
                Kind::Table if !linked && !state.pinned => self.release_table(pfn),
                // One of user mode's pool, which Xen refused to unpin.
                Kind::Table if !linked && state.level == 1 => self.end_table(pfn),
                _ => Ok(()),
            };
            if let Err(e) = reclaimed {
                log::warn!(target: "mm", "pfn {pfn} could not be reclaimed: {e}");
            }
        }
    }

    /// Clears an entry and returns the table it referred to, if nothing else does.
    ///
    /// # Errors
    /// There is no table, or Xen's refusal.
    ///
    /// # Safety
    /// Nothing in use may be mapped below the entry.
    #[track_caller]
    pub unsafe fn unlink_table<L: UpperLevel>(
        &mut self,
        slot: Place<L>,
    ) -> Result<Option<Sealed<L::Below>>, MmError> {
        let Some(value) = self.value(self.entry(slot)) else {
            return Ok(None);
        };
        // SAFETY: nothing in use is mapped below the entry, as the caller says.
        unsafe { self.set_upper(slot, Entry::NONE) }?;
        Ok(self.unreferenced(value.pfn)?.then_some(Sealed {
            pfn: value.pfn,
            level: PhantomData,
        }))
    }

    /// Whether nothing will refer to a table once the queue is carried out.
    pub(super) fn unreferenced(&self, table: Pfn) -> Result<bool, MmError> {
        let (_, planned) = self.frames().states(table)?;
        Ok(planned.links == 0 && !planned.pinned)
    }

    /// Makes an unreferenced table writable and gives its frame back after the flush.
    #[track_caller]
    pub(super) fn release_table(&mut self, table: Pfn) -> Result<(), MmError> {
        let frame = self.or_orphan(table, |tables| {
            if !tables.log().has_room(2, 1) {
                tables.flush()?;
            }
            tables.unseal(table)
        })?;
        self.free_once_flushed(frame)
    }

    /// Gives a frame back after the flush.
    #[track_caller]
    pub(super) fn free_once_flushed(&mut self, frame: Frame) -> Result<(), MmError> {
        if !self.log().has_room(0, 1) {
            self.flush()?;
        }
        self.log_mut().free_after_flush(frame)?;
        self.apply_log();
        Ok(())
    }
}
