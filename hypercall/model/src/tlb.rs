//! Translations: walks, the TLB of each vCPU, accesses by virtual address, and the emulation of
//! stores to L1 tables (`pv/ro-page-fault.c`).
//!
//! A real TLB forgets at any time; this one never does, until something flushes it. So whoever
//! forgets a flush meets the stale translation every time, not once a week. As on hardware, what
//! is not present is not remembered, and an access that a remembered translation does not allow
//! walks the tables again before it faults.
//!
//! Kernel and user mode have tables of their own, and Xen loads CR3 between them. With PCIDs each
//! mode's translations stay, and nothing is global. Without them those of the mode that is left go,
//! but for the global ones, which the pages of user programs are: they serve both modes.

use std::collections::HashMap;

use hypercall::{MachAddr, Mfn, mmu::Level};

use crate::{
    config::Kind,
    entry::{self, A, D, G, NX, P, PSE, RW, U},
    frame::{Owner, Type},
    state::State,
    types::below,
};

/// What an access wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// To load.
    Read,
    /// To store.
    Write,
    /// To fetch instructions.
    Execute,
}

/// In which mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// The guest's kernel, on the kernel's tables.
    Kernel,
    /// A user program, on the user tables.
    User,
}

/// A page fault, as the guest's handler would see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Where.
    pub va: u64,
    /// The error code: bit 0 present, 1 write, 2 from user mode, 4 instruction fetch.
    pub code: u32,
}

impl Fault {
    /// Whether the page was there and did not allow the access.
    pub const fn is_protection(self) -> bool {
        self.code & 1 != 0
    }
}

/// The entries that translate an address, from the root down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Walk {
    /// Where the entry of each level is, and its value; index 0 is L1. `None` below the first that
    /// is not present or maps a large page.
    pub entries: [Option<(MachAddr, u64)>; 4],
    /// The frame and the rights (RW and NX, as in an entry) if the address is mapped.
    pub page: Option<(Mfn, u64)>,
}

impl Walk {
    /// The entry of `level`, and where it is.
    pub fn entry(&self, level: Level) -> Option<(MachAddr, u64)> {
        self.entries[level as usize - 1]
    }
}

#[derive(Clone, Copy)]
struct Cached {
    frame: Mfn,
    /// RW, NX, U and D, each for the whole way down.
    rights: u64,
}

/// The map of translations that hold in both modes.
const GLOBAL: usize = 2;

/// What a vCPU remembers.
pub(crate) struct Tlb {
    /// By page number: what kernel mode and user mode looked up, and what is global.
    pages: [HashMap<u64, Cached>; 3],
    /// Whose tables are loaded.
    mode: Mode,
    /// When everything was forgotten last, by the state's clock.
    pub(crate) flushed: u64,
    /// The vCPU is in the domain's dirty mask; while it is not, nothing is remembered.
    pub(crate) dirty: bool,
}

impl Tlb {
    /// That of a vCPU which has not run yet.
    pub(crate) fn new() -> Self {
        Self {
            pages: Default::default(),
            mode: Mode::Kernel,
            flushed: 0,
            dirty: false,
        }
    }

    /// The frames that can be written to through what is remembered.
    pub(crate) fn writable(&self) -> impl Iterator<Item = Mfn> {
        let all = self.pages.iter().flat_map(HashMap::values);
        all.filter(|cached| cached.rights & RW != 0)
            .map(|cached| cached.frame)
    }

