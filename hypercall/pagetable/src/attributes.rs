//! Rights of memory that is mapped already, with every alias in step.
//!
//! A frame of the image's variables is mapped twice, where it is linked and in the direct map, which
//! has no code and no constants of the image; a page mapped at run time has its alias in the direct
//! map as well. What is kept is this:
//! - no mapping is writable and executable, and the direct map is never executable;
//! - what these operations make executable is *frozen* first: its record says so
//!   ([`Kind::Code`], [`Kind::ImageFrozen`]), its alias in the direct map is read-only, and nothing
//!   else maps it writable. So it stays until nothing maps it executable any more;
//! - the record tells of every frame whether the direct map has it writable.
//!
//! Together: a frame that was made executable here is writable nowhere. [`Tables::map`] and its kin
//! make executable mappings only on their caller's word, of frames that are not frozen; the audit
//! finds those, as it finds a writable mapping of a frozen frame.
//!
//! Executable mappings are few and change seldom. So nothing is counted as pages are mapped: the
//! tables are searched when memory becomes code, and when it ceases to be.

use hypercall::Pfn;

use crate::entry::{Entry, Flags, L2, Pte};
use crate::error::MmError;
use crate::frames::{Frame, FrameError};
use crate::layout::Layout;
use crate::machine::Machine;
use crate::ops::Change;
use crate::state::{Illegal, Kind, Transition};
use crate::tables::Tables;

const PAGE: u64 = 4096;

impl<M: Machine> Tables<M> {
    /// Takes the right to write from consecutive pages. Variables of the image become read-only in
    /// the direct map as well.
    ///
    /// # Errors
    /// A page that is not mapped, or Xen's refusal.
    ///
    /// # Safety
    /// Nobody writes to them.
    #[track_caller]
    pub unsafe fn set_memory_ro(&mut self, va: u64, pages: u64) -> Result<Change, MmError> {
        self.lazily(|tables| {
            if M::Layout::IMAGE.contains(&va) {
                // SAFETY: nobody writes to the pages.
                unsafe { tables.freeze(va, pages, Kind::ImageData) }?;
            }
            // SAFETY: nobody writes to the pages, which keep all other rights.
            unsafe { tables.protect(va, pages, Flags::empty(), Flags::WRITABLE) }
        })
    }

    /// Gives the right to write to consecutive pages. What was code or was made read-only, and is
    /// executable nowhere any more, is writable in the direct map again as well.
    ///
    /// # Errors
    /// A page that is not mapped, that is executable or that must stay read-only; or Xen's refusal.
    ///
    /// # Safety
    /// Nobody relies on their not changing.
    #[track_caller]
    pub unsafe fn set_memory_rw(&mut self, va: u64, pages: u64) -> Result<Change, MmError> {
        self.thaw(va, pages, &[Kind::Code, Kind::ImageFrozen])?;
        // SAFETY: nobody relies on the pages' not changing.
        unsafe { self.protect(va, pages, Flags::WRITABLE, Flags::empty()) }
    }

    /// Takes the right to execute from consecutive pages. Memory that was handed out, and is
    /// executable nowhere any more, is writable in the direct map again.
    ///
    /// # Errors
    /// A page that is not mapped, or Xen's refusal.
    ///
    /// # Safety
    /// Nobody executes them.
    #[track_caller]
    pub unsafe fn set_memory_nx(&mut self, va: u64, pages: u64) -> Result<Change, MmError> {
        // SAFETY: nobody executes the pages, which keep all other rights.
        let change = unsafe { self.protect(va, pages, Flags::NO_EXECUTE, Flags::empty()) }?;
        self.thaw(va, pages, &[Kind::Code])?;
        Ok(change)
    }

