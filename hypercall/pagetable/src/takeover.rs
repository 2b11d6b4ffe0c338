//! Taking over the page tables that Xen built.
//!
//! Xen hands the kernel live tables: a linear mapping of the first pseudo-physical frames at
//! VIRT_BASE (image, boot data, the tables themselves read-only, a stack, at least 512 KiB of
//! spare memory up to a multiple of 4 MiB), all of it writable and executable, and the p2m list in
//! a part of its own. They stay live and are extended; no present entry is replaced by one for
//! another frame.
//!
//! The steps, each relying only on those before:
//! 1. [`Initial::survey`]: walk the tables, account for every frame of the initial mapping.
//! 2. [`Initial::fixmap`]: tables for the fixmap, made from spare memory; from here on single
//!    machine frames can be looked at.
//! 3. [`Early::direct_map`]: Xen's own L1 tables already map frame *n* at place *n*, so the direct
//!    map refers to the very same tables: no entry is written or validated twice, and one entry
//!    decides for both windows until the image gets tables of its own.
//! 4. [`Early::direct_map`] goes on: the p2m list loses its write permission in one L4 entry; the
//!    image gets L1 tables with exactly its own pages, each with the rights of its segment; what
//!    else lay in the initial window disappears from it.
//!
//! A chunk of 2 MiB that is code from end to end needs neither: it keeps Xen's table, to which one L2
//! entry leads without the right to write, and the direct map does not have it at all. That costs the
//! same whatever its 512 entries say.
//!
//! Where the kernel has its tables to itself, its entry has built just such tables (`entry::pvh`):
//! what is true of Xen's is true of them, and this is the one way to a kernel that owns its memory.
//!
//! The types are the phases: an operation that needs a later one is not there in an earlier.

use core::ops::Range;

use heapless::Vec;
use hypercall::{Mfn, Pfn};
use marks::init;

use crate::directmap::share;
use crate::entry::{Entry, Flags, L1, L3, L4, L5, Pmd, Pte, TableLevel, Value};
use crate::error::MmError;
use crate::frames::{CHUNK, Frames};
use crate::fresh::Fresh;
use crate::layout::Layout;
use crate::machine::{Live, Machine};
use crate::state::{Kind, State};
use crate::tables::{Fold, Tables};

const PAGE: u64 = 4096;
/// Spare pages that Xen promises behind the boot stack.
const SPARE: u64 = 128;

/// What the kernel was told about the memory it starts in. Frame numbers are pfns.
#[derive(Clone, Debug)]
pub struct Start {
    /// Pages of the domain.
    pub nr_pages: u64,
    /// How many levels the tables have.
    pub fold: Fold,
    /// Virtual address of the root table.
    pub pt_base: u64,
    /// Frames from `pt_base` on that hold the initial tables.
    pub nr_pt_frames: u64,
    /// Virtual address of the p2m list, where there is one.
    pub p2m_list: Option<u64>,
    /// Frames of the p2m list and its tables, if outside of the initial mapping.
    pub p2m_frames: Range<u64>,
    /// The page of `start_info`; read already, its memory is free.
    pub start_info: u64,
    /// Pages shared with the tools: console and xenstore.
    pub shared: [Option<u64>; 2],
    /// The module.
    pub module: Range<u64>,
    /// The stack that Xen provided; left already, its memory is free.
    pub boot_stack: u64,
    /// The image.
    pub image: Segments,
}

/// The parts of the image: virtual addresses, whole pages, in this order and apart from each other.
#[derive(Clone, Debug)]
pub struct Segments {
    /// Code.
    pub text: Range<u64>,
    /// Of the code, what is never [released](Tables::release).
    pub kept_text: Range<u64>,
    /// Constants.
    pub rodata: Range<u64>,
    /// Variables.
    pub data: Range<u64>,
    /// Pages in the middle of the variables that must not be mapped.
    pub guard: Range<u64>,
}

impl Segments {
    /// All of it.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.text.start..self.data.end
    }

    /// The parts that are mapped, with their rights.
    fn mapped(&self) -> [(Range<u64>, Flags); 4] {
        let before = self.data.start..self.guard.start.max(self.data.start);
        [
            (self.text.clone(), Flags::CODE),
            (self.rodata.clone(), Flags::CONST),
            (before, Flags::DATA),
            (self.guard.end..self.data.end, Flags::DATA),
        ]
    }

    /// Whether the chunk from an address on is code that stays, from end to end.
    fn is_all_code(&self, chunk: u64) -> bool {
        self.kept_text.start <= chunk && chunk + CHUNK * PAGE <= self.kept_text.end
    }
}

