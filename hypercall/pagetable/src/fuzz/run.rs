//! Carrying out one operation, and judging it.

use core::ops::Range;

use hypercall::Pfn;

use super::page::{Divergence, Page, What};
use super::{
    CHANGES, DEPTH, Fuzzer, INTERRUPTS, KINDS, Mode, NAME, Op, Probe, USER_PAGES, keep, mode, name,
    queued,
};
use crate::entry::{Flags, Value};
use crate::error::MmError;
use crate::frames::{Frame, FrameError};
use crate::machine::Machine;
use crate::ops::Change;
use crate::tables::Tables;

/// Pages that a run looks at through the processor after an operation: all of it is too slow.
const TOUCHED: usize = 2;

type Outcome = Result<(), MmError>;

impl<const PAGES: usize, const POOL: usize> Fuzzer<PAGES, POOL> {
    /// Carries out one operation and compares.
    ///
    /// # Errors
    /// A divergence.
    pub fn apply<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        probe: &mut impl Probe,
        op: Op,
    ) -> Result<(), Divergence> {
        let unexpected = |fuzzer: &Self, e| fuzzer.differs(op, 0, What::Error(e), 0, 0);
        let interrupt = core::mem::take(&mut self.interrupt) && self.in_interrupt(op);
        if interrupt {
            self.interrupts += 1;
            mode(tables, Mode::EnterInterrupt).map_err(|e| unexpected(self, e))?;
        }
        let result = self.dispatch(tables, probe, op);
        if interrupt {
            self.interrupts -= 1;
            mode(tables, Mode::LeaveInterrupt).map_err(|e| unexpected(self, e))?;
        }
        result?;
        let (n, any) = queued(tables);
        // What the interrupted section queued waits on.
        if any && !self.is_lazy() && self.interrupts == 0 {
            return Err(self.differs(op, 0, What::Queue, 0, n as u64));
        }
        let lazy = tables.mmu.lazy().is_lazy();
        if lazy != self.is_lazy() {
            return Err(self.differs(op, 0, What::Lazy, self.is_lazy().into(), lazy.into()));
        }
        self.step += 1;
        self.counts.done += 1;
        Ok(())
    }

    /// Whether an interrupt handler does such a thing.
    fn in_interrupt(&self, op: Op) -> bool {
        !matches!(
            op,
            Op::Interrupt
                | Op::EnterInterrupt
                | Op::LeaveInterrupt
                | Op::Switch { .. }
                | Op::Hog { .. }
        )
    }

    fn dispatch<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        probe: &mut impl Probe,
        op: Op,
    ) -> Result<(), Divergence> {
        match op {
            Op::Map { at, n, frame, kind } => {
                let (pages, flags) = (self.range(at, n), kind_of(kind));
                let frame = frame as usize % POOL;
                let va = self.va(pages.start);
                let frames = pages.clone().map(|at| self.pfn(frame + at - pages.start));
                // SAFETY: the window and the pool are the run's own.
                let result = unsafe { tables.map(va, frames, flags) };
                let result = self.commit(tables, at, result);
                let first = pages.start;
                self.judge(tables, probe, op, pages, result, |_, at| {
                    Page::new((frame + at - first) % POOL, flags)
                })
            }
            Op::MapMachine { at, frame, kind } => {
                let (pages, flags) = (self.range(at, 1), kind_of(kind));
                let frame = frame as usize % POOL;
                // Nobody but the caller sees to it.
                if self.thaws(Page::new(frame, flags)) {
                    return Ok(());
                }
                let result = tables.mfn(self.pfn(frame)).and_then(|mfn| {
                    // SAFETY: the window and the pool are the run's own.
                    unsafe { tables.map_machine(self.va(pages.start), mfn, flags) }
                });
                self.judge(tables, probe, op, pages, result, |_, _| {
                    Page::new(frame, flags)
                })
            }
            Op::Unmap { at, n } => {
                let pages = self.range(at, n);
                // SAFETY: the window and the pool are the run's own.
                let result = unsafe { tables.unmap(self.va(pages.start), pages.len() as u64) };
                let result = self.commit(tables, at, result);
                self.judge(tables, probe, op, pages, result, |_, _| Page::NONE)
            }
            Op::Protect { at, n, change } => {
                let pages = self.range(at, n);
                let (add, remove) = CHANGES[change as usize % CHANGES.len()];
                let (va, n) = (self.va(pages.start), pages.len() as u64);
                // SAFETY: the window and the pool are the run's own.
                let result = unsafe { tables.protect(va, n, add, remove) };
                let result = self.commit(tables, at, result);
                self.judge(tables, probe, op, pages, result, |page, _| {
                    page.with_flags((page.flags() - remove) | add)
                })
            }
            Op::SetMemory { at, n, right } => {
                let pages = self.range(at, n);
                self.set_memory(tables, probe, op, (pages, at, right))
            }
            Op::Move { from, to, n } => self.move_pages(tables, probe, op, (from, to, n)),
            Op::SetPtes { at, n, frame, kind } => {
                let (first, length) = self.run;
                let pages = self.range(at, n.min(length as u16));
                let frame = frame as usize % (length - pages.len() + 1);
                let flags = kind_of(kind);
                let value = Value::new(self.pfn(first + frame), flags);
                let (va, n) = (self.va(pages.start), pages.len() as u64);
                // SAFETY: the window and the pool are the run's own.
                let result = unsafe { tables.set_ptes(va, value, n) };
                let result = self.commit(tables, at, result);
                let start = pages.start;
                self.judge(tables, probe, op, pages, result, |_, at| {
                    Page::new(first + frame + at - start, flags)
                })
            }
            Op::SetPte { at, frame, kind } => {
                let (pages, flags) = (self.range(at, 1), kind_of(kind));
                let frame = frame as usize % POOL;
                let va = self.va(pages.start);
                // Nobody but the caller sees to it.
                if self.thaws(Page::new(frame, flags)) {
                    return Ok(());
                }
                let result = tables.pte_place(va).and_then(|slot| {
                    let entry = tables.make_pte(Value::new(self.pfn(frame), flags))?;
                    // SAFETY: the window and the pool are the run's own.
                    unsafe { tables.set_pte(slot, va, entry) }
                });
                self.judge(tables, probe, op, pages, result, |_, _| {
                    Page::new(frame, flags)
                })
            }
            Op::GetAndClear { at } => {
                let pages = self.range(at, 1);
                let at = pages.start;
                // SAFETY: the window and the pool are the run's own.
                let result = unsafe { tables.ptep_get_and_clear(self.va(at)) };
                if let Ok(was) = result {
                    self.agree(tables, (op, at, What::Entry), self.pages[at], was)?;
                }
                self.judge(tables, probe, op, pages, result.map(drop), |_, _| {
                    Page::NONE
                })
            }
            Op::WriteProtect { at } => {
                let pages = self.range(at, 1);
                // SAFETY: the window and the pool are the run's own.
                let result = unsafe { tables.ptep_set_wrprotect(self.va(pages.start)) };
                self.judge(tables, probe, op, pages, result, |page, _| {
                    page.with_flags(page.flags() - Flags::WRITABLE)
                })
            }
            Op::ClearYoung { at } => {
                let pages = self.range(at, 1);
                let result = tables.ptep_test_and_clear_young(self.va(pages.start));
                self.judge(tables, probe, op, pages, result.map(drop), |page, _| page)
            }
            Op::Ensure { at } => {
                let pages = self.range(at, 1);
                let result = tables.ensure_pte_table(self.va(pages.start));
                self.judge(tables, probe, op, pages, result, |page, _| page)
            }
            Op::Touch { at } => {
                let pages = self.range(at, 1);
                self.judge(tables, probe, op, pages, Ok(()), |page, _| page)
            }
            Op::Alloc | Op::Free { .. } | Op::Hog { .. } | Op::Unhog => self.frame_op(tables, op),
            Op::NewSpace => self.new_space(tables, op),
            Op::Switch { to } => self.switch(tables, probe, op, to),
            Op::DropSpace { which } => self.drop_space(tables, op, which),
            Op::Shift { at, upper } => {
                let at = self.range(at, 1).start;
                self.shift(tables, probe, op, (at, upper))
            }
            Op::Code { way } => self.code(tables, probe, op, way),
            Op::Release { at, n } => self.release(tables, op, (at, n)),
            _ => self.mode_op(tables, op),
        }
    }

    /// The pages of the window that an operation is about.
    fn range(&self, at: u16, n: u16) -> Range<usize> {
        let at = at as usize % PAGES;
        let kernels = PAGES - USER_PAGES;
        let end = if at < kernels { kernels } else { PAGES };
        at..(at + (n as usize).max(1)).min(end)
    }

    /// Every second change waits for the end of the section.
    pub(super) fn commit<M: Machine>(
        &self,
        tables: &mut Tables<M>,
        at: u16,
        result: Result<Change, MmError>,
    ) -> Outcome {
        let change = result?;
        if at & 1 == 0 {
            return change.commit(tables);
        }
        // SAFETY: the window and the pool are the run's own, which looks at them when nothing is queued.
        unsafe { change.defer() };
        Ok(())
    }

    /// Compares the pages of an operation with what it should have made of them. If it failed,
    /// each is as before or as asked for, and the error says why.
    fn judge<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        probe: &mut impl Probe,
        op: Op,
        pages: Range<usize>,
        result: Outcome,
        asked: impl Fn(Page, usize) -> Page,
    ) -> Result<(), Divergence> {
        match result {
            Ok(()) => {
                let thaws = |at| self.thaws(asked(self.pages[at], at));
                let blocked = |&at: &usize| self.obstacle(op, at).is_some() || thaws(at);
                if let Some(at) = pages.clone().find(blocked) {
                    return Err(self.differs(op, self.va(at), What::NoError, 0, 0));
                }
            }
            Err(e) => {
                self.counts.refused += 1;
                if !self.is_justified(op, &pages, e, &asked) {
                    return Err(self.differs(op, self.va(pages.start), What::Error(e), 0, 0));
                }
            }
        }
        for at in pages.clone() {
            let asked = asked(self.pages[at], at);
            self.take_over(tables, op, at, asked, result.is_err())?;
        }
        self.look(tables, probe, op, pages)
    }

    /// Looks at the tables and through the processor, if that must agree by now.
    pub(super) fn look<M: Machine>(
        &mut self,
        tables: &Tables<M>,
        probe: &mut impl Probe,
        op: Op,
        pages: Range<usize>,
    ) -> Result<(), Divergence> {
        if queued(tables).1 {
            return Ok(());
        }
        for at in pages.clone() {
            self.compare_table(tables, op, at)?;
        }
        for turn in 0..TOUCHED.min(pages.len()) {
            let any = (self.step as usize).wrapping_mul(31) % pages.len();
            let at = if turn == 0 {
                pages.end - 1
            } else {
                pages.start + any
            };
            self.touch(probe, op, at)?;
            self.touch_window(tables, probe, op, at)?;
        }
        Ok(())
    }

    /// Why an operation cannot do what is asked for at a page, by the reference.
    fn obstacle(&self, op: Op, at: usize) -> Option<What> {
        let page = self.pages[at];
        let impossible = match op {
            Op::Map { .. } | Op::MapMachine { .. } => page.is_mapped(),
            Op::Protect { change, .. } => {
                let (add, remove) = CHANGES[change as usize % CHANGES.len()];
                !page.is_mapped() || is_unsafe((page.flags() - remove) | add)
            }
            Op::WriteProtect { .. } | Op::ClearYoung { .. } => !page.is_mapped(),
            _ => false,
        };
        impossible.then_some(What::NoError)
    }

    /// Whether the reference confirms an error.
    pub(super) fn is_justified(
        &self,
        op: Op,
        pages: &Range<usize>,
        error: MmError,
        asked: impl Fn(Page, usize) -> Page,
    ) -> bool {
        let at = |va: u64| self.at(va).filter(|at| pages.contains(at));
        match error {
            MmError::Occupied { va } => {
                let maps = matches!(op, Op::Map { .. } | Op::MapMachine { .. });
                maps && at(va).is_some_and(|at| self.pages[at].is_mapped())
            }
            MmError::NotMapped { va } => at(va).is_some_and(|at| !self.pages[at].is_mapped()),
            MmError::NoTable { va, .. } => at(va).is_some_and(|at| self.is_bare(at)),
            MmError::WriteAndExecute { va } => {
                at(va).is_some_and(|at| is_unsafe(asked(self.pages[at], at).flags()))
            }
            MmError::MustStayReadOnly { va } => {
                at(va).is_some_and(|at| self.thaws(asked(self.pages[at], at)))
            }
            MmError::Frame(FrameError::OutOfMemory) => self.hogged.is_some(),
            _ => false,
        }
    }

    /// Whether nothing is mapped in the 2 MiB around a page.
    fn is_bare(&self, at: usize) -> bool {
        let first = at & !511;
        self.pages[first..first + 512]
            .iter()
            .all(|page| !page.is_mapped())
    }

    fn move_pages<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        probe: &mut impl Probe,
        op: Op,
        (from, to, n): (u16, u16, u16),
    ) -> Result<(), Divergence> {
        let (from, to) = (self.range(from, n), self.range(to, n));
        let n = from.len().min(to.len());
        let (from, to) = (from.start..from.start + n, to.start..to.start + n);
        let (source, target) = (self.va(from.start), self.va(to.start));
        let whole = [from.start, to.start, n]
            .iter()
            .all(|x| x.is_multiple_of(512));
        // SAFETY: the window is the run's own.
        let result = unsafe { tables.move_pages(source, target, n as u64) };
        let result = self.commit(tables, from.start as u16, result);
        let overlap = from.start.abs_diff(to.start) < n;
        let blocked = overlap
            || to.clone().any(|at| self.pages[at].is_mapped())
            || !whole && from.clone().any(|at| !self.pages[at].is_mapped());
        let justified = match result {
            Ok(()) => !blocked,
            Err(MmError::BadRange { .. }) => overlap,
            Err(MmError::Occupied { .. }) => to.clone().any(|at| self.pages[at].is_mapped()),
            Err(e) => {
                let op = Op::WriteProtect { at: 0 };
                self.is_justified(op, &from, e, |page, _| page)
            }
        };
        if !justified {
            let what = result.err().map_or(What::NoError, What::Error);
            return Err(self.differs(op, source, what, 0, 0));
        }
        self.counts.refused += u64::from(result.is_err());
        if overlap {
            return Ok(());
        }
        // Either end first, by turns: what is found of one may hide what is cached of the other.
        let source_first = self.step & 1 == 1;
        for (from, to) in from.clone().zip(to.clone()) {
            let mut ends = [(to, self.pages[from]), (from, Page::NONE)];
            if source_first {
                ends.reverse();
            }
            for (at, asked) in ends {
                self.take_over(tables, op, at, asked, result.is_err())?;
            }
        }
        let (first, second) = if source_first { (from, to) } else { (to, from) };
        self.look(tables, probe, op, first)?;
        self.look(tables, probe, op, second)
    }

    fn frame_op<M: Machine>(&mut self, tables: &mut Tables<M>, op: Op) -> Result<(), Divergence> {
        let failed = |fuzzer: &Self, e| Err(fuzzer.differs(op, 0, What::Error(e), 0, 0));
        match op {
            Op::Alloc if !self.held.is_full() => match tables.alloc_frame() {
                Ok(mut frame) => {
                    let pfn = frame.pfn().as_u64();
                    if self.pool.contains(&(pfn as u32)) || self.held.contains(&(pfn as u32)) {
                        return Err(self.differs(op, pfn, What::Frame, 0, 0));
                    }
                    name(tables, &mut frame);
                    // There is room.
                    let _ = self.held.push(pfn as u32);
                    keep(frame);
                    Ok(())
                }
                Err(MmError::Frame(FrameError::OutOfMemory)) if self.hogged.is_some() => Ok(()),
                Err(e) => failed(self, e),
            },
            Op::Free { which } if !self.held.is_empty() => {
                let pfn = self.held.swap_remove(which as usize % self.held.len());
                // SAFETY: it was handed out to this run and has just been taken off what it holds.
                let mut frame = unsafe { Frame::from_pfn(Pfn::truncate(pfn.into())) };
                let (word, own) = (tables.frame_memory(&mut frame)[0], NAME + u64::from(pfn));
                if word != own {
                    return Err(self.differs(op, pfn.into(), What::Frame, own, word));
                }
                tables.free_frame(frame).or_else(|e| failed(self, e))
            }
            Op::Hog { leave } if self.hogged.is_none() && self.interrupts == 0 => {
                loop {
                    let mut frame = match tables.alloc_frame() {
                        Ok(frame) => frame,
                        Err(MmError::Frame(FrameError::OutOfMemory)) => break,
                        Err(e) => return failed(self, e),
                    };
                    let next = self.hogged.map_or(0, |pfn| u64::from(pfn) + 1);
                    tables.frame_memory(&mut frame)[0] = next;
                    self.hogged = Some(frame.pfn().as_u64() as u32);
                    keep(frame);
                }
                (0..leave).try_for_each(|_| self.unhog_one(tables, op))
            }
            Op::Unhog => {
                while self.hogged.is_some() {
                    self.unhog_one(tables, op)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn unhog_one<M: Machine>(&mut self, tables: &mut Tables<M>, op: Op) -> Result<(), Divergence> {
        let Some(pfn) = self.hogged else {
            return Ok(());
        };
        // SAFETY: handed out to this run, which keeps the numbers of its frames in those themselves
        // and has just read this one for the last time.
        let mut frame = unsafe { Frame::from_pfn(Pfn::truncate(pfn.into())) };
        self.hogged = (tables.frame_memory(&mut frame)[0] as u32).checked_sub(1);
        tables
            .free_frame(frame)
            .map_err(|e| self.differs(op, pfn.into(), What::Error(e), 0, 0))
    }

    fn mode_op<M: Machine>(&mut self, tables: &mut Tables<M>, op: Op) -> Result<(), Divergence> {
        let (before, _) = queued(tables);
        let was_lazy = self.is_lazy();
        // A handler's sections and pauses are none: it is never lazy.
        let counted = u8::from(self.interrupts == 0);
        let result = match op {
            Op::Enter if self.enabled < DEPTH => {
                self.enabled += counted;
                mode(tables, Mode::Enter)
            }
            Op::Leave if self.enabled > 0 => {
                self.enabled -= counted;
                mode(tables, Mode::Leave)
            }
            Op::Pause if self.paused < DEPTH => {
                self.paused += counted;
                mode(tables, Mode::Pause)
            }
            Op::Resume if self.paused > 0 => {
                self.paused -= counted;
                mode(tables, Mode::Resume)
            }
            Op::EnterInterrupt if self.interrupts < INTERRUPTS => {
                self.interrupts += 1;
                mode(tables, Mode::EnterInterrupt)
            }
            Op::LeaveInterrupt if self.interrupts > 0 => {
                self.interrupts -= 1;
                mode(tables, Mode::LeaveInterrupt)
            }
            Op::Flush => tables.flush(),
            Op::Interrupt => {
                self.interrupt = true;
                Ok(())
            }
            _ => Ok(()),
        };
        result.map_err(|e| self.differs(op, 0, What::Error(e), 0, 0))?;
        let (after, any) = queued(tables);
        let stays = was_lazy && self.is_lazy() && op != Op::Flush;
        if stays && before != after || op == Op::Flush && any {
            let expected = if stays { before as u64 } else { 0 };
            return Err(self.differs(op, 0, What::Queue, expected, after as u64));
        }
        if !any && op != Op::Interrupt && !was_lazy {
            return Ok(());
        }
        if !any {
            // What was queued is in force: a sample, for a full check costs much more than this.
            for turn in 0..4 {
                let at = (self.step as usize)
                    .wrapping_mul(97)
                    .wrapping_add(turn * 331)
                    % PAGES;
                self.compare_table(tables, op, at)?;
            }
        }
        Ok(())
    }
}

fn kind_of(kind: u8) -> Flags {
    KINDS[kind as usize % KINDS.len()]
}

pub(super) fn is_unsafe(flags: Flags) -> bool {
    flags.contains(Flags::WRITABLE) && !flags.contains(Flags::NO_EXECUTE)
}
