//! References and types: how Xen keeps a guest from writing its page tables
//! (`get_page_type`, `promote_*`, `demote_*`, `get_page_from_l1e` in `xen/arch/x86/mm.c`).
//!
//! Every present entry of a validated table holds a reference to the frame it names, and a use of
//! that frame as something: an entry of level n+1 as an Ln table, a writable L1 entry as a
//! writable page. A frame has one type as long as it is used, so no frame is ever a table and
//! writable at once. That is the invariant everything else rests on;
//! [`check_invariants`](crate::Model::check_invariants) recounts it.
//!
//! Xen validates in steps and may be interrupted between them; here a table is validated or let
//! go of in one go, which a guest cannot tell apart.

use hypercall::{Errno, Mfn, mmu::Level};

use crate::{
    entry::{self, CACHE, P, PSE, RW},
    frame::{Owner, Type},
    state::State,
};

type Res<T = ()> = Result<T, Errno>;

/// The level below: what entries of `level` point at. `None` for L1, whose entries map pages.
pub(crate) const fn below(level: Level) -> Option<Level> {
    match level {
        Level::L1 => None,
        Level::L2 => Some(Level::L1),
        Level::L3 => Some(Level::L2),
        Level::L4 => Some(Level::L3),
    }
}

impl State {
    /// Takes a reference to a frame of `owner`; false if it is not theirs.
    pub(crate) fn get_page(&mut self, mfn: Mfn, owner: Owner) -> bool {
        if !self.mem.is_valid(mfn) {
            return false;
        }
        let frame = &mut self.mem[mfn];
        let ok = frame.count > 0 && frame.owner == owner;
        frame.count += ok as u32;
        ok
    }

    /// Drops a reference. With the last one the frame goes back to the host.
    pub(crate) fn put_page(&mut self, mfn: Mfn) {
        let frame = &mut self.mem[mfn];
        debug_assert!(frame.count > 0, "{mfn} has no references to drop");
        frame.count -= 1;
        if frame.count == 0 {
            debug_assert!(!frame.allocated && frame.type_count == 0);
            *frame = crate::frame::Frame::new(Owner::Nobody);
            // Who has read it so far may still find it.
            self.clock += 1;
            self.mem[mfn].stamp = self.clock;
            self.freed.push(mfn);
        }
    }

    /// Takes a use of the frame as `kind`; whoever calls has a reference.
    ///
    /// With the first use the type may change; then stale translations are flushed, and the
    /// contents validated. `EINVAL` while the frame is used as something else.
    pub(crate) fn get_type(&mut self, mfn: Mfn, kind: Type) -> Res {
        let frame = &mut self.mem[mfn];
        if frame.type_count > 0 {
            // A table that is being validated has a count already; what it contains cannot use it
            // as the same level, so nobody gets past this test too early.
            if frame.kind != kind {
                return Err(Errno::EINVAL);
            }
            debug_assert!(frame.validated);
            frame.type_count += 1;
            return Ok(());
        }
        let changed = frame.kind != kind;
        if changed {
            frame.kind = kind;
            frame.validated = false;
        }
        frame.type_count = 1;
        if frame.validated {
            return Ok(());
        }
        frame.linear = 0;
        if changed {
            let stamp = frame.stamp;
            self.flush_older(stamp);
        }
        let result = match kind {
            Type::None | Type::Writable => Ok(()),
            Type::Table(level) => self.promote(mfn, level),
            Type::Segments => self.validate_segments(mfn),
        };
        let frame = &mut self.mem[mfn];
        match result {
            Ok(()) => frame.validated = true,
            Err(_) => {
                frame.kind = Type::None;
                frame.type_count = 0;
                frame.linear = 0;
            }
        }
        result
    }

