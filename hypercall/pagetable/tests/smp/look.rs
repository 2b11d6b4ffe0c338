//! Whether a run is as it should be.
//!
//! After each step the pages that it concerned must read so for the vCPU that took it, queued or not;
//! whenever nothing is queued, for every vCPU, in the tables, and through its TLB. Then no vCPU may
//! remember what its tables do not say, and nothing may be planned for a frame. And at no time may one
//! remember a page of a frame that is free.

use hypercall::Pfn;
use model::{Access, Mode as Cpu};
use pagetable::entry::{Entry, Pte};
use pagetable::fuzz::in_table;
use pagetable::state::Kind;
use pagetable::{Flags, Tables};

use super::common::layout::DIRECT;
use super::op::{KERNEL, PAGES, va};
use super::run::{At, Found, On, Page, Run, said};

/// Steps between two looks at everything.
const LOOK: u64 = 512;

impl Run {
    /// The entry that a page should have.
    fn entry(&self, page: Option<Page>) -> Pte {
        let tables = self.cpus.of(0);
        let entry = page.map(|page| (tables.mfn(self.pool[page.frame]), page.flags));
        match entry {
            Some((Ok(mfn), flags)) => Entry::from_mfn(mfn, flags),
            _ => Entry::NONE,
        }
    }

    /// Compares what a vCPU's tables say of a page, through its queue or as they stand.
    fn compare(&self, vcpu: usize, at: usize, found: Option<Pte>, how: &str) -> Found {
        let found = found.unwrap_or(Entry::NONE);
        let expected = self.entry(self.page(self.at[vcpu].space, at));
        if expected.same(found) {
            return Ok(());
        }
        let (expected, found, va) = (expected.bits(), found.bits(), va(at));
        Err(format!(
            "vCPU {vcpu} finds {found:#x} for {va:#x} {how}, {expected:#x} is expected"
        ))
    }

    /// Uses a page as a vCPU does, through its TLB.
    fn touch(&mut self, vcpu: usize, at: usize) -> Found {
        let At { space, .. } = self.at[vcpu];
        let page = self.page(space, at);
        let (model, va) = (&self.cpus.model, va(at));
        model.run_on(vcpu);
        let expected = page.and_then(|page| self.cpus.of(0).mfn(self.pool[page.frame]).ok());
        let writes = page.is_some_and(|page| page.flags.contains(Flags::WRITABLE));
        // A space without a user half has no user mode.
        let last = if space == 0 { 2 } else { 4 };
        let users = at >= KERNEL;
        let looks = [
            (Access::Read, Cpu::Kernel, true),
            (Access::Write, Cpu::Kernel, writes),
            (Access::Read, Cpu::User, users),
            (Access::Write, Cpu::User, users && writes),
        ];
        for (access, cpu, allowed) in looks.into_iter().take(last) {
            let found = model.access(va, access, cpu).ok().map(|(mfn, _)| mfn);
            let expected = expected.filter(|_| allowed);
            if found != expected {
                return Err(format!(
                    "vCPU {vcpu} in {cpu:?} mode finds {found:?} at {va:#x} ({access:?}), {expected:?} is expected"
                ));
            }
        }
        Ok(())
    }

    /// Whether no queue is about a page of a vCPU's space.
    fn is_settled(&self, vcpu: usize, at: usize) -> bool {
        let boot = self.cpus.of(0).boot_space();
        let space = self.space(&boot, self.at[vcpu].space);
        !self.cpus.open().has(space, va(at))
    }

    /// Whether a vCPU may look a page up by its tables.
    fn holds(&self, vcpu: usize, at: usize) -> bool {
        let boot = self.cpus.of(0).boot_space();
        let space = self.space(&boot, self.at[vcpu].space);
        self.cpus.held_by(vcpu).has(space, va(at))
    }

    /// What a vCPU finds by its tables, for which it holds what the page is part of.
    fn look_up(&mut self, vcpu: usize, at: usize) -> Found<Option<Pte>> {
        let on = self.on_page(vcpu, at);
        self.with(vcpu, on, |tables| tables.ptep_get(va(at)).ok())
    }

