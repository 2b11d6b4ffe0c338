//! The batcher: page-table updates collected in fixed memory and sent to Xen together.
//!
//! What is queued is a sequence of *rounds*, each some entry updates followed by some
//! [`ExtOp`]s (pins, base pointers, flushes): the two never overtake each other. A flush sends a
//! single kind as that one hypercall, a mixture as one multicall, a lone L1 entry as
//! `update_va_mapping`. Within the current round a write to a queued entry replaces the queued
//! one. Whatever is queued can be read back in constant time, so that software never sees an entry
//! older than its last write.
//!
//! Invariants:
//! - After a flush, whatever came of it, the queue is empty; what Xen did not apply was reported
//!   to the [`Completion`] and in the [`FlushError`].
//! - A TLB flush asked for is carried out by the next [`Batch::flush`] at the latest, even if
//!   updates before it are refused.
//! - Event upcalls are masked while Xen works on a batch: it looks for events between requests and
//!   would run the handler in the middle.
//!
//! # Size
//!
//! One `mmu_update` of *n* entries costs 388 + *c*·*n* instructions on Xen 4.17, *c* from 316 to
//! 716 by kind. At [`DEFAULT_CAPACITY`] the fixed part is below 0.3 % of the cheapest; half of
//! that would do, but a whole L1 table fits, and 4096 pages take 8 hypercalls. With the feature `small`
//! it is a quarter of that, which costs 1 %.
//!
//! What is queued first is mostly a run: entries that follow each other in one table. Those are found
//! by counting, without the index, which takes a third of the instructions.
//!
//! `says(0)` stands for a Xen that answers 0.
//!
//! ```
#![doc = include_str!("../says.in")]
//! use hypercall::{Batch, FlushReason, Level, MachAddr, Mfn, Update};
//!
//! let (xen, mut batch) = (says(0), Batch::<512>::new());
//! let table = Mfn::truncate(0x1234);
//! for index in 0..3 {
//!     let slot = MachAddr::of_entry(table, index);
//!     // SAFETY: there are no tables.
//!     unsafe { batch.queue(&xen, &mut (), Update::new(Level::L1, slot, 0x5061)) }?;
//! }
//! assert_eq!(batch.queued(MachAddr::of_entry(table, 1)), Some(0x5061));
//! batch.flush(&xen, FlushReason::Explicit, &mut ())?;
//! assert_eq!((xen.asked().0, xen.asked().1[1]), (Op::MmuUpdate, 3));
//! # Ok::<(), hypercall::FlushError>(())
//! ```

mod entry;
mod explain;
mod failure;
mod flush;
mod index;
mod place;
mod results;
mod run;
mod stats;
mod tlb;

pub use entry::{Completion, Update, Write};
pub use explain::{Reason, explain};
pub use failure::{Failed, FlushError};
pub use stats::{FlushReason, SIZE_CLASSES, Stats};
pub use tlb::MAX_INVLPG;

use core::panic::Location;

use crate::{
    Hypervisor, MachAddr, Mfn, Pfn, VirtAddr,
    abi::{
        mmu::{MMU_PT_UPDATE_PRESERVE_AD, mmu_update, mmuext_op},
        multicall::multicall_entry,
    },
    addr::PAGE_SIZE,
    mmu::{ExtOp, Scope},
};
use entry::{ExtEntry, Info};
use index::Index;
use tlb::{FLUSH_OPS, Pending};

/// Entries of a batch where nothing else is asked for.
pub const DEFAULT_CAPACITY: usize = if cfg!(feature = "small") { 128 } else { 512 };
/// Extended operations that fit besides.
pub const EXT_CAPACITY: usize = if cfg!(feature = "small") { 16 } else { 64 };
/// Times that updates can follow extended operations, before the batch is flushed.
pub const ROUNDS: usize = if cfg!(feature = "small") { 4 } else { 16 };

/// Extended operations in all: those queued and the flushes appended to them.
const EXT_ALL: usize = EXT_CAPACITY + FLUSH_OPS;
/// Hypercalls in a batch: two a round.
const CALLS: usize = 2 * ROUNDS;
/// The bits the hardware sets.
const ACCESSED_DIRTY: u64 = 1 << 5 | 1 << 6;

