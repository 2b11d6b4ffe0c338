//! What the vCPUs of a domain share: the machine, the record of its frames, its address spaces.
//!
//! Each vCPU has [`Tables`](crate::Tables) of its own over the one `Domain`: its queue, its lazy
//! mode, its log of planned transitions, the tables that it used last. Everything here is reached
//! by shared reference: records are atomic words, what hands out frames and lists spaces is behind
//! locks that nobody holds for longer than it takes to move a number, and never over a hypercall.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hypercall::Pfn;
use hypercall::mmu::Scope;
use lock_api::RawMutex;
use spin::Once;

use crate::entry::{L2, TableLevel};
use crate::frames::Frames;
use crate::locks::USER_LOCKS;
use crate::machine::Machine;
use crate::short::{Short, rank};
use crate::space_list::SpaceList;
use crate::tables::Fold;
use crate::user::{EmptyTables, Spares};

/// A domain's memory.
pub struct Domain<M: Machine> {
    machine: UnsafeCell<M>,
    frames: Frames,
    /// The spaces that were created and not destroyed.
    pub(super) spaces: Short<SpaceList, { rank::SPACES }>,
    /// Those among them that nobody has.
    pub(super) spares: Short<Spares, { rank::SPARES }>,
    /// L1 tables of user halves that nobody has.
    pub(super) empty_tables: Short<EmptyTables, { rank::EMPTY_TABLES }>,
    /// The root that boot found, and how many levels there are.
    boot: Once<(Pfn, Fold)>,
    /// The kernel's half of the roots has all the entries that it will ever have.
    kernel_half_stands: AtomicBool,
    /// Which these are, a bit each.
    kernel_entries: [AtomicU64; 4],
    /// The fingerprints of all roots that base registers refer to, added up.
    bases: AtomicU64,
    /// How many vCPUs work with the tables, and one once others are about to.
    vcpus: AtomicU32,
    /// Whether they do so side by side: see [`crate::locks`].
    pub(super) shared: AtomicBool,
    pub(super) kernel_half: M::Lock,
    pub(super) user_halves: [M::Lock; USER_LOCKS],
    /// How often an entry that leads to L1 tables was changed or refused, and one that leads to L2
    /// tables: what a vCPU remembers of the tables it used last holds as long as these stay.
    changes: [AtomicU32; 2],
}

// SAFETY: the machine is written by `set_machine` alone, whose caller sees to it that nobody looks;
// everything else here is atomic or behind a lock.
unsafe impl<M: Machine + Sync> Sync for Domain<M> {}

impl<M: Machine> Domain<M> {
    /// Nothing is known of it yet. Large: for a static.
    pub const fn new(machine: M) -> Domain<M> {
        Domain {
            machine: UnsafeCell::new(machine),
            frames: Frames::new(),
            spaces: Short::new(SpaceList::new()),
            spares: Short::new(Spares::new()),
            empty_tables: Short::new(EmptyTables::new()),
            boot: Once::new(),
            kernel_half_stands: AtomicBool::new(false),
            kernel_entries: [const { AtomicU64::new(0) }; 4],
            bases: AtomicU64::new(0),
            vcpus: AtomicU32::new(0),
            shared: AtomicBool::new(false),
            kernel_half: M::Lock::INIT,
            user_halves: [const { M::Lock::INIT }; USER_LOCKS],
            changes: [const { AtomicU32::new(0) }; 2],
        }
    }

    /// Says which machine the domain lives on, for a static that was made before that was known.
    ///
    /// # Safety
    /// The domain has not been used so far, and nobody uses it meanwhile.
    pub unsafe fn set_machine(&self, machine: M) {
        // SAFETY: nobody has a reference to the machine, by this function's contract.
        unsafe { *self.machine.get() = machine };
    }

    /// The machine.
    #[inline]
    pub fn machine(&self) -> &M {
        // SAFETY: it is written only while nobody looks, by `set_machine`'s contract.
        unsafe { &*self.machine.get() }
    }

    /// The record of frames.
    #[inline]
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    /// The root that boot found and the number of levels, once the tables were taken over.
    pub(super) fn boot(&self) -> Option<(Pfn, Fold)> {
        self.boot.get().copied()
    }

    /// Says what boot found, once.
    pub(super) fn set_boot(&self, root: Pfn, fold: Fold) {
        self.boot.call_once(|| (root, fold));
    }

    /// From now on no entry of the kernel's half of a root changes. These are present, by their numbers
    /// from the half's first on.
    pub(super) fn close_kernel_half(&self, entries: impl Iterator<Item = usize>) {
        for entry in entries {
            self.kernel_entries[entry / 64 % 4].fetch_or(1 << (entry % 64), Ordering::Relaxed);
        }
        self.kernel_half_stands.store(true, Ordering::Release);
    }

    /// The entries of the kernel's half, by their numbers from the half's first on, once that stands.
    pub(super) fn kernel_entries(&self) -> Option<impl Iterator<Item = usize> + use<M>> {
        let words = self
            .kernel_entries
            .each_ref()
            .map(|word| word.load(Ordering::Relaxed));
        let bits = |mut rest: u64| {
            core::iter::from_fn(move || {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest.wrapping_sub(1);
                (bit < 64).then_some(bit)
            })
        };
        let all = (0..).step_by(64).zip(words);
        let all = all.flat_map(move |(first, word)| bits(word).map(move |bit| first + bit));
        self.kernel_half_stands().then_some(all)
    }

    /// Whether the kernel's half of the roots is as it will stay.
    #[inline]
    pub(super) fn kernel_half_stands(&self) -> bool {
        self.kernel_half_stands.load(Ordering::Acquire)
    }

    /// An entry of this level was changed, or Xen refused to: vCPUs forget what it leads to.
    #[inline]
    pub(super) fn changed(&self, level: usize) {
        for changes in &self.changes[..if level > L2::NUMBER { 2 } else { 1 }] {
            changes.fetch_add(1, Ordering::Release);
        }
    }

    /// How often entries of this level, L2 or L3, or of one above were changed.
    #[inline]
    pub(super) fn changes(&self, level: usize) -> u32 {
        self.changes[level - L2::NUMBER].load(Ordering::Acquire)
    }

    /// Another vCPU works with the tables from now on, or soon.
    pub(super) fn count_vcpu(&self) {
        self.vcpus.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether more than one vCPU works with the tables, or is about to.
    #[inline]
    pub(super) fn has_several_vcpus(&self) -> bool {
        self.vcpus.load(Ordering::Relaxed) > 1
    }

    /// Whose translations a change of an entry of the kernel's half makes stale: those of the only
    /// vCPU, or of all that the domain has.
    #[inline]
    pub(super) fn tlb_scope(&self) -> Scope {
        if self.has_several_vcpus() {
            Scope::All
        } else {
            Scope::Local
        }
    }

    /// Base registers refer to these roots and no more to those.
    pub(super) fn count_bases(&self, now: u64, before: u64) {
        let change = now.wrapping_sub(before);
        self.bases.fetch_add(change, Ordering::Relaxed);
    }

    /// The fingerprints of all roots that base registers refer to, added up.
    pub(super) fn bases(&self) -> u64 {
        self.bases.load(Ordering::Relaxed)
    }
}
