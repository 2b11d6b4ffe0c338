//! Frames that nobody holds, as Xen refused what was to become of them.
//!
//! Each is marked in its record, and listed as long as there is room: the list only saves the
//! search.

use core::sync::atomic::Ordering;

use super::Frames;
use crate::record::Record;
use crate::state::State;
use hypercall::Pfn;

impl Frames {
    /// Remembers a frame that nobody holds any more, whatever its state: what it will be once
    /// nothing is queued decides what can be done with it.
    pub fn orphan(&self, pfn: Pfn) {
        if self.set_orphan(pfn, true) {
            self.orphans.fetch_add(1, Ordering::Relaxed);
            // Beyond what there is room for the records tell.
            let _ = self.pool.lock().orphans.push(pfn);
        }
    }

    /// Remembers a table that whoever asked for a change of it gave up, unless an entry refers to it or
    /// is to: whoever clears the last one gives it back.
    pub fn orphan_unless_linked(&self, table: Pfn) {
        if self.is_planned(table, |planned| planned.links == 0) {
            self.orphan(table);
        }
    }

    /// The same, unless it is pinned: whoever pinned it has it still.
    pub(super) fn orphan_unless_held(&self, table: Pfn) {
        if self.is_planned(table, |planned| planned.links == 0 && !planned.pinned) {
            self.orphan(table);
        }
    }

    fn is_planned(&self, pfn: Pfn, what: impl Fn(State) -> bool) -> bool {
        self.states(pfn).is_ok_and(|(_, planned)| what(planned))
    }

    /// Takes one of the orphaned frames.
    pub fn next_orphan(&self) -> Option<Pfn> {
        if self.orphans() == 0 {
            return None;
        }
        let listed = self.pool.lock().orphans.last().copied();
        let pfn = listed.or_else(|| {
            let mut all = (0..self.counts().mapped).map(Pfn::truncate);
            all.find(|pfn| self.is_orphan(*pfn))
        })?;
        self.hold_again(pfn);
        Some(pfn)
    }

    /// How many frames are orphaned.
    #[inline]
    #[must_use]
    pub fn orphans(&self) -> usize {
        self.orphans.load(Ordering::Relaxed)
    }

    /// Somebody holds a frame again, if it was orphaned.
    #[cold]
    pub(super) fn hold_again(&self, pfn: Pfn) {
        if self.set_orphan(pfn, false) {
            self.orphans.fetch_sub(1, Ordering::Relaxed);
            let orphaned = &mut self.pool.lock().orphans;
            orphaned.retain(|orphaned| *orphaned != pfn);
        }
    }

    fn is_orphan(&self, pfn: Pfn) -> bool {
        self.load(pfn).is_ok_and(Record::is_orphan)
    }

    /// Records whether a frame is orphaned, and says whether that is new.
    fn set_orphan(&self, pfn: Pfn, orphaned: bool) -> bool {
        let mut new = false;
        let changed = self.change(pfn, |record| {
            new = record.is_orphan() != orphaned;
            Ok(record.with_orphan(orphaned))
        });
        changed.is_ok() && new
    }
}
