//! The record of every frame, and the allocator that hands them out.
//!
//! A record has two states: what Xen has *applied* and what is *planned* once the queue is flushed.
//! Steps are checked against the plan when they are queued; each is logged, and its place in the
//! log is the tag of the queued request, so that a flush tells exactly which came true
//! ([`Completion`]). After a flush that failed, the plan of every frame in the log falls back to
//! what was applied: the record never claims something that Xen refused.
//!
//! Memory is handed out lazily. Records exist for memory that the window maps, one page of records
//! for each 2 MiB; the direct map adds 2 MiB steps when the allocator runs low, so that boot costs
//! the same whatever the size of the domain.

use core::ops::Range;

use buddy_system_allocator::linked_list::LinkedList;
use heapless::Vec;
use hypercall::Pfn;
use hypercall::batch::Completion;

pub use super::error::FrameError;
use super::machine::{Machine, Words};
use super::record::Record;
use super::state::{Kind, State, Step};

/// Pages in a step of the direct map: one L1 table.
pub const STEP: u64 = 512;
/// Frames kept back for the growth of the direct map itself by a step: an L1, an L2 and a page of
/// records, and one more.
const RESERVE: u64 = 4;
/// Steps that can be queued between two flushes.
const LOG: usize = 512;
/// Frames that wait for a flush before they are free.
const LIMBO: usize = 512;

/// Counts of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All pages of the domain.
    pub total: u64,
    /// Pages reachable through the window.
    pub mapped: u64,
    /// Of these, free.
    pub free: u64,
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

    /// Turns a number back into the frame it came from.
    ///
    /// Only records make this safe: a frame that is not [`Kind::Owned`] cannot be freed or sealed.
    pub(crate) fn from_pfn(pfn: Pfn) -> Frame {
        Frame(pfn)
    }
}

#[derive(Clone, Copy)]
struct Logged {
    pfn: Pfn,
    step: Step,
    /// It came true.
    applied: bool,
}

/// All frames of the domain.
pub struct Frames {
    /// Where the directory of record pages lies, one word a step, consecutive frames.
    directory: Pfn,
    counts: Counts,
    /// Freed frames, linked through themselves.
    recycled: LinkedList,
    /// Frames in the window that were never handed out.
    spans: Vec<Range<u64>, 16>,
    /// Steps up to this one are mapped; what lies behind is not.
    next_step: u64,
    /// Frames kept back besides [`RESERVE`], to add the steps up to the next one that gives more
    /// than it takes.
    barren: u64,
    /// Frames that are something else than memory to hand out, wherever they lie.
    special: Vec<(Range<u64>, Kind), 8>,
    /// Requests that carried steps and did not come true.
    refusals: u32,
    /// Steps or frames wait in `log` or `limbo`.
    unsettled: bool,
    log: Vec<Logged, LOG>,
    limbo: Vec<Pfn, LIMBO>,
    /// Frames that nobody holds, as Xen refused what was to become of them.
    stranded: Vec<Pfn, LIMBO>,
}

