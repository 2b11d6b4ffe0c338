//! What a test is given: a place for its mappings, frames to map there, and ways to look.

use core::fmt::{self, Write};

use heapless::String;
use hypercall::Pfn;

use super::pile::Pile;
use super::{TestResult, Trouble, expect_eq};
use crate::mm::Running;
use crate::mm::entry::L2;
use crate::mm::machine::Machine;
use crate::mm::tables::Slot;
use crate::mm::{self, Flags, MmError, Tables, layout};
use crate::probe::{self, Fault};

/// Bytes in a page.
pub(crate) const PAGE: u64 = 4096;
/// Bytes that one L1 table covers.
pub(crate) const SPAN: u64 = 512 * PAGE;
/// Sizes that lie on both sides of every decision: one entry, the break-even of replacing a table,
/// a table, more than one, many.
pub(crate) const SIZES: &[u64] = &[1, 2, 44, 45, 511, 512, 513, 4096];

/// The last GiB of the region for mappings made at run time.
const PLACE: u64 = layout::DYNAMIC.end - (1 << 30);
/// What one area spans.
const AREA: u64 = 32 << 20;
const AREAS: u64 = 3;

/// A page fault. The kernel runs in ring 3, and Xen clears the user bit of the error code for it.
const fn page_fault(error: u32) -> Fault {
    Fault { vector: 14, error }
}

/// A read of a page that is not there.
pub(crate) const ABSENT_READ: Result<u64, Fault> = Err(page_fault(0));
/// A write to a page that is not there.
pub(crate) const ABSENT_WRITE: Result<(), Fault> = Err(page_fault(2));
/// A write to a page that is there.
pub(crate) const READ_ONLY: Result<(), Fault> = Err(page_fault(3));
/// A fetch from a page that is not there.
pub(crate) const ABSENT_EXECUTE: Result<(), Fault> = Err(page_fault(0x10));
/// A fetch from a page that is there.
pub(crate) const NO_EXECUTE: Result<(), Fault> = Err(page_fault(0x11));

/// What a test is given.
pub(crate) struct Context {
    pages: u64,
    privileged: bool,
    is_named: bool,
    note: String<80>,
    kept: u64,
}

impl Context {
    pub(super) fn new(pages: u64, privileged: bool, is_named: bool) -> Context {
        let note = String::new();
        Context {
            pages,
            privileged,
            is_named,
            note,
            kept: 0,
        }
    }

    /// Whether somebody asked for this test by its name, and waits for all that it can try.
    pub(super) fn is_named(&self) -> bool {
        self.is_named
    }

    /// Says that frames stay in use after the test: of what grows and never shrinks.
    pub(crate) fn keep(&mut self, frames: u64) {
        self.kept += frames;
    }

    pub(super) fn kept(&self) -> u64 {
        self.kept
    }

    /// The size it is to run with, in pages.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether this is dom0, whom Xen allows more.
    pub(crate) fn is_privileged(&self) -> bool {
        self.privileged
    }

    /// Adds a remark to the test's line.
    pub(crate) fn note(&mut self, words: impl fmt::Display) {
        // Words that do not fit are cut.
        let _ = write!(self.note, "{words}");
    }

    pub(super) fn remark(&self) -> &str {
        &self.note
    }

    /// The start of one of the three areas for the test's mappings, room for 8192 pages each; what
    /// is mapped there after the test is removed.
    pub(crate) fn area(&self, number: u64) -> u64 {
        PLACE + number % AREAS * AREA
    }

    /// Runs `f` with as many frames as the test is to run with, marked by [`mark`], and frees them
    /// and what maps them.
    pub(crate) fn with_frames(
        &mut self,
        f: impl FnOnce(&mut Context, &Pile) -> TestResult,
    ) -> TestResult {
        let count = self.pages.max(1);
        let pile = mm::with(|tables| {
            need_frames(tables, count)?;
            let pile = Pile::of(tables, count as usize)?;
            pile.pfns().for_each(|pfn| mark(tables, pfn));
            Ok::<_, Trouble>(pile)
        })?;
        let outcome = f(self, &pile);
        let freed = mm::with(|tables| {
            clear_areas(tables)?;
            pile.free(tables)
        });
        outcome?;
        Ok(freed?)
    }

