//! Single pages of user mode's: what is there, and what a fault on one asks for.

use hypercall::Pfn;

use super::{Tables, check_user_range};
use crate::entry::{Flags, Value};
use crate::error::MmError;
use crate::frames::Frame;
use crate::machine::Machine;

/// A page of user mode's as the processor finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserPage {
    /// Its memory.
    pub pfn: Pfn,
    /// Whether user mode can write to it, by the entries of all levels.
    pub is_writable: bool,
    /// Whether it can be executed.
    pub is_executable: bool,
}

/// What becomes of memory that is mapped elsewhere as well when it is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnWrite {
    /// The writer gets a copy of its own: private memory.
    Copy,
    /// All see what is written: shared memory.
    Share,
}

impl<M: Machine> Tables<M> {
    /// What is mapped at an address of user mode's.
    #[must_use]
    pub fn user_page(&self, va: u64) -> Option<UserPage> {
        let pmd = self.pmd_place(va).ok()?;
        let entry = self.user_entry(va);
        let value = self.pte_val(entry)?;
        Some(UserPage {
            pfn: value.pfn,
            is_writable: entry.flags().contains(Flags::WRITABLE) && !self.is_lent(pmd),
            is_executable: !entry.flags().contains(Flags::NO_EXECUTE),
        })
    }

    /// Makes a mapped page writable, as the fault of a write asks for, and never executable.
    ///
    /// # Errors
    /// It is not mapped, no memory for a copy, or Xen's refusal.
    #[track_caller]
    pub fn make_writable(&mut self, va: u64, on_write: OnWrite) -> Result<(), MmError> {
        let va = va & !0xfff;
        check_user_range(va, 1)?;
        self.own_table(va)?;
        let place = self.pte_place(va)?;
        let old = self.entry(place);
        let value = self.pte_val(old).ok_or(MmError::NotMapped { va })?;
        if old.flags().contains(Flags::WRITABLE) {
            // The processor may have had it cached as it was.
            self.flush_tlb(Some(va))?;
            return self.flush();
        }
        let flags = old.flags() | Flags::WRITABLE | Flags::NO_EXECUTE;
        if on_write == OnWrite::Share || self.frames().is_mapped_once(value.pfn) == Some(true) {
            self.check_may_be_writable(va, old)?;
            // SAFETY: user mode finds the same memory, which is its own or meant to be shared.
            unsafe { self.set_pte_queued(place, va, old, old.with_flags(flags)) }?;
            return self.flush();
        }
        let copy = self.copy_page(value.pfn)?;
        let new = self.make_pte(Value::new(copy, flags | Flags::USER))?;
        // SAFETY: user mode finds the same content, and nobody could write to it meanwhile.
        let written = unsafe { self.set_pte_queued(place, va, old, new) };
        let written = written.and_then(|()| self.flush());
        // Whatever Xen said: the one that is not mapped there goes.
        let stands = self.entry(place).mfn() == new.mfn();
        self.drop_page(if stands { value.pfn } else { copy });
        written
    }

    /// A frame, counted as mapped, with the content of another.
    fn copy_page(&mut self, of: Pfn) -> Result<Pfn, MmError> {
        let mut frame = self.alloc_frame()?;
        let source = self.machine().memory(of);
        if source.is_null() {
            self.free_frame(frame)?;
            return Err(MmError::NoMemory { pfn: of.as_u64() });
        }
        let target: *mut _ = self.frame_memory(&mut frame);
        // SAFETY: a whole page each, of two frames. The source is mapped read-only wherever user mode
        // reaches it, and the kernel writes to no page that is not writable for user mode.
        unsafe { core::ptr::copy_nonoverlapping(source.cast_const(), target, 1) };
        let pfn = frame.pfn();
        self.frames().count_mapping(pfn)?;
        Ok(pfn)
    }

    /// Unmaps a page and gives its memory to the caller, with its content: a copy, if it is mapped
    /// elsewhere as well. Nothing if the page is not mapped, or is memory that somebody holds besides.
    ///
    /// # Errors
    /// No memory for a copy, or Xen's refusal.
    #[track_caller]
    pub fn take_user(&mut self, va: u64) -> Result<Option<Frame>, MmError> {
        let va = va & !0xfff;
        check_user_range(va, 1)?;
        self.own_table(va)?;
        let Some(value) = self.pte_val(self.user_entry(va)) else {
            return Ok(None);
        };
        let is_alone = self.frames().is_mapped_once(value.pfn) == Some(true);
        let is_held = self.frames().is_held(value.pfn);
        let copy = match is_alone || is_held {
            true => None,
            false => Some(self.copy_page(value.pfn)?),
        };
        // SAFETY: user mode's memory, which its governor unmaps.
        let cleared = unsafe { self.unmap(va, 1) }.and_then(|change| change.commit(self));
        if let Err(e) = cleared {
            if let Some(copy) = copy {
                self.drop_page(copy);
            }
            return Err(e);
        }
        let Some(copy) = copy else {
            return Ok(self.frames().uncount_mapping(value.pfn));
        };
        self.drop_page(value.pfn);
        Ok(self.frames().uncount_mapping(copy))
    }
}