// SAFETY: the list's raw pointers lead only to free frames, which belong to this value alone.
unsafe impl Send for Frames {}

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
            directory: Pfn::truncate(0),
            counts: Counts {
                total: 0,
                mapped: 0,
                free: 0,
            },
            recycled: LinkedList::new(),
            spans: Vec::new(),
            next_step: 0,
            barren: 0,
            special: Vec::new(),
            refusals: 0,
            unsettled: false,
            log: Vec::new(),
            limbo: Vec::new(),
            stranded: Vec::new(),
        }
    }

    /// Begins the record of `total` pages, `mapped` of which (a multiple of a step) the window maps
    /// now. `spare` are consecutive free frames in the window; the records are taken from its start.
    ///
    /// # Errors
    /// `spare` is too small for the records.
    pub fn init<M: Machine>(
        &mut self,
        machine: &M,
        total: u64,
        mapped: u64,
        spare: &mut Range<u64>,
    ) -> Result<(), FrameError> {
        let steps = total.div_ceil(STEP);
        let directory = spare.start;
        spare.start += steps.div_ceil(STEP);
        self.directory = Pfn::truncate(directory);
        self.counts.total = total;
        let first = spare.start;
        spare.start += mapped / STEP;
        if spare.start > spare.end {
            return Err(FrameError::OutOfMemory);
        }
        for pfn in directory..first {
            *words(machine, Pfn::truncate(pfn))? = [0; 512];
        }
        for step in 0..mapped / STEP {
            self.add_step(machine, Pfn::truncate(first + step))?;
        }
        for pfn in directory..spare.start {
            self.set(machine, Pfn::truncate(pfn), State::of(Kind::Owned))?;
        }
        Ok(())
    }

    /// Declares what frames are, whether their records exist already or not.
    ///
    /// # Errors
    /// Too many ranges.
    pub fn declare<M: Machine>(
        &mut self,
        machine: &M,
        range: Range<u64>,
        kind: Kind,
    ) -> Result<(), FrameError> {
        for pfn in range.start..range.end.min(self.next_step * STEP) {
            self.set(machine, Pfn::truncate(pfn), State::of(kind))?;
        }
        if range.end > self.next_step * STEP {
            self.special
                .push((range, kind))
                .map_err(|_| FrameError::Full)?;
            self.barren = self.barren_steps_need();
        }
        Ok(())
    }

    /// Free frames that must be left for the direct map to grow until it gains some.
    #[inline]
    #[must_use]
    pub fn reserve(&self) -> u64 {
        RESERVE + self.barren
    }

    /// Frames that the next steps take before one gives any: the p2m list of a large domain, or a
    /// module, fills whole steps.
    fn barren_steps_need(&self) -> u64 {
        let free_in = |step: u64| {
            let (start, end) = (step * STEP, (step + 1) * STEP);
            let special = |(range, _): &(Range<u64>, Kind)| {
                range.end.min(end).saturating_sub(range.start.max(start))
            };
            STEP.saturating_sub(self.special.iter().map(special).sum())
        };
        let ahead = self.next_step..self.counts.total / STEP;
        let barren = ahead.take_while(|&step| free_in(step) < RESERVE).count() as u64;
        // A table and records each, and a table above for each GiB.
        2 * barren + barren.div_ceil(STEP)
    }

    /// The step that the direct map must add next, if memory is left.
    #[must_use]
    pub fn next_step(&self) -> Option<u64> {
        (self.next_step * STEP < self.counts.total).then_some(self.next_step)
    }

    /// What a frame of a step that has no records yet will be.
    #[must_use]
    pub fn declared(&self, pfn: u64) -> Kind {
        self.special
            .iter()
            .find(|(range, _)| range.contains(&pfn))
            .map_or(Kind::Free, |s| s.1)
    }

    /// Adds the records of the next step, kept in the page `records`.
    ///
    /// # Errors
    /// The page is not mapped.
    pub fn add_step<M: Machine>(&mut self, machine: &M, records: Pfn) -> Result<(), FrameError> {
        let step = self.next_step;
        *words(machine, records)? = [0; 512];
        let at = Pfn::truncate(self.directory.as_u64() + step / STEP);
        words(machine, at)?[(step % STEP) as usize] = records.as_u64();
        self.next_step += 1;
        let range = step * STEP..((step + 1) * STEP).min(self.counts.total);
        self.counts.mapped += range.end - range.start;
        for i in 0..self.special.len() {
            let (special, kind) = self.special[i].clone();
            for pfn in special.start.max(range.start)..special.end.min(range.end) {
                self.set(machine, Pfn::truncate(pfn), State::of(kind))?;
            }
        }
        self.barren = self.barren_steps_need();
        Ok(())
    }

    /// Gives those of the frames that are free, and were never handed out, to the allocator.
    ///
    /// # Errors
    /// They are in more pieces than fit.
    pub fn give_free<M: Machine>(
        &mut self,
        machine: &M,
        range: Range<u64>,
    ) -> Result<(), FrameError> {
        let mut piece: Option<Range<u64>> = None;
        for pfn in range {
            let (applied, _) = self.states(machine, Pfn::truncate(pfn))?;
            match &mut piece {
                Some(open) if applied.kind == Kind::Free => open.end = pfn + 1,
                None if applied.kind == Kind::Free => piece = Some(pfn..pfn + 1),
                _ => piece.take().map_or(Ok(()), |piece| self.give(piece))?,
            }
        }
        piece.map_or(Ok(()), |piece| self.give(piece))
    }

    /// Gives consecutive free frames that were never handed out to the allocator.
    ///
    /// # Errors
    /// There are more pieces than fit.
    pub fn give(&mut self, piece: Range<u64>) -> Result<(), FrameError> {
        let count = piece.end - piece.start;
        match self.spans.iter_mut().find(|span| span.end == piece.start) {
            // Step by step all of memory is one piece.
            Some(span) => span.end = piece.end,
            None => self.spans.push(piece).map_err(|_| FrameError::Full)?,
        }
        self.counts.free += count;
        Ok(())
    }

    /// Hands out a frame of unspecified content.
    ///
    /// # Errors
    /// None is free. (The caller grows the window before it comes to that.)
    #[inline]
    pub fn alloc<M: Machine>(&mut self, machine: &M) -> Result<Frame, FrameError> {
        let pfn = if let Some(node) = self.recycled.pop() {
            // SAFETY: the list holds only frames put there by `free`, which wrote the frame's
            // number behind the link; a free frame is nobody else's.
            Pfn::truncate(unsafe { node.add(1).read() } as u64)
        } else {
            let last = self.spans.last_mut().ok_or(FrameError::OutOfMemory)?;
            let pfn = last.start;
            last.start += 1;
            if last.start == last.end {
                self.spans.pop();
            }
            Pfn::truncate(pfn)
        };
        self.counts.free -= 1;
        if !self.stranded.is_empty() {
            // It found its way back by itself.
            self.stranded.retain(|stranded| *stranded != pfn);
        }
        self.step_now(machine, pfn, Step::Alloc)?;
        Ok(Frame(pfn))
    }

    /// Takes a frame back.
    ///
    /// # Errors
    /// It is not a writable frame that was handed out; it is lost then, and its record says why.
    #[inline]
    pub fn free<M: Machine>(&mut self, machine: &M, frame: Frame) -> Result<(), FrameError> {
        let pfn = frame.0;
        self.step_now(machine, pfn, Step::Free)?;
        let memory = machine.memory(pfn).cast::<usize>();
        // SAFETY: the frame was handed out and comes back, so nobody else uses its memory; its
        // record says that it is writable. The link goes in its first word, its number behind.
        unsafe {
            memory.add(1).write(pfn.as_u64() as usize);
            self.recycled.push(memory);
        }
        self.counts.free += 1;
        Ok(())
    }

    /// Takes a frame back as soon as everything queued so far has been carried out: at the next
    /// [`Frames::settle`]. Its state does not tell whether anything is queued for it: one that was
    /// sealed and unsealed again since the last flush looks as if nothing had happened.
    ///
    /// # Errors
    /// Too many wait: flush first.
    pub fn free_after_flush(&mut self, frame: Frame) -> Result<(), FrameError> {
        self.unsettled = true;
        self.limbo.push(frame.0).map_err(|_| FrameError::Full)
    }

    /// Whether there is room for `steps` more queued steps and `frees` more frames in waiting.
    #[must_use]
    pub fn has_room(&self, steps: usize, frees: usize) -> bool {
        self.log.len() + steps <= LOG && self.limbo.len() + frees <= LIMBO
    }

    /// Plans the steps that one request will make, at most 16, and returns the tag by which it
    /// tells that they came true. Either all are planned or none.
    ///
    /// # Errors
    /// A step is not allowed, or the log is full.
    pub fn plan<M: Machine>(
        &mut self,
        machine: &M,
        steps: &[(Pfn, Step)],
    ) -> Result<u32, FrameError> {
        if self.log.len() + steps.len() > LOG {
            return Err(FrameError::Full);
        }
        let mut before: Vec<(Pfn, State, State), 16> = Vec::new();
        for &(pfn, step) in steps {
            let (applied, planned) = self.states(machine, pfn)?;
            let next = planned.after(step).map_err(|e| FrameError::Illegal(pfn, e));
            let Ok(next) = next else {
                for (pfn, applied, planned) in before.into_iter().rev() {
                    self.put(machine, pfn, applied, planned)?;
                }
                return next.map(|_| 0);
            };
            self.put(machine, pfn, applied, next)?;
            before
                .push((pfn, applied, planned))
                .map_err(|_| FrameError::Full)?;
        }
        self.unsettled |= !steps.is_empty();
        let first = self.log.len() as u32 + 1;
        for &(pfn, step) in steps {
            self.log
                .push(Logged {
                    pfn,
                    step,
                    applied: false,
                })
                .map_err(|_| FrameError::Full)?;
        }
        Ok(if steps.is_empty() {
            0
        } else {
            first | (steps.len() as u32) << 16
        })
    }

    /// Takes a step that needs nobody's consent, or has it already.
    ///
    /// # Errors
    /// The step is not allowed.
    pub fn step_now<M: Machine>(
        &mut self,
        machine: &M,
        pfn: Pfn,
        step: Step,
    ) -> Result<(), FrameError> {
        let (_, planned) = self.states(machine, pfn)?;
        let next = planned
            .after(step)
            .map_err(|e| FrameError::Illegal(pfn, e))?;
        self.put(machine, pfn, next, next)
    }

    /// Steps that came true, by the tag of their request.
    pub fn applied<M: Machine>(&mut self, machine: &M, tag: u32) {
        let first = (tag as usize & 0xffff).wrapping_sub(1);
        for at in first..first.saturating_add(tag as usize >> 16) {
            let Some(logged) = self.log.get_mut(at) else {
                return;
            };
            logged.applied = true;
            let Logged { pfn, step, .. } = *logged;
            if let Ok((applied, planned)) = self.states(machine, pfn)
                && let Ok(next) = applied.after(step)
            {
                // The record exists: it was just read.
                let _ = self.put(machine, pfn, next, planned);
            }
        }
    }

    /// How many requests that carried steps did not come true so far: what was read through the
    /// queue before the last of them may not be so.
    #[inline]
    #[must_use]
    pub fn refusals(&self) -> u32 {
        self.refusals
    }

    /// Whether steps or frames wait for [`Frames::settle`].
    #[inline]
    #[must_use]
    pub fn unsettled(&self) -> bool {
        self.unsettled
    }

    /// To be called when the queue is empty: what did not come true is no longer planned, and
    /// frames that waited for the flush become free if they could.
    pub fn settle<M: Machine>(&mut self, machine: &M) {
        for i in 0..self.log.len() {
            let Logged { pfn, step, applied } = self.log[i];
            if !applied && matches!(step, Step::Link(_) | Step::Unseal) {
                // Whoever asked for this gave the table up.
                self.strand(pfn);
            }
            if let Ok((applied, _)) = self.states(machine, pfn) {
                // The record exists: it was found when the step was planned.
                let _ = self.put(machine, pfn, applied, applied);
            }
        }
        self.unsettled = false;
        self.log.clear();
        while let Some(pfn) = self.limbo.pop() {
            // One that Xen did not let become writable is stranded by now.
            let _ = self.free(machine, Frame(pfn));
        }
    }

    /// Remembers a frame that nobody holds any more, whatever its state: what it will be once
    /// nothing is queued decides what can be done with it.
    pub fn strand(&mut self, pfn: Pfn) {
        if !self.stranded.contains(&pfn) {
            // There is room for all that one flush can strand; one too many would be lost.
            let _ = self.stranded.push(pfn);
        }
    }

    /// Takes one of the stranded frames.
    pub fn next_stranded(&mut self) -> Option<Pfn> {
        (!self.stranded.is_empty()).then(|| self.stranded.swap_remove(0))
    }

    /// How many frames are stranded.
    #[inline]
    #[must_use]
    pub fn stranded(&self) -> usize {
        self.stranded.len()
    }

    /// Whether the kernel may have a frame mapped writable, now and once the queue is flushed; also
    /// if it has no record. The same as looking at both states, for loops over many frames.
    #[inline]
    #[must_use]
    pub fn may_be_writable<M: Machine>(&self, machine: &M, pfn: Pfn) -> bool {
        let Ok(record) = self.record(machine, pfn) else {
            return true;
        };
        // SAFETY: `record` points into a page of records, which belongs to this value.
        Record::from_bits(unsafe { record.read() }).may_be_writable()
    }

    /// What a frame is now: (applied by Xen, planned once the queue is flushed).
    ///
    /// # Errors
    /// It has no record.
    #[inline]
    pub fn states<M: Machine>(&self, machine: &M, pfn: Pfn) -> Result<(State, State), FrameError> {
        let record = self.record(machine, pfn)?;
        // SAFETY: `record` points into a page of records, which belongs to this value.
        Ok(Record::from_bits(unsafe { record.read() }).states())
    }

    /// Records what a frame is, without asking.
    ///
    /// # Errors
    /// It has no record.
    pub fn set<M: Machine>(
        &mut self,
        machine: &M,
        pfn: Pfn,
        state: State,
    ) -> Result<(), FrameError> {
        self.put(machine, pfn, state, state)
    }

    fn put<M: Machine>(
        &mut self,
        machine: &M,
        pfn: Pfn,
        applied: State,
        planned: State,
    ) -> Result<(), FrameError> {
        let record = self.record(machine, pfn)?;
        // SAFETY: as in `states`, and `self` is borrowed exclusively.
        unsafe { record.write(Record::new(applied, planned).bits()) };
        Ok(())
    }

    #[inline]
    fn record<M: Machine>(&self, machine: &M, pfn: Pfn) -> Result<*mut u64, FrameError> {
        let step = pfn.as_u64() / STEP;
        if step >= self.next_step || pfn.as_u64() >= self.counts.total {
            return Err(FrameError::NoRecord(pfn));
        }
        let directory = machine.memory(Pfn::truncate(self.directory.as_u64() + step / STEP));
        // SAFETY: the directory has an entry for every step of the domain and those below
        // `next_step` were written; its pages belong to this value and are mapped by the window.
        let page = unsafe { directory.cast::<u64>().add((step % STEP) as usize).read() };
        let records = machine.memory(Pfn::truncate(page)).cast::<u64>();
        // SAFETY: a page of records has one for each frame of its step.
        Ok(unsafe { records.add((pfn.as_u64() % STEP) as usize) })
    }

    /// How many frames there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

fn words<M: Machine>(machine: &M, pfn: Pfn) -> Result<&'static mut Words, FrameError> {
    // SAFETY: the callers pass frames that they were given for records alone, so that nobody else
    // uses their memory; the window maps them for good.
    unsafe { machine.memory(pfn).as_mut() }.ok_or(FrameError::NoRecord(pfn))
}

/// The machine and the record of its frames: what the queue's flushes report to.
pub struct Ledger<M> {
    /// The machine.
    pub machine: M,
    /// The record.
    pub frames: Frames,
}

impl<M: Machine> Completion for Ledger<M> {
    #[inline]
    fn applied(&mut self, tag: u32) {
        self.frames.applied(&self.machine, tag);
    }

    #[inline]
    fn dropped(&mut self, _: u32) {
        // Settling brings the plan back to what was applied.
        self.frames.refusals = self.frames.refusals.wrapping_add(1);
    }
}