/// What the takeover found and did, for the boot log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Pages of Xen's initial mapping.
    pub initial_pages: u64,
    /// Page tables found in it.
    pub initial_tables: u64,
    /// Pages of it that were given to the allocator.
    pub reclaimed: u64,
    /// Pages of the domain beyond what the direct map has room for: never used.
    pub beyond: u64,
}

/// Phase 1: Xen's tables, through Xen's mapping.
pub struct Initial<'t, M: Machine> {
    tables: &'t mut Tables<M>,
    start: Start,
    report: Summary,
}

/// Phase 2: single pages through the fixmap.
pub struct Early<'t, M: Machine>(Initial<'t, M>);

#[init]
impl<'t, M: Machine> Initial<'t, M> {
    /// Walks the initial tables and accounts for every frame they map.
    ///
    /// # Errors
    /// The tables are not what the ABI promises.
    pub fn survey(tables: &'t mut Tables<M>, start: Start) -> Result<Self, MmError> {
        // Xen's tables lie in its mapping, whose end is what they are read for.
        tables.machine().set_reach(start.nr_pages);
        let (frames, machine) = tables.records();
        let root = Pfn::truncate((start.pt_base - M::Layout::IMAGE.start) / PAGE);
        let mapped = initial_pages(machine, root, start.fold)?;
        let bad = |pages| MmError::BadRange {
            va: M::Layout::IMAGE.start,
            pages,
        };
        if mapped > start.nr_pages || !mapped.is_multiple_of(CHUNK) {
            return Err(bad(mapped));
        }
        let used = used_ranges::<M>(&start, mapped)?;
        let mut spare = spare(machine, &used, &start, mapped).ok_or(bad(mapped))?;
        let records = spare.start;
        frames.init(machine, start.nr_pages, mapped, &mut spare)?;
        // Where there is a p2m list, what its builder mapped is memory.
        let has_holes = start.p2m_list.is_none();
        let asked = if has_holes { mapped } else { 0 };
        for pfn in (0..asked).map(Pfn::truncate) {
            if machine.mfn(pfn).is_none() {
                frames.set(pfn, State::of(Kind::Hole))?;
            }
        }
        for gap in gaps(&used, mapped) {
            if has_holes {
                frames.give_free(machine, gap)?;
            } else if gap.end == spare.end {
                // The records were taken from it: what lies before was used to boot.
                frames.give(machine, gap.start..records);
                frames.give(machine, spare.clone());
            } else {
                frames.give(machine, gap);
            }
        }
        let reclaimed = frames.counts().free;
        for (range, kind) in &used {
            frames.declare(range.clone(), *kind)?;
        }
        frames.declare(outside(&start.p2m_frames, mapped), Kind::P2m)?;
        frames.declare(outside(&start.module, mapped), Kind::Module)?;
        let mut report = Summary {
            initial_pages: mapped,
            initial_tables: 0,
            reclaimed,
            beyond: start.nr_pages - frames.counts().total,
        };
        adopt_tables(machine, frames, root, start.fold.top(), mapped, &mut report)?;
        let (state, _) = frames.states(root)?;
        // The domain builder pins the root, and CR3 refers to it.
        frames.set(
            root,
            State {
                links: 1,
                pinned: true,
                ..state
            },
        )?;
        tables.set_boot_root(root, start.fold);
        tables.machine().set_reach(mapped);
        Ok(Initial {
            tables,
            start,
            report,
        })
    }

    /// Makes the fixmap's tables.
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn fixmap(self) -> Result<Early<'t, M>, MmError> {
        self.tables
            .lazily(|tables| tables.ensure_pte_table(M::Layout::FIXMAP.start))?;
        Ok(Early(self))
    }
}

#[init]
impl<'t, M: Machine> Early<'t, M> {
    /// Maps one machine frame at a page of the fixmap: what other kernels call `early_ioremap`.
    ///
    /// # Errors
    /// Not a page of the fixmap, or one that is taken; or Xen's refusal.
    ///
    /// # Safety
    /// The frame may be reached there with these rights.
    pub unsafe fn map_fixed(&mut self, va: u64, mfn: Mfn, flags: Flags) -> Result<(), MmError> {
        if !M::Layout::FIXMAP.contains(&va) {
            return Err(MmError::BadRange { va, pages: 1 });
        }
        // SAFETY: by the caller's contract the frame may be reached there.
        unsafe { self.0.tables.map_machine(va, mfn, flags) }
    }

