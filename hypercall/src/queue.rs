//! The page-table path of one vCPU: a [`Batch`], the lazy mode of the context that runs on it, and
//! the hypervisor, put together.
//!
//! [`Mmu`] decides what waits and what does not; [`LazyGuard`] and [`PauseGuard`] make sections
//! end where their scope does. A guard does not borrow the `Mmu`: code inside of a section reaches
//! it the same way as code outside, through an [`Access`], for sections nest across functions that
//! do not know of each other.
//!
//! An interrupt handler that reaches the same `Mmu` must not find it borrowed: whoever implements
//! [`Access`] masks upcalls for the time of the borrow.
//!
//! # Whose error it is
//!
//! Handlers are never lazy, so what one finds queued is the interrupted section's, however deep
//! interrupts nest. It goes to Xen before anything of the handler's, in a flush of its own: what is
//! refused there is kept for the section and returned by its next flush, that of
//! [`disable`](Mmu::disable) at the latest. What a handler is told is about its own requests, and
//! none of them is skipped because of another's. Invariant: outside of interrupts, a refusal is
//! kept only while the running context is lazy.
//!
//! ```
//! use core::{cell::RefCell, panic::Location};
//! use hypercall::{
//!     Access, Hypervisor, LazyGuard, Level, MachAddr, Mfn, Mmu, MmuError, Op, Update,
//! };
//!
//! /// Agrees to everything.
//! struct Agreeable;
//!
//! impl Hypervisor for Agreeable {
//!     unsafe fn call(&self, _: Op, _: [u64; 5]) -> i64 {
//!         0
//!     }
//!     fn mask_upcalls(&self) -> bool {
//!         true
//!     }
//!     fn restore_upcalls(&self, _: bool) {}
//! }
//!
//! struct Cpu(RefCell<Mmu<Agreeable>>);
//!
//! impl Access for Cpu {
//!     type Hv = Agreeable;
//!     type Completion = ();
//!
//!     fn with<R>(&self, f: impl FnOnce(&mut Mmu<Agreeable>) -> R) -> R {
//!         f(&mut self.0.borrow_mut())
//!     }
//!     fn failed(&self, error: MmuError, at: &'static Location<'static>) {
//!         panic!("{error}, section begun at {at}");
//!     }
//! }
//!
//! let cpu = Cpu(RefCell::new(Mmu::new(Agreeable, ())));
//! let slot = MachAddr::of_entry(Mfn::truncate(0x1234), 7);
//!
//! let section = LazyGuard::begin(&cpu)?;
//! // SAFETY: there are no tables.
//! cpu.with(|mmu| unsafe { mmu.set(Update::new(Level::L1, slot, 0x5000_0061)) })?;
//! // Not sent yet, and still it is what one reads.
//! assert_eq!(cpu.with(|mmu| mmu.read(slot, 0)), 0x5000_0061);
//! section.end()?;
//! assert_eq!(cpu.with(|mmu| mmu.batch().stats().hypercalls), 1);
//! # Ok::<(), MmuError>(())
//! ```

mod at_once;
mod error;
mod guard;

use core::mem::MaybeUninit;

use heapless::Vec;

use crate::{
    Hypervisor, MachAddr, Mfn, Pfn, VirtAddr,
    abi::mmu::mmu_update,
    batch::{
        Batch, Completion, DEFAULT_CAPACITY, EXT_CAPACITY, FlushError, FlushReason, Update, Write,
    },
    lazy::{Action, LazyError, LazyMmu, SwitchOut},
    mmu::{ExtOp, Scope},
};
pub use error::{MmuError, SwitchError};
pub use guard::{Access, LazyGuard, PauseGuard};

/// One vCPU's page-table path.
pub struct Mmu<H, C = (), const N: usize = DEFAULT_CAPACITY> {
    /// Who answers.
    pub hv: H,
    /// Who keeps a record of what was applied.
    pub completion: C,
    batch: Batch<N>,
    lazy: LazyMmu,
    /// What Xen refused of a lazy section's requests when handlers had them sent: the section has
    /// not been told yet. A vector, as it is all zeros while empty.
    kept: Vec<FlushError, 1>,
}

/// What a context keeps of its own while another has the vCPU ([`Mmu::exchange`]): how lazy it is, and
/// what Xen refused of its requests that it was not told yet.
#[derive(Debug, Default)]
pub struct Section {
    lazy: LazyMmu,
    kept: Vec<FlushError, 1>,
}

