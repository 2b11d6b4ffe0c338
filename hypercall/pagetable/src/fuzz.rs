//! Random operations on the page tables, against a reference that is too simple to be wrong.
//!
//! The reference is an array: for each page of a window, which frame it maps and with what rights.
//! After each operation every page that it touched must read as the reference says, queued or not;
//! whenever nothing is queued, the tables themselves and the processor's translations must agree
//! as well. An operation that fails must have a reason that the reference confirms, and leave each
//! page as it was or as it was asked for.
//!
//! Everything follows from the seed, on the host's model as on real Xen: a divergence found in one
//! place is replayed in the other.
//!
//! ```text
//! op (what may be asked) ──▶ Fuzzer::apply ──▶ Tables      page (what should be there)
//!                               │                │                  │
//!                               └──── Probe ─────┴──── compare ─────┘
//! ```
#![allow(
    clippy::result_large_err,
    reason = "a divergence ends the run, and there is no heap to put it on"
)]

mod code;
mod op;
mod page;
mod rights;
mod run;
mod space;

use hypercall::Pfn;

use crate::entry::Pte;
use crate::error::MmError;
use crate::frames::Frame;
use crate::layout::Layout;
use crate::machine::Machine;
use crate::spaces::AddressSpace;
use crate::tables::Tables;

pub use op::{CHANGES, KINDS, Op, Rng, generate};
pub use page::{Divergence, What};

use page::{Page, is_user};

const PAGE: u64 = 4096;
/// Frames that a run can take from the allocator and hold.
const HELD: usize = 64;
/// Sections and pauses nest up to here.
const DEPTH: u8 = 8;
/// Interrupts nest up to here.
const INTERRUPTS: u8 = 3;
/// Spaces that a run can have besides the one that boot ran in.
const SPACES: usize = 3;
/// The last pages of the window lie in the user half, and are other pages in each space.
const USER_PAGES: usize = 512;
/// Where they lie: below tables of their own.
const USER: u64 = 5 << 30;
/// What a frame of the pool says in its first word, with its number added: reads tell frames apart.
const NAME: u64 = 0x6e61_6d65_0000_0000;

/// Where nothing else is mapped, if the kernel's first [runtime region](Layout::RUNTIME) is larger
/// than 512 GiB and used from its start: the first half of 8 MiB lies below another L4 entry than the
/// rest.
#[must_use]
pub const fn window<L: Layout>() -> u64 {
    L::RUNTIME[0].start + (1 << 39) - (4 << 20)
}

/// Accesses memory as the kernel would, by virtual address; a fault is an answer.
pub trait Probe {
    /// Loads the word at `va`; `None` if that faults.
    fn load(&mut self, va: u64) -> Option<u64>;

    /// Stores to the word at `va`; false if that faults.
    fn store(&mut self, va: u64, value: u64) -> bool;

    /// Whether the page can be executed, where that can be found out without doing so.
    fn executes(&mut self, _va: u64) -> Option<bool> {
        None
    }

    /// Whether user mode can read the page, where there is a user mode.
    fn user_reads(&mut self, _va: u64) -> Option<bool> {
        None
    }
}

/// A change of the context's lazy mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A lazy section begins.
    Enter,
    /// It ends.
    Leave,
    /// Lazy mode pauses.
    Pause,
    /// It goes on.
    Resume,
    /// An interrupt begins.
    EnterInterrupt,
    /// It ends.
    LeaveInterrupt,
}

/// Changes the lazy mode of the running context, unguarded: for tests, which do it in every order.
///
/// # Errors
/// It does not match what came before, or the flush that belongs to it failed.
pub fn mode<M: Machine>(tables: &mut Tables<M>, to: Mode) -> Result<(), MmError> {
    let result = match to {
        Mode::Enter => tables.mmu.enable().map_err(MmError::from),
        Mode::Leave => tables.mmu.disable().map_err(MmError::from),
        Mode::Pause => tables.mmu.pause().map_err(MmError::from),
        Mode::Resume => tables.mmu.resume().map_err(MmError::from),
        Mode::EnterInterrupt => tables.mmu.enter_irq().map_err(MmError::from),
        Mode::LeaveInterrupt => tables.mmu.leave_irq().map_err(MmError::from),
    };
    tables.apply_log();
    result
}

