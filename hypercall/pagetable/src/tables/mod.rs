//! The page tables of the kernel: the one path by which entries are read and written.
//!
//! An entry is named by a [`Slot`], typed by level, found by walking from the root
//! (`pgd_offset` → `p4d_offset` → `pud_offset` → `pmd_offset` → `pte_offset`). It is written by
//! `set_pgd … set_pte` at its [`Place`], which queue or send a request to Xen, and read through the queue, so that
//! software never sees an entry older than its last write.
//!
//! # Folding
//!
//! The fifth level exists only where the processor has it and Xen is absent ([`Fold`]). With four
//! levels the pgd *is* the p4d: `p4d_offset` is the identity and `set_pgd` is `set_p4d`. Both
//! foldings are arms of the same functions, and making an entry from a pfn is one function for
//! every level ([`Tables::make`]), so that an operation that a folded level lacks cannot exist.

mod lookup;
mod slot;
mod write;

use core::cell::Cell;

use hypercall::batch::Stats;
use hypercall::mmu::Scope;
use hypercall::queue::Mmu;
use hypercall::{Mfn, Pfn};

use super::domain::Domain;
use super::entry::{Entry, L1, L2, L3, L4, L5, P4d, Pgd, Pmd, Pte, Pud, TableLevel, Value};
use super::error::MmError;
use super::frames::{Frame, Frames, Ledger, Log};
use super::locks::Held;
use super::machine::{Machine, Words};
use super::spaces::Roots;
use super::state::Transition;

pub(super) use slot::slots;
pub use slot::{Fold, Place, Slot};
pub(super) use write::Marks;

/// The page tables of a domain as one of its vCPUs works with them: the queue in front of them, the
/// lazy mode of the context that runs there, and what the vCPU remembers of them.
pub struct Tables<M: Machine> {
    pub(super) mmu: Mmu<M::Hv, Ledger<M>>,
    /// The space that operations are about.
    root: Pfn,
    user_root: Option<Pfn>,
    /// The space that base registers refer to.
    current: Roots,
    /// These are two: addresses of the user half lead nowhere, or elsewhere, for the processor.
    elsewhere: bool,
    /// The parts that others must not work on meanwhile.
    pub(super) held: Held,
    fold: Fold,
    pub(super) boot_root: Pfn,
    pub(super) recent: Recent,
    /// Those of the kernel's half, while that is not held.
    pub(super) aside: Recent,
    /// The L2 table of the direct map that was used last: whatever makes tables elsewhere goes to and fro
    /// between that and theirs.
    window_pmd: Remembered<L2>,
}

/// The two L1 tables and the L2 table that were used last. Most requests are near the one before, and a
/// walk costs as much as queueing. Forgotten whenever a vCPU changes an entry that leads to them, or
/// Xen refuses to change one.
pub(super) struct Recent {
    last: Remembered<L1>,
    last_but_one: Remembered<L1>,
    last_pmd: Remembered<L2>,
}

impl Recent {
    pub(super) const fn nothing() -> Recent {
        Recent {
            last: Cell::new(Used::NOTHING),
            last_but_one: Cell::new(Used::NOTHING),
            last_pmd: Cell::new(Used::NOTHING),
        }
    }

    fn forget(&self) {
        self.last.set(Used::NOTHING);
        self.last_but_one.set(Used::NOTHING);
        self.last_pmd.set(Used::NOTHING);
    }
}

type Remembered<L> = Cell<Used<L>>;

/// A table that was used.
struct Used<L> {
    /// The last address that it leads to; 0 if there is none.
    end: u64,
    /// Its first slot.
    first: Place<L>,
    /// The domain's changes until then.
    changes: u32,
}

impl<L> Used<L> {
    const NOTHING: Used<L> = Used {
        end: 0,
        first: Place::NOWHERE,
        changes: 0,
    };
}

impl<L> Clone for Used<L> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<L> Copy for Used<L> {}

