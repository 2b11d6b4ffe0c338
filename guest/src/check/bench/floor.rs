//! The floor: what each operation costs by the cheapest raw hypercalls known for it, with no queue,
//! no record of frames and no checks in between.
//!
//! One page goes by `update_va_mapping`, a few by one `mmu_update`, whole tables by filling fresh
//! ones with plain stores and exchanging them in one `mmu_update` (which way is cheapest was counted
//! on Xen 4.17; tables win from 35 to 40 entries on). Of a few, the last goes by `update_va_mapping`
//! where something is to be flushed: it brings the flush for less than a hypercall of its own. Counted are the hypercalls and the copying
//! that fills tables; requests, and the entries of new mappings, are made before. A change that takes rights away includes one flush.
//!
//! Everything here goes on behind the back of [`Tables`] and puts back what it finds: a cycle of
//! steps begins and ends with what `Tables` has mapped.

use heapless::Vec;
use hypercall::abi::mmu::mmu_update;
use hypercall::abi::xen::DOMID_SELF;
use hypercall::mmu::{self as raw, ExtOp, Level, Scope, VaFlush};
use hypercall::{MachAddr, Pfn, VirtAddr, XenError};

use super::tally::{ROUNDS, Tally};
use super::{BASE, Pool, SIZES};
use crate::mm::frames::{Frame, FrameError};
use crate::mm::machine::{Machine, Words};
use crate::mm::running::Running;
use crate::mm::{self, Flags, MmError, Tables, Value};
use crate::refused::Refused;
use crate::selection::Selection;
use crate::xen::PV;

const PAGE: u64 = 4096;
const SPAN: u64 = 512 * PAGE;

/// Where pages are mapped, by whole tables.
const HERE: u64 = BASE + (8 << 30);
/// Where they are moved to, if table by table: nothing else ever makes a table there, which requests
/// behind the back of the records would lose.
const THERE: u64 = HERE + (1 << 30);
/// Where they are moved to, if entry by entry: behind all those tables.
const ASIDE: u64 = THERE + (TABLES as u64) * SPAN;
/// By how many pages an unaligned move is off.
const SKEW: usize = 5;
/// From how many pages on tables are exchanged rather than entries updated.
const BREAK_EVEN: u64 = 36;

/// Most tables in use: of 4096 pages, one more where they lie askew.
const TABLES: usize = 9;
/// Requests of the longest list: entries that move, each in two places. Lists lie on the stack.
const REQUESTS: usize = 64;

/// U, G and the bit by which Xen tells kernel pages: Xen sets them, and a table that is written
/// anew must not hold them.
const XEN_SETS: u64 = 1 << 2 | 1 << 8 | 1 << 52;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;

type List = Vec<mmu_update, REQUESTS>;

/// Measures the floors of the selected operations and prints a line for each.
// Its stack frame is large, and not to be part of the caller's.
#[inline(never)]
pub(super) fn run(selection: &Selection<'_>, pool: &Pool) -> Result<usize, Refused> {
    let mut lines = 0;
    for pages in SIZES {
        let mut tally = Tally::default();
        mm::with(|tables| {
            let ground = &mut Ground::new(tables, pool, pages)?;
            for _ in 0..ROUNDS {
                if pages < BREAK_EVEN {
                    ground.entries(&mut tally)?;
                } else {
                    ground.exchange(&mut tally)?;
                }
                if pages == 1 {
                    ground.space(&mut tally)?;
                }
            }
            Ok::<_, Refused>(ground.end()?)
        })?;
        lines += tally.print(selection);
    }
    Ok(lines)
}

/// What a floor is measured on.
struct Ground<'a> {
    tables: &'a mut Tables<Running>,
    pool: &'a Pool,
    pages: u64,
    /// Frames for tables.
    spare: Vec<Frame, TABLES>,
    /// Frames that hold what tables are filled with.
    ready: Vec<Frame, TABLES>,
}

/// The tables of a range, by number, with the places where they are referred to.
#[derive(Clone, Copy)]
struct Linked {
    /// The L2 entry.
    slot: MachAddr,
    table: Pfn,
}

