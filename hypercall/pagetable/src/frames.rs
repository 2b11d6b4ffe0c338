//! The record of every frame, and the allocator that hands them out.
//!
//! A record has two states: what Xen has *applied* and what is *planned* once the queue is flushed.
//! Transitions are checked against the plan when they are queued; each goes into the [`Log`] of the
//! vCPU that queues it, and its place there is the tag of the queued request, so that a flush tells
//! exactly which came true ([`Completion`](hypercall::batch::Completion)). After a flush that failed,
//! the plan of every frame in the log falls back to what the others make of it: the record never claims
//! something that Xen refused.
//!
//! A record is one word, and changes by compare-exchange: whoever has a reference may change it.
//!
//! Memory is handed out lazily. Records exist for memory that the window maps, one page of records
//! for each 2 MiB; the direct map adds 2 MiB chunks when the allocator runs low, so that boot costs
//! the same whatever the size of the domain.

mod given;
mod kinds;
mod log;
mod mapped;
mod orphans;

use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use buddy_system_allocator::linked_list::LinkedList;
use heapless::Vec;
use hypercall::Pfn;
use lock_api::MutexGuard;

pub use self::log::{Ledger, Log};
use crate::directory::{self, Directory};
pub use crate::error::FrameError;
use crate::machine::Machine;
use crate::record::Record;
use crate::short::{Ranked, Short, rank};
use crate::spans::Spans;
use crate::state::{Kind, State, Transition};

/// Pages in a chunk of the direct map: one L1 table.
pub const CHUNK: u64 = 512;
/// Frames kept back for the growth of the direct map itself by a chunk: a table of each level but
/// the topmost, pages of records, directory and root, and one more.
const RESERVE: u64 = 7;
/// Orphaned frames that are listed.
const LISTED: usize = 512;

/// Counts of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All pages of the domain that can have records.
    pub total: u64,
    /// Pages reachable through the window.
    pub mapped: u64,
    /// Of these, free.
    pub free: u64,
    /// Of these, given back to Xen.
    pub given: u64,
}

/// A frame that was handed out: writable, and the holder's until it is freed or made a table.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is dropped is lost"]
pub struct Frame(Pfn);

impl Frame {
    /// Its number.
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.0
    }

    /// Turns a number back into the frame it came from, for holders who keep the numbers of theirs.
    ///
    /// # Safety
    /// The frame was handed out as a [`Frame`] and is still the caller's: that value is gone, and its
    /// number is turned back only once.
    pub unsafe fn from_pfn(pfn: Pfn) -> Frame {
        Frame(pfn)
    }
}

/// All frames of the domain.
pub struct Frames {
    directory: Directory,
    /// The [`Counts`]: read by anybody, written under the locks below.
    total: AtomicU64,
    mapped: AtomicU64,
    free: AtomicU64,
    given: AtomicU64,
    /// No frame below was given back to Xen.
    first_given: AtomicU64,
    pool: Short<Pool, { rank::POOL }>,
    /// Frames kept back besides [`RESERVE`], to add the chunks up to the next one that gives more
    /// than it takes.
    kept_back: AtomicU64,
    /// Frames that are something else than memory to hand out, wherever they lie. Held by whoever
    /// adds records; before [`pool`](Self::pool).
    special: Short<Special, { rank::SPECIAL }>,
    /// How many frames nobody holds.
    orphans: AtomicUsize,
    /// Frames that are frozen, or will be.
    frozen: AtomicU64,
}

/// Ranges of frames, and what they are.
type Special = Vec<(Range<u64>, Kind), 8>;

/// What frames were declared to be.
pub struct Declared<'a>(MutexGuard<'a, Ranked<{ rank::SPECIAL }>, Special>);

impl Declared<'_> {
    /// What a frame will be.
    #[must_use]
    pub fn kind(&self, pfn: u64) -> Kind {
        let mut declared = self.0.iter();
        declared
            .find(|(range, _)| range.contains(&pfn))
            .map_or(Kind::Free, |declared| declared.1)
    }
}

