//! The page tables of the kernel: the one path by which entries are read and written.
//!
//! An entry is named by a [`Slot`], typed by level, found by walking from the root
//! (`pgd_offset` → `p4d_offset` → `pud_offset` → `pmd_offset` → `pte_offset`). It is written by
//! `set_pgd … set_pte`, which queue or send a request to Xen, and read through the queue, so that
//! software never sees an entry older than its last write.
//!
//! # Folding
//!
//! The fifth level exists only where the processor has it and Xen is absent ([`Fold`]). With four
//! levels the pgd *is* the p4d: `p4d_offset` is the identity and `set_pgd` is `set_p4d`. Both
//! foldings are arms of the same functions, and making an entry from a pfn is one function for
//! every level ([`Tables::make`]), so that an operation that a folded level lacks cannot exist.

use core::cell::Cell;
use core::marker::PhantomData;

use hypercall::batch::{FlushError, Stats, Update};
use hypercall::mmu::{Level, Scope};
use hypercall::queue::Mmu;
use hypercall::{MachAddr, Mfn, Pfn, VirtAddr};

use super::entry::{
    Entry, Flags, L1, L2, L3, L4, L5, P4d, Pgd, Pmd, Pte, Pud, TableLevel, UpperLevel, Value,
};
use super::error::MmError;
use super::frames::{Frame, FrameError, Frames, Ledger};
use super::machine::{Machine, Words};
use super::spaces::Spaces;
use super::state::Step;

/// Whose translations are flushed: one vCPU runs, the others of the domain have never been started.
pub(super) const TLB_SCOPE: Scope = Scope::Local;

/// How many levels the tables have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Four: the pgd is the p4d. Always so under PV.
    FourLevels,
    /// Five.
    FiveLevels,
}

impl Fold {
    /// Both.
    pub const ALL: [Fold; 2] = [Fold::FourLevels, Fold::FiveLevels];

    /// The level of the root table.
    #[inline]
    #[must_use]
    pub const fn top(self) -> u8 {
        match self {
            Fold::FourLevels => 4,
            Fold::FiveLevels => 5,
        }
    }

    /// The address with these bits below the sign: the bit that decides for all above it.
    #[inline]
    #[must_use]
    pub const fn canonical(self, address: u64) -> u64 {
        let unused = 64 - (12 + 9 * self.top() as u32);
        ((address as i64) << unused >> unused) as u64
    }
}

/// The place of one entry: its machine address, for Xen, and where the kernel reads it.
pub struct Slot<L> {
    machine: MachAddr,
    memory: *const u64,
    level: PhantomData<L>,
}

impl<L> Clone for Slot<L> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<L> Copy for Slot<L> {}

impl<L: TableLevel> Slot<L> {
    /// The place `index` entries on, in the same table as this, its first.
    #[inline]
    fn at(self, index: usize) -> Self {
        debug_assert!(self.machine.entry_index() + index < 512);
        Slot {
            machine: MachAddr::truncate(self.machine.as_u64() + 8 * index as u64),
            memory: self.memory.wrapping_add(index),
            level: PhantomData,
        }
    }

    /// Its machine address.
    #[must_use]
    pub fn machine(self) -> MachAddr {
        self.machine
    }

    #[inline]
    fn retyped<K>(self) -> Slot<K> {
        Slot {
            machine: self.machine,
            memory: self.memory,
            level: PhantomData,
        }
    }
}

/// The page tables of one vCPU's kernel, the queue in front of them, and the record of frames.
pub struct Tables<M: Machine> {
    pub(super) mmu: Mmu<M::Hv, Ledger<M>>,
    root: Pfn,
    user_root: Option<Pfn>,
    fold: Fold,
    pub(super) boot_root: Pfn,
    pub(super) spaces: Spaces,
    /// The L1 and L2 tables that were used last: the number of the span each covers, its first
    /// slot, and the refusals until then. Most requests are near the one before, and a walk costs
    /// as much as queueing. Forgotten whenever an entry that leads to them changes, or Xen refuses
    /// to change one.
    last: Cell<Option<(u64, Slot<L1>, u32)>>,
    last_pmd: Cell<Option<(u64, Slot<L2>, u32)>>,
}