    /// The machine frame of a page of the image.
    ///
    /// # Errors
    /// The address is not the image's.
    pub fn image_frame(&self, va: u64) -> Result<Mfn, MmError> {
        let pages = 1;
        match self.0.start.image.range().contains(&va) {
            true => (self.0.tables).mfn(Pfn::truncate((va - M::Layout::IMAGE.start) / PAGE)),
            false => Err(MmError::BadRange { va, pages }),
        }
    }

    /// Frees a fixed place.
    ///
    /// # Errors
    /// Xen's refusal.
    ///
    /// # Safety
    /// Nobody uses the mapping any more.
    pub unsafe fn unmap_fixed(&mut self, va: u64) -> Result<(), MmError> {
        let slot = self.0.tables.pte_place(va)?;
        // SAFETY: nobody uses the mapping any more, as the caller says.
        unsafe { self.0.tables.set_pte(slot, va, Pte::NONE) }
    }

    /// Builds the direct map over what the initial mapping covers, moves to it, protects the p2m
    /// list and gives the image its own tables.
    ///
    /// From then on the tables reach memory through the direct map only: addresses in the initial
    /// mapping outside of the image are gone.
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn direct_map(self) -> Result<Summary, MmError> {
        let Initial {
            tables,
            start,
            report,
        } = self.0;
        let chunks = report.initial_pages / CHUNK;
        tables.lazily(|tables| {
            let offsets = (0..chunks).map(|chunk| chunk * CHUNK * PAGE);
            let mut offsets =
                offsets.filter(|offset| !start.image.is_all_code(M::Layout::IMAGE.start + offset));
            offsets.try_for_each(|offset| {
                // SAFETY: the direct map is where the kernel reaches all memory of the domain.
                unsafe {
                    share(
                        tables,
                        M::Layout::IMAGE.start + offset,
                        M::Layout::DIRECT.start + offset,
                    )
                }
            })
        })?;
        tables.machine().open_direct_map();
        tables.forget_places();
        let (frames, machine) = tables.records();
        frames.move_to_window(machine);
        tables.lazily(|tables| {
            protect_p2m(tables, &start)?;
            give_image_its_tables(tables, &start.image, chunks)?;
            tables.lay_out_kernel_half()
        })?;
        Ok(report)
    }
}

/// Frames of a range that lie beyond the initial mapping.
#[init]
fn outside(range: &Range<u64>, mapped: u64) -> Range<u64> {
    range.start.max(mapped)..range.end.max(mapped)
}

/// Ranges of the initial mapping with what they are, in order.
type Used = Vec<(Range<u64>, Kind), 8>;

/// The ranges of the initial mapping that are in use, in order, with what they are. Page tables
/// are found by walking; they are given as [`Kind::P2m`] here, which is read-only as well, so that
/// a table that no walk finds stays untouched.
#[init]
fn used_ranges<M: Machine>(start: &Start, mapped: u64) -> Result<Used, MmError> {
    let pfn = |va: u64| (va - M::Layout::IMAGE.start) / PAGE;
    let image = |range: &Range<u64>| pfn(range.start)..pfn(range.end);
    let page_tables = pfn(start.pt_base)..pfn(start.pt_base) + start.nr_pt_frames;
    let list_pages = (start.nr_pages * 8).div_ceil(PAGE);
    let p2m = match start.p2m_list {
        Some(list) if M::Layout::IMAGE.contains(&list) => pfn(list)..pfn(list) + list_pages,
        _ => 0..0,
    };
    let consts = image(&start.image.text).start..image(&start.image.rodata).end;
    let mut used = Used::new();
    let fixed = [
        (consts, Kind::ImageConst),
        (image(&start.image.data), Kind::ImageData),
        (page_tables, Kind::P2m),
        (p2m, Kind::P2m),
        (start.p2m_frames.clone(), Kind::P2m),
        (start.module.clone(), Kind::Module),
    ];
    let shared = start
        .shared
        .iter()
        .flatten()
        .map(|&pfn| (pfn..pfn + 1, Kind::Shared));
    let all = fixed.into_iter().chain(shared);
    let inside = all.map(|(range, kind)| (range.start..range.end.min(mapped), kind));
    for used_range in inside.filter(|(range, _)| range.start < range.end) {
        let place = used.partition_point(|(before, _)| before.start <= used_range.0.start);
        // There is room for all eight.
        let _ = used.insert(place, used_range);
    }
    let overlap = used.windows(2).find(|pair| pair[0].0.end > pair[1].0.start);
    match overlap {
        Some(pair) => Err(MmError::Occupied {
            va: M::Layout::IMAGE.start + pair[1].0.start * PAGE,
        }),
        None => Ok(used),
    }
}

