//! A run: what vCPUs do by a seed, and what should come of it.
//!
//! The reference is a list of pages, the kernel's and those of each space. What an operation should
//! make of it is worked out here, by the rules that `Tables` documents; `look` compares.

use hypercall::Pfn;
use model::{Access, Layout, Mode as Cpu};
use pagetable::frames::{Frame, FrameError};
use pagetable::fuzz::{Mode, Rng, mode};
use pagetable::locks::Part;
use pagetable::mapping::Mapping;
use pagetable::spaces::AddressSpace;
use pagetable::{Change, Flags, MmError, Tables, Value};

use super::cpus::{Cpus, Host, NAME, Plant};
use super::op::{
    KERNEL, KINDS, OWNERS, Op, PAGES, POOL, SPACES, TABLE, USER, generate, owner_va, pages_of, va,
};
use super::refusal::Refusals;

/// Sections and pauses nest up to here.
const DEPTH: u8 = 4;
/// Frames that are held, mapped nowhere.
const HELD: usize = 16;

/// What a page maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Page {
    pub(super) frame: usize,
    pub(super) flags: Flags,
}

/// A space, and what its user half maps.
pub(super) struct Side {
    /// None is the one that boot ran in.
    pub(super) space: Option<AddressSpace>,
    pub(super) pages: Vec<Option<Page>>,
}

impl Side {
    pub(super) fn new(space: Option<AddressSpace>) -> Side {
        Side {
            space,
            pages: vec![None; USER],
        }
    }
}

/// What a vCPU is at.
#[derive(Clone, Copy, Default)]
pub(super) struct At {
    pub(super) space: usize,
    enabled: u8,
    paused: u8,
}

/// What a vCPU works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum On {
    /// Its own queue and frames.
    Nothing,
    Kernel,
    /// The user half of a space.
    Space(usize),
    All,
}

impl On {
    fn part<'a>(self, spaces: &'a [Option<Side>], boot: &'a AddressSpace) -> Option<Part<'a>> {
        match self {
            On::Nothing => None,
            On::Kernel => Some(Part::KernelHalf),
            On::Space(which) => Some(Part::Space(space_of(spaces, boot, which))),
            On::All => Some(Part::All),
        }
    }
}

/// A space by its place; where there is none, the one that boot ran in.
fn space_of<'a>(
    spaces: &'a [Option<Side>],
    boot: &'a AddressSpace,
    which: usize,
) -> &'a AddressSpace {
    let side = spaces[which].as_ref();
    side.and_then(|side| side.space.as_ref()).unwrap_or(boot)
}

/// Why a run ended, or what was found.
pub(super) type Found<T = ()> = Result<T, String>;

pub(super) struct Run {
    pub(super) cpus: Cpus,
    pub(super) rng: Rng,
    pub(super) step: u64,
    pub(super) pool: Vec<Pfn>,
    kernel: Vec<Option<Page>>,
    pub(super) spaces: [Option<Side>; SPACES + 1],
    pub(super) at: Vec<At>,
    held: Vec<Frame>,
    owned: [Option<Mapping>; OWNERS],
    /// The numbers of all that was done, in one.
    pub(super) digest: u64,
    pub(super) counts: Counts,
    pub(super) refusals: Refusals,
}

/// How vCPUs met.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counts {
    /// Steps that a vCPU did not take as it would have had to wait.
    pub(super) waited: u64,
    /// Steps that one took while another had something queued.
    pub(super) beside: u64,
    /// Times that Xen refused something.
    pub(super) refused: u64,
}

/// A page of the kernel's half is not a program's.
fn rights(at: usize, kind: usize) -> Flags {
    let programs = if at < KERNEL {
        Flags::USER
    } else {
        Flags::empty()
    };
    KINDS[kind] - programs
}

pub(super) fn said(what: &str, error: MmError) -> String {
    format!("{what}: {error}")
}