    /// Gives the right to execute to consecutive pages that are not writable, here or elsewhere.
    /// Their frames become read-only in the direct map.
    ///
    /// # Errors
    /// A page that is not mapped, or is writable here or by another mapping (which the error names);
    /// or Xen's refusal. Then no frame is frozen that another mapping can write to.
    ///
    /// # Safety
    /// What they hold may be executed.
    #[track_caller]
    pub unsafe fn set_memory_x(&mut self, va: u64, pages: u64) -> Result<Change, MmError> {
        self.check_holds_all()?;
        for page in (0..pages).map(|i| va + i * PAGE) {
            if self.ptep_get(page)?.flags().contains(Flags::WRITABLE) {
                return Err(MmError::WriteAndExecute { va: page });
            }
        }
        let frozen = self.lazily(|tables| {
            // SAFETY: pages that are not writable, and whose holder has them executed from now on.
            unsafe {
                tables.freeze(va, pages, Kind::ImageData)?;
                tables.freeze(va, pages, Kind::Owned)
            }
        });
        // What is queued would hide from the search.
        let refused = match frozen.and(self.flush()) {
            Ok(()) => self
                .find_leaf(|entry, kind| {
                    kind.is_frozen() && entry.flags().contains(Flags::WRITABLE)
                })
                .map(|va| MmError::WriteAndExecute { va }),
            Err(e) => Some(e),
        };
        if let Some(error) = refused {
            self.thaw_if(va, pages, |tables, pfn, kind| {
                // What is writable somewhere was not frozen before; code that nobody executes need
                // not be.
                tables.is_writable(pfn) || kind == Kind::Code && !tables.is_executable(pfn)
            })?;
            return Err(error);
        }
        // SAFETY: the pages may be executed, and lose no right.
        unsafe { self.protect(va, pages, Flags::empty(), Flags::NO_EXECUTE) }
    }

    /// The frame that a page maps, and what it will be once the queue is carried out.
    fn planned_kind(&self, page: u64) -> Result<Option<(Pfn, Kind)>, MmError> {
        let value = self.pte_val(self.ptep_get(page)?);
        let planned = value.and_then(|value| {
            let states = self.frames().states(value.pfn).ok()?;
            Some((value.pfn, states.1.kind))
        });
        Ok(planned)
    }

    /// Freezes those of the pages' frames that are of a kind.
    ///
    /// # Safety
    /// Nobody writes to them, here or in the direct map.
    #[track_caller]
    unsafe fn freeze(&mut self, va: u64, pages: u64, kind: Kind) -> Result<(), MmError> {
        for page in (0..pages).map(|i| va + i * PAGE) {
            if let Some((pfn, found)) = self.planned_kind(page)?
                && found == kind
            {
                // SAFETY: nobody writes to the frames, as the caller says.
                unsafe { self.set_window(pfn, Flags::CONST, Transition::Freeze) }?;
            }
        }
        Ok(())
    }

    /// Thaws those of the pages' frames that are of these kinds and executable nowhere; in force
    /// when it returns.
    #[track_caller]
    fn thaw(&mut self, va: u64, pages: u64, kinds: &[Kind]) -> Result<(), MmError> {
        self.thaw_if(va, pages, |tables, pfn, kind| {
            kinds.contains(&kind) && !tables.is_executable(pfn)
        })
    }

    /// Thaws those of the pages' frames that are frozen and of which `may` says that nobody relies
    /// on their not changing, given what they are; in force when it returns.
    #[track_caller]
    fn thaw_if(
        &mut self,
        va: u64,
        pages: u64,
        may: impl Fn(&Self, Pfn, Kind) -> bool,
    ) -> Result<(), MmError> {
        if !self.frames().has_frozen() {
            return Ok(());
        }
        self.check_holds_all()?;
        self.flush()?;
        let thawed = self.lazily(|tables| {
            for page in (0..pages).map(|i| va + i * PAGE) {
                if let Some((pfn, kind)) = tables.planned_kind(page)?
                    && kind.is_frozen()
                    && may(tables, pfn, kind)
                {
                    // SAFETY: nobody relies on its not changing, as `may` says.
                    unsafe { tables.set_window(pfn, Flags::DATA, Transition::Thaw) }?;
                }
            }
            Ok(())
        });
        thawed.and(self.flush())
    }