    /// Maps the pile's frames from `va` on.
    pub(crate) fn map(&self, va: u64, pile: &Pile, flags: Flags) -> TestResult {
        mm::with(|tables| {
            // SAFETY: the test owns the frames and the area.
            unsafe { tables.map(va, pile.pfns(), flags) }?.commit(tables)
        })?;
        Ok(())
    }

    /// Every page from `va` on reads as the marked frame of the pile.
    pub(crate) fn expect_mapped(&self, va: u64, pile: &Pile) -> TestResult {
        for (i, pfn) in pile.pfns().enumerate() {
            let at = va + i as u64 * PAGE;
            expect_eq!(
                probe::read(at),
                Ok(marked(pfn)),
                "word 0 of page {i} at {at:#x}"
            );
        }
        Ok(())
    }

    /// No page of a range is there: for reads, which also fill the TLB where one is.
    pub(crate) fn expect_absent(&self, va: u64, pages: u64) -> TestResult {
        for i in 0..pages {
            let at = va + i * PAGE;
            expect_eq!(
                probe::read(at),
                ABSENT_READ,
                "read of page {i} at {at:#x}, not mapped"
            );
        }
        Ok(())
    }

    /// Every page of a range answers a write in word 1 in the same way.
    pub(crate) fn expect_writes(
        &self,
        va: u64,
        pages: u64,
        expected: Result<(), Fault>,
        when: &str,
    ) -> TestResult {
        for i in 0..pages {
            let at = va + i * PAGE;
            // SAFETY: the areas and the frames mapped there are the test's.
            let found = unsafe { probe::write(at + 8, i) };
            expect_eq!(found, expected, "write to page {i} at {at:#x} {when}");
        }
        Ok(())
    }
}

/// Skips the test unless the domain has memory for `count` frames that a test maps, with the tables
/// that it takes to map them in more than one place.
pub(crate) fn need_frames(tables: &Tables<Running>, count: u64) -> TestResult {
    /// Tables of a few areas, and what changes of them take.
    const TABLES: u64 = 32;
    let needed = count + count / 64 + TABLES;
    let obtainable = tables.frames().obtainable();
    if needed <= obtainable {
        return Ok(());
    }
    Err(Trouble::skip(format_args!(
        "too little memory: {needed} frames needed, {obtainable} can be had"
    )))
}

/// The word that marks a frame.
pub(crate) fn marked(pfn: Pfn) -> u64 {
    0x5e1f_7e57_0000_0000 | pfn.as_u64()
}

/// Marks a frame of the test's, in its first word.
pub(crate) fn mark(tables: &Tables<Running>, pfn: Pfn) {
    let memory = tables.machine().memory(pfn).cast::<u64>();
    // SAFETY: the frame is the caller's, and the direct map reaches it since it was handed out.
    unsafe { memory.write_volatile(marked(pfn)) };
}

/// The entry of a page as the table holds it, whatever is queued for it.
pub(crate) fn in_table(tables: &Tables<Running>, va: u64) -> Result<u64, MmError> {
    let slot = tables.pte_slot(va)?;
    let table = tables.machine().pfn(slot.machine().frame());
    let table = table.ok_or(MmError::NotMapped { va })?;
    let entry = tables.machine().memory(table).cast::<u64>();
    // SAFETY: the direct map shows every table read-only; an aligned word of it is read.
    Ok(unsafe { entry.add(slot.machine().entry_index()).read_volatile() })
}

/// Makes the tables that lead to the areas, so that no test pays for them.
pub(super) fn prepare(tables: &mut Tables<Running>) -> Result<(), MmError> {
    tables.ensure_pmd(PLACE).map(drop)
}

/// Removes every L1 table of the areas, and with it all that is mapped there.
pub(super) fn clear_areas(tables: &mut Tables<Running>) -> Result<(), MmError> {
    tables.flush()?;
    for va in (PLACE..PLACE + AREAS * AREA).step_by(SPAN as usize) {
        let slot: Slot<L2> = tables.pmd_slot(va)?;
        if !tables.get(slot).is_present() {
            continue;
        }
        // SAFETY: nothing in the areas is in use after a test.
        if let Some(table) = unsafe { tables.unlink_table(slot.place()) }? {
            table.release(tables)?;
        }
    }
    tables.flush()
}
