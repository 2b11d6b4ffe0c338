//! Operations on single entries, and runs of them, in tables that exist.

use hypercall::Pfn;

use super::{Change, PAGE, check_range, check_rights, chunks};
use crate::entry::{Flags, L1, Pte, Value};
use crate::error::MmError;
use crate::machine::Machine;
use crate::tables::{Tables, slots};

impl<M: Machine> Tables<M> {
    /// Writes entries for `count` consecutive pages and pfns from `va` and `first` on, in tables
    /// that exist. Enters lazy mode by itself, whether or not it is active.
    ///
    /// # Errors
    /// A bad range, rights that a page must not have, a missing table, no memory behind a pfn, or
    /// Xen's refusal.
    ///
    /// # Safety
    /// As [`Tables::set_pte`], for each page.
    #[track_caller]
    pub unsafe fn set_ptes(
        &mut self,
        va: u64,
        first: Value<L1>,
        count: u64,
    ) -> Result<Change, MmError> {
        check_range(va, count)?;
        check_rights(va, first.flags)?;
        self.lazily(|tables| {
            for chunk in chunks(va, count) {
                let slot = tables.pte_place(chunk.va)?;
                let offset = (chunk.va - va) / PAGE;
                for (i, slot) in slots(slot, chunk.count).enumerate() {
                    let pfn = Pfn::truncate(first.pfn.as_u64() + offset + i as u64);
                    let new = tables.make_pte(Value::new(pfn, first.flags))?;
                    tables.check_frozen(chunk.va + i as u64 * PAGE, first.flags, [new])?;
                    let old = tables.entry(slot);
                    // SAFETY: nothing in use is mapped in the range, as the caller says.
                    unsafe { tables.set_pte_queued(slot, chunk.va + i as u64 * PAGE, old, new) }?;
                }
            }
            Ok(Change { va, pages: count })
        })
    }

    /// Clears the entry of a page and returns what it was, A and D bits included as far as they
    /// were set when it was read.
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
        Ok(old)
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

    /// Clears the accessed bit of a page and says whether it was set. A dirty bit that another
    /// vCPU sets at the same moment would be lost: only for pages that no other vCPU uses.
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
