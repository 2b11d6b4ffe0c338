//! Rights of memory that is mapped already, with every alias in step.
//!
//! A frame of the image is mapped twice, where it is linked and in the direct map; a page mapped at
//! run time has its alias in the direct map as well. The direct map is never executable, so what
//! has to be kept is this: a frame that is executable anywhere is writable nowhere, and a part of
//! the image that is read-only is so in both places. Tables and other frames that must stay
//! read-only are refused before Xen is asked.

use super::entry::{Flags, Pte};
use super::error::MmError;
use super::layout;
use super::machine::Machine;
use super::ops::Change;
use super::state::Kind;
use super::tables::Tables;

const PAGE: u64 = 4096;

impl<M: Machine> Tables<M> {
    /// Takes the right to write from consecutive pages.
    ///
    /// # Errors
    /// A page that is not mapped, or Xen's refusal.
    ///
    /// # Safety
    /// Nobody writes to them.
    #[track_caller]
    pub unsafe fn set_memory_ro(&mut self, va: u64, pages: u64) -> Result<Change, MmError> {
        self.lazily(|tables| {
            if layout::IMAGE.contains(&va) {
                tables.set_aliases(va, pages, Flags::empty(), Flags::WRITABLE)?;
            }
            // SAFETY: the caller's promise.
            unsafe { tables.protect(va, pages, Flags::empty(), Flags::WRITABLE) }
        })
    }

    /// Gives the right to write to consecutive pages.
    ///
    /// # Errors
    /// A page that is not mapped, that is executable or that must stay read-only; or Xen's refusal.
    ///
    /// # Safety
    /// Nobody relies on their not changing.
    #[track_caller]
    pub unsafe fn set_memory_rw(&mut self, va: u64, pages: u64) -> Result<Change, MmError> {
        self.lazily(|tables| {
            // SAFETY: the caller's promise.
            let change = unsafe { tables.protect(va, pages, Flags::WRITABLE, Flags::empty()) }?;
            if layout::IMAGE.contains(&va) {
                tables.set_aliases(va, pages, Flags::WRITABLE, Flags::empty())?;
            }
            Ok(change)
        })
    }

    /// Takes the right to execute from consecutive pages. Frames that are the kernel's to write
    /// become writable in the direct map again.
    ///
    /// # Errors
    /// A page that is not mapped, or Xen's refusal.
    ///
    /// # Safety
    /// Nobody executes them.
    #[track_caller]
    pub unsafe fn set_memory_nx(&mut self, va: u64, pages: u64) -> Result<Change, MmError> {
        self.lazily(|tables| {
            // SAFETY: the caller's promise.
            let change = unsafe { tables.protect(va, pages, Flags::NO_EXECUTE, Flags::empty()) }?;
            tables.set_aliases(va, pages, Flags::WRITABLE, Flags::empty())?;
            Ok(change)
        })
    }

    /// Gives the right to execute to consecutive pages that are not writable. Their frames become
    /// read-only in the direct map.
    ///
    /// # Errors
    /// A page that is not mapped or is writable, or Xen's refusal.
    ///
    /// # Safety
    /// What they hold may be executed.
    #[track_caller]
    pub unsafe fn set_memory_x(&mut self, va: u64, pages: u64) -> Result<Change, MmError> {
        self.lazily(|tables| {
            for i in 0..pages {
                let entry = tables.ptep_get(va + i * PAGE)?;
                if entry.flags().contains(Flags::WRITABLE) {
                    return Err(MmError::WriteAndExecute { va: va + i * PAGE });
                }
            }
            tables.set_aliases(va, pages, Flags::empty(), Flags::WRITABLE)?;
            // SAFETY: the caller's promise.
            unsafe { tables.protect(va, pages, Flags::empty(), Flags::NO_EXECUTE) }
        })
    }

    /// Changes the rights of the pages' frames in the direct map. Rights to write are given only to
    /// frames that are the kernel's variables or handed out.
    fn set_aliases(
        &mut self,
        va: u64,
        pages: u64,
        add: Flags,
        remove: Flags,
    ) -> Result<(), MmError> {
        for i in 0..pages {
            let page = va + i * PAGE;
            let entry = self.ptep_get(page)?;
            let Some(value) = self.pte_val(entry) else {
                continue;
            };
            let Ok((_, planned)) = self.frames().states(self.machine(), value.pfn) else {
                continue;
            };
            let ours = matches!(planned.kind, Kind::Owned | Kind::ImageData);
            let alias = self.machine().window(value.pfn);
            if alias == page || (add.contains(Flags::WRITABLE) && !ours) {
                continue;
            }
            let slot = self.pte_slot(alias)?;
            let old: Pte = self.get(slot);
            let flags = (old.flags() - remove) | add;
            if flags != old.flags() {
                // SAFETY: rights shrink for frames that nobody writes, by the callers' contracts,
                // or grow for frames that are the kernel's to write.
                unsafe { self.set_pte_queued(slot, alias, old, old.with_flags(flags)) }?;
            }
        }
        Ok(())
    }
}