// SAFETY: what is not `Send` by itself are the pointers in `last` and `last_pmd`, which are only read
// through, by whoever holds the tables, and point into memory that all vCPUs map alike.
unsafe impl<M: Machine + Send> Send for Tables<M> where M::Hv: Send {}

/// Names for the conversions of each level, in the field's terms. All are [`Tables::make`] and
/// [`Tables::value`].
macro_rules! by_level {
    ($($level:ident $entry:ident $make:ident $val:ident;)*) => {
        $(
            #[doc = concat!("The machine entry for a value of level ", stringify!($level), ".")]
            ///
            /// # Errors
            /// No memory behind the pfn.
            #[inline]
            pub fn $make(&self, value: Value<$level>) -> Result<$entry, MmError> {
                self.make(value)
            }

            #[doc = concat!("The value of a machine entry of level ", stringify!($level), ".")]
            #[inline]
            #[must_use]
            pub fn $val(&self, entry: $entry) -> Option<Value<$level>> {
                self.value(entry)
            }
        )*
    };
}

impl<M: Machine> Tables<M> {
    /// No tables yet. Large, and all zeros but for the machine: for a static.
    pub const fn new(hv: M::Hv, machine: M) -> Self {
        let ledger = Ledger {
            machine,
            frames: Frames::new(),
        };
        let root = Pfn::truncate(0);
        Tables {
            mmu: Mmu::new(hv, ledger),
            root,
            user_root: None,
            fold: Fold::FourLevels,
            boot_root: root,
            spaces: Spaces::new(),
            last: Cell::new(None),
            last_pmd: Cell::new(None),
        }
    }

    by_level! {
        L1 Pte make_pte pte_val;
        L2 Pmd make_pmd pmd_val;
        L3 Pud make_pud pud_val;
        L4 P4d make_p4d p4d_val;
        L5 Pgd make_pgd pgd_val;
    }

    /// The machine.
    #[inline]
    pub fn machine(&self) -> &M {
        &self.mmu.completion.machine
    }

    #[inline]
    pub(crate) fn machine_mut(&mut self) -> &mut M {
        &mut self.mmu.completion.machine
    }

    /// The record of frames.
    #[inline]
    pub fn frames(&self) -> &Frames {
        &self.mmu.completion.frames
    }

    /// The record and the machine it asks.
    #[inline]
    pub(super) fn ledger(&mut self) -> (&mut Frames, &M) {
        let Ledger { machine, frames } = &mut self.mmu.completion;
        (frames, machine)
    }

    /// The frame of the root table.
    #[must_use]
    pub fn root(&self) -> Pfn {
        self.root
    }

    /// The tables that boot found.
    pub(super) fn set_boot_root(&mut self, root: Pfn, fold: Fold) {
        self.fold = fold;
        self.boot_root = root;
        self.set_roots(root, None);
    }

    pub(super) fn set_roots(&mut self, root: Pfn, user_root: Option<Pfn>) {
        self.forget_last(L5::NUMBER);
        (self.root, self.user_root) = (root, user_root);
    }

    /// The frame of the root table of user mode, if there is one.
    #[must_use]
    pub fn user_root(&self) -> Option<Pfn> {
        self.user_root
    }

    /// How many levels there are.
    #[must_use]
    pub fn fold(&self) -> Fold {
        self.fold
    }