impl Run {
    pub(super) fn new(
        layout: &Layout,
        seed: u64,
        side_by_side: bool,
        plant: Option<Plant>,
    ) -> Found<Run> {
        let spots = (0..PAGES).map(va).collect();
        let cpus = Cpus::new(layout, seed, spots, side_by_side, plant);
        let cpus = cpus.map_err(|e| said("takeover", e))?;
        let at = vec![At::default(); cpus.count()];
        let mut run = Run {
            cpus,
            rng: Rng::new(seed),
            step: 0,
            pool: Vec::new(),
            kernel: vec![None; KERNEL],
            spaces: Default::default(),
            at,
            held: Vec::new(),
            owned: Default::default(),
            digest: 0,
            counts: Counts::default(),
            refusals: Refusals::default(),
        };
        run.spaces[0] = Some(Side::new(None));
        for _ in 0..POOL {
            let frame = run.named_frame(0)?.ok_or("no frame for the pool")?;
            run.pool.push(frame.pfn());
        }
        Ok(run)
    }

    /// Takes the next step of the seed.
    pub(super) fn step(&mut self) -> Found {
        let (vcpu, op) = generate(&mut self.rng, self.cpus.count());
        let interrupt = self.rng.below(16) == 0 && !matches!(op, Op::Switch { .. });
        self.begin_refusals();
        // A turn, whether anything can be done in it or not.
        self.with(vcpu, On::Nothing, |_| ())?;
        self.end_refusals()
            .map_err(|found| self.at_step(vcpu, op, &found))?;
        self.limit_refusals(op);
        if interrupt {
            self.mode(vcpu, Mode::EnterInterrupt)?;
        }
        let done = self.apply(vcpu, op, interrupt);
        if interrupt {
            self.mode(vcpu, Mode::LeaveInterrupt)?;
        }
        self.call_off();
        let pages = done.and_then(|pages| self.end_refusals().map(|()| pages));
        let pages = pages.and_then(|pages| self.check(vcpu, &pages).map(|()| pages));
        let pages = pages.map_err(|found| self.at_step(vcpu, op, &found))?;
        self.step += 1;
        let mark = [vcpu as u64, pages.len() as u64, self.cpus.idle().into()];
        for number in mark {
            self.digest = (self.digest ^ number).wrapping_mul(0x100_0000_01b3);
        }
        Ok(())
    }

    fn at_step(&self, vcpu: usize, op: Op, found: &str) -> String {
        format!("step {} vCPU {vcpu} {op:?}: {found}", self.step)
    }

    /// A space of the run's.
    pub(super) fn space<'a>(&'a self, boot: &'a AddressSpace, which: usize) -> &'a AddressSpace {
        space_of(&self.spaces, boot, which)
    }

    /// A vCPU at work.
    pub(super) fn with<R>(
        &mut self,
        vcpu: usize,
        on: On,
        f: impl FnOnce(&mut Tables<Host>) -> R,
    ) -> Found<R> {
        let boot = self.cpus.of(0).boot_space();
        let part = on.part(&self.spaces, &boot);
        let done = self.cpus.with(vcpu, part, f);
        done.map_err(|e| said("sending what is queued", e))
    }

    /// Whether a vCPU would have to wait for what it wants to work on.
    fn must_wait(&mut self, vcpu: usize, on: On) -> Found<bool> {
        let boot = self.cpus.of(0).boot_space();
        let part = on.part(&self.spaces, &boot);
        let waits = self.cpus.must_wait(vcpu, part);
        waits.map_err(|e| said("letting go", e))
    }

    /// What a page of a vCPU's space is part of.
    pub(super) fn on_page(&self, vcpu: usize, at: usize) -> On {
        match at < KERNEL {
            true => On::Kernel,
            false => On::Space(self.at[vcpu].space),
        }
    }

    /// What an operation works on.
    fn on(&self, vcpu: usize, op: Op) -> On {
        match op {
            Op::Map { at, .. }
            | Op::Unmap { at, .. }
            | Op::Protect { at, .. }
            | Op::Move { from: at, .. }
            | Op::Set { at, .. } => self.on_page(vcpu, at),
            Op::InSpace { which, .. } | Op::Switch { to: which } => On::Space(which),
            Op::MoveTable { .. } | Op::Own { .. } | Op::DropSpace { .. } => On::Kernel,
            _ => On::Nothing,
        }
    }

