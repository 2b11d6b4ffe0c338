//! vCPUs that run programs: they fork, replace and end whole spaces, and change what is mapped there, while
//! others run in the same ones, and Xen refuses some of it halfway. Each space holds what a list of its
//! pages says, and no vCPU remembers anything else.

use std::collections::BTreeMap;

use hypercall::{Errno, Op as Call, Pfn};
use model::{Access, Injection, Kind, Layout, Mode};
use pagetable::fuzz::Rng;
use pagetable::locks::Part;
use pagetable::spaces::AddressSpace;
use pagetable::state::Kind as Record;
use pagetable::user::OnWrite;
use pagetable::{Flags, MmError, Tables};

use super::common::layout::DIRECT;
use super::common::{MIB, PAGE, small};
use super::cpus::{Cpus, Host, NAME, NAMES, Plant};
use super::run::{Found, said};

/// Where programs lie: in three tables side by side.
const BASE: u64 = 0x40_0000;
const SPAN: u64 = 512 * PAGE;
const TABLES: u64 = 3;
/// Programs at once.
const MOST: usize = 5;
/// Steps between two looks at everything.
const LOOK: u64 = 256;

/// A space, and what it should hold: of each page the content, and whether it may be written to.
struct Program {
    space: AddressSpace,
    pages: BTreeMap<u64, (u64, bool)>,
}

/// What becomes of pages.
type Changes = Vec<(u64, Option<(u64, bool)>)>;

pub(super) struct Programs {
    cpus: Cpus,
    rng: Rng,
    /// The content that comes next.
    next: u64,
    all: Vec<Program>,
    /// Which of them each vCPU runs, if it runs any.
    at: Vec<Option<usize>>,
    step: u64,
    free: u64,
    /// How often Xen refused something.
    pub(super) refused: u64,
}

/// Addresses near the ends of tables, where ranges cross them.
fn address(rng: &mut Rng) -> u64 {
    BASE + rng.below(TABLES) * SPAN + (rng.below(24) + 500) % 512 * PAGE
}

fn content(name: u64) -> u64 {
    NAME + name % NAMES
}

impl Programs {
    /// Four vCPUs, none of which runs a program yet.
    pub(super) fn new(seed: u64, plant: Option<Plant>) -> Found<Programs> {
        let layout = Layout {
            vcpus: 4,
            pcid: seed.is_multiple_of(2),
            survive_crash: true,
            ..small([Kind::DomU, Kind::Dom0][(seed / 2 % 2) as usize], 40 * MIB)
        };
        let pages = (0..TABLES * 512).filter(|page| (page + 12) % 512 < 24);
        let spots = pages.map(|page| BASE + page * PAGE).collect();
        let cpus = Cpus::new(&layout, seed, spots, true, plant);
        let cpus = cpus.map_err(|e| said("takeover", e))?;
        let mut programs = Programs {
            at: vec![None; cpus.count()],
            cpus,
            rng: Rng::new(seed),
            next: 1,
            all: Vec::new(),
            step: 0,
            free: 0,
            refused: 0,
        };
        programs.free = programs.count_free()?;
        Ok(programs)
    }

    /// How many frames are free, with those that refusals left over.
    fn count_free(&mut self) -> Found<u64> {
        let free = self.cpus.with(0, None, |tables| {
            let frame = tables.alloc_frame()?;
            tables.free_frame(frame)?;
            Ok::<_, MmError>(tables.frames().counts().free)
        });
        free.and_then(|free| free).map_err(|e| said("a frame", e))
    }

    /// A vCPU at work in a program's space.
    fn within<R>(
        &mut self,
        vcpu: usize,
        which: usize,
        f: impl FnOnce(&mut Tables<Host>) -> Result<R, MmError>,
    ) -> Result<R, MmError> {
        let space = &self.all[which].space;
        let part = Some(Part::Space(space));
        self.cpus
            .with(vcpu, part, |tables| tables.in_space(space, f))?
    }

