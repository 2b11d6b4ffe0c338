//! What concerns many pages at once: address spaces, the tables above, parts of the image.

use super::page::{Divergence, Page, What};
use super::{Fuzzer, Op, PAGE, Probe, Side, USER_PAGES, queued};
use crate::entry::{Entry, L4, TableLevel};
use crate::error::MmError;
use crate::frames::FrameError;
use crate::layout::Layout as _;
use crate::machine::Machine;
use crate::spaces::NotDestroyed;
use crate::tables::Tables;

/// How far the table below an entry is moved: a place of the same table where nothing is.
const FAR_L3: u64 = 100 << 30;
const FAR_L4: u64 = 4 << 39;
/// Pages of the image that a run may release.
const SPARE: u64 = u64::BITS as u64;

impl<const PAGES: usize, const POOL: usize> Fuzzer<PAGES, POOL> {
    /// Judges the result of an operation that only a lack of frames may stop.
    fn only_without_frames(
        &mut self,
        op: Op,
        result: Result<(), MmError>,
    ) -> Result<(), Divergence> {
        match result {
            Err(MmError::Frame(FrameError::OutOfMemory)) if self.hogged.is_some() => {
                self.counts.refused += 1;
                Ok(())
            }
            result => result.map_err(|e| self.differs(op, 0, What::Error(e), 0, 0)),
        }
    }

    pub(super) fn new_space<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        op: Op,
    ) -> Result<(), Divergence> {
        if self.spaces.is_full() {
            return Ok(());
        }
        let made = tables.create_space().map(|space| {
            let pages = [Page::NONE; USER_PAGES];
            // There is room.
            let _ = self.spaces.push(Side { space, pages });
        });
        self.only_without_frames(op, made)
    }

    /// The pages of the user half by the reference, as long as the space is not the current one.
    fn aside(&mut self, space: Option<usize>) -> &mut [Page] {
        match space.and_then(|which| self.spaces.get_mut(which)) {
            Some(side) => &mut side.pages,
            None => &mut self.boot,
        }
    }

    pub(super) fn switch<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        probe: &mut impl Probe,
        op: Op,
        to: u8,
    ) -> Result<(), Divergence> {
        if self.interrupts > 0 {
            return Ok(());
        }
        self.enter(tables, op, to)?;
        let first = PAGES - USER_PAGES;
        // A sample: all of it takes as long as many other operations.
        for turn in 0..4 {
            let at = (self.step as usize).wrapping_mul(131) + turn * 97;
            for at in [first + at % USER_PAGES, at % first] {
                self.compare(tables, op, at, self.pages[at])?;
                self.compare_table(tables, op, at)?;
                self.touch(probe, op, at)?;
            }
        }
        Ok(())
    }

    /// Makes a space the current one, and its pages those of the window.
    fn enter<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        op: Op,
        to: u8,
    ) -> Result<(), Divergence> {
        let to = (to as usize % (self.spaces.len() + 1)).checked_sub(1);
        let boot = tables.boot_space();
        let space = to.map_or(&boot, |which| &self.spaces[which].space);
        // SAFETY: the user half is the run's own.
        let switched = unsafe { tables.switch_space(space) };
        switched.map_err(|e| self.differs(op, 0, What::Error(e), 0, 0))?;
        let first = PAGES - USER_PAGES;
        let left = self.current;
        for i in 0..USER_PAGES {
            self.aside(left)[i] = self.pages[first + i];
        }
        for i in 0..USER_PAGES {
            self.pages[first + i] = self.aside(to)[i];
        }
        self.current = to;
        let (_, any) = queued(tables);
        if any {
            return Err(self.differs(op, 0, What::Queue, 0, 1));
        }
        Ok(())
    }

    pub(super) fn drop_space<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        op: Op,
        which: u8,
    ) -> Result<(), Divergence> {
        if self.spaces.is_empty() {
            return Ok(());
        }
        let which = which as usize % self.spaces.len();
        let Side { space, pages } = self.spaces.swap_remove(which);
        let dropped = tables.destroy_space(space);
        if self.current == Some(which) {
            let Err(NotDestroyed {
                error: MmError::Frame(FrameError::Illegal(..)),
                space: Some(space),
            }) = dropped
            else {
                return Err(self.differs(op, 0, What::NoError, 0, 0));
            };
            // It took its own place a moment ago.
            let _ = self.spaces.push(Side { space, pages });
            let last = self.spaces.len() - 1;
            self.spaces.swap(which, last);
            return Ok(());
        }
        dropped.map_err(|e| self.differs(op, 0, What::Error(e.error), 0, 0))?;
        if self.current == Some(self.spaces.len()) {
            // The last one took the place.
            self.current = Some(which);
        }
        Ok(())
    }

    /// Moves the table below an L3 or L4 entry to another place, looks, and moves it back. One of
    /// the kernel's half comes back in another space: it must have gone in all of them.
    pub(super) fn shift<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        probe: &mut impl Probe,
        op: Op,
        (at, upper): (usize, bool),
    ) -> Result<(), Divergence> {
        let va = self.va(at);
        // The kernel's entries of a root stand, and so does one that maps the image as well.
        let is_images = va >> 39 == M::Layout::IMAGE.start >> 39;
        let upper = upper && !is_images && tables.check_root_entry(L4::NUMBER, va).is_ok();
        let far = va ^ if upper { FAR_L4 } else { FAR_L3 };
        let moved = relink(tables, upper, va, far);
        if !moved.map_err(|e| self.differs(op, va, What::Error(e), 0, 0))? {
            return Ok(());
        }
        self.is_away(tables, probe, op, (at, far))?;
        if at < PAGES - USER_PAGES && self.interrupts == 0 && !self.spaces.is_empty() {
            self.enter(tables, op, self.step as u8)?;
            self.is_away(tables, probe, op, (at, far))?;
        }
        let back = relink(tables, upper, far, va);
        if !back.map_err(|e| self.differs(op, far, What::Error(e), 0, 0))? {
            return Err(self.differs(op, far, What::Table, 1, 0));
        }
        self.compare(tables, op, at, self.pages[at])?;
        self.look(tables, probe, op, at..at + 1)
    }

    /// A page is found at the other address and not at its own.
    fn is_away<M: Machine>(
        &mut self,
        tables: &Tables<M>,
        probe: &mut impl Probe,
        op: Op,
        (at, far): (usize, u64),
    ) -> Result<(), Divergence> {
        let va = self.va(at);
        if let Ok(found) = tables.ptep_get(va) {
            return Err(self.differs(op, va, What::Entry, 0, found.bits()));
        }
        let found = tables.ptep_get(far).unwrap_or(Entry::NONE);
        self.agree(tables, (op, at, What::Entry), self.pages[at], found)?;
        if queued(tables).1 {
            return Ok(());
        }
        if let Some(found) = probe.load(va) {
            return Err(self.differs(op, va, What::Load, 0, found));
        }
        let expected = self.pages[at].frame();
        let expected = expected.map(|frame| super::NAME + self.pfn(frame).as_u64());
        match probe.load(far) {
            found if found == expected => Ok(()),
            found => Err(self.differs(
                op,
                far,
                What::Load,
                expected.unwrap_or(0),
                found.unwrap_or(0),
            )),
        }
    }

    /// Releases pages of the image, some of them again.
    pub(super) fn release<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        op: Op,
        (at, n): (u8, u8),
    ) -> Result<(), Divergence> {
        let (base, released) = self.spare;
        if base == 0 {
            return Ok(());
        }
        let at = u64::from(at) % SPARE;
        let pages = u64::from(n.max(1)).min(SPARE - at);
        let va = base + at * PAGE;
        // SAFETY: whoever spared it does not use it.
        let result = unsafe { tables.release(va, pages) };
        result.map_err(|e| self.differs(op, va, What::Error(e), 0, 0))?;
        self.spare.1 = released | (u64::MAX >> (SPARE - pages)) << at;
        for va in (va..).step_by(PAGE as usize).take(pages as usize) {
            let found = tables.ptep_get(va).unwrap_or(Entry::NONE);
            if found.is_present() {
                return Err(self.differs(op, va, What::Entry, 0, found.bits()));
            }
        }
        Ok(())
    }
}