    /// What the queue counted.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        self.mmu.batch().stats()
    }

    /// The machine entry for a value, on any level.
    ///
    /// # Errors
    /// No memory behind the pfn.
    #[inline]
    pub fn make<L: TableLevel>(&self, value: Value<L>) -> Result<Entry<L>, MmError> {
        let mfn = self.machine().mfn(value.pfn);
        let mfn = mfn.ok_or(MmError::NoMemory {
            pfn: value.pfn.as_u64(),
        })?;
        Ok(Entry::from_mfn(mfn, value.flags))
    }

    /// The value of a machine entry, on any level: `None` if it is not present or its frame is not
    /// memory of the domain.
    #[inline]
    pub fn value<L: TableLevel>(&self, entry: Entry<L>) -> Option<Value<L>> {
        let pfn = self.machine().pfn(entry.mfn()?)?;
        Some(Value::new(pfn, entry.flags()))
    }

    /// The slot of the topmost entry for an address.
    #[must_use]
    pub fn pgd_offset(&self, va: u64) -> Option<Slot<L5>> {
        match self.fold {
            Fold::FourLevels => Some(self.slot::<L4>(self.root, va)?.retyped()),
            Fold::FiveLevels => self.slot(self.root, va),
        }
    }

    /// The slot one level down; the same slot where the fifth level is folded.
    #[must_use]
    pub fn p4d_offset(&self, pgd: Slot<L5>, va: u64) -> Option<Slot<L4>> {
        match self.fold {
            Fold::FourLevels => Some(pgd.retyped()),
            Fold::FiveLevels => self.below(pgd, va),
        }
    }

    /// The slot one level down.
    #[must_use]
    pub fn pud_offset(&self, p4d: Slot<L4>, va: u64) -> Option<Slot<L3>> {
        self.below(p4d, va)
    }

    /// The slot one level down.
    #[must_use]
    pub fn pmd_offset(&self, pud: Slot<L3>, va: u64) -> Option<Slot<L2>> {
        self.below(pud, va)
    }

    /// The slot one level down.
    #[must_use]
    pub fn pte_offset(&self, pmd: Slot<L2>, va: u64) -> Option<Slot<L1>> {
        self.below(pmd, va)
    }

    fn below<L: UpperLevel>(&self, slot: Slot<L>, va: u64) -> Option<Slot<L::Below>> {
        let entry = self.get(slot);
        if entry.is_large() {
            return None;
        }
        self.slot(self.machine().pfn(entry.mfn()?)?, va)
    }

    /// The slot for `va` in the table that lies in `table`.
    #[inline]
    pub(super) fn slot<L: TableLevel>(&self, table: Pfn, va: u64) -> Option<Slot<L>> {
        let mfn = self.machine().mfn(table)?;
        let memory = self.machine().memory(table);
        if memory.is_null() {
            return None;
        }
        let index = L::index(va);
        Some(Slot {
            machine: MachAddr::of_entry(mfn, index),
            memory: memory.cast::<u64>().wrapping_add(index),
            level: PhantomData,
        })
    }

    /// The slot of a level-`L` entry for an address.
    ///
    /// # Errors
    /// A table on the way is missing, or a large page of Xen's is in it.
    #[inline]
    pub fn pmd_slot(&self, va: u64) -> Result<Slot<L2>, MmError> {
        if let Some((number, first, refusals)) = self.last_pmd.get()
            && number == va >> L3::SHIFT
            && refusals == self.frames().refusals()
        {
            return Ok(first.at(L2::index(va)));
        }
        self.walk_to_pmd(va)
    }

    #[inline(never)]
    fn walk_to_pmd(&self, va: u64) -> Result<Slot<L2>, MmError> {
        let none = |level| MmError::NoTable { va, level };
        let pgd = self.pgd_offset(va).ok_or(none(5))?;
        let p4d = self.p4d_offset(pgd, va).ok_or(none(5))?;
        let pud = self.pud_offset(p4d, va).ok_or(none(4))?;
        if self.get(pud).is_large() {
            return Err(MmError::Large { va, level: 3 });
        }
        let first = self.pmd_offset(pud, va & !(L3::SPAN - 1));
        let first = first.ok_or(none(3))?;
        let refusals = self.frames().refusals();
        self.last_pmd.set(Some((va >> L3::SHIFT, first, refusals)));
        Ok(first.at(L2::index(va)))
    }

    /// The slot of the entry that maps the page at an address.
    ///
    /// # Errors
    /// As [`Tables::pmd_slot`].
    #[inline]
    pub fn pte_slot(&self, va: u64) -> Result<Slot<L1>, MmError> {
        if let Some((number, first, refusals)) = self.last.get()
            && number == va >> L2::SHIFT
            && refusals == self.frames().refusals()
        {
            return Ok(first.at(L1::index(va)));
        }
        self.walk_to_pte(va)
    }

    #[inline(never)]
    fn walk_to_pte(&self, va: u64) -> Result<Slot<L1>, MmError> {
        let pmd = self.pmd_slot(va)?;
        if self.get(pmd).is_large() {
            return Err(MmError::Large { va, level: 2 });
        }
        let first = self.pte_offset(pmd, va & !(L2::SPAN - 1));
        let first = first.ok_or(MmError::NoTable { va, level: 2 })?;
        let refusals = self.frames().refusals();
        self.last.set(Some((va >> L2::SHIFT, first, refusals)));
        Ok(first.at(L1::index(va)))
    }

    /// Forgets the tables that were used last, as far as an entry of this level leads to them.
    #[inline]
    fn forget_last(&self, level: usize) {
        self.last.set(None);
        if level > L2::NUMBER {
            self.last_pmd.set(None);
        }
    }

    /// The entry as it is once everything queued has been carried out.
    #[inline]
    pub fn get<L: TableLevel>(&self, slot: Slot<L>) -> Entry<L> {
        // SAFETY: a slot is made from a table that the window maps. The processor may change A and
        // D meanwhile, hence volatile; an aligned word is read at once.
        let in_table = unsafe { slot.memory.read_volatile() };
        Entry::from_table(self.mmu.read(slot.machine, in_table))
    }

    /// The entry that maps the page at an address, as it is once the queue is carried out.
    ///
    /// # Errors
    /// As [`Tables::pte_slot`].
    pub fn ptep_get(&self, va: u64) -> Result<Pte, MmError> {
        Ok(self.get(self.pte_slot(va)?))
    }

    /// Writes an L1 entry. `va` must be the address that the current tables map through it.
    ///
    /// The translation that was cached for `va` is flushed with it where one can have been.
    ///
    /// # Errors
    /// Xen's refusal.
    ///
    /// # Safety
    /// Nothing in use may be mapped there, unless `entry` maps the same frame with rights that the
    /// users need.
    #[inline]
    #[track_caller]
    pub unsafe fn set_pte(&mut self, slot: Slot<L1>, va: u64, entry: Pte) -> Result<(), MmError> {
        // SAFETY: the caller's promise.
        unsafe { self.write_pte(slot, va, self.get(slot), entry, false) }
    }

    /// As [`Tables::set_pte`], but A and D bits that the processor sets meanwhile are kept.
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
        slot: Slot<L1>,
        va: u64,
        entry: Pte,
    ) -> Result<(), MmError> {
        // SAFETY: the caller's promise.
        unsafe { self.write_pte(slot, va, self.get(slot), entry, true) }
    }

    /// As [`Tables::set_pte`], by a caller who has just read the entry.
    #[inline]
    #[track_caller]
    pub(super) unsafe fn set_pte_queued(
        &mut self,
        slot: Slot<L1>,
        va: u64,
        old: Pte,
        entry: Pte,
    ) -> Result<(), MmError> {
        // SAFETY: the caller's promise.
        unsafe { self.write_pte(slot, va, old, entry, false) }
    }

    #[inline]
    #[track_caller]
    unsafe fn write_pte(
        &mut self,
        slot: Slot<L1>,
        va: u64,
        old: Pte,
        entry: Pte,
        preserve_ad: bool,
    ) -> Result<(), MmError> {
        let page = VirtAddr::new_truncate(va);
        let update = Update {
            preserve_ad,
            ..Update::new(Level::L1, slot.machine, entry.bits())
                .old(old.bits())
                .va(page)
        };
        if old.is_present() {
            // SAFETY: the caller's promise.
            let result = unsafe { self.mmu.set_and_flush(update, TLB_SCOPE, page) };
            self.settle_if_refused(result)
        } else {
            // SAFETY: the caller's promise.
            let result = unsafe { self.mmu.set(update) };
            self.settle_if_refused(result)
        }
    }

    /// Brings the record up to date after a refusal.
    #[inline(always)]
    fn settle_if_refused(&mut self, result: Result<(), FlushError>) -> Result<(), MmError> {
        if result.is_err() {
            self.settle();
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
    pub unsafe fn set_pmd(&mut self, slot: Slot<L2>, entry: Pmd) -> Result<(), MmError> {
        // SAFETY: the caller's promise.
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
    pub unsafe fn set_pud(&mut self, slot: Slot<L3>, entry: Pud) -> Result<(), MmError> {
        // SAFETY: the caller's promise.
        unsafe { self.set_upper(slot, entry) }
    }

    /// Writes an L4 entry: in a root, one of the user half also in the tables of user mode, where
    /// those exist, one of the kernel half in every space.
    ///
    /// # Errors
    /// A frame in the wrong state, or Xen's refusal.
    ///
    /// # Safety
    /// As [`Tables::set_pmd`].
    #[track_caller]
    pub unsafe fn set_p4d(&mut self, slot: Slot<L4>, entry: P4d) -> Result<(), MmError> {
        // SAFETY: the caller's promise.
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
    pub unsafe fn set_pgd(&mut self, slot: Slot<L5>, entry: Pgd) -> Result<(), MmError> {
        match self.fold {
            // SAFETY: the caller's promise.
            Fold::FourLevels => unsafe {
                self.set_p4d(slot.retyped(), P4d::from_table(entry.bits()))
            },
            // SAFETY: the caller's promise.
            Fold::FiveLevels => unsafe { self.set_upper(slot, entry) },
        }
    }

    /// Writes an entry that refers to a table: one of the root also where it is mirrored.
    #[inline]
    #[track_caller]
    pub(super) unsafe fn set_upper<L: UpperLevel>(
        &mut self,
        slot: Slot<L>,
        entry: Entry<L>,
    ) -> Result<(), MmError> {
        // SAFETY: the caller's promise.
        unsafe { self.set_one(slot, entry) }?;
        if L::NUMBER == usize::from(self.fold.top()) {
            return self.mirror(slot, entry);
        }
        Ok(())
    }

    /// Writes to other roots what was written to the root in use: an entry of the user half to user
    /// mode's, one of the kernel half to every space's.
    #[track_caller]
    fn mirror<L: UpperLevel>(&mut self, slot: Slot<L>, entry: Entry<L>) -> Result<(), MmError> {
        let index = slot.machine.entry_index();
        let in_root = self.machine().mfn(self.root) == Some(slot.machine.frame());
        let va = (index as u64) << L::SHIFT;
        if in_root && index < 256 {
            if let Some(mirror) = self.user_root.and_then(|user| self.slot::<L>(user, va)) {
                // SAFETY: user mode sees what the kernel sees there.
                unsafe { self.set_one(mirror, entry) }?;
            }
        } else if in_root {
            let current = self.root;
            for (root, _) in self.roots().filter(|(root, _)| *root != current) {
                if let Some(mirror) = self.slot::<L>(root, va) {
                    // SAFETY: the kernel is the same in every space.
                    unsafe { self.set_one(mirror, entry) }?;
                }
            }
        }
        Ok(())
    }

    /// Writes a single entry that refers to a table: plans what becomes of the old table and the new
    /// one, then queues.
    #[track_caller]
    unsafe fn set_one<L: UpperLevel>(
        &mut self,
        slot: Slot<L>,
        entry: Entry<L>,
    ) -> Result<(), MmError> {
        self.forget_last(L::NUMBER);
        let old = self.get(slot);
        if old.is_large() {
            return Err(MmError::Large {
                va: 0,
                level: L::NUMBER,
            });
        }
        let mut steps = heapless::Vec::<(Pfn, Step), 2>::new();
        if old.mfn() != entry.mfn() {
            // Linked before the old one is unlinked, should both be the same table.
            if let Some(value) = self.value(entry) {
                let step = Step::Link(L::Below::NUMBER as u8);
                steps
                    .push((value.pfn, step))
                    .map_err(|_| FrameError::Full)?;
            }
            if let Some(value) = self.value(old) {
                steps
                    .push((value.pfn, Step::Unlink))
                    .map_err(|_| FrameError::Full)?;
            }
        }
        let tag = self.plan(&steps)?;
        let level = L::XEN.unwrap_or(Level::L4);
        let update = Update::new(level, slot.machine, entry.bits())
            .old(old.bits())
            .tag(tag);
        // SAFETY: the caller's promise.
        let result = unsafe { self.mmu.set(update) };
        self.settle_if_refused(result)
    }

    /// Plans steps, flushing first if the log has no room.
    #[track_caller]
    pub(super) fn plan(&mut self, steps: &[(Pfn, Step)]) -> Result<u32, MmError> {
        self.settle();
        let (frames, machine) = self.ledger();
        match frames.plan(machine, steps) {
            Err(FrameError::Full) => {}
            planned => return Ok(planned?),
        }
        self.flush()?;
        let (frames, machine) = self.ledger();
        Ok(frames.plan(machine, steps)?)
    }

    /// Queues the change of a frame's own mapping in the window, with a step.
    #[track_caller]
    fn set_window(&mut self, pfn: Pfn, flags: Flags, step: Step) -> Result<(), MmError> {
        let va = self.machine().window(pfn);
        let slot = self.pte_slot(va)?;
        let old = self.get(slot);
        let tag = self.plan(&[(pfn, step)])?;
        let page = VirtAddr::new_truncate(va);
        let update = Update::new(Level::L1, slot.machine, old.with_flags(flags).bits())
            .old(old.bits())
            .va(page)
            .tag(tag);
        if step == Step::Unseal {
            // A translation cached as read-only would make the next owner's first write fault.
            // SAFETY: rights only grow, for a frame that nothing refers to.
            let result = unsafe { self.mmu.set_and_flush(update, TLB_SCOPE, page) };
            self.settle_if_refused(result)
        } else {
            // Xen itself flushes what is cached of a frame that becomes a table.
            // SAFETY: whoever holds the `Frame` gave it up to be a table and writes no more.
            let result = unsafe { self.mmu.set(update) };
            self.settle_if_refused(result)
        }
    }

    /// Makes a frame read-only, to be a table.
    #[track_caller]
    pub(super) fn seal(&mut self, frame: Frame, level: u8) -> Result<Pfn, MmError> {
        let pfn = frame.pfn();
        self.set_window(pfn, Flags::CONST, Step::Seal(level))?;
        Ok(pfn)
    }

    /// Makes a table that nothing refers to writable again. It may be reused after the flush.
    #[track_caller]
    pub(super) fn unseal(&mut self, pfn: Pfn) -> Result<Frame, MmError> {
        self.set_window(pfn, Flags::DATA, Step::Unseal)?;
        Ok(Frame::from_pfn(pfn))
    }

    /// Sends everything queued.
    ///
    /// # Errors
    /// What Xen refused.
    #[inline]
    pub fn flush(&mut self) -> Result<(), MmError> {
        let result = self.mmu.flush();
        self.settle();
        Ok(result?)
    }

    /// Brings the record up to date after flushes that happened in between.
    #[inline]
    pub(super) fn settle(&mut self) {
        if self.frames().unsettled() && self.mmu.batch().is_empty() {
            let (frames, machine) = self.ledger();
            frames.settle(machine);
        }
    }

    /// The memory of a frame that the caller owns.
    #[inline]
    pub fn frame_memory(&mut self, frame: &mut Frame) -> &mut Words {
        let memory = self.machine().memory(frame.pfn());
        // SAFETY: a `Frame` is writable memory that belongs to its holder alone, mapped by the
        // window since it was handed out.
        unsafe { &mut *memory }
    }

    /// The machine frame of a frame.
    ///
    /// # Errors
    /// No memory behind it.
    #[inline]
    pub fn mfn(&self, pfn: Pfn) -> Result<Mfn, MmError> {
        self.machine()
            .mfn(pfn)
            .ok_or(MmError::NoMemory { pfn: pfn.as_u64() })
    }
}

/// Consecutive slots of one table, as many as it has, `count` at most.
pub(super) fn slots(first: Slot<L1>, count: usize) -> impl Iterator<Item = Slot<L1>> {
    (0..count.min(512 - first.machine.entry_index())).map(move |index| first.at(index))
}