    /// Whether nothing is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.pages.iter().all(HashMap::is_empty)
    }

    /// Everything that is remembered: the mode, or none for both; the page; frame and rights.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Option<Mode>, u64, Mfn, u64)> {
        let modes = [Some(Mode::Kernel), Some(Mode::User), None];
        let maps = modes.into_iter().zip(&self.pages);
        maps.flat_map(|(mode, pages)| {
            pages
                .iter()
                .map(move |(page, cached)| (mode, *page, cached.frame, cached.rights))
        })
    }

    /// What an access in `mode` finds.
    fn find(&self, mode: Mode, page: u64) -> Option<Cached> {
        let found = self.pages[mode as usize].get(&page);
        found.or_else(|| self.pages[GLOBAL].get(&page)).copied()
    }

    /// Forgets a page in all modes.
    pub(crate) fn forget_page(&mut self, page: u64) {
        for pages in &mut self.pages {
            pages.remove(&page);
        }
    }

    /// Forgets everything.
    pub(crate) fn forget(&mut self) {
        for pages in &mut self.pages {
            // Nothing to do for a map that is empty already, which is the rule.
            if !pages.is_empty() {
                pages.clear();
            }
        }
    }

    /// The processor has no PCIDs and comes to `mode`: what is not global goes with CR3.
    fn load_cr3(&mut self, mode: Mode) {
        if self.mode != mode {
            self.mode = mode;
            self.pages[Mode::Kernel as usize].clear();
            self.pages[Mode::User as usize].clear();
        }
    }
}

impl State {
    /// The L4 table of the current vCPU in `mode`.
    pub(crate) fn root(&self, mode: Mode) -> Option<Mfn> {
        let vcpu = &self.vcpus[self.current];
        match mode {
            Mode::Kernel => Some(vcpu.kernel_l4),
            Mode::User => vcpu.user_l4,
        }
    }

    /// Walks from `root`, without looking at the TLB and without a trace.
    pub(crate) fn walk(&self, root: Mfn, va: u64) -> Walk {
        let mut walk = Walk::default();
        let mut table = root;
        let mut level = Level::L4;
        let mut rights = RW | U;
        loop {
            let index = entry::index(va, level);
            let value = self.mem.read(table, index);
            walk.entries[level as usize - 1] = Some((MachAddr::of_entry(table, index), value));
            if value & P == 0 {
                return walk;
            }
            rights = (rights & value & (RW | U)) | (rights | value) & NX;
            match below(level) {
                Some(next) if value & PSE == 0 => {
                    table = entry::frame(value);
                    if !self.mem.is_valid(table) {
                        return walk;
                    }
                    level = next;
                }
                Some(_) => {
                    let pages = if level == Level::L2 { 512 } else { 512 * 512 };
                    let frame = entry::frame(value).add((va >> 12) % pages);
                    walk.page = Some((frame, rights | value & D));
                    return walk;
                }
                None => {
                    walk.page = Some((entry::frame(value), rights | value & D));
                    return walk;
                }
            }
        }
    }

    /// Translates `va` for an access of the current vCPU, as its MMU would.
    pub(crate) fn access(
        &mut self,
        va: u64,
        access: Access,
        mode: Mode,
    ) -> Result<(Mfn, u64), Fault> {
        let allowed = |rights: u64| {
            // Kernel and user both run in ring 3: every page needs U.
            rights & U != 0
                && match access {
                    Access::Read => true,
                    Access::Write => rights & RW != 0,
                    Access::Execute => rights & NX == 0,
                }
        };
        let page = va >> 12;
        if !self.pcid {
            self.vcpu().tlb.load_cr3(mode);
        }
        let found = self.running_tlb().find(mode, page);
        if let Some(cached) = found
            && allowed(cached.rights)
            && (access != Access::Write || cached.rights & D != 0)
        {
            return Ok((cached.frame, va & 4095));
        }
        let refused = self.faults_from_tlb && found.is_some_and(|cached| !allowed(cached.rights));
        let canonical = (va as i64) << 16 >> 16 == va as i64;
        let walk = match self.root(mode) {
            Some(root) if canonical => self.walk(root, va),
            _ => Walk::default(),
        };
        let present = walk.page.is_some();
        match walk.page {
            Some((frame, rights)) if allowed(rights) && !refused => {
                let rights = self.mark(&walk, rights, access);
                let leaf = walk.entry(Level::L1).map_or(0, |(_, leaf)| leaf);
                let global = !self.pcid && leaf & G != 0;
                let place = if global { GLOBAL } else { mode as usize };
                self.vcpu().tlb.pages[place].insert(page, Cached { frame, rights });
                Ok((frame, va & 4095))
            }
            _ => {
                // As on hardware, a fault forgets the address.
                self.vcpu().tlb.pages[mode as usize].remove(&page);
                self.vcpu().tlb.pages[GLOBAL].remove(&page);
                self.counters.faults += 1;
                let code = present as u32
                    | ((access == Access::Write) as u32) << 1
                    | ((mode == Mode::User) as u32) << 2
                    | ((access == Access::Execute) as u32) << 4;
                Err(Fault { va, code })
            }
        }
    }