impl<'a> Ground<'a> {
    fn new(
        tables: &'a mut Tables<Running>,
        pool: &'a Pool,
        pages: u64,
    ) -> Result<Ground<'a>, MmError> {
        let mut take = || -> Result<Vec<Frame, TABLES>, MmError> {
            (0..TABLES).map(|_| tables.alloc_frame()).collect()
        };
        let (spare, ready) = (take()?, take()?);
        tables.ensure_pmd(THERE)?;
        // SAFETY: the benchmark's own part of the address space and the pool's frames.
        unsafe { tables.map(HERE, pool.frames(pages), Flags::DATA) }?.commit(tables)?;
        Ok(Ground {
            tables,
            pool,
            pages,
            spare,
            ready,
        })
    }

    fn end(&mut self) -> Result<(), MmError> {
        // SAFETY: the benchmark's own part of the address space.
        unsafe { self.tables.unmap(HERE, self.pages) }?.commit(self.tables)?;
        while let Some(frame) = self.spare.pop().or_else(|| self.ready.pop()) {
            self.tables.free_frame(frame)?;
        }
        Ok(())
    }

    // ---- Entry by entry ----

    /// Takes the mapped pages through a cycle of changes to their entries.
    fn entries(&mut self, tally: &mut Tally) -> Result<(), Refused> {
        let there = ASIDE + SKEW as u64 * PAGE;
        // SAFETY: the benchmark's own part of the address space and the pool's frames.
        unsafe {
            self.tables
                .map(there, self.pool.frames(self.pages), Flags::DATA)
        }?
        .commit(self.tables)?;
        let none = self.requests(HERE, None)?;
        let data = self.requests(HERE, Some(Flags::DATA))?;
        let constant = self.requests(HERE, Some(Flags::CONST))?;
        let marked = self.requests(HERE, Some(Flags::DATA | Flags::SOFTWARE0))?;
        let other = self.consecutive(HERE)?;

        tally.count("floor.unmap", self.pages, || {
            Ok(self.carry_out(HERE, &none, true)?)
        })?;
        tally.count("floor.map", self.pages, || {
            Ok(self.carry_out(HERE, &data, false)?)
        })?;
        tally.count("floor.protect_ro", self.pages, || {
            Ok(self.carry_out(HERE, &constant, true)?)
        })?;
        tally.count("floor.protect_rw", self.pages, || {
            Ok(self.carry_out(HERE, &data, false)?)
        })?;
        tally.count("floor.set_ptes", self.pages, || {
            Ok(self.carry_out(HERE, &other, true)?)
        })?;
        self.carry_out(HERE, &data, true)?;
        if self.pages == 1 {
            tally.count("floor.set_pte_flags", self.pages, || {
                Ok(self.carry_out(HERE, &marked, false)?)
            })?;
            self.carry_out(HERE, &data, true)?;
        }

        let nowhere = self.requests(there, None)?;
        let moved = self.requests(there, Some(Flags::DATA))?;
        for name in ["floor.move_unaligned", "floor.move_aligned"] {
            self.carry_out(there, &nowhere, true)?;
            let mut both = moved.clone();
            both.extend(none.iter().copied());
            tally.count(name, self.pages, || match self.pages {
                1 => {
                    let calls = self.carry_out(there, &moved, false)?;
                    Ok(calls + self.carry_out(HERE, &none, true)?)
                }
                _ => Ok(self.carry_out(HERE, &both, true)?),
            })?;
            self.carry_out(HERE, &data, false)?;
        }
        // SAFETY: the benchmark's own part of the address space.
        unsafe { self.tables.unmap(there, self.pages) }?.commit(self.tables)?;
        Ok(())
    }

    /// Requests that write the entries of the range, for the pool's frames or for none.
    fn requests(&self, va: u64, flags: Option<Flags>) -> Result<List, MmError> {
        let mut list = List::new();
        for (i, pfn) in self.pool.frames(self.pages).enumerate() {
            let entry = match flags {
                Some(flags) => self.tables.make_pte(Value::new(pfn, flags))?.bits(),
                None => 0,
            };
            let slot = self.tables.pte_slot(va + i as u64 * PAGE)?.machine();
            push(&mut list, raw::pt_update(slot, entry, false))?;
        }
        Ok(list)
    }

    /// Requests that map consecutive frames, read-only.
    fn consecutive(&self, va: u64) -> Result<List, MmError> {
        let mut list = List::new();
        for i in 0..self.pages {
            let pfn = Pfn::truncate(self.first()?.as_u64() + i);
            let entry = self.tables.make_pte(Value::new(pfn, Flags::CONST))?.bits();
            let slot = self.tables.pte_slot(va + i * PAGE)?.machine();
            push(&mut list, raw::pt_update(slot, entry, false))?;
        }
        Ok(list)
    }

    fn first(&self) -> Result<Pfn, MmError> {
        let none = MmError::NotMapped { va: HERE };
        self.pool.frames(1).next().ok_or(none)
    }

    /// Sends the requests, the way that is cheapest for their number; `flush` what was mapped. The last
    /// of them is for the last page from `va` on.
    fn carry_out(&self, va: u64, list: &[mmu_update], flush: bool) -> Result<u64, XenError> {
        let flush = match (flush, list) {
            (false, _) => VaFlush::None,
            (true, [_]) => VaFlush::Page(Scope::Local),
            (true, _) => VaFlush::Tlb(Scope::Local),
        };
        let (last, before) = match list.split_last() {
            Some((last, before)) if before.is_empty() || flush != VaFlush::None => (last, before),
            _ => return send(list),
        };
        if !before.is_empty() {
            send(before)?;
        }
        let page = VirtAddr::new_truncate(va + (self.pages - 1) * PAGE);
        // SAFETY: nothing else uses this part of the address space, and the pool's frames are
        // nobody's.
        unsafe { raw::update_va_mapping(&PV, page, last.val, flush) }?;
        Ok(1 + u64::from(!before.is_empty()))
    }

    // ---- Table by table ----

    /// Takes the mapped pages through a cycle of changes to whole tables.
    fn exchange(&mut self, tally: &mut Tally) -> Result<(), Refused> {
        let here = self.linked()?;
        let fresh = self.in_place_of(&here);
        let old: Vec<Pfn, TABLES> = here.iter().map(|h| h.table).collect();
        let new: Vec<Pfn, TABLES> = fresh.iter().map(|h| h.table).collect();
        let ready: Vec<Pfn, TABLES> = self.ready.iter().map(Frame::pfn).collect();

        let mut unlink = List::new();
        self.unlink(&mut unlink, &here)?;
        self.rights(&mut unlink, &old, Flags::DATA)?;
        let mut link = List::new();
        self.rights(&mut link, &old, Flags::CONST)?;
        self.link(&mut link, &here)?;
        let swap = self.swap(&old, &fresh)?;
        let back = self.swap(&new, &here)?;

        tally.count("floor.unmap", self.pages, || Ok(send(&unlink)?))?;
        self.fill(&ready)?;
        tally.count("floor.map", self.pages, || {
            self.copy(&ready, &old, |word| word);
            Ok(send(&link)?)
        })?;
        tally.count("floor.protect_ro", self.pages, || {
            self.copy(&old, &new, |word| word & !WRITABLE);
            Ok(send(&swap)?)
        })?;
        tally.count("floor.protect_rw", self.pages, || {
            self.copy(&new, &old, |word| word | (word & PRESENT) << 1);
            Ok(send(&back)?)
        })?;
        self.fill_consecutive(&ready)?;
        tally.count("floor.set_ptes", self.pages, || {
            self.copy(&ready, &new, |word| word);
            Ok(send(&swap)?)
        })?;
        self.fill(&old)?;
        send(&back)?;

        let mut aligned = List::new();
        let mut back = List::new();
        for linked in &here {
            let there = Linked {
                slot: there(linked.slot, self.tables)?,
                ..*linked
            };
            self.link(&mut aligned, &[there])?;
            self.unlink(&mut aligned, &[*linked])?;
            self.link(&mut back, &[*linked])?;
            self.unlink(&mut back, &[there])?;
        }
        tally.count("floor.move_aligned", self.pages, || Ok(send(&aligned)?))?;
        send(&back)?;

        let askew = self.spread()?;
        let places: Vec<Pfn, TABLES> = askew.iter().map(|h| h.table).collect();
        let mut moved = List::new();
        self.rights(&mut moved, &places, Flags::CONST)?;
        self.link(&mut moved, &askew)?;
        moved.extend(unlink.iter().copied());
        let mut clear = List::new();
        self.unlink(&mut clear, &askew)?;
        self.rights(&mut clear, &places, Flags::DATA)?;
        tally.count("floor.move_unaligned", self.pages, || {
            self.shift(&old, &places);
            Ok(send(&moved)?)
        })?;
        send(&clear)?;
        self.fill(&old)?;
        send(&link)?;
        Ok(())
    }

    /// The tables that map the range.
    fn linked(&self) -> Result<Vec<Linked, TABLES>, MmError> {
        let mut found = Vec::new();
        for i in 0..self.pages / 512 {
            let va = HERE + i * SPAN;
            let slot = self.tables.pmd_slot(va)?;
            let value = self.tables.value(self.tables.get(slot));
            let table = value.ok_or(MmError::NotMapped { va })?.pfn;
            found
                .push(Linked {
                    slot: slot.machine(),
                    table,
                })
                .map_err(|_| FrameError::Full)?;
        }
        Ok(found)
    }

    /// Spare frames in the same places.
    fn in_place_of(&self, tables: &[Linked]) -> Vec<Linked, TABLES> {
        let pairs = tables.iter().zip(&self.spare);
        pairs
            .map(|(linked, frame)| Linked {
                table: frame.pfn(),
                ..*linked
            })
            .collect()
    }

    /// Spare frames where an unaligned move leads.
    fn spread(&self) -> Result<Vec<Linked, TABLES>, MmError> {
        let mut found = Vec::new();
        for (i, frame) in (0..=self.pages / 512).zip(&self.spare) {
            let slot = self.tables.pmd_slot(THERE + i * SPAN)?.machine();
            found
                .push(Linked {
                    slot,
                    table: frame.pfn(),
                })
                .map_err(|_| FrameError::Full)?;
        }
        Ok(found)
    }

    fn link(&self, list: &mut List, tables: &[Linked]) -> Result<(), MmError> {
        for Linked { slot, table } in tables {
            let entry = self.tables.make_pmd(Value::new(*table, Flags::TABLE))?;
            push(list, raw::pt_update(*slot, entry.bits(), false))?;
        }
        Ok(())
    }

    fn unlink(&self, list: &mut List, tables: &[Linked]) -> Result<(), MmError> {
        for Linked { slot, .. } in tables {
            push(list, raw::pt_update(*slot, 0, false))?;
        }
        Ok(())
    }

    /// Requests that give the window's pages of some frames these rights.
    fn rights(&self, list: &mut List, frames: &[Pfn], flags: Flags) -> Result<(), MmError> {
        for pfn in frames {
            let slot = self.tables.pte_slot(self.tables.machine().window(*pfn))?;
            let entry = self.tables.make_pte(Value::new(*pfn, flags))?;
            push(list, raw::pt_update(slot.machine(), entry.bits(), false))?;
        }
        Ok(())
    }

    /// Requests that put tables in the place of others.
    fn swap(&self, old: &[Pfn], new: &[Linked]) -> Result<List, MmError> {
        let tables: Vec<Pfn, TABLES> = new.iter().map(|linked| linked.table).collect();
        let mut list = List::new();
        self.rights(&mut list, &tables, Flags::CONST)?;
        self.link(&mut list, new)?;
        self.rights(&mut list, old, Flags::DATA)?;
        Ok(list)
    }

    fn words(&self, table: Pfn) -> *mut Words {
        self.tables.machine().memory(table)
    }

    /// Fills tables with the pool's frames.
    fn fill(&self, tables: &[Pfn]) -> Result<(), MmError> {
        let mut frames = self.pool.frames(self.pages);
        for table in tables {
            // SAFETY: a frame that is no table at present and this benchmark's alone.
            for (word, pfn) in unsafe { &mut *self.words(*table) }
                .iter_mut()
                .zip(&mut frames)
            {
                *word = self.tables.make_pte(Value::new(pfn, Flags::DATA))?.bits();
            }
        }
        Ok(())
    }

    /// Fills tables with consecutive frames, read-only.
    fn fill_consecutive(&self, tables: &[Pfn]) -> Result<(), MmError> {
        let mut number = self.first()?.as_u64();
        for table in tables {
            // SAFETY: as in `fill`.
            for word in unsafe { &mut *self.words(*table) } {
                let value = Value::new(Pfn::truncate(number), Flags::CONST);
                *word = self.tables.make_pte(value)?.bits();
                number += 1;
            }
        }
        Ok(())
    }

    /// Copies tables in use to frames that are none.
    fn copy(&self, from: &[Pfn], to: &[Pfn], edit: impl Fn(u64) -> u64) {
        for (from, to) in from.iter().zip(to) {
            // SAFETY: `to` as in `fill`; `from` is a table that nobody changes meanwhile, and nobody
            // uses what it maps, so that the processor sets no bits in it.
            let (from, to) = unsafe { (&*self.words(*from).cast_const(), &mut *self.words(*to)) };
            for (to, from) in to.iter_mut().zip(from) {
                *to = edit(*from & !XEN_SETS);
            }
        }
    }

    /// Copies the entries of tables in use to where an unaligned move puts them.
    fn shift(&self, from: &[Pfn], to: &[Pfn]) {
        for (i, to) in to.iter().enumerate() {
            // SAFETY: as in `fill`.
            let to = unsafe { &mut *self.words(*to) };
            let (head, rest) = to.split_at_mut(SKEW);
            // SAFETY: as in `copy`.
            let words = |table: &Pfn| unsafe { &*self.words(*table).cast_const() };
            let before = i.checked_sub(1).and_then(|i| from.get(i)).map(words);
            copy_or_clear(head, before.map(|table| &table[512 - SKEW..]));
            copy_or_clear(rest, from.get(i).map(words).map(|table| &table[..]));
        }
    }

    // ---- Address spaces ----

    /// Makes and ends an address space: two roots, filled, pinned and unpinned.
    fn space(&mut self, tally: &mut Tally) -> Result<(), Refused> {
        let [kernel, user, ..] = &self.spare[..] else {
            return Ok(());
        };
        let (kernel, user) = (kernel.pfn(), user.pfn());
        let mut seal = List::new();
        self.rights(&mut seal, &[kernel, user], Flags::CONST)?;
        let mut unseal = List::new();
        self.rights(&mut unseal, &[kernel, user], Flags::DATA)?;
        let roots = [self.tables.mfn(kernel)?, self.tables.mfn(user)?];
        let pin = roots.map(|mfn| ExtOp::Pin(Level::L4, mfn).raw());
        let unpin = roots.map(|mfn| ExtOp::Unpin(mfn).raw());
        tally.count("floor.space_create_destroy", self.pages, || {
            // SAFETY: the frames are this benchmark's and no tables at present; the root in use
            // does not change meanwhile.
            unsafe {
                let root = &*self.words(self.tables.root()).cast_const();
                let kernel = &mut *self.words(kernel);
                // What is below the kernel's half is Xen's or nobody's.
                kernel[..272].fill(0);
                kernel[272..].copy_from_slice(&root[272..]);
                (*self.words(user)).fill(0);
            }
            send(&seal)?;
            for (ops, name) in [(&pin, "PIN_L4_TABLE"), (&unpin, "UNPIN_TABLE")] {
                // SAFETY: no register refers to these roots.
                unsafe { raw::ext_raw(&PV, ops, name) }.map_err(|stopped| stopped.error)?;
            }
            send(&unseal)?;
            Ok(4)
        })
    }
}

/// The L2 entry of the other range for one of the first, both being parts of one table's entries.
fn there(slot: MachAddr, tables: &Tables<Running>) -> Result<MachAddr, MmError> {
    let index = slot.entry_index() - tables.pmd_slot(HERE)?.machine().entry_index();
    let va = THERE + index as u64 * SPAN;
    Ok(tables.pmd_slot(va)?.machine())
}

fn copy_or_clear(to: &mut [u64], from: Option<&[u64]>) {
    match from {
        Some(from) => {
            for (to, from) in to.iter_mut().zip(from) {
                *to = from & !XEN_SETS;
            }
        }
        None => to.fill(0),
    }
}

fn push(list: &mut List, request: mmu_update) -> Result<(), MmError> {
    Ok(list.push(request).map_err(|_| FrameError::Full)?)
}

fn send(list: &[mmu_update]) -> Result<u64, XenError> {
    // SAFETY: nothing else uses this part of the address space or these frames, and what a request
    // changes is put back before anybody looks.
    let done = unsafe { raw::update(&PV, list, DOMID_SELF) };
    done.map(|()| 1).map_err(|stopped| stopped.error)
}