/// The frames that nobody has.
struct Pool {
    /// Freed frames, linked through themselves.
    recycled: LinkedList,
    /// Frames in the window that were never handed out.
    spans: Spans,
    /// Frames that nobody holds, as Xen refused what was to become of them: those that the list has
    /// room for.
    orphans: Vec<Pfn, LISTED>,
}

// SAFETY: the list's raw pointers lead only to free frames, which belong to this value alone.
unsafe impl Send for Pool {}

impl Default for Frames {
    fn default() -> Self {
        Frames::new()
    }
}

impl Frames {
    /// No record of anything.
    #[must_use]
    pub const fn new() -> Frames {
        Frames {
            directory: Directory::new(),
            total: AtomicU64::new(0),
            mapped: AtomicU64::new(0),
            free: AtomicU64::new(0),
            given: AtomicU64::new(0),
            first_given: AtomicU64::new(u64::MAX),
            pool: Short::new(Pool {
                recycled: LinkedList::new(),
                spans: Spans::EMPTY,
                orphans: Vec::new(),
            }),
            kept_back: AtomicU64::new(0),
            special: Short::new(Vec::new()),
            orphans: AtomicUsize::new(0),
            frozen: AtomicU64::new(0),
        }
    }

    /// Begins the record of `total` pages, `mapped` of which (a multiple of a chunk, 1 GiB at most)
    /// the window maps now. `spare` are consecutive free frames in the window; the records are taken
    /// from its start. Pages beyond what can have records stay unknown.
    ///
    /// # Errors
    /// `spare` is too small for the records.
    pub fn init<M: Machine>(
        &self,
        machine: &M,
        total: u64,
        mapped: u64,
        spare: &mut Range<u64>,
    ) -> Result<(), FrameError> {
        let first = spare.start;
        spare.start += Directory::pages(mapped / CHUNK);
        if spare.start > spare.end {
            return Err(FrameError::OutOfMemory);
        }
        self.total
            .store(total.min(directory::MOST), Ordering::Relaxed);
        self.directory.begin(
            machine,
            Pfn::truncate(first),
            mapped / CHUNK,
            self.counts().total,
        )?;
        self.mapped.store(mapped, Ordering::Relaxed);
        for pfn in first..spare.start {
            self.set(Pfn::truncate(pfn), State::of(Kind::Owned))?;
        }
        Ok(())
    }

    /// The records are reached by the window in use from now on.
    pub(super) fn move_to_window<M: Machine>(&self, machine: &M) {
        self.directory.move_to_window(machine);
    }

    /// Declares what frames are, whether their records exist already or not.
    ///
    /// # Errors
    /// Too many ranges.
    pub fn declare(&self, range: Range<u64>, kind: Kind) -> Result<(), FrameError> {
        let record = Record::new(State::of(kind), State::of(kind)).bits();
        let (mut pfn, end) = (range.start, range.end.min(self.directory.chunks() * CHUNK));
        while pfn < end {
            let chunk = pfn / CHUNK;
            let records = self.directory.records(chunk);
            let records = records.ok_or(FrameError::NoRecord(Pfn::truncate(pfn)))?;
            let until = end.min((chunk + 1) * CHUNK);
            // Nothing is in waiting for frames that are declared.
            for record_of in &records[(pfn % CHUNK) as usize..][..(until - pfn) as usize] {
                record_of.store(record, Ordering::Relaxed);
            }
            pfn = until;
        }
        if range.end > self.directory.chunks() * CHUNK {
            let mut special = self.special.lock();
            special.push((range, kind)).map_err(|_| FrameError::Full)?;
            self.keep_back(&special);
        }
        Ok(())
    }

    /// Free frames that must be left for the direct map to grow until it gains some.
    #[inline]
    #[must_use]
    pub fn reserve(&self) -> u64 {
        RESERVE + self.kept_back.load(Ordering::Relaxed)
    }

    /// Keeps back the frames that the next chunks take before one gives any: the p2m list of a
    /// large domain, or a module, fills whole chunks.
    fn keep_back(&self, special: &Special) {
        let ahead = self.directory.chunks()..self.counts().total / CHUNK;
        let need = ahead
            .take_while(|&chunk| self.free_in(chunk, special) < RESERVE)
            .map(Frames::frames_for_chunk)
            .sum();
        self.kept_back.store(need, Ordering::Relaxed);
    }

