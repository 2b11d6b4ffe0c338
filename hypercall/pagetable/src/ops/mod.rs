//! Operations on ranges of pages: map, change rights, unmap, move.
//!
//! Each works 2 MiB by 2 MiB, the span of one L1 table, and chooses by count ([`cost`](super::cost))
//! between updating entries and replacing the table: a new one is filled with plain stores, linked
//! in place of the old, and validated by Xen once. The old table's memory becomes ordinary again.
//!
//! A and D bits that another vCPU sets meanwhile are kept: in entries that change rights, in tables that are
//! replaced (`marks`) and in those that change hands. Of pages that move one by one all count as set that
//! can have been.
//!
//! Translations are flushed with the change: Xen flushes all of them when an L2 entry changes
//! (`do_mmu_update`, `xen/arch/x86/mm.c`), single entries are flushed by address.

mod edit;
mod edited;
mod few;
mod map;
mod marks;
mod moves;
mod ptes;
mod writable;

use core::ops::Range;

pub(crate) use marks::Replaced;

use super::entry::{Flags, Keep, Pte};
use super::error::MmError;
use super::machine::{Live, Machine, Words};
use super::tables::Tables;

/// Bytes in a page.
pub(crate) const PAGE: u64 = 4096;
/// Bytes that one L1 table covers.
const SPAN: u64 = 512 * PAGE;

/// A change of a range that is in force once it is committed. Inside a lazy section it may still be
/// queued.
#[must_use = "the range must not be touched before the change is in force"]
#[derive(Debug)]
pub struct Change {
    va: u64,
    pages: u64,
}

impl Change {
    /// The addresses that change: of pages that move, those where they are afterwards.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.va..self.va + self.pages * PAGE
    }

    /// Has it in force now.
    ///
    /// # Errors
    /// What Xen refused.
    #[inline]
    pub fn commit<M: Machine>(self, tables: &mut Tables<M>) -> Result<(), MmError> {
        tables.flush()
    }

    /// Leaves it to the end of the lazy section.
    ///
    /// # Safety
    /// Nobody relies on it before: the [range](Self::range) is not touched where that would not be
    /// allowed after the change or was not before, and nothing that it unmaps is used for anything
    /// else.
    pub unsafe fn defer(self) {}
}

/// The pages of a range that one L1 table maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) va: u64,
    /// Index of the first entry.
    first: usize,
    /// Number of entries.
    pub(crate) count: usize,
}

impl Chunk {
    /// Its entries' places in the table.
    pub(crate) fn entries(self) -> Range<usize> {
        self.first..self.first + self.count
    }
}

pub(crate) fn chunks(va: u64, pages: u64) -> impl Iterator<Item = Chunk> {
    let end = va + pages * PAGE;
    let mut next = va;
    core::iter::from_fn(move || {
        let va = next;
        (va < end).then(|| {
            // By last addresses: the one behind them all has no number.
            next = (va | (SPAN - 1)).min(end - 1) + 1;
            let first = (va / PAGE % 512) as usize;
            Chunk {
                va,
                first,
                count: ((next - va) / PAGE) as usize,
            }
        })
    })
}

/// Whether the bits above the 48 that four levels look at are as the last of those.
#[inline]
fn is_canonical(va: u64) -> bool {
    (va.cast_signed() << 16 >> 16).cast_unsigned() == va
}

pub(crate) fn check_range(va: u64, pages: u64) -> Result<(), MmError> {
    let bad = MmError::BadRange { va, pages };
    let end = pages
        .checked_mul(PAGE)
        .and_then(|n| va.checked_add(n))
        .ok_or(bad)?;
    let same_half = va >> 63 == (end - 1) >> 63;
    let canonical = is_canonical(va) && is_canonical(end - 1);
    if pages == 0 || !va.is_multiple_of(PAGE) || !canonical || !same_half {
        return Err(bad);
    }
    Ok(())
}

pub(crate) fn check_rights(va: u64, flags: Flags) -> Result<(), MmError> {
    if !flags.contains(Flags::PRESENT) {
        // An entry with a frame that is not present is an attempt at L1TF to Xen.
        return Err(MmError::NotMapped { va });
    }
    if flags.contains(Flags::WRITABLE) && !flags.contains(Flags::NO_EXECUTE) {
        return Err(MmError::WriteAndExecute { va });
    }
    Ok(())
}