    /// Takes the next step of the seed.
    pub(super) fn step(&mut self) -> Found {
        let vcpu = self.rng.below(self.cpus.count() as u64) as usize;
        let what = self.rng.below(100);
        let done = match self.all.len() {
            0 => self.create(vcpu),
            _ => self.act(vcpu, what),
        };
        let done = done.and_then(|()| self.check(vcpu));
        done.map_err(|found| format!("step {} vCPU {vcpu} does {what}: {found}", self.step))?;
        self.step += 1;
        Ok(())
    }

    fn act(&mut self, vcpu: usize, what: u64) -> Found {
        let random = self.rng.below(self.all.len() as u64) as usize;
        let own = self.at[vcpu].filter(|_| self.rng.below(4) > 0);
        let which = own.unwrap_or(random);
        match what {
            0..50 => self.change(vcpu, which, what),
            50..68 => self.write(vcpu),
            68..78 if self.all.len() < MOST => self.fork(vcpu, which),
            78..84 if self.all.len() < MOST => {
                // As exec does: a new space, and the old one ends with the last that runs there.
                let old = self.at[vcpu];
                self.create(vcpu)?;
                self.enter(vcpu, Some(self.all.len() - 1))?;
                old.map_or(Ok(()), |old| self.end_program(vcpu, old))
            }
            84..90 => {
                if self.at[vcpu] == Some(which) {
                    self.enter(vcpu, None)?;
                }
                self.end_program(vcpu, which)
            }
            99 => {
                self.cpus.model.sched_out(vcpu);
                Ok(())
            }
            _ => self.enter(vcpu, Some(which)),
        }
    }

    /// Makes a program with a few pages.
    fn create(&mut self, vcpu: usize) -> Found {
        let made = self.cpus.with(vcpu, None, Tables::create_space);
        let space = made.and_then(|made| made).map_err(|e| said("a space", e))?;
        let pages = BTreeMap::new();
        self.all.push(Program { space, pages });
        self.change(vcpu, self.all.len() - 1, 0)
    }

    /// Has a vCPU run a program, or none.
    fn enter(&mut self, vcpu: usize, which: Option<usize>) -> Found {
        let boot = self.cpus.of(0).boot_space();
        let space = which.map_or(&boot, |which| &self.all[which].space);
        let done = self.cpus.with(vcpu, Some(Part::Space(space)), |tables| {
            // SAFETY: nothing that is in use lies in a user half.
            unsafe { tables.switch_space(space) }
        });
        done.and_then(|done| done)
            .map_err(|e| said("a switch", e))?;
        self.at[vcpu] = which;
        Ok(())
    }

    /// Ends a program if no vCPU runs it; else that is refused.
    fn end_program(&mut self, vcpu: usize, which: usize) -> Found {
        let Program { space, pages } = self.all.remove(which);
        let keeps = self.rng.below(2) == 0;
        let runs = self.at.contains(&Some(which));
        let ended = self.cpus.with(vcpu, None, |tables| match keeps && !runs {
            true => tables.spare_space(space),
            false => tables.destroy_space(space),
        });
        match ended.map_err(|e| said("ending a program", e))? {
            Ok(()) if runs => return Err("a space that a vCPU is in was destroyed".into()),
            Err(kept) if runs && kept.space.is_some() => {
                let space = kept.space.ok_or("a space is gone")?;
                self.all.insert(which, Program { space, pages });
            }
            Err(e) => return Err(said("ending a program", e.error)),
            Ok(()) => {
                for at in self.at.iter_mut().flatten() {
                    *at -= usize::from(*at > which);
                }
            }
        }
        Ok(())
    }