    /// Sets the accessed bits on the way, and the dirty bit for a store.
    fn mark(&mut self, walk: &Walk, rights: u64, access: Access) -> u64 {
        let mut leaf = true;
        for (slot, value) in walk.entries.iter().flatten() {
            let mut new = value | A;
            if leaf && access == Access::Write {
                new |= D;
            }
            leaf = false;
            if new != *value {
                self.mem.write(slot.frame(), slot.entry_index(), new);
            }
        }
        rights | if access == Access::Write { D } else { 0 }
    }

    /// Loads the aligned word at `va`.
    pub(crate) fn load(&mut self, va: u64, mode: Mode) -> Result<u64, Fault> {
        let (frame, offset) = self.access(va, Access::Read, mode)?;
        Ok(self.bus_read(frame, offset as usize / 8))
    }

    /// Stores to the aligned word at `va`. A store to an L1 table is emulated where Xen does that.
    pub(crate) fn store(&mut self, va: u64, value: u64, mode: Mode) -> Result<(), Fault> {
        match self.access(va, Access::Write, mode) {
            Ok((frame, offset)) => {
                if self.mem.is_valid(frame) {
                    self.mem.write(frame, offset as usize / 8, value);
                }
                Ok(())
            }
            Err(fault) if self.emulate_store(fault, va, value, mode) => {
                self.counters.faults -= 1;
                self.counters.emulated_stores += 1;
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    /// Device memory reads as ones.
    fn bus_read(&self, frame: Mfn, index: usize) -> u64 {
        if self.mem.is_valid(frame) {
            self.mem.read(frame, index)
        } else {
            u64::MAX
        }
    }

    /// The writable-page-tables assist: a kernel store that faults on a read-only mapping of an L1
    /// table becomes an update of that entry. Dom0 has it always, because Xen looks at its faults
    /// for another reason. Unlike an update by hypercall this has no fast path.
    fn emulate_store(&mut self, fault: Fault, va: u64, value: u64, mode: Mode) -> bool {
        let enabled = self.assists.writable_pagetables || self.kind == Kind::Dom0;
        if !enabled || mode != Mode::Kernel || !fault.is_protection() || !entry::is_guest_va(va) {
            return false;
        }
        let root = self.vcpus[self.current].kernel_l4;
        let walk = self.walk(root, va);
        let Some((table, rights)) = walk.page else {
            return false;
        };
        // Xen looks for a present, read-only L1 entry that maps a live L1 table of the domain.
        let leaf = walk
            .entry(Level::L1)
            .is_some_and(|(_, leaf)| leaf & RW == 0);
        if rights & U == 0 || !leaf || !self.mem.is_valid(table) {
            return false;
        }
        let frame = self.mem[table];
        if frame.owner != Owner::Guest
            || frame.kind != Type::Table(Level::L1)
            || frame.type_count == 0
            || !frame.validated
        {
            return false;
        }
        let index = (va as usize & 4095) / 8;
        let old = self.mem.read(table, index);
        let taken = if value & P == 0 {
            self.check_l1tf(Level::L1, value)
        } else {
            self.get_entry(Level::L1, value, table, Owner::Guest)
                .map(|flip| value ^ flip)
        };
        let Ok(new) = taken else {
            return false;
        };
        self.mem.write(table, index, entry::adjust(Level::L1, new));
        self.put_entry(Level::L1, old, table);
        true
    }
}
