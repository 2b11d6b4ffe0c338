//! Frames that nobody holds, as Xen refused what was to become of them.
//!
//! Each is marked in its record, and listed as long as there is room: the list only saves the search.

use core::sync::atomic::Ordering;

use super::Frames;
use crate::record::Record;
use hypercall::Pfn;

impl Frames {
    /// Remembers a frame that nobody holds any more, whatever its state: what it will be once
    /// nothing is queued decides what can be done with it.
    pub fn strand(&self, pfn: Pfn) {
        if self.set_stranded(pfn, true) {
            self.strandings.fetch_add(1, Ordering::Relaxed);
            // Beyond what there is room for the records tell.
            let _ = self.pool.lock().stranded.push(pfn);
        }
    }

    /// Takes one of the stranded frames.
    pub fn next_stranded(&self) -> Option<Pfn> {
        if self.stranded() == 0 {
            return None;
        }
        let listed = self.pool.lock().stranded.last().copied();
        let pfn = listed.or_else(|| {
            let mut all = (0..self.counts().mapped).map(Pfn::truncate);
            all.find(|pfn| self.is_stranded(*pfn))
        })?;
        self.hold_again(pfn);
        Some(pfn)
    }

    /// How many frames are stranded.
    #[inline]
    #[must_use]
    pub fn stranded(&self) -> usize {
        self.strandings.load(Ordering::Relaxed)
    }

    /// Somebody holds a frame again, if it was stranded.
    #[cold]
    pub(super) fn hold_again(&self, pfn: Pfn) {
        if self.set_stranded(pfn, false) {
            self.strandings.fetch_sub(1, Ordering::Relaxed);
            let stranded = &mut self.pool.lock().stranded;
            stranded.retain(|stranded| *stranded != pfn);
        }
    }

    fn is_stranded(&self, pfn: Pfn) -> bool {
        self.load(pfn).is_ok_and(Record::is_stranded)
    }

    /// Records whether a frame is stranded, and says whether that is new.
    fn set_stranded(&self, pfn: Pfn, stranded: bool) -> bool {
        let mut new = false;
        let changed = self.change(pfn, |record| {
            new = record.is_stranded() != stranded;
            Ok(record.with_stranded(stranded))
        });
        changed.is_ok() && new
    }
}