/// Where a round ends, exclusive, in both arrays.
#[derive(Clone, Copy)]
struct Round {
    updates: u16,
    ext: u16,
}

impl Round {
    const ZERO: Self = Self { updates: 0, ext: 0 };
}

/// A queue of at most `N` updates (a power of two up to 16384); see the [module](self).
///
/// One belongs to one vCPU. Empty, it is all zeros, and costs a kernel image nothing.
pub struct Batch<const N: usize = DEFAULT_CAPACITY> {
    /// Updates queued.
    len: u16,
    /// Updates that can be queued without a thought: `N`, or 0 while nothing was queued yet or the
    /// current round has operations.
    limit: u16,
    /// Extended operations queued.
    ext_len: u16,
    /// Where the current round begins in both: the end of the last one closed.
    start: Round,
    /// Rounds closed.
    closed: u16,
    /// Updates from the first on whose slots follow each other: found by counting, not by the index.
    run: u16,
    /// Updates behind those whose slots follow each other as well.
    second: u16,
    /// Whether any entry carries a tag.
    tagged: bool,
    /// The slot behind the run.
    run_end: u64,
    /// The slot behind the second.
    second_end: u64,
    index: Index<N>,
    updates: [mmu_update; N],
    info: [Info; N],
    rounds: [Round; ROUNDS],
    ext: [ExtEntry; EXT_ALL],
    ext_raw: [mmuext_op; EXT_ALL],
    calls: [multicall_entry; CALLS],
    done: [u32; CALLS],
    pending: Pending,
    stats: Stats,
}

// SAFETY: the pointers in `ext_raw` are made for one hypercall and not looked at afterwards.
unsafe impl<const N: usize> Send for Batch<N> {}

impl<const N: usize> Default for Batch<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Batch<N> {
    /// An empty queue, for a static: some 36 KiB for 512 entries, 52 bytes for one more. See
    /// [`new_in`](Self::new_in) for a kernel that makes one while it runs.
    pub const fn new() -> Self {
        const {
            assert!(
                N.is_power_of_two() && N <= 1 << 14,
                "a power of two that fits the index"
            );
        }
        Self {
            len: 0,
            limit: 0,
            ext_len: 0,
            start: Round::ZERO,
            closed: 0,
            run: 0,
            second: 0,
            tagged: false,
            run_end: 0,
            second_end: 0,
            index: Index::new(),
            updates: [mmu_update { ptr: 0, val: 0 }; N],
            info: [Info::ZERO; N],
            rounds: [Round::ZERO; ROUNDS],
            ext: [ExtEntry::ZERO; EXT_ALL],
            ext_raw: [ExtEntry::RAW_ZERO; EXT_ALL],
            calls: [multicall_entry {
                op: 0,
                result: 0,
                args: [0; 6],
            }; CALLS],
            done: [0; CALLS],
            pending: Pending::new(),
            stats: Stats::new(),
        }
    }