    fn mode(&mut self, vcpu: usize, to: Mode) -> Found {
        let done = self.with(vcpu, On::Nothing, |tables| mode(tables, to))?;
        self.allow(&format!("{to:?}"), done)
    }

    pub(super) fn is_lazy(&self, vcpu: usize) -> bool {
        self.at[vcpu].enabled > 0 && self.at[vcpu].paused == 0
    }

    /// A frame that says who it is, if any is left; nobody may know it from before.
    fn named_frame(&mut self, vcpu: usize) -> Found<Option<Frame>> {
        let frame = self.with(vcpu, On::Nothing, |tables| {
            let mut frame = tables.alloc_frame()?;
            tables.frame_memory(&mut frame)[0] = NAME + frame.pfn().as_u64();
            Ok(frame)
        })?;
        match frame {
            Ok(frame) => Ok(Some(frame)),
            Err(MmError::Frame(FrameError::OutOfMemory)) => Ok(None),
            Err(e) => Err(said("a frame", e)),
        }
    }

    /// What a page maps in a space.
    pub(super) fn page(&self, space: usize, at: usize) -> Option<Page> {
        match at.checked_sub(KERNEL) {
            None => self.kernel[at],
            Some(user) => self.spaces[space].as_ref()?.pages[user],
        }
    }

    pub(super) fn set_page(&mut self, space: usize, at: usize, page: Option<Page>) {
        self.remember(space, at, self.page(space, at));
        self.put_page(space, at, page);
    }

    /// Has the reference say what a page is.
    pub(super) fn put_page(&mut self, space: usize, at: usize, page: Option<Page>) {
        match (at.checked_sub(KERNEL), &mut self.spaces[space]) {
            (None, _) => self.kernel[at] = page,
            (Some(user), Some(side)) => side.pages[user] = page,
            (Some(_), None) => {}
        }
    }

    fn any_mapped(&self, space: usize, mut pages: std::ops::Range<usize>) -> bool {
        pages.any(|at| self.page(space, at).is_some())
    }

    fn all_mapped(&self, space: usize, mut pages: std::ops::Range<usize>) -> bool {
        pages.all(|at| self.page(space, at).is_some())
    }

    /// Carries out a step, and says which pages it concerned.
    fn apply(&mut self, vcpu: usize, op: Op, interrupt: bool) -> Found<Vec<usize>> {
        let on = self.on(vcpu, op);
        if self.must_wait(vcpu, on)? {
            self.counts.waited += 1;
            return Ok(Vec::new());
        }
        self.counts.beside += u64::from(self.cpus.others_queue(vcpu));
        let space = self.at[vcpu].space;
        match op {
            Op::Map { at, n, frame, kind } if !self.any_mapped(space, at..at + n) => {
                let frames = self.frames(frame, n);
                let flags = rights(at, kind);
                self.change(vcpu, at, |tables| {
                    // SAFETY: the model's memory, and pages that are the run's own.
                    unsafe { tables.map(va(at), frames.into_iter(), flags) }
                })?;
                for i in 0..n {
                    let frame = (frame + i) % POOL;
                    self.set_page(space, at + i, Some(Page { frame, flags }));
                }
                Ok((at..at + n).collect())
            }
            Op::Map { at, n, .. } | Op::Unmap { at, n } => {
                self.change(vcpu, at, |tables| {
                    // SAFETY: the model's memory, and pages that are the run's own.
                    unsafe { tables.unmap(va(at), n as u64) }
                })?;
                (at..at + n).for_each(|at| self.set_page(space, at, None));
                Ok((at..at + n).collect())
            }
            Op::Protect { at, n, write } if self.all_mapped(space, at..at + n) => {
                self.protect(vcpu, at, n, write)
            }
            Op::Move { from, to, n } => self.move_pages(vcpu, from, to, n),
            Op::MoveTable { from, to } if !self.any_mapped(space, pages_of(to)) && from != to => {
                if !self.any_mapped(space, pages_of(from)) {
                    return Ok(Vec::new());
                }
                self.change(vcpu, from, |tables| {
                    // SAFETY: the model's memory, and pages that are the run's own.
                    unsafe { tables.move_pages(va(from), va(to), TABLE) }
                })?;
                Ok(self.carry_over(space, pages_of(from), to))
            }
            Op::Set { at, frame, kind } => {
                let (pfn, flags) = (self.pool[frame], rights(at, kind));
                let set = self.try_change(vcpu, at, |tables| {
                    // SAFETY: the model's memory, and pages that are the run's own.
                    unsafe { tables.set_ptes(va(at), Value::new(pfn, flags), 1) }
                })?;
                match set {
                    Err(MmError::NoTable { .. }) if self.page(space, at).is_none() => {}
                    set => {
                        self.allow("refused", set)?;
                        self.set_page(space, at, Some(Page { frame, flags }));
                    }
                }
                Ok(vec![at])
            }
            Op::InSpace {
                which,
                at,
                n,
                frame,
            } => self.in_space(vcpu, which, (at, n, frame)),
            Op::NewSpace | Op::Switch { .. } | Op::DropSpace { .. } => {
                self.space_op(vcpu, op, interrupt)
            }
            Op::Alloc | Op::Free { .. } | Op::Own { .. } => self.frame_op(vcpu, op),
            Op::SchedOut { vcpu } => {
                self.cpus.model.sched_out(vcpu);
                Ok(Vec::new())
            }
            _ if interrupt => Ok(Vec::new()),
            _ => self.mode_op(vcpu, op),
        }
    }