    fn fork(&mut self, vcpu: usize, which: usize) -> Found {
        self.let_xen_refuse();
        let parent = &self.all[which].space;
        let child = self
            .cpus
            .with(vcpu, None, |tables| tables.fork_space(parent));
        let child = child.and_then(|child| child);
        let pages = self.all[which].pages.clone();
        match (child, self.has_refused()) {
            (Ok(space), _) => self.all.push(Program { space, pages }),
            (Err(_), true) => {}
            (Err(e), false) => return Err(said("a fork", e)),
        }
        Ok(())
    }

    /// Has a program that a vCPU runs write to one of its pages.
    fn write(&mut self, vcpu: usize) -> Found {
        let Some(which) = self.at[vcpu] else {
            return Ok(());
        };
        let from = address(&mut self.rng);
        let page = self.all[which].pages.range(from..).next();
        let Some((&va, &(_, true))) = page else {
            return Ok(());
        };
        self.next += 1;
        let new = content(self.next);
        if !self.store(vcpu, va, new) {
            self.let_xen_refuse();
            let resolved = match self.touch_one(vcpu, which, va) {
                Ok(false) => self.within(vcpu, which, |tables| {
                    tables.make_writable(va, OnWrite::Copy)
                }),
                touched => touched.map(drop),
            };
            match (resolved, self.has_refused()) {
                (Ok(()), _) => {}
                (Err(_), true) => return Ok(()),
                (Err(e), false) => return Err(said("the fault of a write", e)),
            }
            if !self.store(vcpu, va, new) {
                return Err(format!("{va:#x} is not writable after its fault"));
            }
        }
        self.all[which].pages.insert(va, (new, true));
        Ok(())
    }

    /// Resolves a fault by the page's entry alone, every other time and where that can be.
    fn touch_one(&mut self, vcpu: usize, which: usize, va: u64) -> Result<bool, MmError> {
        if self.rng.below(2) == 0 {
            return Ok(false);
        }
        let space = &self.all[which].space;
        self.cpus.with(vcpu, Some(Part::Space(space)), |tables| {
            match tables.is_at_hand(space) {
                true => tables.touch_user(va, Flags::DATA, true),
                false => Ok(false),
            }
        })?
    }

    /// Writes as user mode does, and says whether it may.
    fn store(&self, vcpu: usize, va: u64, value: u64) -> bool {
        self.cpus.model.run_on(vcpu);
        let found = self.cpus.model.access(va, Access::Write, Mode::User);
        if let Ok((mfn, _)) = found {
            // SAFETY: the model's memory, which this thread alone uses.
            unsafe { self.cpus.model.frame_ptr(mfn).cast::<u64>().write(value) };
        }
        found.is_ok()
    }

    /// Maps, unmaps, protects or moves pages of a program.
    fn change(&mut self, vcpu: usize, which: usize, what: u64) -> Found {
        let va = address(&mut self.rng);
        let n = [1, 1, 2, 5, 20, 60, 512][self.rng.below(7) as usize];
        let range = va..va + n * PAGE;
        let pages = &self.all[which].pages;
        let there: Vec<_> = pages
            .range(range.clone())
            .map(|(va, page)| (*va, *page))
            .collect();
        let mut changes = Changes::new();
        let done = match what {
            0..18 if there.is_empty() => {
                let first = self.next;
                self.next += n;
                let name = move |at: u64| content(first + (at - va) / PAGE);
                let all = (va..range.end).step_by(PAGE as usize);
                changes.extend(all.map(|at| (at, Some((name(at), true)))));
                self.let_xen_refuse();
                self.within(vcpu, which, |tables| {
                    tables.map_user(va, n, Flags::DATA, |at, words| words[0] = name(at))
                })
            }
            0..30 => {
                changes.extend(there.iter().map(|(at, _)| (*at, None)));
                self.let_xen_refuse();
                self.within(vcpu, which, |tables| tables.unmap_user(va, n))
            }
            30..40 => {
                let writable = self.rng.below(2) == 0;
                let flags = if writable { Flags::DATA } else { Flags::CONST };
                changes.extend(
                    there
                        .iter()
                        .map(|(at, page)| (*at, Some((page.0, writable)))),
                );
                self.let_xen_refuse();
                self.within(vcpu, which, |tables| tables.protect_user(va, n, flags))
            }
            _ => {
                let to = address(&mut self.rng);
                let occupied = pages.range(to..to + n * PAGE).next().is_some();
                if occupied || va.abs_diff(to) < n * PAGE {
                    return Ok(());
                }
                changes.extend(there.iter().map(|(at, _)| (*at, None)));
                changes.extend(there.iter().map(|(at, page)| (to + (at - va), Some(*page))));
                self.let_xen_refuse();
                self.within(vcpu, which, |tables| tables.move_user(va, to, n))
            }
        };
        match (&done, self.has_refused()) {
            (Err(e), false) => Err(said("a change", *e)),
            _ => self.note(which, changes, done.is_ok()),
        }
    }

