//! Writing entries: each through the queue, each change of a table's use through the record first.

use hypercall::abi::mmu::mmu_update;
use hypercall::batch::{Batch, FlushError, Update, Write};
use hypercall::mmu::{Level, Scope};
use hypercall::{Pfn, VirtAddr, XenError};

use super::{Fold, Place, Tables};
use crate::entry::{
    Entry, Flags, L1, L2, L3, L4, L5, P4d, Pgd, Pmd, Pte, Pud, TableLevel, UpperLevel,
};
use crate::error::MmError;
use crate::frames::{Frame, FrameError};
use crate::machine::{Live, Machine};
use crate::ops::PAGE;
use crate::state::Transition;

/// What a run of writes says of A and D.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    /// What they are.
    Given,
    /// Nothing: what other vCPUs set until the writes are in force is kept.
    Kept,
}

impl<M: Machine> Tables<M> {
    /// Writes an L1 entry. `va` must be the address that the space under work maps through it.
    ///
    /// The translation that was cached for `va` is flushed with it where one can have been. If the entry
    /// maps the same frame as before, A and D bits that other vCPUs set meanwhile are kept: where one of
    /// them is taken, the other counts as set.
    ///
    /// # Errors
    /// Xen's refusal.
    ///
    /// # Safety
    /// Nothing in use may be mapped there, unless `entry` maps the same frame with rights that the
    /// users need.
    #[inline]
    #[track_caller]
    pub unsafe fn set_pte(&mut self, slot: Place<L1>, va: u64, entry: Pte) -> Result<(), MmError> {
        // SAFETY: what is in use on the page stays mapped as its users need, as the caller says.
        unsafe { self.write_apart(slot, va, self.entry(slot), entry) }
    }

    /// As [`Tables::set_pte`], but Xen keeps all A and D bits that it finds.
    ///
    /// # Errors
    /// Xen's refusal.
    ///
    /// # Safety
    /// As [`Tables::set_pte`].
    #[inline]
    #[track_caller]
    pub unsafe fn set_pte_preserving(
        &mut self,
        slot: Place<L1>,
        va: u64,
        entry: Pte,
    ) -> Result<(), MmError> {
        // SAFETY: what is in use on the page stays mapped as its users need, as the caller says.
        unsafe { self.write_pte(slot, va, self.entry(slot), entry, true) }
    }

    /// As [`Tables::set_pte`], by a caller who has just read the entry: where nothing waits and nothing may
    /// wait, by a short way.
    #[inline(always)]
    #[track_caller]
    pub(crate) unsafe fn replace_pte(
        &mut self,
        slot: Place<L1>,
        va: u64,
        old: Pte,
        entry: Pte,
    ) -> Result<(), MmError> {
        if !self.writes_at_once(va) {
            // SAFETY: what is in use on the page stays mapped as its users need, as the caller says.
            return unsafe { self.write_pte(slot, va, old, entry, false) };
        }
        // SAFETY: what is in use on the page stays mapped as its users need, as the caller says.
        unsafe { self.write_at_once(slot, va, old, entry) }
    }

    /// Whether an entry for an address goes to Xen by itself, which finds it by that address.
    #[inline(always)]
    pub(crate) fn writes_at_once(&self, va: u64) -> bool {
        self.mmu.is_at_rest() && self.is_current(va)
    }

    /// As [`Tables::replace_pte`], where entries for the address [go by themselves](Self::writes_at_once).
    #[inline(always)]
    #[track_caller]
    pub(crate) unsafe fn write_at_once(
        &mut self,
        slot: Place<L1>,
        va: u64,
        old: Pte,
        entry: Pte,
    ) -> Result<(), MmError> {
        if old.is_present() && self.domain().has_several_vcpus() {
            // SAFETY: what is in use on the page stays mapped as its users need, as the caller says.
            return unsafe { self.write_pte(slot, va, old, entry, false) };
        }
        // Nobody else has it cached.
        let flush = old.is_stale_as(entry).then_some(Scope::Local);
        let page = VirtAddr::new_truncate(va);
        // SAFETY: what is in use on the page stays mapped as its users need, as the caller says.
        match unsafe { self.mmu.write_at_once(page, entry.bits(), flush) } {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refused_at_once(error, slot, page, old, entry)),
        }
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn refused_at_once(
        &mut self,
        error: XenError,
        slot: Place<L1>,
        page: VirtAddr,
        old: Pte,
        entry: Pte,
    ) -> MmError {
        let write = Write {
            old: old.bits(),
            value: entry.bits(),
        };
        let error = self.mmu.explain_at_once(error, slot.machine, page, write);
        self.apply_log();
        error.into()
    }

