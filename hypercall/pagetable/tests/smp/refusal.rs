//! Xen says no to one entry of a batch, whoever sends it: what is mapped afterwards is of each page what it
//! was or was to be, nothing is lost, and the run goes on from there.

use hypercall::{Errno, Op as Call};
use model::Injection;
use pagetable::entry::Pte;
use pagetable::fuzz::in_table;
use pagetable::{Flags, MmError, Tables};

use super::op::{KERNEL, Op, PAGES, TABLE, USER, pages_of, region, va};
use super::run::{Found, On, Page, Run, said};

/// One of so many steps is one in which Xen may refuse something.
const SELDOM: u64 = 4;

/// What Xen may refuse, and what became of it.
#[derive(Default)]
pub(super) struct Refusals {
    /// There are any.
    pub(super) wanted: bool,
    /// One may come in this step.
    pending: bool,
    /// One came in this step.
    came: bool,
    /// How many came.
    pub(super) count: u64,
    /// What pages were since all that was queued was in force: the space, the page, and what it mapped.
    before: Vec<(usize, usize, Option<Page>)>,
}

/// Operations after which each page tells what it is.
fn may_be_refused(op: Op) -> bool {
    matches!(
        op,
        Op::Map { .. }
            | Op::Unmap { .. }
            | Op::Protect { .. }
            | Op::Move { .. }
            | Op::MoveTable { .. }
            | Op::Set { .. }
            | Op::InSpace { .. }
            | Op::Leave
            | Op::Pause
            | Op::Flush
    )
}

/// Pages of the kernel's half are the same in each space.
fn key(space: usize, at: usize) -> (usize, usize) {
    (if at < KERNEL { 0 } else { space }, at)
}

impl Run {
    /// Notes what a page was.
    pub(super) fn remember(&mut self, space: usize, at: usize, page: Option<Page>) {
        if self.refusals.wanted {
            let (space, at) = key(space, at);
            self.refusals.before.push((space, at, page));
        }
    }

    /// A space is gone, and with it what its pages were.
    pub(super) fn forget_space(&mut self, which: usize) {
        let is_other = |&(space, at, _): &(usize, usize, _)| at < KERNEL || space != which;
        self.refusals.before.retain(is_other);
    }

    /// Has Xen refuse something in this step, or not.
    pub(super) fn begin_refusals(&mut self) {
        self.refusals.came = false;
        self.refusals.pending = self.refusals.wanted && self.rng.below(SELDOM) == 0;
        if self.refusals.pending {
            let calls = [Call::MmuUpdate, Call::UpdateVaMapping];
            let call = calls[self.rng.below(2) as usize];
            let errno = [Errno::EINVAL, Errno::ENOMEM][self.rng.below(2) as usize];
            let request = (self.rng.below(8) as u32).saturating_sub(4);
            self.cpus.model.inject(Injection {
                nth: 1 + self.rng.below(2),
                index: (call == Call::MmuUpdate).then_some(request),
                ..Injection::call(call, errno)
            });
        }
    }

    /// Nothing is refused in what this step does from here on, unless it is prepared for it.
    pub(super) fn limit_refusals(&mut self, op: Op) {
        if !may_be_refused(op) {
            self.call_off();
        }
    }

    /// What has not been refused so far in this step is not refused.
    pub(super) fn call_off(&mut self) {
        self.refused();
        self.cpus.model.clear_injections();
        self.refusals.pending = false;
    }

    /// Whether Xen has refused something in this step.
    fn refused(&mut self) -> bool {
        if self.refusals.pending && self.cpus.model.injections() == 0 {
            self.refusals.pending = false;
            self.refusals.came = true;
        }
        self.refusals.came
    }

    /// An error is one that was to come, or is found.
    pub(super) fn allow(&mut self, what: &str, result: Result<(), MmError>) -> Found {
        match result {
            Err(e) if !self.refused() => Err(said(what, e)),
            _ => Ok(()),
        }
    }

    /// Ends a step, or the part of it that was another vCPU's: if something was refused, the reference goes
    /// on from what is mapped.
    pub(super) fn end_refusals(&mut self) -> Found {
        if self.refused() {
            self.refusals.came = false;
            self.refusals.count += 1;
            self.resync()?;
        }
        if self.cpus.idle() {
            self.refusals.before.clear();
        }
        Ok(())
    }