// SAFETY: what is not `Send` by itself are the pointers in `recent`, `aside` and `window_pmd`, which are only
// read through, by whoever holds the tables, and point into memory that all vCPUs map alike.
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
    /// No tables yet: those of the vCPU that takes the domain's over. Large: for a static.
    ///
    /// A domain has `Tables` for each of its vCPUs. Their queues are their own, so that one does not
    /// see what another has queued.
    ///
    /// # Safety
    /// Each is used on its own vCPU alone. Until the domain is [shared](Tables::share) one vCPU at a
    /// time works with the tables, with nothing queued by another: what that has queued is sent
    /// before its turn ([`Tables::send_queued`]).
    pub const unsafe fn new(hv: M::Hv, domain: &'static Domain<M>) -> Self {
        let ledger = Ledger {
            domain,
            log: Log::new(),
        };
        let root = Pfn::truncate(0);
        Tables {
            mmu: Mmu::new(hv, ledger),
            root,
            user_root: None,
            current: Roots {
                kernel: root,
                user: None,
            },
            elsewhere: false,
            held: Held::NOTHING,
            fold: Fold::FourLevels,
            boot_root: root,
            recent: Recent::nothing(),
            aside: Recent::nothing(),
            window_pmd: Cell::new(Used::NOTHING),
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
    pub fn machine(&self) -> &'static M {
        self.domain().machine()
    }

    /// What all vCPUs share.
    #[inline]
    pub fn domain(&self) -> &'static Domain<M> {
        self.mmu.completion.domain
    }

    /// The queue and the lazy mode of the running context.
    #[inline]
    pub fn mmu(&mut self) -> &mut Mmu<M::Hv, Ledger<M>> {
        &mut self.mmu
    }

    /// The record of frames.
    #[inline]
    pub fn frames(&self) -> &'static Frames {
        self.domain().frames()
    }

    /// What is planned with the queue.
    #[inline]
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.mmu.completion.log
    }

    #[inline]
    pub(super) fn log_mut(&mut self) -> &mut Log {
        &mut self.mmu.completion.log
    }

    /// The record and the machine it asks.
    #[inline]
    pub(super) fn records(&self) -> (&'static Frames, &'static M) {
        (self.frames(), self.machine())
    }

    /// The frame of the root table of the space that operations are about.
    #[must_use]
    pub fn root(&self) -> Pfn {
        self.root
    }

    /// The tables that boot found.
    pub(super) fn set_boot_root(&mut self, root: Pfn, fold: Fold) {
        self.domain().set_boot(root, fold);
        self.begin(root, fold);
    }

    /// Begins in the space that boot ran in.
    fn begin(&mut self, root: Pfn, fold: Fold) {
        self.fold = fold;
        self.boot_root = root;
        self.current = Roots {
            kernel: root,
            user: None,
        };
        self.domain().count_bases(self.current.fingerprint(), 0);
        self.domain().count_vcpu();
        self.work_on(self.current);
    }

    /// Lets another vCPU of a domain whose tables were taken over begin: in the space that boot ran
    /// in, whose root its base register refers to. From there it goes where it likes. If both are to
    /// work side by side, the domain is [shared](Tables::share) before.
    ///
    /// # Errors
    /// The domain's tables were not taken over yet.
    pub fn join(&mut self) -> Result<(), MmError> {
        let (root, fold) = self.domain().boot().ok_or(MmError::NotTakenOver)?;
        self.frames()
            .transition(root, Transition::Link(fold.top()))?;
        self.begin(root, fold);
        Ok(())
    }

    /// Refuses to change an entry of the kernel's half of a root once all of them stand: other spaces
    /// have copies.
    #[inline]
    pub(super) fn check_root_entry(&self, level: usize, va: u64) -> Result<(), MmError> {
        let of_kernel = level == usize::from(self.fold.top()) && va >> 63 == 1;
        if of_kernel && self.domain().kernel_half_stands() {
            return Err(MmError::KernelHalf { va });
        }
        Ok(())
    }

    /// Base registers refer to these roots from now on, and operations are about them.
    pub(super) fn set_roots(&mut self, roots: Roots) {
        self.domain()
            .count_bases(roots.fingerprint(), self.current.fingerprint());
        self.current = roots;
        self.work_on(self.current);
    }

    /// Operations are about this space from now on.
    pub(super) fn work_on(&mut self, space: Roots) {
        self.recent.forget();
        (self.root, self.user_root) = (space.kernel, space.user);
        self.elsewhere = space != self.current;
    }

    /// What was found is to be found anew: memory is reached by another window.
    pub(super) fn forget_places(&self) {
        self.recent.forget();
        self.aside.forget();
        self.window_pmd.set(Used::NOTHING);
    }

    /// The space that operations are about.
    pub(super) fn roots(&self) -> Roots {
        Roots {
            kernel: self.root,
            user: self.user_root,
        }
    }

    /// Whose translations a change of the entry for an address makes stale, in a space where this vCPU
    /// runs.
    #[inline(always)]
    pub(super) fn scope_at(&self, va: u64) -> Scope {
        if self.domain().has_several_vcpus() && (va >> 63 == 1 || self.others_run_there()) {
            Scope::All
        } else {
            Scope::Local
        }
    }

    /// The space that the processor works with, whichever one operations are about.
    #[must_use]
    pub fn current_roots(&self) -> Roots {
        self.current
    }

    /// Whether the processor finds by this address what the space under work maps there.
    #[inline(always)]
    pub(super) fn is_current(&self, va: u64) -> bool {
        !self.elsewhere || va >> 63 == 1
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
        Ok(Entry::from_mfn(self.mfn(value.pfn)?, value.flags))
    }

    /// The value of a machine entry, on any level: `None` if it is not present or its frame is not
    /// memory of the domain.
    #[inline]
    pub fn value<L: TableLevel>(&self, entry: Entry<L>) -> Option<Value<L>> {
        let pfn = self.machine().pfn(entry.mfn()?)?;
        Some(Value::new(pfn, entry.flags()))
    }

    /// Sends everything queued.
    ///
    /// # Errors
    /// What Xen refused.
    #[inline]
    pub fn flush(&mut self) -> Result<(), MmError> {
        if self.mmu.is_flushed() && !self.log().is_waiting() {
            return Ok(());
        }
        let result = self.mmu.flush();
        self.apply_log();
        Ok(result?)
    }

    /// Sends what a lazy section of this vCPU has queued, on behalf of another vCPU whose turn it is;
    /// that one may call it. What Xen refuses is kept for the section, whose next flush returns it.
    ///
    /// # Errors
    /// Handlers are nested too deep on the vCPU.
    pub fn send_queued(&mut self) -> Result<(), MmError> {
        if self.mmu.batch().is_empty() {
            return Ok(());
        }
        let sent = self.mmu.send_for_other();
        self.apply_log();
        Ok(sent?)
    }

    /// Brings the record up to date after flushes that happened in between.
    #[inline]
    pub(super) fn apply_log(&mut self) {
        if self.log().is_waiting() && self.mmu.batch().is_empty() {
            let (frames, machine) = self.records();
            self.log_mut().apply(frames, machine);
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