/// Whether writes may wait now.
pub fn is_lazy<M: Machine>(tables: &Tables<M>) -> bool {
    tables.mmu.lazy().is_lazy()
}

/// How many requests are queued, flushes of the TLB not counted; and whether anything is.
pub fn queued<M: Machine>(tables: &Tables<M>) -> (usize, bool) {
    let batch = tables.mmu.batch();
    (batch.len(), !batch.is_empty())
}

/// The L1 entry for an address as it stands in the tables, whatever is queued.
pub fn in_table<M: Machine>(tables: &Tables<M>, va: u64) -> Option<Pte> {
    let mut table = tables.root();
    for level in (1..=tables.fold().top()).rev() {
        let memory = tables.machine().memory(table).cast::<u64>().cast_const();
        if memory.is_null() {
            return None;
        }
        let index = (va >> (12 + 9 * (level - 1)) & 511) as usize;
        // SAFETY: a page table that the window maps, and an index within it.
        let entry = Pte::from_table(unsafe { memory.add(index).read_volatile() });
        if level == 1 {
            return Some(entry);
        }
        table = tables.machine().pfn(entry.mfn()?)?;
    }
    None
}

/// A space that a run made, and what its pages should map while it is not the current one.
struct Side {
    space: AddressSpace,
    pages: [Page; USER_PAGES],
}

/// A run: what was done, and what should have come of it.
///
/// The window is `PAGES` pages (at most 32768, a multiple of 512), and `POOL` frames are mapped in
/// it again and again. It is large: for a static or a heap.
pub struct Fuzzer<const PAGES: usize, const POOL: usize> {
    seed: u64,
    rng: Rng,
    step: u64,
    /// First address of the window.
    base: u64,
    pages: [Page; PAGES],
    pool: [u32; POOL],
    /// Which frames of the pool are read-only in the direct map, as they were made executable.
    frozen: [bool; POOL],
    /// How pages map them: whether any writable, whether any executable.
    uses: [u8; POOL],
    /// The longest run of consecutive frames in the pool: first, length.
    run: (usize, usize),
    held: heapless::Vec<u32, HELD>,
    /// The last of the frames that were taken so that none is left; each names the next.
    hogged: Option<u32>,
    enabled: u8,
    paused: u8,
    /// Interrupts that go on over several operations.
    interrupts: u8,
    /// The next operation happens in an interrupt of its own.
    interrupt: bool,
    spaces: heapless::Vec<Side, SPACES>,
    /// Which of them is the current one; none for the one that boot ran in.
    current: Option<usize>,
    /// The pages of the space that boot ran in, while it is not the current one.
    boot: [Page; USER_PAGES],
    /// A part of the image that may be released, and which of its pages were: a bit each.
    spare: (u64, u64),
    /// Frames out of the allocator before the run began.
    out: u64,
    chunks_mapped: Option<u64>,
    counts: Counts,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations carried out.
    pub done: u64,
    /// Operations that failed, rightly.
    pub refused: u64,
    /// Entries compared.
    pub compared: u64,
    /// Pages accessed.
    pub touched: u64,
}

impl<const PAGES: usize, const POOL: usize> Fuzzer<PAGES, POOL> {
    /// Nothing yet: for a static.
    pub const EMPTY: Self = Fuzzer {
        seed: 0,
        rng: Rng::new(0),
        step: 0,
        base: 0,
        pages: [Page::NONE; PAGES],
        pool: [0; POOL],
        frozen: [false; POOL],
        uses: [0; POOL],
        run: (0, 0),
        held: heapless::Vec::new(),
        hogged: None,
        enabled: 0,
        paused: 0,
        interrupts: 0,
        interrupt: false,
        spaces: heapless::Vec::new(),
        current: None,
        boot: [Page::NONE; USER_PAGES],
        spare: (0, 0),
        out: 0,
        chunks_mapped: None,
        counts: Counts {
            done: 0,
            refused: 0,
            compared: 0,
            touched: 0,
        },
    };