    /// As [`Tables::replace_pte`], for callers of whom there are many.
    #[inline(never)]
    #[track_caller]
    unsafe fn write_apart(
        &mut self,
        slot: Place<L1>,
        va: u64,
        old: Pte,
        entry: Pte,
    ) -> Result<(), MmError> {
        // SAFETY: what is in use on the page stays mapped as its users need, as the caller says.
        unsafe { self.replace_pte(slot, va, old, entry) }
    }

    /// Writes an entry: none of the A and D bits is lost that other vCPUs set until it is in force.
    #[inline(never)]
    #[track_caller]
    unsafe fn write_pte(
        &mut self,
        slot: Place<L1>,
        va: u64,
        old: Pte,
        entry: Pte,
        preserve_ad: bool,
    ) -> Result<(), MmError> {
        let page = VirtAddr::new_truncate(va);
        let whose = match old.is_present() {
            true => self.scope_of_stale(va),
            false => None,
        };
        let (entry, keeps) = match whose {
            Some(Scope::All) if self.domain().has_several_vcpus() => old.in_use_to(entry),
            _ => (entry, false),
        };
        let mut update = Update {
            preserve_ad: preserve_ad || keeps,
            ..Update::new(Level::L1, slot.machine, entry.bits()).old(old.bits())
        };
        if self.is_current(va) {
            update = update.va(page);
        }
        let scope = whose.filter(|_| old.is_stale_as(entry));
        // SAFETY: what is in use on the page stays mapped as its users need, as the caller says.
        let result = unsafe {
            match scope {
                Some(scope) => self.mmu.set_and_flush(update, scope, page),
                None => self.mmu.set(update),
            }
        };
        self.apply_if_refused(result)
    }

    /// Whose translations for an address are flushed when its entry changes. What is cached of a space where
    /// nobody runs is forgotten before somebody comes there.
    #[inline]
    fn scope_of_stale(&self, va: u64) -> Option<Scope> {
        if self.is_current(va) {
            Some(self.scope_at(va))
        } else {
            self.others_run_there().then_some(Scope::All)
        }
    }

    /// Whether other vCPUs may set A and D in the entry for an address at any time.
    #[inline]
    pub(crate) fn others_mark(&self, va: u64) -> bool {
        self.domain().has_several_vcpus() && self.scope_of_stale(va) == Some(Scope::All)
    }

    /// Whether other vCPUs may set any of these bits in a run of entries that does not have it yet.
    #[cold]
    #[inline(never)]
    fn others_may_add(&self, first: Place<L1>, va: u64, count: usize) -> bool {
        let gains = |at: usize| !self.entry(first.at(at)).may_gain().is_empty();
        self.others_mark(va) && (0..count).any(gains)
    }

