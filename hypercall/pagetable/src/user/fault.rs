//! Single pages of user mode's: what is there, and what a fault on one asks for.

use heapless::Vec;
use hypercall::Pfn;

use super::{Tables, check_user_range};
use crate::entry::{Flags, L1, L2, TableLevel, Value};
use crate::error::MmError;
use crate::frames::Frame;
use crate::machine::Machine;
use crate::ops::PAGE;
use crate::tables::Place;

/// Pages that are made writable in one batch.
const AHEAD: usize = 32;

/// Memory that copies take the place of: the number of the page, the memory and its copy.
type Replaced = Vec<(u64, Pfn, Pfn), AHEAD>;

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

    /// How many consecutive pages from an address on map nothing, of `most` at most and up to the end of the
    /// table's span.
    #[must_use]
    pub fn room_for_user(&self, va: u64, most: u64) -> u64 {
        let most = most.min((L2::SPAN - va % L2::SPAN) / PAGE);
        let Ok(place) = self.pte_place(va) else {
            return most;
        };
        let first = self.first_mapped(place, va, most);
        first.map_or(most, |found| (found - va) / PAGE)
    }

    /// Makes a mapped page writable, as the fault of a write asks for, and never executable.
    ///
    /// # Errors
    /// It is not mapped, no memory for a copy, or Xen's refusal.
    #[track_caller]
    pub fn make_writable(&mut self, va: u64, on_write: OnWrite) -> Result<(), MmError> {
        self.make_writable_ahead(va, 1, on_write).map(drop)
    }

    /// As [`Tables::make_writable`], with the mapped pages that follow, `pages` in all at most and up to the
    /// end of the table's span; returns how many are writable now. They are made so in one batch.
    ///
    /// # Errors
    /// As [`Tables::make_writable`], of the first page.
    #[track_caller]
    pub fn make_writable_ahead(
        &mut self,
        va: u64,
        pages: u64,
        on_write: OnWrite,
    ) -> Result<u64, MmError> {
        let va = va & !0xfff;
        check_user_range(va, 1)?;
        self.own_table(va)?;
        let first = self.pte_place(va)?;
        let old = self.entry(first);
        if !old.is_present() {
            return Err(MmError::NotMapped { va });
        }
        if old.flags().contains(Flags::WRITABLE) {
            // The processor may have had it cached as it was.
            self.flush_tlb(Some(va))?;
            return self.flush().map(|()| 1);
        }
        let most = pages
            .min((L2::SPAN - va % L2::SPAN) / PAGE)
            .min(AHEAD as u64);
        let mut replaced = Replaced::new();
        let mut done = 0;
        let queued = self.lazily(|tables| {
            while done < most {
                let (va, place) = (va + done * PAGE, first.at(done as usize));
                let written = tables.queue_writable(va, place, on_write, |old, copy| {
                    // There is room: as many as are made at once.
                    let _ = replaced.push((done, old, copy));
                });
                match written {
                    Ok(true) => done += 1,
                    Ok(false) => break,
                    Err(e) if done == 0 => return Err(e),
                    // Without memory for more, what is queued is enough.
                    Err(_) => break,
                }
            }
            Ok(())
        });
        let sent = self.flush();
        // Whatever Xen said: of each pair the one that is not mapped there goes.
        for (page, old, copy) in replaced {
            let entry = self.entry(first.at(page as usize));
            let stands = self.value(entry).is_some_and(|value| value.pfn == copy);
            self.drop_page(if stands { old } else { copy });
        }
        queued?;
        sent.map(|()| done)
    }

    /// Queues what makes a page writable, and has its memory noted with the copy that takes its place, if
    /// there must be one; nothing for a page that is not mapped or is writable.
    #[track_caller]
    fn queue_writable(
        &mut self,
        va: u64,
        place: Place<L1>,
        on_write: OnWrite,
        note: impl FnOnce(Pfn, Pfn),
    ) -> Result<bool, MmError> {
        let old = self.entry(place);
        let Some(value) = self.pte_val(old) else {
            return Ok(false);
        };
        if old.flags().contains(Flags::WRITABLE) {
            return Ok(false);
        }
        let flags = old.flags() | Flags::WRITABLE | Flags::NO_EXECUTE;
        if on_write == OnWrite::Share || self.frames().is_mapped_once(value.pfn) == Some(true) {
            self.check_may_be_writable(va, old)?;
            // SAFETY: user mode finds the same memory, which is its own or meant to be shared.
            unsafe { self.replace_pte(place, va, old, old.with_flags(flags)) }?;
            return Ok(true);
        }
        let copy = self.copy_page(value.pfn)?;
        note(value.pfn, copy);
        let new = self.make_pte(Value::new(copy, flags | Flags::USER))?;
        // SAFETY: user mode finds the same content, and nobody could write to it meanwhile.
        unsafe { self.replace_pte(place, va, old, new) }?;
        Ok(true)
    }

    /// A frame, counted as mapped, with the content of another.
    pub(super) fn copy_page(&mut self, of: Pfn) -> Result<Pfn, MmError> {
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
