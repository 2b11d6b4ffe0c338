//! Few entries of one table, which go by a request each, found by its address.
//!
//! Where each brings the flush of its page that costs less than lists of updates and of flushes, for as
//! many as are flushed one by one; where nothing is flushed, for three at most. Counted on Xen 4.17, by
//! `cargo xtask bench`.

use super::{PAGE, SPAN, is_canonical};
use crate::entry::{L1, Pte};
use crate::error::MmError;
use crate::machine::Machine;
use crate::tables::{Place, Tables};

impl<M: Machine> Tables<M> {
    /// The entry for the first of consecutive pages, if they lie in one table that exists, and requests for
    /// them need not wait.
    #[inline]
    pub(super) fn in_one_table(&self, va: u64, pages: u64) -> Option<Place<L1>> {
        let most = (SPAN - va % SPAN) / PAGE;
        let fits = va.is_multiple_of(PAGE) && is_canonical(va) && pages <= most;
        match fits && pages > 0 && self.writes_at_once(va) {
            true => self.pte_place(va).ok(),
            false => None,
        }
    }

    /// Writes the entries of few pages from `va` on, the `first` of which [`Tables::in_one_table`] found:
    /// `edit` is asked for each as by [`Tables::write_run`].
    ///
    /// # Errors
    /// Those of `edit`, or Xen's refusal; what comes before it has changed.
    ///
    /// # Safety
    /// As [`Tables::set_pte`] for each.
    #[inline(always)]
    #[track_caller]
    pub(super) unsafe fn replace_few(
        &mut self,
        first: Place<L1>,
        va: u64,
        pages: u64,
        mut edit: impl FnMut(u64, Pte) -> Result<Option<Pte>, MmError>,
    ) -> Result<(), MmError> {
        for index in 0..pages as usize {
            let (place, page) = (first.at(index), va + PAGE * index as u64);
            let old = place.in_table();
            if let Some(new) = edit(page, old)? {
                // SAFETY: what is in use on the page stays mapped as its users need, as the caller says.
                unsafe { self.replace_pte(place, page, old, new) }?;
            }
        }
        Ok(())
    }
}
