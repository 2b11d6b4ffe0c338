//! Stacks: each with a page below it that is never mapped, so that one that grows too far ends in a
//! fault instead of in what lies below.
//!
//! They lie in slots of a region of their own, the lowest that are free, so that few page tables are
//! enough. One that is given back stays mapped for whoever wants the next ([`give_back`]), as mapping
//! costs more than most of what short threads do; [`trim`] unmaps those that nobody wanted.

extern crate alloc;

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::lock::Lock;
use crate::mm::entry::L2;
use crate::mm::mapping::{Mapping, StillMapped};
use crate::mm::tables::Slot;
use crate::mm::{self, Flags, MmError, layout};
use crate::rank;
use crate::xen::HV;

const PAGE: u64 = 4096;
/// What a slot spans, of which at most its upper half is mapped.
const SLOT: u64 = 64 << 10;
/// What one L1 table maps.
const SPAN: u64 = 512 * PAGE;
/// Slots that share an L1 table.
const PER_TABLE: u64 = SPAN / SLOT;

const SLOTS: u64 = (layout::STACKS.end - layout::STACKS.start) / SLOT;

const _: () = assert!(SLOTS.is_multiple_of(64) && layout::STACKS.start.is_multiple_of(SPAN));

/// How large a stack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// A thread's: 32 KiB.
    Thread,
    /// A vCPU's first, as large as the one that the boot has: 64 KiB.
    Vcpu,
}

impl Size {
    /// Slots that it takes.
    const fn slots(self) -> u64 {
        match self {
            Size::Thread => 1,
            Size::Vcpu => 2,
        }
    }

    /// Pages that are mapped: the upper half of its slots.
    const fn pages(self) -> u64 {
        self.slots() * SLOT / 2 / PAGE
    }
}

/// A stack. It is to be [given back](give_back): dropped, it stays mapped for good.
#[derive(Debug)]
#[must_use = "dropped, it stays mapped for good"]
pub(crate) struct Stack {
    size: Size,
    first: u64,
    mapping: Mapping,
}

impl Stack {
    /// Where it begins, growing down: a multiple of 16.
    pub(crate) fn top(&self) -> u64 {
        self.mapping.va() + self.mapping.pages() * PAGE
    }
}

/// Why there is no stack.
#[derive(Debug)]
pub(crate) enum NoStack {
    /// The heap has no room to keep account of it.
    NoMemory,
    /// The region has no slot.
    NoRoom,
    /// No frames, or Xen's refusal.
    Mm(MmError),
}

impl fmt::Display for NoStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoStack::NoMemory => f.write_str("the heap has no room for a stack's record"),
            NoStack::NoRoom => write!(f, "all {SLOTS} places for stacks are taken"),
            NoStack::Mm(e) => e.fmt(f),
        }
    }
}

impl From<TryReserveError> for NoStack {
    fn from(_: TryReserveError) -> NoStack {
        NoStack::NoMemory
    }
}

impl From<MmError> for NoStack {
    fn from(error: MmError) -> NoStack {
        NoStack::Mm(error)
    }
}

/// Which slots are taken, and which stacks are in nobody's use.
struct Account {
    /// A bit a slot, as far as one was ever taken.
    taken: Vec<u64>,
    /// Threads' stacks that are mapped and free; room for all that there are.
    free: Vec<Stack>,
    /// Threads' stacks, free or not.
    threads: usize,
}

static ACCOUNT: Lock<Account, rank::Stacks> = Lock::new(Account {
    taken: Vec::new(),
    free: Vec::new(),
    threads: 0,
});

impl Account {
    /// Takes the first free slots that lie side by side.
    fn take(&mut self, slots: u64) -> Result<u64, NoStack> {
        let known = self.taken.len() as u64 * 64;
        let full = self.taken.iter().take_while(|word| **word == !0).count();
        let mut first = full as u64 * 64;
        while first + slots <= SLOTS {
            match (first..first + slots)
                .rev()
                .find(|slot| self.is_taken(*slot))
            {
                Some(taken) => first = taken + 1,
                None => break,
            }
        }
        if first + slots > SLOTS {
            return Err(NoStack::NoRoom);
        }
        if first + slots > known {
            self.taken.try_reserve(1)?;
            self.taken.push(0);
        }
        self.set(first, slots);
        Ok(first)
    }