impl Section {
    /// That of a context which has not begun: not lazy.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            lazy: LazyMmu::new(),
            kept: Vec::new(),
        }
    }

    /// Exchanges two, of which hardly ever one has an error, which is large.
    pub fn swap(&mut self, other: &mut Section) {
        core::mem::swap(&mut self.lazy, &mut other.lazy);
        swap_kept(&mut self.kept, &mut other.kept);
    }

    /// How lazy it is.
    #[must_use]
    pub const fn lazy(&self) -> &LazyMmu {
        &self.lazy
    }
}

/// Exchanges what was kept, where there is any.
fn swap_kept(one: &mut Vec<FlushError, 1>, other: &mut Vec<FlushError, 1>) {
    if !(one.is_empty() && other.is_empty()) {
        core::mem::swap(one, other);
    }
}

impl<H: Hypervisor, C: Completion, const N: usize> Mmu<H, C, N> {
    /// With nothing queued, for a context that is not lazy. Large, as [`Batch::new`] is: for a static.
    pub const fn new(hv: H, completion: C) -> Self {
        Self {
            hv,
            completion,
            batch: Batch::new(),
            lazy: LazyMmu::new(),
            kept: Vec::new(),
        }
    }

    /// The same at `place`, with nothing large on the stack; `completion` is made where it is to stay as
    /// well.
    pub fn new_in(
        place: &mut MaybeUninit<Self>,
        hv: H,
        completion: impl FnOnce(&mut MaybeUninit<C>) -> &mut C,
    ) -> &mut Self {
        // These are all fields.
        let _ = |Self {
                     hv: _,
                     completion: _,
                     batch: _,
                     lazy: _,
                     kept: _,
                 }: &Self| ();
        let to = place.as_mut_ptr();
        // SAFETY: each is a field of the place, which the reference holds for writing; what is not
        // initialised yet is looked at as such.
        unsafe {
            let completion_place = &mut *(&raw mut (*to).completion).cast::<MaybeUninit<C>>();
            let made = core::ptr::from_mut(completion(completion_place));
            assert!(
                core::ptr::eq(made, &raw const (*to).completion),
                "made elsewhere"
            );
            Batch::new_in(&mut *(&raw mut (*to).batch).cast::<MaybeUninit<Batch<N>>>());
            (&raw mut (*to).hv).write(hv);
            (&raw mut (*to).lazy).write(LazyMmu::new());
            (&raw mut (*to).kept).write(Vec::new());
        }
        // SAFETY: every field was written.
        unsafe { place.assume_init_mut() }
    }

    /// What is queued, and what was counted.
    #[inline]
    pub const fn batch(&self) -> &Batch<N> {
        &self.batch
    }

    /// What Xen refused of a section as a handler that interrupted it sent what was queued, until
    /// the section's next flush returns it.
    #[inline]
    pub fn refused(&self) -> Option<&FlushError> {
        self.kept.first()
    }

    /// The lazy mode of the running context.
    #[inline]
    pub const fn lazy(&self) -> &LazyMmu {
        &self.lazy
    }

    /// Whether a write goes to Xen by itself: none may wait, and nothing does.
    #[inline(always)]
    pub fn is_idle(&self) -> bool {
        !self.lazy.is_lazy() && self.batch.is_empty()
    }

    /// Writes an entry: later if lazy, else now.
    ///
    /// # Safety
    /// As [`Batch::queue`] and [`Batch::write_now`].
    #[inline(always)]
    pub unsafe fn set(&mut self, update: Update) -> Result<(), FlushError> {
        if self.lazy.is_lazy() {
            // SAFETY: the caller's promise covers it.
            return unsafe { self.batch.queue(&self.hv, &mut self.completion, update) };
        }
        self.send_interrupted();
        // SAFETY: the caller's promise covers it.
        unsafe { self.batch.write_now(&self.hv, &mut self.completion, update) }
    }

