//! Rights of pages whose frames other pages map as well, and the direct map: what is made executable
//! is writable nowhere.
//!
//! By the reference a frame is *frozen* from when a page of it is made executable until a page of it
//! is made data again while no page is executable. That is what the direct map must show.

use core::ops::Range;

use super::page::{Divergence, Page, What};
use super::{Fuzzer, Op, Probe, USER_PAGES};
use crate::entry::Flags;
use crate::error::MmError;
use crate::machine::Machine;
use crate::tables::Tables;

/// Some page maps a frame writable.
const WRITES: u8 = 1;
/// Some page maps it executable.
const EXECUTES: u8 = 2;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Right {
    Execute,
    NoExecute,
    ReadOnly,
    Write,
}

impl Right {
    const ALL: [Right; 4] = [
        Right::Execute,
        Right::NoExecute,
        Right::ReadOnly,
        Right::Write,
    ];

    /// The page with this right.
    fn of(self, page: Page) -> Page {
        let flags = page.flags();
        page.with_flags(match self {
            Right::Execute => flags - Flags::NO_EXECUTE,
            Right::NoExecute => flags | Flags::NO_EXECUTE,
            Right::ReadOnly => flags - Flags::WRITABLE,
            Right::Write => flags | Flags::WRITABLE,
        })
    }
}

