//! One page that a program touches where this vCPU runs: what most faults ask for.
//!
//! No section is entered and nothing is queued: one entry is looked at and written by the cheapest request
//! that there is. Whatever takes more than that, such as a table that is shared or not there, is left to
//! the ways that ranges take, before anything has changed.

use hypercall::Pfn;

use super::Tables;
use crate::entry::{Flags, L1, Pte, Value};
use crate::error::MmError;
use crate::machine::Machine;
use crate::ops::check_rights;
use crate::spaces::AddressSpace;
use crate::tables::Place;

impl<M: Machine> Tables<M> {
    /// Whether this vCPU runs in a space, operations are about it, and requests need not wait.
    #[inline]
    #[must_use]
    pub fn is_at_hand(&self, space: &AddressSpace) -> bool {
        self.is_current(0) && self.roots() == space.roots() && self.mmu.is_idle()
    }

    /// Resolves the fault of a program that touches the page at an address of the space
    /// [at hand](Tables::is_at_hand), of private memory: maps a page of zeros with these rights where none
    /// is mapped, and makes one that is mapped writable for a program that writes. False if that takes more
    /// than one entry, or nothing is to be done.
    ///
    /// # Errors
    /// Rights that a page must not have, no memory, or Xen's refusal; nothing has changed then.
    #[inline(never)]
    #[track_caller]
    pub fn touch_user(&mut self, va: u64, flags: Flags, writes: bool) -> Result<bool, MmError> {
        check_rights(va, flags)?;
        let Some(place) = self.own_place(va) else {
            return Ok(false);
        };
        let old = place.in_table();
        if !old.is_present() {
            let mut frame = self.alloc_frame()?;
            self.frame_memory(&mut frame).fill(0);
            let pfn = frame.pfn();
            self.frames().count_mapping(pfn)?;
            return self.map_one(place, va, old, pfn, flags | Flags::USER);
        }
        if !writes || old.flags().contains(Flags::WRITABLE) {
            return Ok(false);
        }
        let Some(Value { pfn: shared, .. }) = self.pte_val(old) else {
            return Ok(false);
        };
        let flags = old.flags() | Flags::WRITABLE | Flags::NO_EXECUTE;
        if self.frames().is_mapped_once(shared) == Some(true) {
            self.check_may_be_writable(va, old)?;
            // SAFETY: user mode finds the same memory, which is its own.
            unsafe { self.replace_pte(place, va, old, old.with_flags(flags)) }?;
            return Ok(true);
        }
        let copy = self.copy_page(shared)?;
        self.map_one(place, va, old, copy, flags | Flags::USER)?;
        self.drop_page(shared);
        Ok(true)
    }

    /// The entry for an address of user mode's, in a table that is there and this space's alone.
    #[inline]
    fn own_place(&self, va: u64) -> Option<Place<L1>> {
        if va >> 47 != 0 || !va.is_multiple_of(crate::ops::PAGE) {
            return None;
        }
        let pmd = self.pmd_place(va).ok()?;
        match self.is_lent(pmd) {
            true => None,
            false => self.pte_place(va).ok(),
        }
    }

    /// Maps memory that is counted as mapped for this, in place of what an entry maps, if anything; refused,
    /// it is free.
    #[inline]
    #[track_caller]
    fn map_one(
        &mut self,
        place: Place<L1>,
        va: u64,
        old: Pte,
        pfn: Pfn,
        flags: Flags,
    ) -> Result<bool, MmError> {
        let mapped = self.make_pte(Value::new(pfn, flags)).and_then(|new| {
            // SAFETY: user mode finds what it found before, or zeros where it found nothing: memory that was
            // handed out for it, and is nobody else's.
            unsafe { self.replace_pte(place, va, old, new) }
        });
        match mapped {
            Ok(()) => Ok(true),
            Err(e) => {
                self.drop_page(pfn);
                Err(e)
            }
        }
    }
}