    /// Looks at the pages that a step concerned, and at what vCPUs remember.
    pub(super) fn check(&mut self, vcpu: usize, pages: &[usize]) -> Found {
        if let Some(wrong) = self.cpus.others.wrong() {
            return Err(wrong);
        }
        self.check_remembered()?;
        let idle = self.cpus.idle();
        if !idle && !(0..self.at.len()).any(|vcpu| self.is_lazy(vcpu)) {
            return Err("something is queued, and nobody is lazy".into());
        }
        let random = self.rng.below(PAGES as u64) as usize;
        let concerned = pages.first().into_iter().chain(pages.last()).copied();
        let other = self.rng.below(self.cpus.count() as u64) as usize;
        for at in concerned.chain([random]) {
            if self.holds(vcpu, at) {
                let found = self.cpus.of(vcpu).ptep_get(va(at)).ok();
                self.compare(vcpu, at, found, "through its queue")?;
            }
            for vcpu in [vcpu, other] {
                if !self.is_settled(vcpu, at) {
                    continue;
                }
                let found = in_table(self.cpus.of(vcpu), va(at));
                self.compare(vcpu, at, found, "in the tables")?;
                if idle {
                    let found = self.look_up(vcpu, at)?;
                    self.compare(vcpu, at, found, "by what it knows")?;
                }
                self.touch(vcpu, at)?;
            }
        }
        if idle {
            self.check_tables(random)?;
        }
        if idle && self.step % LOOK == LOOK - 1 {
            self.check_all()?;
        }
        Ok(())
    }

    /// No vCPU remembers a page of a frame that is free, nor anything that its tables do not say where
    /// no queue is about it.
    pub(super) fn check_remembered(&self) -> Found {
        let tables = self.cpus.of(0);
        let pages = self.cpus.model.remembered();
        let pages = pages.iter().filter(|one| !DIRECT.contains(&one.va));
        for one in pages {
            let pfn = self.cpus.model.pfn(one.frame);
            let states = pfn.and_then(|pfn| tables.frames().states(pfn).ok());
            if states.is_some_and(|(applied, _)| applied.kind == Kind::Free) {
                return Err(format!(
                    "vCPU {} remembers mfn {} at {:#x}, which is free",
                    one.vcpu, one.frame, one.va
                ));
            }
        }
        let (idle, open) = (self.cpus.idle(), self.cpus.open());
        let boot = tables.boot_space();
        let stale = self.cpus.model.stale().into_iter().find(|stale| {
            let space = self.space(&boot, self.at[stale.old.vcpu].space);
            idle || !DIRECT.contains(&stale.old.va) && !open.has(space, stale.old.va)
        });
        stale.map_or(Ok(()), |stale| Err(stale.to_string()))
    }

    /// Once nothing is queued, nothing is planned for the table of a page.
    fn check_tables(&mut self, at: usize) -> Found {
        for vcpu in 0..self.cpus.count() {
            let on = self.on_page(vcpu, at);
            let table = self.with(vcpu, on, |tables| {
                let entry = tables.get(tables.pmd_slot(va(at)).ok()?);
                tables.pmd_val(entry)
            })?;
            if let Some(table) = table {
                self.check_record(table.pfn)?;
            }
        }
        Ok(())
    }

    fn check_record(&self, pfn: Pfn) -> Found {
        let states = self.cpus.of(0).frames().states(pfn);
        let (applied, planned) = states.map_err(|e| format!("pfn {pfn}: {e}"))?;
        if applied != planned {
            return Err(format!(
                "pfn {pfn}: nothing is queued, {planned} is planned, not {applied}"
            ));
        }
        Ok(())
    }

    /// Looks at everything, while nothing is queued.
    pub(super) fn check_all(&mut self) -> Found {
        let mapped = self.cpus.of(0).frames().counts().mapped;
        for pfn in (0..mapped).map(Pfn::truncate) {
            self.check_record(pfn)?;
        }
        for vcpu in 0..self.cpus.count() {
            let report = self.with(vcpu, On::All, Tables::audit)?;
            let report = report.map_err(|e| said("an audit", e))?;
            if !report.is_clean() {
                return Err(format!("vCPU {vcpu}: {report}"));
            }
            for at in 0..PAGES {
                let tables = self.cpus.of(vcpu);
                self.compare(vcpu, at, in_table(tables, va(at)), "in the tables")?;
            }
        }
        self.cpus.model.check_invariants()
    }
}