    pub(super) fn frames(&self, first: usize, n: usize) -> Vec<Pfn> {
        (first..first + n).map(|i| self.pool[i % POOL]).collect()
    }

    /// Changes pages, which nothing may keep from it.
    fn change(
        &mut self,
        vcpu: usize,
        at: usize,
        f: impl FnOnce(&mut Tables<Host>) -> Result<Change, MmError>,
    ) -> Found {
        let done = self.try_change(vcpu, at, f)?;
        self.allow("refused", done)
    }

    /// Changes pages; most changes may wait for the end of their section.
    fn try_change(
        &mut self,
        vcpu: usize,
        at: usize,
        f: impl FnOnce(&mut Tables<Host>) -> Result<Change, MmError>,
    ) -> Found<Result<(), MmError>> {
        let later = !at.is_multiple_of(4);
        let on = self.on_page(vcpu, at);
        self.with(vcpu, on, |tables| {
            let change = f(tables)?;
            if !later {
                return change.commit(tables);
            }
            // SAFETY: what is read and written of the range meanwhile may be the old or the new.
            unsafe { change.defer() };
            Ok(())
        })
    }

    fn protect(&mut self, vcpu: usize, at: usize, n: usize, write: bool) -> Found<Vec<usize>> {
        let none = Flags::empty();
        let (add, remove) = match write {
            true => (Flags::WRITABLE, none),
            false => (none, Flags::WRITABLE),
        };
        self.change(vcpu, at, |tables| {
            // SAFETY: as in `apply`.
            unsafe { tables.protect(va(at), n as u64, add, remove) }
        })?;
        let space = self.at[vcpu].space;
        for at in at..at + n {
            let page = self.page(space, at).map(|page| Page {
                flags: (page.flags - remove) | add,
                ..page
            });
            self.set_page(space, at, page);
        }
        Ok((at..at + n).collect())
    }

    fn move_pages(&mut self, vcpu: usize, from: usize, to: usize, n: usize) -> Found<Vec<usize>> {
        let space = self.at[vcpu].space;
        let one_region = to % 64 + n <= 64;
        let possible = one_region
            && (from < KERNEL) == (to < KERNEL)
            && from.abs_diff(to) >= n
            && self.all_mapped(space, from..from + n)
            && !self.any_mapped(space, to..to + n);
        if !possible {
            return Ok(vec![from]);
        }
        self.change(vcpu, from, |tables| {
            // SAFETY: as in `apply`.
            unsafe { tables.move_pages(va(from), va(to), n as u64) }
        })?;
        Ok(self.carry_over(space, from..from + n, to))
    }

    /// Moves what the reference has of pages.
    fn carry_over(&mut self, space: usize, from: std::ops::Range<usize>, to: usize) -> Vec<usize> {
        let first = from.start;
        let mut concerned = Vec::new();
        for at in from {
            let page = self.page(space, at);
            self.set_page(space, at, None);
            self.set_page(space, to + at - first, page);
            concerned.extend([at, to + at - first]);
        }
        concerned
    }