    /// Notes what became of pages: after an error each is as it was before or as it was to be.
    fn note(&mut self, which: usize, changes: Changes, done: bool) -> Found {
        for (va, after) in changes {
            let before = self.all[which].pages.get(&va).copied();
            let page = match done {
                true => after,
                false => {
                    let found = self.content(which, va)?;
                    let known = [before, after].into_iter().flatten();
                    let mut known = known.filter(|page| Some(page.0) == found);
                    let first = known.next();
                    if found.is_some() && first.is_none() {
                        return Err(format!(
                            "{va:#x} holds {found:x?}, not {before:x?} or {after:x?}"
                        ));
                    }
                    // Nobody knows which rights a change that failed has left.
                    let writable = first.is_some_and(|page| page.1) || known.any(|page| page.1);
                    first.map(|page| (page.0, writable))
                }
            };
            let pages = &mut self.all[which].pages;
            match page {
                Some(page) => drop(pages.insert(va, page)),
                None => drop(pages.remove(&va)),
            }
        }
        Ok(())
    }

    /// At times Xen refuses a request of what comes next.
    fn let_xen_refuse(&mut self) {
        if self.rng.below(6) == 0 {
            let call = [Call::MmuUpdate, Call::UpdateVaMapping][self.rng.below(2) as usize];
            let request = self.rng.below(3) as u32;
            self.cpus.model.inject(Injection {
                nth: 1 + self.rng.below(2),
                index: (call == Call::MmuUpdate).then_some(request),
                ..Injection::call(call, Errno::ENOMEM)
            });
        } else {
            // What never comes.
            self.cpus
                .model
                .inject(Injection::call(Call::SetGdt, Errno::ENOMEM));
        }
    }

    /// Whether it has.
    fn has_refused(&mut self) -> bool {
        let refused = self.cpus.model.clear_injections() == 0;
        self.refused += u64::from(refused);
        refused
    }

    /// What a page of a program holds, if anything.
    fn content(&mut self, which: usize, va: u64) -> Found<Option<u64>> {
        let found = self.within(0, which, |tables| Ok(tables.user_page(va)));
        let page = found.map_err(|e| said("looking at a page", e))?;
        let model = &self.cpus.model;
        let mfn = page.and_then(|page| model.mfn(page.pfn));
        // SAFETY: the model's memory, which this thread alone uses.
        Ok(mfn.map(|mfn| unsafe { model.frame_ptr(mfn).cast::<u64>().read() }))
    }

