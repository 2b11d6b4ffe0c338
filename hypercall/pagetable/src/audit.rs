//! A check of everything that the page tables say against everything that the kernel believes.
//!
//! It walks all that is reachable from the roots and finds: large pages, pages that are writable
//! and executable, writable mappings of tables or of read-only memory, executable mappings of what
//! is no code, a direct map that differs from the records, kernel pages that user mode's tables
//! reach, entries with bits that nobody should have set, frame numbers on which the
//! p2m list and the M2P disagree, and references that the frame records do not account for.
//!
//! References are compared as a whole: each adds a number made from the frame it refers to, and the
//! sum must be what the records predict. Any difference in any single count changes the sum. Entries
//! that map memory of user mode's are compared alike: every L1 table is looked at once, whoever shares
//! it, and what the direct map adds is taken off again.

use core::fmt;

use heapless::Vec;
use hypercall::Pfn;

use crate::entry::{Entry, Flags, L1, L2, XEN_BITS};
use crate::error::MmError;
use crate::layout::Layout;
use crate::machine::{Live, Machine};
use crate::spaces::Roots;
use crate::state::{Kind, State};
use crate::tables::Tables;
use hypercall::addr::ADDR_MASK;

/// Findings that are kept; the rest are counted.
const KEPT: usize = 8;

/// Something that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: an address, or for findings about frames the frame's address in the direct map.
    pub va: u64,
    /// What.
    pub what: What,
    /// The entry concerned.
    pub entry: u64,
}

/// What an audit can find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A large page outside of the p2m list.
    Large,
    /// Writable and executable.
    WriteAndExecute,
    /// A writable mapping of a frame that must be read-only.
    WritableAlias(Kind),
    /// An executable mapping of a frame that was not made code.
    Executable(Kind),
    /// The direct map has a frame read-only that is recorded as writable.
    Window(Kind),
    /// A mapping of a free frame outside of the direct map.
    FreeFrame,
    /// Bits that nobody should have set.
    Bits(u64),
    /// A frame that is not the domain's, outside of the fixmap.
    Foreign,
    /// p2m list and M2P disagree.
    FrameMaps,
    /// A table that is not recorded as one of its level.
    NotATable(State),
    /// Records and references disagree.
    References,
    /// Records of memory of user mode's and the entries that map it disagree.
    Mappings,
    /// An entry with RW refers to a table that others of user mode's refer to as well.
    WritableShared,
    /// What is planned for a frame is not applied although nothing is queued.
    Unapplied,
    /// A kernel page reachable from user mode's tables.
    UserReachesKernel,
    /// A table that the window does not reach.
    OutOfReach,
}

/// The result of an audit.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Tables visited.
    pub tables: u64,
    /// Pages found mapped.
    pub pages: u64,
    /// How many findings.
    pub findings: u64,
    /// The first of them.
    pub first: Vec<Finding, KEPT>,
}

impl Report {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings == 0
    }

    fn add(&mut self, va: u64, what: What, entry: u64) {
        self.findings += 1;
        // The first ones are kept, all are counted.
        let _ = self.first.push(Finding { va, what, entry });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tables, {} pages: ", self.tables, self.pages)?;
        if self.is_clean() {
            return f.write_str("clean");
        }
        write!(f, "{} findings", self.findings)?;
        for finding in &self.first {
            write!(f, "\n  {finding}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x} entry {:#018x}: ", self.va, self.entry)?;
        match self.what {
            What::Large => f.write_str("large page"),
            What::WriteAndExecute => f.write_str("writable and executable"),
            What::WritableAlias(kind) => {
                write!(f, "writable mapping of a frame that is {}", State::of(kind))
            }
            What::Executable(kind) => {
                write!(
                    f,
                    "executable mapping of a frame that is {}",
                    State::of(kind)
                )
            }
            What::Window(kind) => write!(
                f,
                "read-only in the direct map, and the frame is {}",
                State::of(kind)
            ),
            What::FreeFrame => f.write_str("maps a free frame"),
            What::Bits(bits) => write!(f, "unexpected bits {bits:#x}"),
            What::Foreign => f.write_str("maps a frame of somebody else"),
            What::FrameMaps => f.write_str("p2m list and M2P disagree"),
            What::NotATable(state) => write!(f, "refers to a frame that is {state}"),
            What::References => f.write_str("references to tables and their records disagree"),
            What::Mappings => {
                f.write_str("mappings of user mode's memory and its records disagree")
            }
            What::WritableShared => f.write_str("may write to a table that several spaces share"),
            What::Unapplied => f.write_str("what is planned for a frame is not applied"),
            What::UserReachesKernel => f.write_str("kernel page reachable from user mode"),
            What::OutOfReach => f.write_str("refers to a table that cannot be read"),
        }
    }
}

