//! Pinning roots and unpinning them: for Xen each does something to every table that the root refers to, and
//! so it is planned for all of them before Xen is asked.
//!
//! Which entries the kernel's half of a root has is known once that half stands: the same for all roots.

use hypercall::Pfn;
use hypercall::mmu::{ExtOp, Level};

use crate::entry::{Entry, L1};
use crate::error::MmError;
use crate::frames::FrameError;
use crate::machine::Machine;
use crate::spaces::{UPPER_HALF, kernel_slots};
use crate::state::{Kind, Transition};
use crate::tables::Tables;

impl<M: Machine> Tables<M> {
    /// Unpins a root; what its entries refer to loses a reference.
    ///
    /// # Safety
    /// No base register refers to it.
    #[track_caller]
    pub(super) unsafe fn unpin(&mut self, root: Pfn) -> Result<(), MmError> {
        let tag = self.plan_root(root, Transition::Unpin, UPPER_HALF, |_| Transition::Unlink)?;
        let op = ExtOp::Unpin(self.mfn(root)?);
        // SAFETY: no base register refers to the root, so nothing in use is reached through it.
        unsafe { self.mmu.ext(op, tag) }?;
        Ok(())
    }

    /// Pins a root with nothing in its user half; what its entries refer to gains a reference.
    #[track_caller]
    pub(super) fn pin_new(&mut self, root: Pfn) -> Result<(), MmError> {
        let pin = Transition::Pin(self.fold().top());
        let tag = self.plan_root(root, pin, 0, Transition::Link)?;
        let op = ExtOp::Pin(Level::L4, self.mfn(root)?);
        // SAFETY: pinning validates; it changes no mapping.
        unsafe { self.mmu.ext(op, tag) }?;
        Ok(())
    }

    /// Plans the transitions of pinning or unpinning a root for which nothing is queued: its own, and one for
    /// each table it refers to, however many those are, by the `first` entries of its user half or by any of
    /// the kernel's.
    #[track_caller]
    fn plan_root(
        &mut self,
        root: Pfn,
        own: Transition,
        first: usize,
        each: impl Fn(u8) -> Transition,
    ) -> Result<u32, MmError> {
        self.apply_log();
        match self.try_plan_root(root, own, first, &each) {
            Err(FrameError::Full) => {}
            planned => return Ok(planned?),
        }
        self.flush()?;
        Ok(self.try_plan_root(root, own, first, &each)?)
    }

    fn try_plan_root(
        &mut self,
        root: Pfn,
        own: Transition,
        first: usize,
        each: &impl Fn(u8) -> Transition,
    ) -> Result<u32, FrameError> {
        let below = self.fold().top() - 1;
        let kernels = kernel_slots(self.fold());
        let (frames, machine) = self.records();
        let kernel_entries = self.domain().kernel_entries();
        // SAFETY: a root is a table, or about to be one: nobody's own memory any more.
        let live = unsafe { machine.live(root) }.ok_or(FrameError::NoRecord(root))?;
        self.log_mut().plan_all(frames, |log| {
            log.plan_one(frames, root, own)?;
            let mut plan = |i| {
                // Entries of any level are read alike.
                let mfn = Entry::<L1>::from_table(live.get(i)).mfn();
                let Some(pfn) = mfn.and_then(|mfn| machine.pfn(mfn)) else {
                    return Ok(());
                };
                let (_, planned) = frames.states(pfn).unwrap_or_default();
                match planned.kind {
                    Kind::Table => log.plan_one(frames, pfn, each(below)),
                    _ => Ok(()),
                }
            };
            let users = live.split_at(first).0;
            users.present_from(0).try_for_each(&mut plan)?;
            match kernel_entries {
                Some(mut entries) => entries.try_for_each(|entry| plan(UPPER_HALF + entry)),
                None => live.present_from(kernels).try_for_each(plan),
            }
        })
    }

    /// From now on no entry of the kernel's half of a root changes.
    pub(super) fn close_kernel_half(&self) {
        let Some(root) = self.pgd_at(0) else { return };
        let first = kernel_slots(self.fold());
        let close = |entries: &mut dyn Iterator<Item = usize>| {
            let from_half = entries.map(|entry| entry - UPPER_HALF);
            self.domain().close_kernel_half(from_half);
        };
        if self.mmu.batch().is_empty() {
            return close(&mut root.live(512).present_from(first));
        }
        close(&mut (first..512).filter(|entry| self.entry(root.at(*entry)).is_present()));
    }
}