    fn frame_op(&mut self, vcpu: usize, op: Op) -> Found<Vec<usize>> {
        match op {
            Op::Alloc if self.held.len() < HELD => {
                let frame = self.named_frame(vcpu)?;
                self.held.extend(frame);
            }
            Op::Free { which } if !self.held.is_empty() => {
                let frame = self.held.swap_remove(which % self.held.len());
                let freed = self.with(vcpu, On::Nothing, |tables| tables.free_frame(frame))?;
                freed.map_err(|e| said("freeing a frame", e))?;
            }
            Op::Own { place, n } => match self.owned[place].take() {
                Some(mapping) => {
                    let done =
                        self.with(vcpu, On::Kernel, |tables| tables.unmap_and_free(mapping))?;
                    done.map_err(|e| said("unmapping frames", e.error))?;
                }
                None => {
                    let mut frames = Vec::new();
                    for _ in 0..n {
                        frames.extend(self.named_frame(vcpu)?);
                    }
                    let done = self.with(vcpu, On::Kernel, |tables| {
                        tables.map_frames(owner_va(place), frames, Flags::DATA)
                    })?;
                    self.owned[place] = Some(done.map_err(|e| said("mapping frames", e))?);
                    self.use_owned(place)?;
                }
            },
            _ => {}
        }
        Ok(Vec::new())
    }

    /// Every vCPU uses what was just mapped.
    fn use_owned(&mut self, place: usize) -> Found {
        for vcpu in 0..self.cpus.count() {
            self.cpus.model.run_on(vcpu);
            let used = self
                .cpus
                .model
                .access(owner_va(place), Access::Write, Cpu::Kernel);
            used.map_err(|fault| format!("vCPU {vcpu} cannot use what was mapped: {fault:x?}"))?;
        }
        Ok(())
    }

    fn mode_op(&mut self, vcpu: usize, op: Op) -> Found<Vec<usize>> {
        let at = &mut self.at[vcpu];
        let to = match op {
            Op::Enter if at.enabled < DEPTH => {
                at.enabled += 1;
                Mode::Enter
            }
            Op::Leave if at.enabled > 0 => {
                at.enabled -= 1;
                Mode::Leave
            }
            Op::Pause if at.paused < DEPTH => {
                at.paused += 1;
                Mode::Pause
            }
            Op::Resume if at.paused > 0 => {
                at.paused -= 1;
                Mode::Resume
            }
            Op::Flush => {
                let flushed = self.with(vcpu, On::Nothing, Tables::flush)?;
                return self.allow("a flush", flushed).map(|()| Vec::new());
            }
            _ => return Ok(Vec::new()),
        };
        self.mode(vcpu, to)?;
        Ok(Vec::new())
    }

    /// Undoes everything: as many frames are free as before, but for those of tables that stay.
    pub(super) fn end(&mut self) -> Found {
        for vcpu in 0..self.at.len() {
            while self.at[vcpu].paused > 0 {
                self.mode_op(vcpu, Op::Resume)?;
            }
            while self.at[vcpu].enabled > 0 {
                self.mode_op(vcpu, Op::Leave)?;
            }
        }
        for vcpu in 0..self.at.len() {
            self.space_op(vcpu, Op::Switch { to: 0 }, false)?;
        }
        for which in 1..=SPACES {
            self.space_op(0, Op::DropSpace { which }, false)?;
            if self.spaces[which].is_some() {
                return Err(format!("space {which} stays"));
            }
        }
        for first in (0..PAGES).step_by(64) {
            self.apply(0, Op::Unmap { at: first, n: 64 }, false)?;
        }
        for place in (0..OWNERS)
            .filter(|&place| self.owned[place].is_some())
            .collect::<Vec<_>>()
        {
            self.frame_op(0, Op::Own { place, n: 1 })?;
        }
        for frame in std::mem::take(&mut self.held) {
            let freed = self.with(0, On::Nothing, |tables| tables.free_frame(frame))?;
            freed.map_err(|e| said("freeing a frame", e))?;
        }
        self.check_remembered()?;
        self.check_all()
    }
}
