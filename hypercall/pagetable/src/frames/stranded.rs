//! Frames that nobody holds, as Xen refused what was to become of them.
//!
//! Each is marked in its record, and listed as long as there is room: the list only saves the search.

use super::Frames;
use crate::record::Record;
use hypercall::Pfn;

impl Frames {
    /// Remembers a frame that nobody holds any more, whatever its state: what it will be once
    /// nothing is queued decides what can be done with it.
    pub fn strand(&mut self, pfn: Pfn) {
        if self.set_stranded(pfn, true) {
            self.strandings += 1;
            // Beyond what there is room for the records tell.
            let _ = self.stranded.push(pfn);
        }
    }

    /// Takes one of the stranded frames.
    pub fn next_stranded(&mut self) -> Option<Pfn> {
        if self.strandings == 0 {
            return None;
        }
        let listed = self.stranded.last().copied();
        let pfn = listed.or_else(|| {
            let mut all = (0..self.counts.mapped).map(Pfn::truncate);
            all.find(|pfn| self.is_stranded(*pfn))
        })?;
        self.hold_again(pfn);
        Some(pfn)
    }

    /// How many frames are stranded.
    #[inline]
    #[must_use]
    pub fn stranded(&self) -> usize {
        self.strandings
    }

    /// Somebody holds a frame again, if it was stranded.
    #[cold]
    pub(super) fn hold_again(&mut self, pfn: Pfn) {
        if self.set_stranded(pfn, false) {
            self.strandings -= 1;
            self.stranded.retain(|stranded| *stranded != pfn);
        }
    }

    fn is_stranded(&self, pfn: Pfn) -> bool {
        self.load(pfn).is_ok_and(Record::is_stranded)
    }

    /// Records whether a frame is stranded, and says whether that is new.
    fn set_stranded(&mut self, pfn: Pfn, stranded: bool) -> bool {
        let mut new = false;
        let changed = self.change(pfn, |record| {
            new = record.is_stranded() != stranded;
            Ok(record.with_stranded(stranded))
        });
        changed.is_ok() && new
    }
}