    /// Begins a run in the window at `base`, aligned to 2 MiB, where nothing is mapped.
    ///
    /// # Errors
    /// No memory for the pool, or for the tables above the window.
    pub fn begin<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        base: u64,
        seed: u64,
    ) -> Result<(), MmError> {
        const {
            assert!(PAGES.is_multiple_of(512) && PAGES <= 1 << 15 && POOL < 1 << 16 && POOL > 0);
            assert!(PAGES > USER_PAGES);
        }
        self.seed = seed;
        self.rng = Rng::new(seed);
        (self.step, self.base) = (0, base);
        self.pages.fill(Page::NONE);
        self.frozen.fill(false);
        (self.enabled, self.paused) = (0, 0);
        (self.interrupts, self.interrupt) = (0, false);
        (self.current, self.spare) = (None, (0, 0));
        self.spaces.clear();
        self.boot.fill(Page::NONE);
        self.counts = Counts::default();
        // Tables above the window stay: they are nobody's loss.
        for at in (0..PAGES as u64).step_by(512) {
            tables.ensure_pmd_place(self.va(at as usize))?;
        }
        tables.ensure_pte_table(base ^ code::CODE)?;
        tables.flush()?;
        let counts = tables.frames().counts();
        self.out = counts.mapped - counts.free;
        self.chunks_mapped = tables.frames().next_chunk();
        for place in &mut self.pool {
            let mut frame = tables.alloc_frame()?;
            *place = frame.pfn().as_u64() as u32;
            name(tables, &mut frame);
            keep(frame);
        }
        self.pool.sort_unstable();
        self.run = longest_run(&self.pool);
        Ok(())
    }

    /// Lets the run release pages of the image, up to 64 from `va` on, which nobody uses.
    pub fn spare_image(&mut self, va: u64) {
        self.spare = (va, 0);
    }

    /// Carries out the next operation of the seed.
    ///
    /// # Errors
    /// A divergence.
    pub fn step<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        probe: &mut impl Probe,
    ) -> Result<(), Divergence> {
        let op = generate(&mut self.rng, PAGES as u16);
        self.apply(tables, probe, op)
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Ends the run: everything is unmapped and given back, and the allocator must have as many
    /// frames as before.
    ///
    /// # Errors
    /// A divergence.
    pub fn end<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        probe: &mut impl Probe,
    ) -> Result<(), Divergence> {
        self.interrupt = false;
        while self.interrupts > 0 {
            self.apply(tables, probe, Op::LeaveInterrupt)?;
        }
        self.apply(tables, probe, Op::Unhog)?;
        while self.paused > 0 {
            self.apply(tables, probe, Op::Resume)?;
        }
        while self.enabled > 0 {
            self.apply(tables, probe, Op::Leave)?;
        }
        self.check(tables)?;
        self.apply(tables, probe, Op::Switch { to: 0 })?;
        self.check(tables)?;
        while !self.spaces.is_empty() {
            self.apply(tables, probe, Op::DropSpace { which: 0 })?;
        }
        let n = PAGES as u16;
        self.apply(tables, probe, Op::Unmap { at: 0, n })?;
        let user = (PAGES - USER_PAGES) as u16;
        self.apply(tables, probe, Op::Unmap { at: user, n })?;
        self.apply(tables, probe, Op::Flush)?;
        self.check(tables)?;
        while !self.held.is_empty() {
            self.apply(tables, probe, Op::Free { which: 0 })?;
        }
        for place in 0..POOL {
            // SAFETY: the pool's frames were handed out to this run, which gives each back once.
            let frame = unsafe { Frame::from_pfn(Pfn::truncate(self.pool[place].into())) };
            let freed = tables.free_frame(frame);
            freed.map_err(|e| self.differs(Op::Unhog, 0, What::Error(e), 0, 0))?;
        }
        // What refusals orphaned comes back when somebody asks for a frame.
        let reclaimed = tables.alloc_frame().and_then(|f| tables.free_frame(f));
        reclaimed.map_err(|e| self.differs(Op::Unhog, 0, What::Error(e), 0, 0))?;
        let counts = tables.frames().counts();
        let out = counts.mapped - counts.free + u64::from(self.spare.1.count_ones());
        // Growth of the direct map takes frames that stay taken.
        if out != self.out && self.chunks_mapped == tables.frames().next_chunk() {
            return Err(self.differs(Op::Unhog, 0, What::FreeFrames, self.out, out));
        }
        Ok(())
    }

    /// Takes the tables' word for what is mapped, after a failure that was arranged: what was
    /// queued is lost, and only whoever arranged it knows how much.
    ///
    /// # Errors
    /// Something is mapped that never was asked for.
    pub fn resync<M: Machine>(&mut self, tables: &mut Tables<M>) -> Result<(), Divergence> {
        for at in 0..PAGES {
            let va = self.va(at);
            let found = tables.ptep_get(va).unwrap_or(Pte::NONE);
            let value = tables.pte_val(found);
            let frame = value.and_then(|v| {
                let pfn = v.pfn.as_u64() as u32;
                self.pool.binary_search(&pfn).ok()
            });
            self.pages[at] = match (found.is_present(), value, frame) {
                (false, ..) => Page::NONE,
                (true, Some(value), Some(frame)) => Page::new(frame, value.flags),
                _ => return Err(self.differs(Op::Flush, va, What::Entry, 0, found.bits())),
            };
        }
        Ok(())
    }

    /// Compares every page of the window with the reference; and the tables themselves, if nothing
    /// is queued.
    ///
    /// # Errors
    /// The first divergence.
    pub fn check<M: Machine>(&mut self, tables: &Tables<M>) -> Result<(), Divergence> {
        let idle = !queued(tables).1;
        for at in 0..PAGES {
            self.compare(tables, Op::Flush, at, self.pages[at])?;
            if idle {
                self.compare_table(tables, Op::Flush, at)?;
            }
        }
        Ok(())
    }

    /// The address of a page of the window; the last 512 lie in the user half.
    #[must_use]
    pub fn va(&self, at: usize) -> u64 {
        match at.checked_sub(PAGES - USER_PAGES) {
            Some(user) => USER + user as u64 * PAGE,
            None => self.base + at as u64 * PAGE,
        }
    }

    /// The page at an address, if it is one of the window.
    fn at(&self, va: u64) -> Option<usize> {
        let within = |base: u64, pages: usize| {
            let at = (va.wrapping_sub(base) / PAGE) as usize;
            (at < pages).then_some(at)
        };
        let kernels = PAGES - USER_PAGES;
        within(self.base, kernels).or_else(|| Some(kernels + within(USER, USER_PAGES)?))
    }

    fn pfn(&self, place: usize) -> Pfn {
        Pfn::truncate(self.pool[place % POOL].into())
    }

    fn is_lazy(&self) -> bool {
        self.enabled > 0 && self.paused == 0 && self.interrupts == 0
    }

    #[cold]
    fn differs(&self, op: Op, va: u64, what: What, expected: u64, found: u64) -> Divergence {
        Divergence {
            seed: self.seed,
            step: self.step,
            va,
            op,
            what,
            expected,
            found,
        }
    }

    /// The entry that a page should have.
    fn entry<M: Machine>(&self, tables: &Tables<M>, page: Page) -> Pte {
        match page.frame().map(|frame| tables.mfn(self.pfn(frame))) {
            Some(Ok(mfn)) => Pte::from_mfn(mfn, page.flags()),
            _ => Pte::NONE,
        }
    }

    /// Judges an entry by what a page should map.
    fn agree<M: Machine>(
        &self,
        tables: &Tables<M>,
        (op, at, what): (Op, usize, What),
        page: Page,
        found: Pte,
    ) -> Result<(), Divergence> {
        let expected = self.entry(tables, page);
        if expected.same(found) && is_user(expected) == is_user(found) {
            return Ok(());
        }
        let (expected, found) = (expected.bits(), found.bits());
        Err(self.differs(op, self.va(at), what, expected, found))
    }

    /// Compares an entry, as software sees it, with what it should be.
    fn compare<M: Machine>(
        &mut self,
        tables: &Tables<M>,
        op: Op,
        at: usize,
        page: Page,
    ) -> Result<(), Divergence> {
        self.counts.compared += 1;
        let found = tables.ptep_get(self.va(at)).unwrap_or(Pte::NONE);
        self.agree(tables, (op, at, What::Entry), page, found)
    }

    /// Compares an entry in the tables with what it should be once nothing is queued.
    fn compare_table<M: Machine>(
        &mut self,
        tables: &Tables<M>,
        op: Op,
        at: usize,
    ) -> Result<(), Divergence> {
        self.counts.compared += 1;
        let found = in_table(tables, self.va(at)).unwrap_or(Pte::NONE);
        self.agree(tables, (op, at, What::Table), self.pages[at], found)
    }

    /// Takes over what an operation made of a page: what was asked for or, if it failed, perhaps
    /// what was there before.
    fn take_over<M: Machine>(
        &mut self,
        tables: &Tables<M>,
        op: Op,
        at: usize,
        asked: Page,
        failed: bool,
    ) -> Result<(), Divergence> {
        let done = self.compare(tables, op, at, asked);
        if done.is_err() && failed && self.compare(tables, op, at, self.pages[at]).is_ok() {
            return Ok(());
        }
        done?;
        self.pages[at] = asked;
        Ok(())
    }

    /// Accesses a page through the processor's translations.
    fn touch(&mut self, probe: &mut impl Probe, op: Op, at: usize) -> Result<(), Divergence> {
        self.counts.touched += 1;
        let (va, page) = (self.va(at), self.pages[at]);
        let bad = |what, expected, found| Err(self.differs(op, va, what, expected, found));
        let name = page.frame().map(|frame| NAME + self.pfn(frame).as_u64());
        let found = probe.load(va);
        if found != name {
            return bad(What::Load, name.unwrap_or(0), found.unwrap_or(0));
        }
        let flags = page.flags();
        let writes = page.is_mapped() && flags.contains(super::Flags::WRITABLE);
        let stored = probe.store(va, name.unwrap_or(0));
        if stored != writes {
            return bad(What::Store, writes.into(), stored.into());
        }
        let runs = page.is_mapped() && !flags.contains(super::Flags::NO_EXECUTE);
        if let Some(found) = probe.executes(va).filter(|found| *found != runs) {
            return bad(What::Execute, runs.into(), found.into());
        }
        // All of the user half is user mode's, where the space has one.
        let users = page.is_mapped() && at >= PAGES - USER_PAGES && self.current.is_some();
        match probe.user_reads(va) {
            Some(found) if found != users => bad(What::User, users.into(), found.into()),
            _ => Ok(()),
        }
    }
}

/// Writes into a frame who it is.
fn name<M: Machine>(tables: &mut Tables<M>, frame: &mut Frame) {
    let name = NAME + frame.pfn().as_u64();
    tables.frame_memory(frame)[0] = name;
}

/// The frame stays handed out; its number is enough to give it back.
fn keep(frame: Frame) {
    let Frame { .. } = frame;
}

/// Where the longest run of consecutive numbers begins, and how long it is.
fn longest_run(numbers: &[u32]) -> (usize, usize) {
    let (mut best, mut first) = ((0, 1), 0);
    for i in 1..=numbers.len() {
        if i < numbers.len() && numbers[i] == numbers[i - 1] + 1 {
            continue;
        }
        if i - first > best.1 {
            best = (first, i - first);
        }
        first = i;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found() {
        assert_eq!(longest_run(&[5]), (0, 1));
        assert_eq!(longest_run(&[1, 2, 4, 5, 6, 9]), (2, 3));
        assert_eq!(longest_run(&[1, 3, 5, 6]), (2, 2));
    }

    #[test]
    fn a_seed_is_a_sequence() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        for _ in 0..1000 {
            assert_eq!(generate(&mut a, 2048), generate(&mut b, 2048));
        }
    }
}