/// What the ranges in use leave of the initial mapping, in order.
#[init]
fn gaps(used: &Used, mapped: u64) -> impl DoubleEndedIterator<Item = Range<u64>> {
    let end = |at: usize| at.checked_sub(1).map_or(0, |before| used[before].0.end);
    let start = move |at: usize| used.get(at).map_or(mapped, |(range, _)| range.start);
    let gaps = (0..=used.len()).map(move |at| end(at)..start(at));
    gaps.filter(|gap| gap.start < gap.end)
}

/// Where the records go: what Xen promises behind the boot stack, or else, where a module lies in
/// its place, the largest gap; of either the end, as far as that is memory.
#[init]
fn spare<M: Machine>(machine: &M, used: &Used, start: &Start, mapped: u64) -> Option<Range<u64>> {
    let boot = (start.boot_stack + 1).max(start.start_info + 1);
    let is_enough = |gap: &Range<u64>| gap.end - gap.start >= SPARE;
    // Where there is a p2m list, what its builder mapped is memory.
    let memory = |gap: Range<u64>| {
        let is_hole = |pfn: &u64| machine.mfn(Pfn::truncate(*pfn)).is_none();
        let hole = match start.p2m_list {
            Some(_) => None,
            None => gap.clone().rfind(is_hole),
        };
        hole.map_or(gap.start, |hole| hole + 1)..gap.end
    };
    let behind = |gap: Range<u64>| gap.start.max(boot.min(gap.end))..gap.end;
    let last = gaps(used, mapped).next_back().map(behind).map(memory);
    last.filter(is_enough).or_else(|| {
        let by_size = gaps(used, mapped).map(memory);
        by_size
            .max_by_key(|gap| gap.end - gap.start)
            .filter(is_enough)
    })
}

fn read<M: Machine>(machine: &M, table: Pfn) -> Result<Live<'_>, MmError> {
    // SAFETY: a table of Xen's, which the initial mapping maps read-only.
    unsafe { machine.live(table) }.ok_or(MmError::NoMemory {
        pfn: table.as_u64(),
    })
}

/// How many pages the initial mapping has: it starts at VIRT_BASE and has no gap.
#[init]
fn initial_pages<M: Machine>(machine: &M, root: Pfn, fold: Fold) -> Result<u64, MmError> {
    let base = M::Layout::IMAGE.start;
    let below = |table: Pfn, index: usize, level| -> Result<Pfn, MmError> {
        let entry = Entry::<L4>::from_table(read(machine, table)?.get(index));
        let mfn = entry.mfn().ok_or(MmError::NoTable { va: base, level })?;
        machine.pfn(mfn).ok_or(MmError::Foreign {
            va: base,
            mfn: mfn.as_u64(),
        })
    };
    let l4 = match fold {
        Fold::FourLevels => root,
        Fold::FiveLevels => below(root, L5::index(base), 5)?,
    };
    let l3 = below(l4, L4::index(base), 4)?;
    let l2 = below(l3, L3::index(base), 3)?;
    let full = read(machine, l2)?
        .iter()
        .take_while(|word| *word & 1 == 1)
        .count() as u64;
    if full == 0 {
        return Err(MmError::NoTable { va: base, level: 2 });
    }
    let last = below(l2, full as usize - 1, 2)?;
    let tail = read(machine, last)?.iter().rposition(|word| word & 1 == 1);
    Ok((full - 1) * CHUNK + tail.map_or(0, |index| index as u64 + 1))
}

/// Records every table of the initial mapping, with how often it is referred to.
#[init]
fn adopt_tables<M: Machine>(
    machine: &M,
    frames: &Frames,
    table: Pfn,
    level: u8,
    mapped: u64,
    report: &mut Summary,
) -> Result<(), MmError> {
    let (state, _) = frames.states(table)?;
    let links = if state.kind == Kind::Table {
        state.links
    } else {
        0
    };
    frames.set(table, State::table(level, links + 1, false))?;
    if links > 0 {
        return Ok(());
    }
    report.initial_tables += 1;
    if level == 1 {
        return Ok(());
    }
    let entries = read(machine, table)?;
    for index in entries.present_from(0) {
        // Slots 256 to 271 of an L4 table are Xen's own, and empty where there is none.
        let xens = level == 4 && (256..272).contains(&index);
        let entry = Pmd::from_table(entries.get(index));
        let Some(mfn) = entry.mfn().filter(|_| !xens && !entry.is_large()) else {
            continue;
        };
        // Tables of the p2m list may lie beyond what can be read now; its frames are read-only
        // whatever they hold.
        if let Some(below) = machine.pfn(mfn).filter(|pfn| pfn.as_u64() < mapped) {
            adopt_tables(machine, frames, below, level - 1, mapped, report)?;
        }
    }
    Ok(())
}