    /// Looks at what vCPUs remember, and at a page.
    fn check(&mut self, vcpu: usize) -> Found {
        if let Some(wrong) = self.cpus.others.wrong() {
            return Err(wrong);
        }
        if !self.cpus.idle() {
            return Err("something is queued, and nobody is lazy".into());
        }
        if let Some(stale) = self.cpus.model.stale().first() {
            return Err(stale.to_string());
        }
        for one in self.cpus.model.remembered() {
            let pfn = self.cpus.model.pfn(one.frame);
            let states = pfn.and_then(|pfn| self.cpus.of(0).frames().states(pfn).ok());
            let is_free = states.is_some_and(|(applied, _)| applied.kind == Record::Free);
            if is_free && !DIRECT.contains(&one.va) {
                return Err(format!(
                    "vCPU {} remembers {:#x}, of a free frame",
                    one.vcpu, one.va
                ));
            }
        }
        let from = address(&mut self.rng);
        if let Some(which) = self.at[vcpu] {
            let page = self.all[which].pages.range(from..).next();
            if let Some((&va, &page)) = page {
                self.touch(vcpu, va, page)?;
            }
        }
        match self.step % LOOK {
            0 => self.check_all(),
            _ => Ok(()),
        }
    }

    /// Uses a page of the program that a vCPU runs, as user mode does.
    fn touch(&self, vcpu: usize, va: u64, (content, writable): (u64, bool)) -> Found {
        let model = &self.cpus.model;
        model.run_on(vcpu);
        let found = model.access(va, Access::Read, Mode::User);
        let (mfn, _) = found.map_err(|fault| format!("{va:#x} cannot be read: {fault:x?}"))?;
        // SAFETY: the model's memory, which this thread alone uses.
        let word = unsafe { model.frame_ptr(mfn).cast::<u64>().read() };
        if word != content {
            return Err(format!(
                "vCPU {vcpu} reads {word:#x} at {va:#x}, not {content:#x}"
            ));
        }
        if model.access(va, Access::Write, Mode::User).is_ok() && !writable {
            return Err(format!("vCPU {vcpu} may write to {va:#x}"));
        }
        Ok(())
    }

    /// Looks at everything.
    fn check_all(&mut self) -> Found {
        for which in 0..self.all.len() {
            let pages: Vec<_> = self.all[which]
                .pages
                .iter()
                .map(|(va, page)| (*va, page.0))
                .collect();
            for &(va, expected) in &pages {
                let found = self.content(which, va)?;
                if found != Some(expected) {
                    return Err(format!("{va:#x} holds {found:x?}, not {expected:#x}"));
                }
            }
            let mapped = self.within(0, which, |tables| {
                let all = (0..(TABLES + 2) * 512).map(|page| BASE - SPAN + page * PAGE);
                Ok(all.filter(|va| tables.user_page(*va).is_some()).count())
            });
            let mapped = mapped.map_err(|e| said("looking at a program", e))?;
            if mapped != pages.len() {
                return Err(format!("{mapped} pages are mapped, not {}", pages.len()));
            }
        }
        let frames = self.cpus.of(0).frames();
        for pfn in (0..frames.counts().mapped).map(Pfn::truncate) {
            let states = frames.states(pfn);
            let (applied, planned) = states.map_err(|e| format!("pfn {pfn}: {e}"))?;
            if applied != planned {
                return Err(format!("pfn {pfn}: {planned} is planned, not {applied}"));
            }
        }
        let report = self.cpus.with(0, Some(Part::All), Tables::audit);
        let report = report.and_then(|report| report);
        let report = report.map_err(|e| said("an audit", e))?;
        if !report.is_clean() {
            return Err(report.to_string());
        }
        self.cpus.model.check_invariants()
    }

    /// Ends all programs: as many frames are free as before them.
    pub(super) fn end(&mut self) -> Found {
        for vcpu in 0..self.at.len() {
            self.enter(vcpu, None)?;
        }
        while !self.all.is_empty() {
            self.end_program(0, 0)?;
        }
        let released = self.cpus.with(0, None, Tables::release_spares);
        let released = released.and_then(|released| released);
        released.map_err(|e| said("releasing spares", e))?;
        self.check_all()?;
        let (free, before) = (self.count_free()?, self.free);
        match free == before {
            true => Ok(()),
            false => Err(format!("{free} frames are free, {before} were")),
        }
    }
}