    /// Writes an entry that mapped `address` before, and flushes what is cached for it: both later
    /// if lazy, else both now, in one hypercall where Xen has one.
    ///
    /// # Safety
    /// As [`Batch::queue`] and [`Batch::write_and_flush_now`].
    #[inline(always)]
    pub unsafe fn set_and_flush(
        &mut self,
        update: Update,
        scope: Scope,
        address: VirtAddr,
    ) -> Result<(), FlushError> {
        if self.lazy.is_lazy() {
            // SAFETY: the caller's promise covers it.
            unsafe { self.batch.queue(&self.hv, &mut self.completion, update) }?;
            self.batch.flush_tlb(scope, Some(address));
            return Ok(());
        }
        self.send_interrupted();
        let (hv, completion) = (&self.hv, &mut self.completion);
        // SAFETY: the caller's promise covers it.
        unsafe {
            self.batch
                .write_and_flush_now(hv, completion, update, scope, address)
        }
    }

    /// Writes entries that follow each other in one table; see [`Batch::queue_run`]. Outside of
    /// lazy mode they still go to Xen together.
    ///
    /// # Errors
    /// Those of `each`, or what Xen refused.
    ///
    /// # Safety
    /// As [`Batch::queue_run`].
    #[inline(always)]
    pub unsafe fn set_run<E: From<FlushError>>(
        &mut self,
        first: Update,
        count: usize,
        flush: Option<(Scope, VirtAddr)>,
        each: impl FnMut(&Batch<N>, usize) -> Result<Option<Write>, E>,
    ) -> Result<(), E> {
        self.send_interrupted();
        let (hv, completion) = (&self.hv, &mut self.completion);
        // SAFETY: the caller's promise covers it.
        let queued = unsafe {
            self.batch
                .queue_run(hv, completion, first, count, flush, each)
        };
        // What was queued before an error is not left to be refused to somebody else.
        let sent = self.send_unless_lazy();
        queued?;
        Ok(sent?)
    }

    /// Writes entries as [`set_run`](Self::set_run) does where all of them are written and these are the
    /// queue's first or go on with its run; see [`Batch::queue_filled`].
    ///
    /// # Errors
    /// Those of `fill`, or what Xen refused.
    ///
    /// # Safety
    /// As [`Batch::queue_filled`].
    #[inline(always)]
    pub unsafe fn set_filled<E: From<FlushError>>(
        &mut self,
        first: Update,
        flush: Option<(Scope, VirtAddr)>,
        olds: impl ExactSizeIterator<Item = u64>,
        fill: impl FnOnce(&mut [mmu_update]) -> Result<bool, E>,
    ) -> Result<bool, E> {
        self.send_interrupted();
        let (hv, completion) = (&self.hv, &mut self.completion);
        // SAFETY: the caller's promise covers it.
        let queued = unsafe {
            self.batch
                .queue_filled(hv, completion, first, flush, olds, fill)
        };
        // What was queued before an error is not left to be refused to somebody else.
        let sent = self.send_unless_lazy();
        let is_queued = queued?;
        sent?;
        Ok(is_queued)
    }

    /// Carries out an operation, after all writes so far: later if lazy, else now.
    ///
    /// # Safety
    /// As [`Batch::queue_ext`].
    #[inline]
    #[track_caller]
    pub unsafe fn ext(&mut self, op: ExtOp, tag: u32) -> Result<(), FlushError> {
        self.send_interrupted();
        // SAFETY: the caller's promise covers it.
        unsafe {
            self.batch
                .queue_ext(&self.hv, &mut self.completion, op, tag)
        }?;
        self.send_unless_lazy()
    }

    /// Changes the M2P: later if lazy, else now.
    ///
    /// # Safety
    /// As [`Batch::queue_machphys`].
    #[inline]
    #[track_caller]
    pub unsafe fn set_machphys(&mut self, frame: Mfn, pfn: Pfn) -> Result<(), FlushError> {
        self.send_interrupted();
        // SAFETY: the caller's promise covers it.
        unsafe {
            self.batch
                .queue_machphys(&self.hv, &mut self.completion, frame, pfn)
        }?;
        self.send_unless_lazy()
    }

    /// Flushes TLB entries, after all writes so far: later if lazy, else now.
    #[inline]
    pub fn flush_tlb(&mut self, scope: Scope, address: Option<VirtAddr>) -> Result<(), FlushError> {
        self.send_interrupted();
        self.batch.flush_tlb(scope, address);
        self.send_unless_lazy()
    }

    /// The entry at `slot` as software must see it, given what the table holds.
    #[inline]
    pub fn read(&self, slot: MachAddr, in_table: u64) -> u64 {
        self.batch.read(slot, in_table)
    }