impl<const PAGES: usize, const POOL: usize> Fuzzer<PAGES, POOL> {
    /// Changes rights of consecutive pages with all that belongs to it.
    pub(super) fn set_memory<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        probe: &mut impl Probe,
        op: Op,
        (pages, at, right): (Range<usize>, u16, u8),
    ) -> Result<(), Divergence> {
        let right = Right::ALL[right as usize % Right::ALL.len()];
        self.count_uses();
        let (va, n) = (self.va(pages.start), pages.len() as u64);
        // SAFETY: the window and the pool are the run's own.
        let result = unsafe {
            match right {
                Right::Execute => tables.set_memory_x(va, n),
                Right::NoExecute => tables.set_memory_nx(va, n),
                Right::ReadOnly => tables.set_memory_ro(va, n),
                Right::Write => tables.set_memory_rw(va, n),
            }
        };
        let result = self.commit(tables, at, result);
        match result {
            Ok(()) => {
                if let Some(at) = pages.clone().find(|&at| self.forbids(right, at)) {
                    return Err(self.differs(op, self.va(at), What::NoError, 0, 0));
                }
            }
            Err(e) => {
                self.counts.refused += 1;
                if !self.is_forbidden(op, right, &pages, e) {
                    return Err(self.differs(op, va, What::Error(e), 0, 0));
                }
            }
        }
        for at in pages.clone() {
            self.take_over(tables, op, at, right.of(self.pages[at]), result.is_err())?;
        }
        self.count_uses();
        for at in pages.clone() {
            self.compare_window(tables, op, (at, right), result.is_err())?;
        }
        self.look(tables, probe, op, pages)
    }

    /// Compares the direct map's entry for a page's frame with what it should be: after a failure
    /// perhaps what it was, or writable if nobody executes the frame.
    fn compare_window<M: Machine>(
        &mut self,
        tables: &Tables<M>,
        op: Op,
        (at, right): (usize, Right),
        failed: bool,
    ) -> Result<(), Divergence> {
        let Some(frame) = self.pages[at].frame() else {
            return Ok(());
        };
        self.counts.compared += 1;
        let (before, uses) = (self.frozen[frame], self.uses[frame]);
        let asked = match right {
            Right::Execute => true,
            Right::NoExecute | Right::Write => before && uses & EXECUTES != 0,
            Right::ReadOnly => before,
        };
        let window = tables.machine().window(self.pfn(frame));
        let found = tables.ptep_get(window);
        let found = found.map_err(|e| self.differs(op, window, What::Error(e), 0, 0))?;
        let frozen = !found.flags().contains(Flags::WRITABLE);
        let idle = !frozen && uses & EXECUTES == 0;
        let as_asked = frozen == asked || failed && (frozen == before || idle);
        if !as_asked || frozen && uses & WRITES != 0 {
            let expected = self.entry(tables, Page::new(frame, Flags::CONST));
            return Err(self.differs(op, window, What::Entry, expected.bits(), found.bits()));
        }
        self.frozen[frame] = frozen;
        Ok(())
    }

    /// Whether a right cannot be given to a page.
    fn forbids(&self, right: Right, at: usize) -> bool {
        let page = self.pages[at];
        let elsewhere = match right {
            Right::Execute => self.uses_of(at) & WRITES != 0,
            Right::Write => self.is_frozen(page) && self.uses_of(at) & EXECUTES != 0,
            Right::NoExecute | Right::ReadOnly => false,
        };
        !page.is_mapped() || super::run::is_unsafe(right.of(page).flags()) || elsewhere
    }

    /// Whether the reference confirms that a right could not be given.
    fn is_forbidden(&self, op: Op, right: Right, pages: &Range<usize>, error: MmError) -> bool {
        let forbidden = |at: usize| pages.contains(&at) && self.forbids(right, at);
        match error {
            MmError::WriteAndExecute { va } if right == Right::Execute => {
                // The page that is named is of the range, or maps a frame of it elsewhere; the user
                // half's may be another space's.
                let named = self.at(va).filter(|&at| at < PAGES - USER_PAGES);
                let writes = |at: usize| self.pages[at].flags().contains(Flags::WRITABLE);
                named.is_none_or(writes) && pages.clone().any(forbidden)
            }
            MmError::MustStayReadOnly { va } => {
                right == Right::Write && self.at(va).is_some_and(forbidden)
            }
            error => self.is_justified(op, pages, error, |page, _| right.of(page)),
        }
    }

    /// Whether a page maps a frame that is frozen.
    pub(super) fn is_frozen(&self, page: Page) -> bool {
        page.frame().is_some_and(|frame| self.frozen[frame])
    }

    /// Whether a page would make a frozen frame writable.
    pub(super) fn thaws(&self, page: Page) -> bool {
        self.is_frozen(page) && page.flags().contains(Flags::WRITABLE)
    }

    /// Tries to write to a page's frame by the direct map, which is no code.
    pub(super) fn touch_window<M: Machine>(
        &mut self,
        tables: &Tables<M>,
        probe: &mut impl Probe,
        op: Op,
        at: usize,
    ) -> Result<(), Divergence> {
        let Some(frame) = self.pages[at].frame() else {
            return Ok(());
        };
        let pfn = self.pfn(frame);
        let (window, writes) = (tables.machine().window(pfn), !self.frozen[frame]);
        if probe.executes(window) == Some(true) {
            return Err(self.differs(op, window, What::Execute, 0, 1));
        }
        match probe.store(window, super::NAME + pfn.as_u64()) {
            stored if stored == writes => Ok(()),
            stored => Err(self.differs(op, window, What::Store, writes.into(), stored.into())),
        }
    }

    /// How pages of any space map the frame that a page maps, as they were when it was counted.
    fn uses_of(&self, at: usize) -> u8 {
        self.pages[at].frame().map_or(0, |frame| self.uses[frame])
    }

    /// Counts how pages of any space map each frame.
    fn count_uses(&mut self) {
        let Fuzzer {
            uses,
            pages,
            boot,
            spaces,
            current,
            ..
        } = self;
        uses.fill(0);
        let asides = spaces.iter().enumerate();
        let asides = asides.filter(|(which, _)| Some(*which) != *current);
        let asides = asides.flat_map(|(_, side)| &side.pages);
        let boot = boot.iter().filter(|_| current.is_some());
        for page in pages.iter().chain(boot).chain(asides) {
            let Some(frame) = page.frame() else { continue };
            let flags = page.flags();
            uses[frame] |= u8::from(flags.contains(Flags::WRITABLE)) * WRITES;
            uses[frame] |= u8::from(!flags.contains(Flags::NO_EXECUTE)) * EXECUTES;
        }
    }
}