    /// Free frames that a chunk will bring.
    fn free_in(&self, chunk: u64, special: &Special) -> u64 {
        let (start, end) = (
            chunk * CHUNK,
            ((chunk + 1) * CHUNK).min(self.counts().total),
        );
        let within = |(range, _): &(Range<u64>, Kind)| {
            range.end.min(end).saturating_sub(range.start.max(start))
        };
        (end - start).saturating_sub(special.iter().map(within).sum())
    }

    /// What there is to be gained by the next chunk, by the next two and so on: the frames that
    /// they bring, less those that they take.
    fn gains(&self, special: &Special) -> impl Iterator<Item = i64> {
        let ahead = self.directory.chunks()..self.counts().total.div_ceil(CHUNK);
        ahead.scan(0, |sum, chunk| {
            *sum += self.free_in(chunk, special).cast_signed();
            *sum -= Frames::frames_for_chunk(chunk).cast_signed();
            Some(*sum)
        })
    }

    /// Frames that the direct map and the records take to grow by this chunk: its tables, its
    /// records, and what leads to them.
    #[must_use]
    pub fn frames_for_chunk(chunk: u64) -> u64 {
        let l2 = chunk.is_multiple_of(CHUNK);
        let l3 = chunk.is_multiple_of(CHUNK * 512);
        1 + u64::from(l2) + u64::from(l3) + Directory::pages_of(chunk)
    }

    /// Frames that can still be had: those that are free, and what the chunks that are not mapped
    /// yet will bring at least.
    #[must_use]
    pub fn obtainable(&self) -> u64 {
        let most = self.gains(&self.special.lock()).max().unwrap_or(0).max(0);
        self.counts().free + most.cast_unsigned()
    }

    /// Whether so many frames can still be had, as [`obtainable`](Self::obtainable) would say: it looks at no
    /// more chunks than it takes to know.
    #[must_use]
    pub fn can_obtain(&self, frames: u64) -> bool {
        let missing = frames.saturating_sub(self.counts().free);
        let enough = |gain: i64| gain.max(0).cast_unsigned() >= missing;
        missing == 0 || self.gains(&self.special.lock()).any(enough)
    }

    /// The chunk that the direct map must add next, if there are frames to be gained by it or by
    /// one behind it.
    #[must_use]
    pub fn next_chunk(&self) -> Option<u64> {
        let gains = self.gains(&self.special.lock()).any(|gain| gain > 0);
        gains.then(|| self.directory.chunks())
    }