/// Takes the right to write the p2m list: by one entry, where it has an L4 slot of its own.
#[init]
fn protect_p2m<M: Machine>(tables: &mut Tables<M>, start: &Start) -> Result<(), MmError> {
    let Some(list) = start.p2m_list else {
        return Ok(());
    };
    if M::Layout::P2M.contains(&list) {
        let va = M::Layout::P2M.start;
        let pgd = tables.pgd_at(va).ok_or(MmError::NotMapped { va })?;
        let p4d = tables.p4d_at(pgd, va).ok_or(MmError::NotMapped { va })?;
        let entry = tables.entry(p4d);
        let flags = (entry.flags() - Flags::WRITABLE) | Flags::NO_EXECUTE;
        // SAFETY: the kernel only reads the list.
        return unsafe { tables.set_p4d(p4d, entry.with_flags(flags)) };
    }
    let pages = (start.nr_pages * 8).div_ceil(PAGE);
    let offset = list - M::Layout::IMAGE.start;
    // SAFETY: the kernel only reads the list.
    unsafe { tables.set_rights(M::Layout::DIRECT.start + offset, pages, Flags::CONST) }
}

/// Gives the image L1 tables with nothing but its own pages, takes its code and constants out of the
/// direct map, where nobody looks for them, and ends the initial window.
#[init]
fn give_image_its_tables<M: Machine>(
    tables: &mut Tables<M>,
    image: &Segments,
    chunks: u64,
) -> Result<(), MmError> {
    let parts = image.mapped();
    let consts = image.text.start..image.rodata.end;
    for chunk in 0..chunks {
        let base = M::Layout::IMAGE.start + chunk * CHUNK * PAGE;
        let slot = tables.pmd_place(base)?;
        let here = |range: &Range<u64>| {
            range.start.max(base)..range.end.min(base + CHUNK * PAGE).max(base)
        };
        if here(&image.range()).is_empty() {
            // SAFETY: nothing in the initial window but the image is in use: memory is reached
            // through the direct map, boot data was copied.
            unsafe { tables.set_upper(slot, Entry::NONE) }?;
            continue;
        }
        if image.is_all_code(base) {
            let entry = tables.entry(slot);
            let flags = entry.flags() - Flags::WRITABLE;
            // SAFETY: the chunk is code, which nobody writes to.
            unsafe { tables.set_upper(slot, entry.with_flags(flags)) }?;
            continue;
        }
        let frame = tables.alloc_frame()?;
        let filled = Fresh::<L1>::filled(tables, frame, |tables, words| {
            *words = [0; 512];
            for (range, flags) in parts.iter().map(|(range, flags)| (here(range), *flags)) {
                let first = ((range.start - base) / PAGE) as usize;
                let pfns = (range.start - M::Layout::IMAGE.start) / PAGE..;
                let pages = (range.end.saturating_sub(range.start) / PAGE) as usize;
                for (word, pfn) in words.iter_mut().skip(first).take(pages).zip(pfns) {
                    *word = tables
                        .make_pte(Value::new(Pfn::truncate(pfn), flags))?
                        .bits();
                }
            }
            Ok(())
        });
        let sealed = filled?.seal(tables)?;
        // SAFETY: every page of the image is mapped as before, with the rights of its segment; the
        // guard page and what is not the image is in nobody's use.
        unsafe { tables.link_table(slot, sealed, Flags::TABLE) }?;
        let consts = here(&consts);
        if consts.is_empty() {
            continue;
        }
        let direct = M::Layout::DIRECT.start + (consts.start - M::Layout::IMAGE.start);
        // Cheaper than to make them read-only, and as safe.
        // SAFETY: this code runs where the image is linked, by tables of its own from here on.
        let change = unsafe { tables.unmap(direct, (consts.end - consts.start) / PAGE) }?;
        // SAFETY: this code runs where the image is linked, by tables of its own from here on.
        unsafe { change.defer() };
    }
    Ok(())
}