/// Refers at one address to the table that an L3 or L4 entry refers to at another, and there no
/// more. False if there is none: a space whose user half has no tables yet.
fn relink<M: Machine>(
    tables: &mut Tables<M>,
    upper: bool,
    from: u64,
    to: u64,
) -> Result<bool, MmError> {
    let p4d = |tables: &Tables<M>, va| {
        let pgd = tables.pgd_at(va)?;
        tables.p4d_at(pgd, va)
    };
    let [Some(source), Some(target)] = [from, to].map(|va| p4d(tables, va)) else {
        return Ok(false);
    };
    if upper {
        let Some(value) = tables.p4d_val(tables.entry(source)) else {
            return Ok(false);
        };
        let entry = tables.make_p4d(value)?;
        // SAFETY: what is mapped below is the run's own, and comes back at once.
        unsafe {
            tables.set_p4d(target, entry)?;
            tables.set_p4d(source, Entry::NONE)?;
        }
        return Ok(true);
    }
    let slots = [(source, from), (target, to)].map(|(p4d, va)| tables.pud_at(p4d, va));
    let [Some(source), Some(target)] = slots else {
        return Ok(false);
    };
    let Some(value) = tables.pud_val(tables.entry(source)) else {
        return Ok(false);
    };
    let entry = tables.make_pud(value)?;
    // SAFETY: what is mapped below is the run's own, and comes back at once.
    unsafe {
        tables.set_pud(target, entry)?;
        tables.set_pud(source, Entry::NONE)?;
    }
    Ok(true)
}