    /// What frames of chunks that have no records yet will be. Nothing is declared while one looks.
    #[must_use]
    pub fn declared(&self) -> Declared<'_> {
        Declared(self.special.lock())
    }

    /// Adds the records of the next chunk, in frames that it takes from those that are free.
    ///
    /// # Errors
    /// There are too few.
    pub fn add_chunk<M: Machine>(&self, machine: &M) -> Result<(), FrameError> {
        let special = self.special.lock();
        let chunk = self.directory.chunks();
        let mut pages = Vec::<Frame, 3>::new();
        for _ in 0..Directory::pages_of(chunk) {
            let page = self.alloc(machine);
            // There is room: a chunk takes three pages at most.
            if page.map(|page| pages.push(page)).is_err() {
                pages
                    .into_iter()
                    .try_for_each(|page| self.free(machine, page))?;
                return Err(FrameError::OutOfMemory);
            }
        }
        self.directory.add(machine, self.counts().total, || {
            let page = pages.pop().ok_or(FrameError::OutOfMemory)?;
            Ok(page.0)
        })?;
        let range = chunk * CHUNK..((chunk + 1) * CHUNK).min(self.counts().total);
        let more = range.end - range.start;
        self.mapped.fetch_add(more, Ordering::Relaxed);
        for (frames, kind) in special.iter() {
            for pfn in frames.start.max(range.start)..frames.end.min(range.end) {
                self.set(Pfn::truncate(pfn), State::of(*kind))?;
            }
        }
        self.keep_back(&special);
        Ok(())
    }

    /// Gives those of the frames that are free, and were never handed out, to the allocator, and
    /// says how many.
    ///
    /// # Errors
    /// One has no record.
    pub fn give_free<M: Machine>(&self, machine: &M, range: Range<u64>) -> Result<u64, FrameError> {
        let mut given = 0;
        let mut piece = range.start..range.start;
        for pfn in range {
            let (applied, _) = self.states(Pfn::truncate(pfn))?;
            if applied.kind == Kind::Free {
                piece.end = pfn + 1;
                continue;
            }
            given += self.give(machine, piece);
            piece = pfn + 1..pfn + 1;
        }
        Ok(given + self.give(machine, piece))
    }

    /// Gives consecutive free frames that were never handed out to the allocator, and says how many.
    pub fn give<M: Machine>(&self, machine: &M, piece: Range<u64>) -> u64 {
        if piece.is_empty() {
            return 0;
        }
        let count = piece.end - piece.start;
        let mut pool = self.pool.lock();
        self.count_free(count.cast_signed());
        pool.spans.give(machine, piece);
        count
    }

    /// Hands out a frame of unspecified content.
    ///
    /// # Errors
    /// None is free. (The caller grows the window before it comes to that.)
    #[inline]
    pub fn alloc<M: Machine>(&self, machine: &M) -> Result<Frame, FrameError> {
        self.alloc_above(machine, 0)
    }

    /// As [`Frames::alloc`], if more frames are free than the `least`.
    ///
    /// # Errors
    /// No more are free.
    #[inline]
    pub fn alloc_above<M: Machine>(&self, machine: &M, least: u64) -> Result<Frame, FrameError> {
        let mut pool = self.pool.lock();
        if self.free.load(Ordering::Relaxed) <= least {
            return Err(FrameError::OutOfMemory);
        }
        let pfn = if let Some(node) = pool.recycled.pop() {
            // SAFETY: the list holds only frames put there by `free`, which wrote the frame's
            // number behind the link; a free frame is nobody else's.
            Pfn::truncate(unsafe { node.add(1).read() } as u64)
        } else {
            pool.spans.take(machine).ok_or(FrameError::OutOfMemory)?
        };
        self.count_free(-1);
        drop(pool);
        if self.orphans() > 0 {
            // It may have found its way back by itself.
            self.hold_again(pfn);
        }
        if !self.swap(pfn, State::of(Kind::Free), State::of(Kind::Owned)) {
            self.transition(pfn, Transition::Alloc)?;
        }
        Ok(Frame(pfn))
    }

    /// Hands out a frame below `end` that was never handed out, for what must lie there.
    ///
    /// # Errors
    /// None is left but the first of a piece of memory.
    pub fn alloc_below<M: Machine>(&self, machine: &M, end: u64) -> Result<Frame, FrameError> {
        let mut pool = self.pool.lock();
        let taken = pool.spans.take_below(machine, end);
        let pfn = taken.ok_or(FrameError::OutOfMemory)?;
        self.count_free(-1);
        drop(pool);
        self.transition(pfn, Transition::Alloc)?;
        Ok(Frame(pfn))
    }

    /// Takes a frame back.
    ///
    /// # Errors
    /// It is not a writable frame that was handed out; it is lost then, and its record says why.
    #[inline]
    pub fn free<M: Machine>(&self, machine: &M, frame: Frame) -> Result<(), FrameError> {
        let pfn = frame.0;
        if !self.swap(pfn, State::of(Kind::Owned), State::of(Kind::Free)) {
            self.transition(pfn, Transition::Free)?;
        }
        let memory = machine.memory(pfn).cast::<usize>();
        let mut pool = self.pool.lock();
        // SAFETY: the frame was handed out and comes back, so nobody else uses its memory; its
        // record says that it is writable. The link goes in its first word, its number behind.
        unsafe {
            memory.add(1).write(pfn.as_u64() as usize);
            pool.recycled.push(memory);
        }
        self.count_free(1);
        Ok(())
    }

    /// Counts free frames, with the pool held.
    #[inline]
    fn count_free(&self, change: i64) {
        let free = self.free.load(Ordering::Relaxed);
        let free = free.wrapping_add_signed(change);
        self.free.store(free, Ordering::Relaxed);
    }

    /// Has a frame go from one state to the next, if nothing but the first is recorded of it, now and as
    /// planned: what a transition does to most frames, in a few instructions. Says whether it did.
    #[inline]
    fn swap(&self, pfn: Pfn, from: State, to: State) -> bool {
        let (from, to) = (Record::new(from, from).bits(), Record::new(to, to).bits());
        let record = self.record(pfn);
        record.is_ok_and(|record| {
            let swapped = record.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
            swapped.is_ok()
        })
    }

    /// Takes a transition that needs nobody's consent, or has it already.
    ///
    /// # Errors
    /// The transition is not allowed, in what was applied or in what is planned.
    #[inline]
    pub fn transition(&self, pfn: Pfn, transition: Transition) -> Result<(), FrameError> {
        self.change(pfn, |record| {
            if let Some(linked) = record.with_link(transition) {
                return Ok(linked);
            }
            let (applied, planned) = record.states();
            let after = |state: State| {
                state
                    .after(transition)
                    .map_err(|e| FrameError::Illegal(pfn, e))
            };
            Ok(record.with_states(after(applied)?, after(planned)?))
        })
    }

    /// Whether the kernel may have a frame mapped writable, now and once the queue is flushed; also
    /// if it has no record. The same as looking at both states, for loops over many frames.
    #[inline]
    #[must_use]
    pub fn may_be_writable(&self, pfn: Pfn) -> bool {
        self.load(pfn).is_ok_and(Record::may_be_writable) || self.record(pfn).is_err()
    }

    /// What a frame is now: (applied by Xen, planned once the queue is flushed).
    ///
    /// # Errors
    /// It has no record.
    #[inline]
    pub fn states(&self, pfn: Pfn) -> Result<(State, State), FrameError> {
        Ok(self.load(pfn)?.states())
    }

    /// Records what a frame is, without asking. For frames that nothing is queued for.
    ///
    /// # Errors
    /// It has no record.
    #[inline]
    pub fn set(&self, pfn: Pfn, state: State) -> Result<(), FrameError> {
        self.change(pfn, |record| Ok(record.with_states(state, state)))
    }

    /// Whether any frame is frozen, or will be: only then writable mappings need a look.
    #[inline]
    #[must_use]
    pub fn has_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed) > 0
    }

    /// Counts frames that are frozen, or will be.
    #[inline]
    fn count_frozen(&self, change: i64) {
        if change != 0 {
            self.frozen
                .fetch_add(change.cast_unsigned(), Ordering::Relaxed);
        }
    }

    #[inline]
    fn load(&self, pfn: Pfn) -> Result<Record, FrameError> {
        Ok(Record::from_bits(self.record(pfn)?.load(Ordering::Relaxed)))
    }

    /// Changes a record, whoever else does at the same time: `to` is asked again if somebody was
    /// faster.
    #[inline]
    fn change(
        &self,
        pfn: Pfn,
        mut to: impl FnMut(Record) -> Result<Record, FrameError>,
    ) -> Result<(), FrameError> {
        let record = self.record(pfn)?;
        let mut seen = record.load(Ordering::Relaxed);
        loop {
            let next = to(Record::from_bits(seen))?.bits();
            // Acquire and release, as what a frame is decides who may touch its memory.
            match record.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
    }

    #[inline]
    fn record(&self, pfn: Pfn) -> Result<&AtomicU64, FrameError> {
        let record = self.directory.record(pfn);
        record.ok_or(FrameError::NoRecord(pfn))
    }

    /// Where the records of the first chunks lie, one behind the other: for those who count accesses to
    /// them.
    #[must_use]
    pub fn place_of_records(&self) -> Range<usize> {
        self.directory.place()
    }

    /// How many frames there are.
    #[must_use]
    #[inline]
    pub fn counts(&self) -> Counts {
        Counts {
            total: self.total.load(Ordering::Relaxed),
            mapped: self.mapped.load(Ordering::Relaxed),
            free: self.free.load(Ordering::Relaxed),
            given: self.given.load(Ordering::Relaxed),
        }
    }
}