    /// Writes L1 entries that follow each other in one table, from the one for `va` on, in a lazy
    /// section: `edit` is asked for each what it is to become, given its address and what it is; one
    /// that it has nothing for stays. Translations are flushed as [`Tables::set_pte`] does.
    ///
    /// # Errors
    /// Those of `edit`, of which nothing is queued, or Xen's refusal of what was queued before.
    ///
    /// # Safety
    /// As [`Tables::set_pte`] for each.
    #[inline]
    #[track_caller]
    pub(crate) unsafe fn write_run(
        &mut self,
        first: Place<L1>,
        va: u64,
        count: usize,
        marks: Marks,
        mut edit: impl FnMut(u64, Pte) -> Result<Option<Pte>, MmError>,
    ) -> Result<(), MmError> {
        let (update, flush) = self.run_from(first, va, count, marks);
        let each = |batch: &Batch, at: usize| {
            let slot = first.at(at);
            let old = Pte::from_table(batch.read(slot.machine, slot.in_table().bits()));
            let new = edit(va + PAGE * at as u64, old)?;
            let write = |new: Pte| Write {
                old: old.bits(),
                value: new.bits(),
            };
            Ok(new.map(write))
        };
        // SAFETY: what is in use on the pages stays mapped as its users need, as the caller says.
        let result = unsafe { self.mmu.set_run(update, count, flush, each) };
        if result.is_err() {
            self.apply_log();
        }
        result
    }

