//! Operations on single entries, in tables that exist.

use crate::entry::{Flags, Pte};
use crate::error::MmError;
use crate::machine::Machine;
use crate::tables::Tables;

impl<M: Machine> Tables<M> {
    /// Clears the entry of a page and returns what it was. A and D bits are among that: those that
    /// another vCPU may set until the entry is cleared count as set.
    ///
    /// # Errors
    /// A missing table, or Xen's refusal.
    ///
    /// # Safety
    /// Nothing in use may be mapped there.
    #[track_caller]
    pub unsafe fn ptep_get_and_clear(&mut self, va: u64) -> Result<Pte, MmError> {
        let slot = self.pte_place(va)?;
        let old = self.entry(slot);
        // SAFETY: nothing in use is mapped there, as the caller says.
        unsafe { self.set_pte(slot, va, Pte::NONE) }?;
        Ok(match self.others_mark(va) {
            true => old.as_left(),
            false => old,
        })
    }

    /// Takes the right to write from a page. A and D bits that are set meanwhile are kept.
    ///
    /// # Errors
    /// The page is not mapped, or Xen's refusal.
    ///
    /// # Safety
    /// Nobody who uses the page writes to it.
    #[track_caller]
    pub unsafe fn ptep_set_wrprotect(&mut self, va: u64) -> Result<(), MmError> {
        let slot = self.pte_place(va)?;
        let old = self.entry(slot);
        if !old.is_present() {
            return Err(MmError::NotMapped { va });
        }
        let new = old.with_flags(old.flags() - Flags::WRITABLE);
        // SAFETY: the page keeps its frame; nobody needs to write, as the caller says.
        unsafe { self.set_pte_preserving(slot, va, new) }
    }

    /// Clears the accessed bit of a page and says whether it was set. A page that another vCPU may
    /// write to at the same moment counts as written.
    ///
    /// # Errors
    /// The page is not mapped, or Xen's refusal.
    #[track_caller]
    pub fn ptep_test_and_clear_young(&mut self, va: u64) -> Result<bool, MmError> {
        let slot = self.pte_place(va)?;
        let old = self.entry(slot);
        if !old.is_present() {
            return Err(MmError::NotMapped { va });
        }
        let young = old.flags().contains(Flags::ACCESSED);
        if young {
            let new = old.with_flags(old.flags() - Flags::ACCESSED);
            // SAFETY: the mapping stays as it is.
            unsafe { self.set_pte(slot, va, new) }?;
        }
        Ok(young)
    }
}