    /// Takes a frame back that may be code: writable again first, and free after the flush.
    #[cold]
    #[track_caller]
    pub(super) fn thaw_and_free(&mut self, frame: Frame) -> Result<(), MmError> {
        let pfn = frame.pfn();
        let (state, planned) = self.frames().states(pfn)?;
        if planned.kind != Kind::Code {
            let (frames, machine) = self.records();
            return Ok(frames.free(machine, frame)?);
        }
        self.check_holds_all()?;
        self.flush()?;
        if self.is_executable(pfn) {
            let transition = Transition::Free;
            return Err(FrameError::Illegal(pfn, Illegal { state, transition }).into());
        }
        // SAFETY: given back by its holder, and executable nowhere.
        unsafe { self.set_window(pfn, Flags::DATA, Transition::Thaw) }?;
        self.free_once_flushed(frame)
    }

    /// Whether any page that maps the frame is executable.
    fn is_executable(&self, frame: Pfn) -> bool {
        self.is_mapped_with(frame, |flags| !flags.contains(Flags::NO_EXECUTE))
    }

    /// Whether any page that maps the frame is writable.
    fn is_writable(&self, frame: Pfn) -> bool {
        self.is_mapped_with(frame, |flags| flags.contains(Flags::WRITABLE))
    }

    /// Whether any page maps the frame with such rights.
    fn is_mapped_with(&self, frame: Pfn, wanted: impl Fn(Flags) -> bool) -> bool {
        let mfn = self.machine().mfn(frame);
        self.find_leaf(|entry, _| entry.mfn() == mfn && wanted(entry.flags()))
            .is_some()
    }

    /// The first address outside of the direct map, in any space, where a page is mapped of which
    /// `is_wanted` says so, given its entry, with the rights that those above it leave, and what its
    /// frame is. Nothing may be queued.
    fn find_leaf(&self, is_wanted: impl Fn(Pte, Kind) -> bool) -> Option<u64> {
        let top = usize::from(self.fold().top());
        let mut first = true;
        self.spaces().find_map(|space| {
            // The kernel's half is the same in all.
            let slots = if core::mem::take(&mut first) {
                512
            } else {
                256
            };
            let all = Flags::PRESENT | Flags::WRITABLE | Flags::USER;
            self.find_below((space.kernel, all), top, 0, slots, &is_wanted)
        })
    }

    fn find_below(
        &self,
        (table, above): (Pfn, Flags),
        level: usize,
        base: u64,
        slots: usize,
        is_wanted: &impl Fn(Pte, Kind) -> bool,
    ) -> Option<u64> {
        // SAFETY: what a root or an upper entry refers to is a table, so nobody's own memory.
        let live = unsafe { self.machine().live(table) }?;
        let shift = 12 + 9 * (level as u32 - 1);
        for (index, word) in live.iter().enumerate().take(slots) {
            let va = self.fold().canonical(base | (index as u64) << shift);
            let entry = Pte::from_table(word);
            let passed_over = [M::Layout::XEN, M::Layout::DIRECT, M::Layout::P2M];
            let is_large = level > 1 && Entry::<L2>::from_table(word).is_large();
            if level <= 4 && passed_over.iter().any(|region| region.contains(&va)) || is_large {
                continue;
            }
            let Some(pfn) = entry.mfn().and_then(|mfn| self.machine().pfn(mfn)) else {
                continue;
            };
            let own = entry.flags();
            let flags = (above & own) | ((above | own) & Flags::NO_EXECUTE);
            let found = if level > 1 {
                self.find_below((pfn, flags), level - 1, va, 512, is_wanted)
            } else {
                let (state, _) = self.frames().states(pfn).unwrap_or_default();
                is_wanted(entry.with_flags(flags), state.kind).then_some(va)
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }
}