    /// Sends all that is queued, and looks at every page.
    fn resync(&mut self) -> Found {
        self.call_off();
        for vcpu in 0..self.at.len() {
            match self.with(vcpu, On::Nothing, Tables::flush)? {
                Err(MmError::Flush(told)) if told.tlb_stale => {
                    return Err(format!("a flush was not carried out: {told}"));
                }
                Ok(()) | Err(MmError::Flush(_)) => {}
                Err(e) => return Err(said("a flush after a refusal", e)),
            }
        }
        self.end_half_moves()?;
        for at in 0..KERNEL {
            let found = in_table(self.cpus.of(0), va(at));
            self.take_over(0, at, found)?;
        }
        for which in 0..self.spaces.len() {
            if self.spaces[which].is_none() {
                continue;
            }
            let entries = self.user_entries(which)?;
            for (at, found) in (KERNEL..PAGES).zip(entries) {
                self.take_over(which, at, found)?;
            }
        }
        self.refusals.before.clear();
        Ok(())
    }

    /// What the user half of a space maps.
    fn user_entries(&mut self, which: usize) -> Found<Vec<Option<Pte>>> {
        let boot = self.cpus.of(0).boot_space();
        let Some(side) = self.spaces[which].take() else {
            return Ok(vec![None; USER]);
        };
        let space = side.space.as_ref().unwrap_or(&boot);
        let part = Some(pagetable::locks::Part::Space(space));
        let found = self.cpus.with(0, part, |tables| {
            tables.in_space(space, |tables| {
                let pages = (KERNEL..PAGES).map(|at| in_table(tables, va(at)));
                Ok(pages.collect())
            })
        });
        self.spaces[which] = Some(side);
        let found = found.and_then(|found| found);
        found.map_err(|e| said("looking at a space", e))
    }

    /// A move of a table that was refused halfway leaves it at both ends, of which one is unmapped.
    fn end_half_moves(&mut self) -> Found {
        let mut seen = Vec::new();
        for first in [0, 1, 2].map(region) {
            let table = self.with(0, On::Kernel, |tables| {
                let entry = tables.get(tables.pmd_slot(va(first)).ok()?);
                tables.pmd_val(entry).map(|value| value.pfn)
            })?;
            let Some(table) = table else { continue };
            if seen.contains(&table) {
                let unmapped = self.with(0, On::Kernel, |tables| {
                    // SAFETY: the model's memory, and pages that are the run's own.
                    unsafe { tables.unmap(va(first), TABLE) }?.commit(tables)
                })?;
                unmapped.map_err(|e| said("ending half a move", e))?;
                for at in pages_of(first) {
                    self.remember(0, at, None);
                }
            }
            seen.push(table);
        }
        Ok(())
    }

    /// A page is what is found, if it was that or was to be.
    fn take_over(&mut self, space: usize, at: usize, found: Option<Pte>) -> Found {
        let found = found.filter(|entry| entry.is_present());
        let page = match found {
            None => None,
            Some(entry) => {
                let tables = self.cpus.of(0);
                let frame = (0..self.pool.len())
                    .find(|&frame| tables.mfn(self.pool[frame]).ok() == entry.mfn());
                let frame =
                    frame.ok_or_else(|| format!("{:#x} maps a frame of nobody's", va(at)))?;
                let flags = entry.flags();
                Some(Page { frame, flags })
            }
        };
        let (key, is) = (key(space, at), self.page(space, at));
        let before = self.refusals.before.iter();
        let before = before.filter(|(space, at, _)| (*space, *at) == key);
        let known: Vec<_> = before.map(|(_, _, page)| *page).chain([is]).collect();
        let marks = Flags::ACCESSED | Flags::DIRTY;
        // A handler changes the rights of what it finds, and is told nothing of the section's refusal.
        let holds = match page {
            None => known.contains(&None),
            Some(page) => {
                let mut pages = known.iter().flatten();
                let frame = pages.clone().any(|one| one.frame == page.frame);
                frame && pages.any(|one| one.flags - marks == page.flags - marks)
            }
        };
        if !holds {
            let va = va(at);
            return Err(format!(
                "{va:#x} in space {space} is {page:x?} after a refusal, not {known:x?}"
            ));
        }
        self.put_page(space, at, page);
        Ok(())
    }
}