/// Bits that an entry may have: the kernel's own, Xen's, the address.
const ALLOWED: u64 = Flags::all().bits() | XEN_BITS | ADDR_MASK;

struct Audit<'a, M: Machine> {
    tables: &'a Tables<M>,
    report: Report,
    /// Sum over all references found; see the module.
    references: u64,
    /// Sum over all entries that map memory of user mode's, but for the direct map's.
    mappings: u64,
    user: bool,
    /// The root that was walked before, for what it shares with the one walked now.
    shared: Option<Live<'a>>,
}

/// A number that stands for a frame: mixed so that sums of them do not coincide by chance
/// (the finalizer of SplitMix64).
pub(super) fn fingerprint(pfn: Pfn) -> u64 {
    let mut x = pfn.as_u64().wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

impl<M: Machine> Tables<M> {
    /// Checks everything; see the [module](self). What is queued is sent first.
    ///
    /// # Errors
    /// What Xen refused of what was queued.
    pub fn audit(&mut self) -> Result<Report, MmError> {
        self.check_holds_all()?;
        self.flush()?;
        let mut audit = Audit {
            tables: self,
            report: Report::default(),
            references: 0,
            mappings: 0,
            user: false,
            shared: None,
        };
        let top = usize::from(self.fold().top());
        let all = Flags::PRESENT | Flags::WRITABLE | Flags::USER;
        let mut first = None;
        for Roots { kernel, user } in self.spaces() {
            audit.user = false;
            audit.root(kernel, top, first, all);
            first = first.or(Some(kernel));
            if let Some(user) = user {
                audit.user = true;
                audit.root(user, top, Some(kernel), all);
            }
        }
        audit.references = audit.references.wrapping_add(self.domain().bases());
        let (references, mappings) = audit.frames();
        let mut report = audit.report;
        if audit.references != references {
            report.add(0, What::References, 0);
        }
        if audit.mappings != mappings {
            report.add(0, What::Mappings, 0);
        }
        Ok(report)
    }
}

impl<M: Machine> Audit<'_, M> {
    /// A root. What it shares with another one that was walked already is not walked again.
    fn root(&mut self, root: Pfn, level: usize, walked: Option<Pfn>, above: Flags) {
        // SAFETY: a root is a table, so nobody's own memory.
        self.shared = walked.and_then(|other| unsafe { self.tables.machine().live(other) });
        self.table(root, level, 0, above);
    }

    /// Whether another root that was walked already refers to the same table in the same place.
    fn is_shared(&self, word: u64, index: usize) -> bool {
        self.shared.is_some_and(|words| {
            let other = words.get(index);
            other & 1 == 1 && (other ^ word) & ADDR_MASK == 0
        })
    }

    /// Counts a reference to a table that is walked elsewhere.
    fn reference(&mut self, word: u64, va: u64) {
        if self.user && va >> 63 == 1 {
            self.report.add(va, What::UserReachesKernel, word);
        }
        let mfn = Entry::<L1>::from_table(word).mfn();
        let pfn = mfn.and_then(|mfn| self.tables.machine().pfn(mfn));
        if let Some(pfn) = pfn.filter(|pfn| self.tables.is_recorded_table(*pfn)) {
            self.references = self.references.wrapping_add(fingerprint(pfn));
        }
    }

    fn table(&mut self, table: Pfn, level: usize, base: u64, above: Flags) {
        self.report.tables += 1;
        // SAFETY: what an entry of an upper level refers to is a table, so nobody's own memory.
        let Some(words) = (unsafe { self.tables.machine().live(table) }) else {
            self.report.add(base, What::OutOfReach, 0);
            return;
        };
        for (index, word) in words.iter().enumerate() {
            let shift = 12 + 9 * (level as u32 - 1);
            let va = self.tables.fold().canonical(base | (index as u64) << shift);
            // Xen's own slots, which every root has.
            if level == 4 && M::Layout::XEN.contains(&va) {
                continue;
            }
            if word == 0 {
                continue;
            }
            if level >= 4 && self.is_shared(word, index) {
                self.reference(word, va);
            } else {
                self.entry(word, level, va, above);
            }
        }
    }

    fn entry(&mut self, word: u64, level: usize, va: u64, above: Flags) {
        let entry = Entry::<L1>::from_table(word);
        if !entry.is_present() {
            self.report.add(va, What::Bits(word), word);
            return;
        }
        if self.user && va >> 63 == 1 {
            self.report.add(va, What::UserReachesKernel, word);
        }
        let own = entry.flags();
        let flags = (above & own) | ((above | own) & Flags::NO_EXECUTE);
        if level > 1 && Entry::<L2>::from_table(word).is_large() {
            if !M::Layout::P2M.contains(&va) || flags.contains(Flags::WRITABLE) {
                self.report.add(va, What::Large, word);
            }
            return;
        }
        if word & !ALLOWED != 0 {
            self.report.add(va, What::Bits(word & !ALLOWED), word);
        }
        let pfn = entry.mfn().and_then(|mfn| self.tables.machine().pfn(mfn));
        if level == 1 {
            self.leaf(word, va, flags, pfn);
            return;
        }
        let Some(pfn) = pfn else {
            self.report.add(va, What::Foreign, word);
            return;
        };
        let state = self.tables.frames().states(pfn).map(|s| s.0);
        match state {
            Ok(state) if state.kind == Kind::Table && usize::from(state.level) == level - 1 => {
                if level == 2 && va >> 63 == 0 && state.links > 1 && own.contains(Flags::WRITABLE) {
                    self.report.add(va, What::WritableShared, word);
                }
                self.references = self.references.wrapping_add(fingerprint(pfn));
                self.table(pfn, level - 1, va, flags);
            }
            // The tables that map the p2m list are Xen's: read-only, and not followed.
            _ if M::Layout::P2M.contains(&va) => {
                if flags.contains(Flags::WRITABLE) {
                    self.report.add(va, What::WritableAlias(Kind::P2m), word);
                }
            }
            Ok(state) => self.report.add(va, What::NotATable(state), word),
            Err(_) => self.report.add(va, What::OutOfReach, word),
        }
    }

    fn leaf(&mut self, word: u64, va: u64, flags: Flags, pfn: Option<Pfn>) {
        self.report.pages += 1;
        let writable = flags.contains(Flags::WRITABLE);
        if writable && !flags.contains(Flags::NO_EXECUTE) {
            self.report.add(va, What::WriteAndExecute, word);
        }
        let Some(pfn) = pfn else {
            if !M::Layout::FIXMAP.contains(&va) {
                self.report.add(va, What::Foreign, word);
            }
            return;
        };
        let Ok((state, _)) = self.tables.frames().states(pfn) else {
            return;
        };
        if writable && !state.may_be_writable() {
            self.report.add(va, What::WritableAlias(state.kind), word);
        }
        let users = va >> 63 == 0 && state.kind == Kind::User;
        if !flags.contains(Flags::NO_EXECUTE) && !state.may_be_executable() && !users {
            self.report.add(va, What::Executable(state.kind), word);
        }
        let direct = self.tables.machine().window(pfn) == va;
        if direct && writable != state.may_be_writable() && state.kind != Kind::P2m {
            self.report.add(va, What::Window(state.kind), word);
        }
        if state.kind == Kind::User && M::Layout::DIRECT.contains(&va) {
            self.mappings = self.mappings.wrapping_sub(fingerprint(pfn));
        }
        if state.kind == Kind::Free && !M::Layout::DIRECT.contains(&va) {
            self.report.add(va, What::FreeFrame, word);
        }
    }

    /// Adds what an L1 table maps of user mode's memory.
    fn table_mappings(&mut self, table: Pfn) {
        let machine = self.tables.machine();
        // SAFETY: a frame that is recorded as a table is nobody's own memory.
        let words = unsafe { machine.live(table) };
        for word in words.iter().flat_map(|words| words.iter()) {
            let pfn = Entry::<L1>::from_table(word)
                .mfn()
                .and_then(|mfn| machine.pfn(mfn));
            if let Some(pfn) = pfn.filter(|pfn| self.tables.frames().is_user(*pfn)) {
                self.mappings = self.mappings.wrapping_add(fingerprint(pfn));
            }
        }
    }

    /// Checks the record of every frame and returns the sums that it predicts: of references to
    /// tables, and of mappings of user mode's memory.
    fn frames(&mut self) -> (u64, u64) {
        let machine = self.tables.machine();
        let mut expected = 0_u64;
        let mut mappings = 0_u64;
        for number in 0..self.tables.frames().counts().mapped {
            let pfn = Pfn::truncate(number);
            let va = M::Layout::DIRECT.start + number * 4096;
            let Ok((applied, planned)) = self.tables.frames().states(pfn) else {
                continue;
            };
            if applied != planned {
                self.report.add(va, What::Unapplied, 0);
            }
            if !matches!(applied.kind, Kind::Hole | Kind::Given)
                && machine.mfn(pfn).and_then(|mfn| machine.pfn(mfn)) != Some(pfn)
            {
                self.report.add(va, What::FrameMaps, 0);
            }
            let links = fingerprint(pfn).wrapping_mul(applied.links.into());
            match applied.kind {
                Kind::Table => expected = expected.wrapping_add(links),
                Kind::User => mappings = mappings.wrapping_add(links),
                _ => {}
            }
            if applied.kind == Kind::Table && applied.level == 1 && applied.links > 0 {
                self.table_mappings(pfn);
            }
        }
        (expected, mappings)
    }
}