    /// Drops a use; with the last use of a table, everything its entries hold. `parent` is the
    /// table whose entry held the use, if it was one.
    pub(crate) fn put_type(&mut self, mfn: Mfn, parent: Option<Mfn>) {
        let frame = self.mem[mfn];
        debug_assert!(frame.type_count > 0, "{mfn} has no uses to drop");
        debug_assert!(frame.validated);
        if frame.type_count == 1
            && let Type::Table(level) = frame.kind
        {
            self.mem[mfn].validated = false;
            self.demote(mfn, level);
        }
        // An entry that mapped a table of its own level was a linear one.
        if let Some(parent) = parent
            && self.mem[parent].kind == frame.kind
        {
            self.mem[mfn].linear += 1;
            self.mem[parent].linear -= 1;
        }
        self.clock += 1;
        let now = self.clock;
        let frame = &mut self.mem[mfn];
        frame.type_count -= 1;
        if frame.type_count == 0 {
            frame.stamp = now;
        }
    }

    /// [`get_page`](Self::get_page) and [`get_type`](Self::get_type). `EINVAL` from either.
    pub(crate) fn get_page_and_type(&mut self, mfn: Mfn, kind: Type) -> Res {
        if !self.get_page(mfn, Owner::Guest) {
            return Err(Errno::EINVAL);
        }
        self.get_type(mfn, kind).inspect_err(|_| self.put_page(mfn))
    }

    /// [`put_type`](Self::put_type) and [`put_page`](Self::put_page).
    pub(crate) fn put_page_and_type(&mut self, mfn: Mfn) {
        self.put_type(mfn, None);
        self.put_page(mfn);
    }

    /// Validates the table in `mfn`: takes what each present entry needs and rewrites the entry as
    /// Xen wants it. All or nothing, except that entries stay rewritten.
    fn promote(&mut self, table: Mfn, level: Level) -> Res {
        self.counters.promotions += 1;
        for index in 0..512 {
            if level == Level::L4 && entry::is_xen_slot(index) {
                continue;
            }
            let old = self.mem.read(table, index);
            let taken = if old & P == 0 {
                self.check_l1tf(level, old)
            } else {
                self.get_entry(level, old, table, Owner::Guest)
                    .map(|flip| old ^ flip)
            };
            match taken {
                // Most entries of most tables are empty: leave them alone.
                Ok(0) => {}
                Ok(new) => self.mem.write(table, index, entry::adjust(level, new)),
                Err(errno) => {
                    for index in (0..index).rev() {
                        if !(level == Level::L4 && entry::is_xen_slot(index)) {
                            let old = self.mem.read(table, index);
                            self.put_entry(level, old, table);
                        }
                    }
                    return Err(errno);
                }
            }
        }
        if level == Level::L4 {
            self.fill_xen_slots(table);
        }
        Ok(())
    }

    /// Gives up what the entries of a table hold.
    fn demote(&mut self, table: Mfn, level: Level) {
        self.counters.demotions += 1;
        for index in (0..512).rev() {
            if level == Level::L4 && entry::is_xen_slot(index) {
                continue;
            }
            let old = self.mem.read(table, index);
            if old & P != 0 {
                self.put_entry(level, old, table);
            }
        }
    }

    /// Writes Xen's own slots of an L4 table, whatever was there before.
    fn fill_xen_slots(&mut self, table: Mfn) {
        for index in entry::XEN_SLOT_FIRST..=entry::XEN_SLOT_LAST {
            let value = match index {
                // The M2P, unless the guest asked to see it in kernel mode only.
                256 if !self.assists.m2p_strict => 0,
                256 => self.m2p_slot,
                // The table itself: Xen's linear map.
                258 => entry::entry(table, P | RW | entry::A | entry::D),
                257 | 259 => 0,
                _ => self.xen_slot,
            };
            self.mem.write(table, index, value);
        }
    }

    /// Takes what a present entry of `level` in `table` needs: a reference to the frame it names,
    /// and a use of it. Returns flags to flip in the entry.
    pub(crate) fn get_entry(
        &mut self,
        level: Level,
        new: u64,
        table: Mfn,
        pages_of: Owner,
    ) -> Res<u64> {
        if new & self.rights().disallowed(level) != 0 {
            return Err(Errno::EINVAL);
        }
        let mfn = entry::frame(new);
        let Some(below) = below(level) else {
            return self.get_mapping(new, mfn, pages_of);
        };
        match self.get_page_and_type(mfn, Type::Table(below)) {
            Err(Errno::EINVAL) if self.get_linear(level, new, table) => Ok(0),
            result => result.map(|()| 0),
        }
    }