    /// How many updates are queued.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether nothing is queued: no update, no operation, no flush.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len | self.ext_len == 0 && self.pending.is_empty()
    }

    /// What was counted so far.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The value last queued for the entry at `slot`, if one is queued.
    ///
    /// Where it was queued to preserve accessed and dirty bits, those in the table count as well:
    /// [`read`](Self::read) sees to that.
    #[inline]
    pub fn queued(&self, slot: MachAddr) -> Option<u64> {
        self.updates.get(self.find(slot)?).map(|update| update.val)
    }

    /// The entry at `slot` as it will be, given what the table holds now.
    #[inline]
    pub fn read(&self, slot: MachAddr, in_table: u64) -> u64 {
        let Some(entry) = self.find(slot) else {
            return in_table;
        };
        match (self.updates.get(entry), self.info.get(entry)) {
            (Some(update), Some(info)) => {
                let preserves = update.ptr & 3 == MMU_PT_UPDATE_PRESERVE_AD as u64;
                let kept = if preserves && !info.hides_table() {
                    in_table & ACCESSED_DIRTY
                } else {
                    0
                };
                update.val | kept
            }
            _ => in_table,
        }
    }

    /// The number of the update that is queued for a slot, of the latest if there are several.
    #[inline(always)]
    fn find(&self, slot: MachAddr) -> Option<usize> {
        // Mostly nothing is queued at all.
        if self.len == 0 {
            return None;
        }
        let slot = slot.as_u64() & !7;
        if let Some(entry) = self.find_in_runs(slot) {
            return Some(entry);
        }
        if self.len == self.run + self.second {
            return None;
        }
        let (_, taken) = self.index.find(slot, &self.updates);
        (taken as usize).checked_sub(1)
    }

    /// Queues a write, flushing first where there is no room.
    ///
    /// An error is that of this flush; `update` is then not queued.
    ///
    /// # Safety
    /// From now until the next flush is over, no mapping that safe code relies on goes away,
    /// changes its frame or loses rights by this write. If the update names a virtual address, the
    /// current tables map it through this very entry until then.
    #[inline(always)]
    pub unsafe fn queue<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        sink: &mut C,
        update: Update,
    ) -> Result<(), FlushError> {
        self.ready_for_update(hv, sink)?;
        self.push(update.request(), Info::new(&update));
        Ok(())
    }

    /// Queues a change of the M2P: from the flush on it says `pfn` for `frame`.
    ///
    /// # Safety
    /// Nobody relies on what it said before.
    #[inline]
    #[track_caller]
    pub unsafe fn queue_machphys<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        sink: &mut C,
        frame: Mfn,
        pfn: Pfn,
    ) -> Result<(), FlushError> {
        let caller = Location::caller();
        self.ready_for_update(hv, sink)?;
        self.append(
            crate::mmu::machphys_update(frame, pfn),
            Info::machphys(caller),
        );
        self.len += 1;
        Ok(())
    }

    /// Queues an operation, after everything queued so far. A nonzero `tag` is reported to the
    /// completion.
    ///
    /// # Safety
    /// From now until the next flush is over: as [`mmu::ext`](crate::mmu::ext) asks.
    #[inline]
    #[track_caller]
    pub unsafe fn queue_ext<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        sink: &mut C,
        op: ExtOp,
        tag: u32,
    ) -> Result<(), FlushError> {
        let caller = Location::caller();
        if self.ext_len as usize >= EXT_CAPACITY {
            self.flush(hv, FlushReason::Full, sink)?;
        }
        self.ext[self.ext_len as usize] = ExtEntry {
            op,
            caller: Some(caller),
            tag,
        };
        self.ext_len += 1;
        self.limit = 0;
        self.tagged |= tag != 0;
        Ok(())
    }

    /// Whether so many operations can be queued without a flush.
    #[inline]
    pub(crate) const fn has_room_for_ops(&self, count: usize) -> bool {
        self.ext_len as usize + count <= EXT_CAPACITY
    }

    /// Asks for a TLB flush, of one address or of everything, to be carried out after what is
    /// queued. Requests merge: up to [`MAX_INVLPG`] addresses, then everything.
    #[inline]
    pub fn flush_tlb(&mut self, scope: Scope, address: Option<VirtAddr>) {
        self.stats.tlb_requests += 1;
        self.pending.add(scope, address);
    }

    /// Asks for a TLB flush of consecutive pages, as [`flush_tlb`](Self::flush_tlb) for each.
    #[inline(never)]
    fn flush_pages(&mut self, scope: Scope, first: VirtAddr, pages: usize) {
        self.stats.tlb_requests += pages as u64;
        if pages > MAX_INVLPG {
            return self.pending.add(scope, None);
        }
        for page in 0..pages as u64 {
            let address = VirtAddr::new_truncate(first.as_u64() + page * PAGE_SIZE);
            self.pending.add(scope, Some(address));
        }
    }

    /// Forgets the virtual addresses that updates came with, as the tables they hold for are about
    /// to be left.
    pub fn forget_addresses(&mut self) {
        for info in &mut self.info[..self.len as usize] {
            info.forget_address();
        }
    }

    /// Another vCPU will send what is queued. Its tables may be others, and what is local to it is not
    /// what is local to the one that queued.
    pub fn leave_vcpu(&mut self) {
        self.forget_addresses();
        self.pending.widen();
    }

    /// Makes room for one more update of the current round.
    #[inline]
    fn ready_for_update<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        sink: &mut C,
    ) -> Result<(), FlushError> {
        if self.len >= self.limit {
            return self.make_room(hv, sink);
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn make_room<H: Hypervisor + ?Sized, C: Completion + ?Sized>(
        &mut self,
        hv: &H,
        sink: &mut C,
    ) -> Result<(), FlushError> {
        let follows_ops = self.ext_len != self.start.ext;
        // The last round stays open until the flush.
        if self.len as usize >= N || follows_ops && self.closed as usize + 1 >= ROUNDS {
            self.flush(hv, FlushReason::Full, sink)?;
        } else if follows_ops {
            self.close_round();
        }
        self.limit = N as u16;
        Ok(())
    }

    /// Ends the current round; what is queued next comes after it.
    fn close_round(&mut self) {
        self.start = Round {
            updates: self.len,
            ext: self.ext_len,
        };
        self.rounds[self.closed as usize] = self.start;
        self.closed += 1;
    }

    /// Adds an update, which there is room for, or replaces one of this round.
    ///
    /// Always inlined: what the caller knows about the update (its level, no tag, an address or
    /// none) then costs nothing.
    #[inline(always)]
    fn push(&mut self, request: mmu_update, mut info: Info) {
        let slot = request.ptr & !7;
        if self.continues_run(slot) {
            self.append(request, info);
            self.len += 1;
            self.run = self.len;
            self.run_end = slot.wrapping_add(8);
            return;
        }
        if self.find_in_runs(slot).is_some() {
            self.index_runs();
        }
        let (bucket, taken) = self.index.find(slot, &self.updates);
        info.set_bucket(bucket);
        self.append(request, info);
        if taken != 0 {
            return self.double_done(taken as usize - 1);
        }
        self.index.set(bucket, self.len);
        self.len += 1;
    }

    /// Decides on the update just appended, but not counted yet, for a slot that `entry` is queued
    /// for. It replaces that, where this changes nothing that anyone can see: in the current
    /// round, and if neither is tagged.
    #[inline(never)]
    fn double_done(&mut self, entry: usize) {
        let at = self.len as usize;
        let (mut request, mut info) = (self.updates[at], self.info[at]);
        let queued = &mut self.updates[entry];
        let before = &mut self.info[entry];
        let preserve = MMU_PT_UPDATE_PRESERVE_AD as u64;
        if request.ptr & 3 == preserve {
            // The bits to be preserved include those of the queued value, and those of the table
            // only if that value preserves them too.
            request.val |= queued.val & ACCESSED_DIRTY;
            if queued.ptr & 3 != preserve || before.hides_table() {
                info.hide_table();
            }
        }
        if entry < self.start.updates as usize || info.tag() != 0 || before.tag() != 0 {
            self.index.set(info.bucket(), self.len);
            self.append(request, info);
            self.len += 1;
            return;
        }
        if queued.ptr & 3 != preserve {
            request.ptr &= !3;
        }
        *queued = request;
        before.replace(&info);
        self.stats.replaced += 1;
    }

    /// Writes an update behind the others, which there is room for, without counting it.
    #[inline(always)]
    fn append(&mut self, request: mmu_update, info: Info) {
        let at = self.len as usize;
        // Always there: every caller has made room. Written so that no panic is needed to say it.
        if let (Some(update), Some(place)) = (self.updates.get_mut(at), self.info.get_mut(at)) {
            *update = request;
            *place = info;
            self.tagged |= info.tag() != 0;
        }
    }

    /// Empties the queue.
    fn reset(&mut self) {
        let indexed = (self.run + self.second) as usize..self.len as usize;
        for info in self.info.get(indexed).unwrap_or_default() {
            self.index.clear(info.bucket());
        }
        self.len = 0;
        (self.run, self.second) = (0, 0);
        self.limit = N as u16;
        self.ext_len = 0;
        self.start = Round::ZERO;
        self.closed = 0;
        self.tagged = false;
        self.pending.clear();
    }
}