    fn is_taken(&self, slot: u64) -> bool {
        let word = self.taken.get(slot as usize / 64);
        word.is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Gives slots back. If no other is taken that shares their L1 table, all of that table's are taken
    /// instead: the table can go, whose first slot this returns.
    fn forget(&mut self, first: u64, slots: u64) -> Option<u64> {
        self.clear(first, slots);
        let table = first - first % PER_TABLE;
        let mut shared = table..table + PER_TABLE;
        if shared.any(|slot| self.is_taken(slot)) {
            return None;
        }
        self.set(table, PER_TABLE);
        Some(table)
    }

    fn set(&mut self, first: u64, slots: u64) {
        for slot in first..first + slots {
            self.taken[slot as usize / 64] |= 1 << (slot % 64);
        }
    }

    fn clear(&mut self, first: u64, slots: u64) {
        for slot in first..first + slots {
            self.taken[slot as usize / 64] &= !(1 << (slot % 64));
        }
    }
}

/// A stack: one that was given back, or a new one.
///
/// # Errors
/// See [`NoStack`].
pub(crate) fn get(size: Size) -> Result<Stack, NoStack> {
    let first = {
        let mut account = ACCOUNT.lock();
        if size == Size::Thread {
            if let Some(stack) = account.free.pop() {
                return Ok(stack);
            }
            // So that giving one back never needs memory.
            let all = account.threads + 1;
            account.free.try_reserve(all)?;
            account.threads = all;
        }
        account.take(size.slots()).inspect_err(|_| {
            account.threads -= usize::from(size == Size::Thread);
        })?
    };
    match map(first, size) {
        Ok(mapping) => Ok(Stack {
            size,
            first,
            mapping,
        }),
        Err(e) => {
            let mut account = ACCOUNT.lock();
            account.clear(first, size.slots());
            account.threads -= usize::from(size == Size::Thread);
            Err(e.into())
        }
    }
}

/// Maps the upper half of slots.
fn map(first: u64, size: Size) -> Result<Mapping, MmError> {
    let end = layout::STACKS.start + (first + size.slots()) * SLOT;
    mm::with(|tables| {
        let mut frames = heapless::Vec::<_, 16>::new();
        for _ in 0..size.pages() {
            match tables.alloc_frame() {
                // There is room for the pages of the largest.
                Ok(frame) => drop(frames.push(frame)),
                Err(e) => {
                    for frame in frames {
                        tables.free_frame(frame)?;
                    }
                    return Err(e);
                }
            }
        }
        tables.map_frames(end - size.pages() * PAGE, frames, Flags::DATA)
    })
}

/// Keeps a thread's stack for the next: nobody runs on it any more. It needs no memory.
pub(crate) fn give_back(stack: Stack) {
    ACCOUNT.lock().free.push(stack);
}

/// Who unmaps stacks at the moment.
static TRIMMING: AtomicUsize = AtomicUsize::new(0);

/// Unmaps stacks that are in nobody's use, all but `kept`, with the page tables that only they needed.
///
/// # Errors
/// Xen's refusal; the stack is then lost.
pub(crate) fn trim(kept: usize) -> Result<(), MmError> {
    TRIMMING.fetch_add(1, Ordering::Acquire);
    let outcome = unmap_down_to(kept);
    TRIMMING.fetch_sub(1, Ordering::Release);
    outcome
}

/// The same with all, and waits for other vCPUs that do so: then no stack that is in nobody's use has any
/// memory.
///
/// # Errors
/// As [`trim`].
pub(crate) fn trim_all() -> Result<(), MmError> {
    let outcome = trim(0);
    mm::let_go();
    while TRIMMING.load(Ordering::Acquire) != 0 {
        // Refused, it is asked again.
        let _ = hypercall::sched::r#yield(&HV);
    }
    outcome
}

fn unmap_down_to(kept: usize) -> Result<(), MmError> {
    loop {
        let stack = {
            let mut account = ACCOUNT.lock();
            if account.free.len() <= kept {
                return Ok(());
            }
            account.threads -= 1;
            account.free.pop()
        };
        let Some(stack) = stack else { return Ok(()) };
        unmap(stack)?;
    }
}

/// Whether so many stacks wait for somebody to want them that some are better unmapped.
pub(crate) fn is_trim_due(kept: usize) -> bool {
    ACCOUNT.lock().free.len() > kept
}

fn unmap(stack: Stack) -> Result<(), MmError> {
    let Stack {
        size,
        first,
        mapping,
    } = stack;
    mm::with(|tables| {
        let unmapped = tables.unmap_and_free(mapping);
        unmapped.map_err(|StillMapped { error, .. }| error)?;
        tables.flush()
    })?;
    // Not both at once: who takes slots may have the heap grow, which takes page tables.
    let Some(table) = ACCOUNT.lock().forget(first, size.slots()) else {
        return Ok(());
    };
    let unlinked = mm::with(|tables| {
        let slot: Slot<'_, L2> = tables.pmd_slot(layout::STACKS.start + table * SLOT)?;
        // SAFETY: the account has given out nothing that this table maps.
        if let Some(table) = unsafe { tables.unlink_table(slot.place()) }? {
            table.release(tables)?;
        }
        tables.flush()
    });
    ACCOUNT.lock().clear(table, PER_TABLE);
    unlinked
}