    /// Sends everything queued.
    ///
    /// In a handler this is the interrupted section's, which is told what was refused.
    #[inline]
    pub fn flush(&mut self) -> Result<(), FlushError> {
        if self.lazy.irq_depth() != 0 {
            self.keep_refusal(FlushReason::Explicit);
            return Ok(());
        }
        self.flush_for(FlushReason::Explicit)
    }

    /// Sends what a lazy section has queued on behalf of another vCPU, which may be the one that calls
    /// this: nothing of it is looked up in the tables of the vCPU that sends it, nor flushed for that
    /// one alone. What Xen refuses is kept for the section.
    ///
    /// # Errors
    /// Handlers are nested too deep on the vCPU that queued.
    pub fn send_for_other(&mut self) -> Result<(), LazyError> {
        self.batch.leave_vcpu();
        self.enter_irq()?;
        self.keep_refusal(FlushReason::Explicit);
        self.leave_irq()
    }

    /// Enters a lazy section.
    #[inline]
    pub const fn enable(&mut self) -> Result<(), LazyError> {
        self.lazy.enable()
    }

    /// Leaves a lazy section.
    #[inline]
    pub fn disable(&mut self) -> Result<(), MmuError> {
        match self.leave() {
            true => Ok(()),
            false => self.left(),
        }
    }

    /// Leaves a lazy section, and says whether that is all there is to do: it was one in another. If not,
    /// [`left`](Self::left) is called next, or [`has_left_idle`](Self::has_left_idle) says that it need not be.
    #[inline(always)]
    #[must_use = "what else there is to do must be done"]
    pub const fn leave(&mut self) -> bool {
        self.lazy.leave()
    }

    /// Does what there is to do for a section of which [`leave`](Self::leave) has just said that it was not
    /// one in another.
    #[inline]
    pub fn left(&mut self) -> Result<(), MmuError> {
        let action = self.lazy.left()?;
        self.act(action, FlushReason::LeaveLazy)
    }

    /// Whether nothing is left to do for such a section either: it was the outermost, and nothing has waited
    /// for its end.
    #[inline(always)]
    pub fn has_left_idle(&self) -> bool {
        self.lazy.has_left_outermost() && self.batch.is_empty() && self.kept.is_empty()
    }

    /// Pauses lazy mode.
    #[inline]
    pub fn pause(&mut self) -> Result<(), MmuError> {
        let action = self.lazy.pause()?;
        self.act(action, FlushReason::Pause)
    }

    /// Ends a pause.
    #[inline]
    pub const fn resume(&mut self) -> Result<(), LazyError> {
        self.lazy.resume()
    }

    /// An interrupt handler begins.
    #[inline]
    pub const fn enter_irq(&mut self) -> Result<(), LazyError> {
        self.lazy.enter_irq()
    }

    /// An interrupt handler ends.
    #[inline]
    pub const fn leave_irq(&mut self) -> Result<(), LazyError> {
        self.lazy.leave_irq()
    }

    /// Exchanges contexts: `next` comes in, the running one's lazy mode is returned.
    ///
    /// With [`SwitchOut::Carry`], `tables` (the change of base pointers, if any) goes out together
    /// with the queue, and updates that are refused do not keep it from being carried out. A
    /// lazy context that comes in without new tables answers for the queue as it finds it, refusals
    /// that were not told yet included.
    ///
    /// # Errors
    /// [`SwitchError`] says what Xen did, whatever was refused.
    ///
    /// # Safety
    /// As [`Batch::queue_ext`] for each of `tables`.
    #[track_caller]
    pub unsafe fn switch<const T: usize>(
        &mut self,
        next: LazyMmu,
        queue: SwitchOut,
        tables: &[ExtOp; T],
    ) -> Result<LazyMmu, SwitchError> {
        const { assert!(T <= EXT_CAPACITY, "one list has to hold them") };
        let stays = |error: MmuError| SwitchError {
            error,
            carried_out: 0,
            previous: None,
        };
        let action = self
            .lazy
            .switch_out(queue)
            .map_err(|error| stays(error.into()))?;
        self.act(action, FlushReason::Switch).map_err(stays)?;
        // Addresses hold for the tables that are being left.
        self.batch.forget_addresses();
        if !self.batch.has_room_for_ops(T) {
            // All of them go out together, at the end of one list, so that what was carried out of
            // them can be told.
            self.keep_refusal(FlushReason::Full);
        }
        for &op in tables {
            // SAFETY: the caller's promise covers it.
            unsafe { self.batch.queue_ext(&self.hv, &mut self.completion, op, 0) }
                .map_err(|error| stays(error.into()))?;
        }
        // New tables must be in force before the new context runs.
        if T == 0 && next.switch_in() == Action::None {
            return Ok(core::mem::replace(&mut self.lazy, next));
        }
        let flushed = self
            .batch
            .flush(&self.hv, FlushReason::Switch, &mut self.completion);
        let undone = flushed.map_or_else(|error| error.last_ops_undone as usize, |()| 0);
        let carried_out = T.saturating_sub(undone);
        match self.with_kept(flushed) {
            Ok(()) => Ok(core::mem::replace(&mut self.lazy, next)),
            Err(error) => Err(SwitchError {
                error: error.into(),
                carried_out,
                previous: (carried_out == T).then(|| core::mem::replace(&mut self.lazy, next)),
            }),
        }
    }