    /// Writes entries as [`Tables::write_run`] does, if nothing but entries right before them is queued and
    /// all of them are written: `fill` writes their values, given what they are, or says that it is not so.
    /// Then nothing is done and `false` returned.
    ///
    /// # Errors
    /// Those of `fill`, of which nothing is queued, or Xen's refusal of what was queued before.
    ///
    /// # Safety
    /// As [`Tables::set_pte`] for each.
    #[inline(always)]
    #[track_caller]
    pub(crate) unsafe fn write_filled(
        &mut self,
        first: Place<L1>,
        va: u64,
        count: usize,
        marks: Marks,
        fill: impl FnOnce(&mut [mmu_update], Live<'_>) -> Result<bool, MmError>,
    ) -> Result<bool, MmError> {
        let (update, flush) = self.run_from(first, va, count, marks);
        let olds = first.live(count);
        // SAFETY: what is in use on the pages stays mapped as its users need, as the caller says.
        let result = unsafe {
            self.mmu
                .set_filled(update, flush, olds.iter(), |requests| fill(requests, olds))
        };
        if result.is_err() {
            self.apply_log();
        }
        result
    }

    /// The first of a run of writes, and what is flushed with them.
    #[inline(never)]
    #[track_caller]
    fn run_from(
        &self,
        first: Place<L1>,
        va: u64,
        count: usize,
        marks: Marks,
    ) -> (Update, Option<(Scope, VirtAddr)>) {
        let page = VirtAddr::new_truncate(va);
        let mut update = Update::new(Level::L1, first.machine, 0);
        if marks == Marks::Kept && self.domain().has_several_vcpus() {
            update.preserve_ad = self.others_may_add(first, va, count);
        }
        if self.is_current(va) {
            update = update.va(page);
        }
        (update, self.scope_of_stale(va).map(|scope| (scope, page)))
    }

    /// Brings the record up to date after a refusal.
    #[inline(always)]
    fn apply_if_refused(&mut self, result: Result<(), FlushError>) -> Result<(), MmError> {
        if result.is_err() {
            self.apply_log();
        }
        Ok(result?)
    }

    /// Writes an L2 entry.
    ///
    /// # Errors
    /// A frame in the wrong state, or Xen's refusal.
    ///
    /// # Safety
    /// What is in use below the entry must be mapped as before.
    #[track_caller]
    pub unsafe fn set_pmd(&mut self, slot: Place<L2>, entry: Pmd) -> Result<(), MmError> {
        // SAFETY: what is in use below the entry stays mapped, as the caller says.
        unsafe { self.set_upper(slot, entry) }
    }

    /// Writes an L3 entry.
    ///
    /// # Errors
    /// A frame in the wrong state, or Xen's refusal.
    ///
    /// # Safety
    /// As [`Tables::set_pmd`].
    #[track_caller]
    pub unsafe fn set_pud(&mut self, slot: Place<L3>, entry: Pud) -> Result<(), MmError> {
        // SAFETY: what is in use below the entry stays mapped, as the caller says.
        unsafe { self.set_upper(slot, entry) }
    }

    /// Writes an L4 entry: in a root, one of the user half also in the tables of user mode, where
    /// those exist. Those of the kernel's half stand from the takeover on.
    ///
    /// # Errors
    /// A frame in the wrong state, an entry of the kernel's half of a root, or Xen's refusal.
    ///
    /// # Safety
    /// As [`Tables::set_pmd`].
    #[track_caller]
    pub unsafe fn set_p4d(&mut self, slot: Place<L4>, entry: P4d) -> Result<(), MmError> {
        // SAFETY: what is in use below the entry stays mapped, as the caller says.
        unsafe { self.set_upper(slot, entry) }
    }

    /// Writes the topmost entry: where the fifth level is folded, the L4 entry it stands for.
    ///
    /// # Errors
    /// A frame in the wrong state, or Xen's refusal.
    ///
    /// # Safety
    /// As [`Tables::set_pmd`].
    #[track_caller]
    pub unsafe fn set_pgd(&mut self, slot: Place<L5>, entry: Pgd) -> Result<(), MmError> {
        match self.fold {
            // SAFETY: what is in use below the entry stays mapped, as the caller says.
            Fold::FourLevels => unsafe {
                self.set_p4d(slot.retyped(), P4d::from_table(entry.bits()))
            },
            // SAFETY: what is in use below the entry stays mapped, as the caller says.
            Fold::FiveLevels => unsafe { self.set_upper(slot, entry) },
        }
    }

    /// Writes an entry that refers to a table: one of the user half of a root also to user mode's.
    #[inline]
    #[track_caller]
    pub(crate) unsafe fn set_upper<L: UpperLevel>(
        &mut self,
        slot: Place<L>,
        entry: Entry<L>,
    ) -> Result<(), MmError> {
        if L::NUMBER < usize::from(self.fold.top()) {
            // SAFETY: what is in use below stays mapped, as the caller says.
            return unsafe { self.set_one(slot, entry) };
        }
        // Sign-extended, as addresses of the upper half are.
        let bits = 64 - L::SHIFT - 9;
        let index = slot.machine.entry_index() as u64;
        let va = ((index << L::SHIFT << bits).cast_signed() >> bits).cast_unsigned();
        self.check_root_entry(L::NUMBER, va)?;
        // SAFETY: what is in use below stays mapped, as the caller says.
        unsafe { self.set_one(slot, entry) }?;
        let in_root = self.machine().mfn(self.root) == Some(slot.machine.frame());
        let user = self.user_root.filter(|_| in_root && va >> 63 == 0);
        if let Some(mirror) = user.and_then(|user| self.place_in::<L>(user, va)) {
            // SAFETY: user mode finds there what the kernel finds, of which the caller says it may.
            return unsafe { self.set_one(mirror, entry) };
        }
        Ok(())
    }

    /// Writes a single entry that refers to a table: plans what becomes of the old table and the new
    /// one, then queues.
    ///
    /// The old one is what stands in the table. What is only queued for the entry Xen may refuse, and
    /// go on with a write that is queued behind it: then that would not drop what was planned.
    #[track_caller]
    unsafe fn set_one<L: UpperLevel>(
        &mut self,
        slot: Place<L>,
        entry: Entry<L>,
    ) -> Result<(), MmError> {
        self.domain().changed(L::NUMBER);
        if self.mmu.batch().queued(slot.machine).is_some() {
            self.flush()?;
        }
        let old = self.entry(slot);
        if old.is_large() {
            return Err(MmError::Large {
                va: 0,
                level: L::NUMBER,
            });
        }
        let tag = if old.mfn() != entry.mfn() {
            // Linked before the old one is unlinked, should both be the same table.
            let link = Transition::Link(L::Below::NUMBER as u8);
            let linked = self.value(entry).map(|value| (value.pfn, link));
            let unlinked = self.value(old).map(|value| (value.pfn, Transition::Unlink));
            match (linked, unlinked) {
                (Some(linked), Some(unlinked)) => self.plan(&[linked, unlinked]),
                (Some(only), None) | (None, Some(only)) => self.plan(&[only]),
                (None, None) => Ok(0),
            }?
        } else {
            0
        };
        let level = L::XEN.unwrap_or(Level::L4);
        let update = Update::new(level, slot.machine, entry.bits())
            .old(old.bits())
            .tag(tag);
        // SAFETY: what is in use below the entry stays mapped, as the caller says.
        let result = unsafe { self.mmu.set(update) };
        self.apply_if_refused(result)
    }

    /// Plans transitions, flushing first if the log has no room.
    #[track_caller]
    pub(crate) fn plan(&mut self, transitions: &[(Pfn, Transition)]) -> Result<u32, MmError> {
        self.apply_log();
        let frames = self.frames();
        match self.log_mut().plan(frames, transitions) {
            Err(FrameError::Full) => {}
            planned => return Ok(planned?),
        }
        self.flush()?;
        Ok(self.log_mut().plan(frames, transitions)?)
    }

    /// Queues the change of a frame's own mapping in the window, with a transition.
    ///
    /// # Safety
    /// Rights grow for a frame that nobody relies on being read-only, or shrink for one that nobody
    /// writes through the window any more.
    #[track_caller]
    pub(crate) unsafe fn set_window(
        &mut self,
        pfn: Pfn,
        flags: Flags,
        transition: Transition,
    ) -> Result<(), MmError> {
        let va = self.machine().window(pfn);
        let slot = self.pte_place(va)?;
        let old = self.entry(slot);
        let tag = self.plan(&[(pfn, transition)])?;
        let page = VirtAddr::new_truncate(va);
        // The image's constants are not there, until they are given back.
        let entry = match old.is_present() {
            true => old.with_flags(flags),
            false => Pte::from_mfn(self.mfn(pfn)?, flags),
        };
        let update = Update::new(Level::L1, slot.machine, entry.bits())
            .old(old.bits())
            .va(page)
            .tag(tag);
        if !matches!(transition, Transition::Seal(_)) {
            let scope = self.domain().tlb_scope();
            // A translation cached as read-only would make the next owner's first write fault, one
            // cached as writable let code be written.
            // SAFETY: rights grow for a frame that nothing refers to, or shrink for one that is
            // not to be written any more.
            let result = unsafe { self.mmu.set_and_flush(update, scope, page) };
            self.apply_if_refused(result)
        } else {
            // Xen itself flushes what is cached of a frame that becomes a table.
            // SAFETY: whoever holds the `Frame` gave it up to be a table and writes no more.
            let result = unsafe { self.mmu.set(update) };
            self.apply_if_refused(result)
        }
    }

    /// Makes a frame read-only, to be a table.
    #[track_caller]
    pub(crate) fn seal(&mut self, frame: Frame, level: u8) -> Result<Pfn, MmError> {
        let pfn = frame.pfn();
        // SAFETY: the holder of the frame has given it up, so that nobody writes to it any more.
        unsafe { self.set_window(pfn, Flags::CONST, Transition::Seal(level)) }?;
        Ok(pfn)
    }

    /// Makes a table that nothing refers to writable again. It may be reused after the flush.
    #[track_caller]
    pub(crate) fn unseal(&mut self, pfn: Pfn) -> Result<Frame, MmError> {
        // SAFETY: the record refuses the transition for a table that anything refers to.
        unsafe { self.set_window(pfn, Flags::DATA, Transition::Unseal) }?;
        // SAFETY: the record agreed that it is a table that nothing refers to; its `Frame` was given
        // up when it became one, or Xen's builder made it.
        Ok(unsafe { Frame::from_pfn(pfn) })
    }

    /// Makes a page of the image writable in the window, where nothing else maps it any more. It may
    /// be freed after the flush.
    ///
    /// # Safety
    /// Nobody uses the page any more.
    #[track_caller]
    pub(crate) unsafe fn take_from_image(&mut self, pfn: Pfn) -> Result<(), MmError> {
        // SAFETY: a page that nobody uses nobody relies on.
        unsafe { self.set_window(pfn, Flags::DATA, Transition::Release) }
    }
}