    /// An L1 entry: the frame may be device memory or, for those who may, somebody else's.
    fn get_mapping(&mut self, new: u64, mfn: Mfn, pages_of: Owner) -> Res<u64> {
        if !self.mem.is_valid(mfn) || self.mem[mfn].owner == Owner::Io {
            return match (self.kind.has_io(), mfn == Mfn::MAX) {
                (_, true) => Err(Errno::EINVAL),
                (false, _) => Err(Errno::EPERM),
                (true, _) => Ok(entry::force_uncached(new)),
            };
        }
        let owner = self.mem[mfn].owner;
        let theirs = owner == pages_of || (pages_of == Owner::Foreign && owner == Owner::Foreign);
        if !theirs || !self.get_page(mfn, owner) {
            return Err(Errno::EBUSY);
        }
        if new & RW != 0 && self.get_type(mfn, Type::Writable).is_err() {
            self.put_page(mfn);
            return Err(Errno::EBUSY);
        }
        if new & CACHE != 0 && self.mem[mfn].special {
            if new & RW != 0 {
                self.put_type(mfn, None);
            }
            self.put_page(mfn);
            return Err(Errno::EACCES);
        }
        Ok(0)
    }

    /// A linear page table: a read-only entry that maps a table of its own level, so that tables
    /// show up as pages. Allowed for the table itself, and for another that is validated already;
    /// a table that contains such entries cannot be the target of others.
    fn get_linear(&mut self, level: Level, new: u64, table: Mfn) -> bool {
        if new & RW != 0 {
            return false;
        }
        let mfn = entry::frame(new);
        if mfn == table {
            return true;
        }
        if self.mem[table].owner != Owner::Guest || !self.get_page(mfn, Owner::Guest) {
            return false;
        }
        let target = self.mem[mfn];
        let allowed = self.mem[table].linear >= 0
            && target.linear <= 0
            && target.kind == Type::Table(level)
            && target.validated
            && target.type_count > 0;
        if !allowed {
            self.put_page(mfn);
            return false;
        }
        self.mem[table].linear += 1;
        self.mem[mfn].linear -= 1;
        self.mem[mfn].type_count += 1;
        true
    }

    /// Gives up what an entry holds that was taken with [`get_entry`](Self::get_entry).
    pub(crate) fn put_entry(&mut self, level: Level, old: u64, table: Mfn) {
        let mfn = entry::frame(old);
        if old & P == 0 {
            return;
        }
        if level == Level::L1 {
            if !self.mem.is_valid(mfn) || self.mem[mfn].owner == Owner::Io {
                return;
            }
            if old & RW != 0 {
                self.put_type(mfn, None);
            }
            self.put_page(mfn);
        } else if mfn == table {
            // Its own linear entry: nothing was taken.
        } else if old & PSE != 0 {
            let pages = if level == Level::L2 { 512 } else { 512 * 512 };
            for page in 0..pages {
                if old & RW != 0 {
                    self.put_type(mfn.add(page), None);
                }
                self.put_page(mfn.add(page));
            }
        } else {
            self.put_type(mfn, Some(table));
            self.put_page(mfn);
        }
    }

    /// A non-present entry with an address in it: on a CPU with L1TF, Xen shadows the domain or,
    /// as here, ends it. Elsewhere it is harmless.
    pub(crate) fn check_l1tf(&mut self, level: Level, value: u64) -> Res<u64> {
        let large = level != Level::L1 && value & PSE != 0;
        if self.l1tf && (large || value & hypercall::addr::ADDR_MASK != 0) {
            self.crash(format_args!(
                "L1TF-vulnerable {level} entry {value:#018x}, not present with an address"
            ));
            return Err(Errno::EINVAL);
        }
        Ok(value)
    }
}