    /// Exchanges contexts that leave nothing queued: the one whose section this is comes in, and leaves
    /// that of the running one in its place, with what that was not told yet.
    ///
    /// # Errors
    /// [`LazyError::InInterrupt`]; nothing is exchanged then.
    ///
    /// # Panics
    /// Something is queued: it is to be sent before.
    pub fn exchange(&mut self, section: &mut Section) -> Result<(), LazyError> {
        assert!(
            self.batch.is_empty(),
            "contexts are exchanged with something queued"
        );
        // What was to be flushed has been.
        let _ = self.lazy.switch_out(SwitchOut::Flush)?;
        let _ = section.lazy.switch_in();
        // Addresses may hold for the tables that are being left.
        self.batch.forget_addresses();
        core::mem::swap(&mut self.lazy, &mut section.lazy);
        swap_kept(&mut self.kept, &mut section.kept);
        Ok(())
    }

    /// Sends what an interrupted section has queued, before a handler's own request.
    #[inline(always)]
    fn send_interrupted(&mut self) {
        // Where nothing may wait and something does, the section that queued it was interrupted.
        if !self.lazy.is_lazy() && !self.batch.is_empty() {
            self.keep_refusal(FlushReason::Order);
        }
    }

    /// Sends what a lazy section has queued, and keeps for it what Xen refuses.
    #[cold]
    #[inline(never)]
    fn keep_refusal(&mut self, reason: FlushReason) {
        let flushed = self.batch.flush(&self.hv, reason, &mut self.completion);
        if let Err(error) = self.with_kept(flushed) {
            // There is room for one, and none is there now.
            let _ = self.kept.push(error);
        }
    }

    /// The result of a flush, joined with what was kept before it.
    #[inline]
    fn with_kept(&mut self, flushed: Result<(), FlushError>) -> Result<(), FlushError> {
        match self.kept.pop() {
            None => flushed,
            Some(kept) => Err(match flushed {
                Ok(()) => kept,
                Err(later) => kept.and(&later),
            }),
        }
    }

    /// Sends a request that may not wait. What is refused is its own: nothing else is queued.
    #[inline]
    fn send_unless_lazy(&mut self) -> Result<(), FlushError> {
        if self.lazy.is_lazy() {
            Ok(())
        } else {
            self.batch
                .flush(&self.hv, FlushReason::Immediate, &mut self.completion)
        }
    }

    #[inline]
    fn act(&mut self, action: Action, reason: FlushReason) -> Result<(), MmuError> {
        match action {
            Action::None => Ok(()),
            Action::Flush => self.flush_for(reason).map_err(MmuError::Flush),
        }
    }

    /// Flushes for the running context, which is told as well what was kept for it.
    #[inline]
    fn flush_for(&mut self, reason: FlushReason) -> Result<(), FlushError> {
        // Often nothing waits: then not even an error's room is copied.
        if self.batch.is_empty() && self.kept.is_empty() {
            return Ok(());
        }
        self.flush_and_tell(reason)
    }

    #[inline(never)]
    fn flush_and_tell(&mut self, reason: FlushReason) -> Result<(), FlushError> {
        if self.kept.is_empty() {
            return self.batch.flush(&self.hv, reason, &mut self.completion);
        }
        let flushed = self.batch.flush(&self.hv, reason, &mut self.completion);
        self.with_kept(flushed)
    }
}