impl<M: Machine> Tables<M> {
    /// Runs `f` in a lazy section.
    ///
    /// # Errors
    /// Those of `f`, or of the flush at the end.
    #[inline]
    #[track_caller]
    pub fn lazily<R>(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<R, MmError>,
    ) -> Result<R, MmError> {
        self.mmu.enable()?;
        // What takes room for an error is done elsewhere: nothing is copied from one to the other here.
        match f(self) {
            Ok(value) => {
                if self.mmu.leave() || !self.log().is_waiting() && self.mmu.has_left_idle() {
                    return Ok(value);
                }
                self.left_section()?;
                Ok(value)
            }
            Err(error) => Err(self.leave_failed_section(error)),
        }
    }

    /// Does what is to be done after a section that was not one in another, which was left just now.
    #[inline(never)]
    fn left_section(&mut self) -> Result<(), MmError> {
        // An error is large: where there is none, none is copied.
        match self.mmu.left() {
            Ok(()) => {
                self.apply_log();
                Ok(())
            }
            Err(error) => {
                self.apply_log();
                Err(error.into())
            }
        }
    }

    /// Leaves a section that has failed. Only one error can be returned: the later one is said.
    #[cold]
    #[inline(never)]
    fn leave_failed_section(&mut self, error: MmError) -> MmError {
        if !self.mmu.leave()
            && let Err(also) = self.left_section()
        {
            log::error!(target: "mm", "{also}");
        }
        error
    }

    /// Flushes the translations of all vCPUs, of one page or of everything.
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn flush_tlb(&mut self, va: Option<u64>) -> Result<(), MmError> {
        let address = va.map(hypercall::VirtAddr::new_truncate);
        let scope = self.domain().tlb_scope();
        Ok(self.mmu.flush_tlb(scope, address)?)
    }
}

/// Copies entries, without what Xen added to them, and says whether all are present.
fn copy(new: &mut [u64], old: Live<'_>) -> bool {
    let all = mask(new, old, Keep::all_but(Flags::empty()), Flags::empty()).all;
    Pte::from_table(all).is_present()
}

/// Copies entries with rights changed by masks, and says what they were.
fn mask<'n, I>(new: I, old: Live<'_>, keep: Keep, add: Flags) -> Seen
where
    I: IntoIterator<Item = &'n mut u64>,
{
    let seen = Seen::of(old);
    let pairs = new.into_iter().zip(old.iter());
    // Mostly they are alike.
    if let Some(keep) = keep.alike(seen.all, seen.any) {
        pairs.for_each(|(new, old)| *new = old & keep | add.bits());
    } else {
        pairs.for_each(|(new, old)| *new = Pte::from_table(old).masked(keep, add).bits());
    }
    seen
}

/// The bits that all of some entries have, and those that any has.
#[derive(Clone, Copy)]
struct Seen {
    all: u64,
    any: u64,
}

impl Seen {
    fn of(entries: Live<'_>) -> Seen {
        let (all, any) = (u64::MAX, 0);
        entries.iter().fold(Seen { all, any }, |seen, entry| Seen {
            all: seen.all & entry,
            any: seen.any | entry,
        })
    }
}

/// Finds the first of consecutive pages that is not mapped.
fn check_present(va: u64, words: Live<'_>) -> Result<(), MmError> {
    if present(words) == words.len() as u64 {
        return Ok(());
    }
    let index = words.iter().position(|word| word & 1 == 0).unwrap_or(0);
    Err(MmError::NotMapped {
        va: va + index as u64 * PAGE,
    })
}

/// Zeroes what lies outside of a chunk.
fn fill_around(words: &mut Words, chunk: Chunk) {
    words[..chunk.first].fill(0);
    words[chunk.first + chunk.count..].fill(0);
}

/// Present entries among words of a table.
fn present(words: Live<'_>) -> u64 {
    words.iter().map(|word| word & 1).sum()
}

/// Present entries among words of a table, which need not be counted further once they are enough.
fn present_until(words: Live<'_>, enough: u64) -> u64 {
    let (mut rest, mut found) = (words, 0);
    while !rest.is_empty() && found < enough {
        let (group, behind) = rest.split_at(rest.len().min(64));
        found += present(group);
        rest = behind;
    }
    found
}
