//! Memory of a machine without a p2m list: a frame has one number, and the map that a loader gives has
//! holes in it.
//!
//! The counterpart of [`pv::FrameLists`](crate::pv::FrameLists) for a kernel whose tables are its own
//! ([`native`](crate::native)).
//!
//! ```
//! use hypercall::{Mfn, Pfn};
//! use pagetable::memory::Memory;
//!
//! let mut memory = Memory::none();
//! for range in [0..0x9f, 0x100..0x4000] {
//!     memory.add(range, 0);
//! }
//! assert_eq!(memory.pfn(Mfn::truncate(0x123)), Some(Pfn::truncate(0x123)));
//! assert_eq!(memory.pfn(Mfn::truncate(0xa0)), None, "a hole");
//! assert!(memory.holes(0x200).eq([0x9f..0x100]));
//! ```

use core::ops::Range;

use heapless::Vec;
use hypercall::{Mfn, Pfn};

/// Ranges of memory that are kept apart: it is asked for before there is memory to keep more in. Beyond
/// that the smallest are left out, which [`Memory::left_out`] counts.
pub const MAX_RANGES: usize = 32;

/// The memory of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// In order and apart from each other.
    ranges: Vec<Range<u64>, MAX_RANGES>,
    /// Up to where memory can come behind the last range, if it is beyond that.
    room: u64,
    left_out: u64,
}

impl Memory {
    /// No memory.
    #[must_use]
    pub const fn none() -> Memory {
        Memory {
            ranges: Vec::new(),
            room: 0,
            left_out: 0,
        }
    }

    /// Frames of a range are memory as well, which lies behind all others. Where that is one range too
    /// many, the smallest is left out that has not the frame `needed` in it.
    ///
    /// # Panics
    /// The range does not lie behind the others.
    pub fn add(&mut self, range: Range<u64>, needed: u64) {
        assert!(self.end() <= range.start, "ranges are added in order");
        if range.is_empty() {
            return;
        }
        if let Some(last) = self.ranges.last_mut()
            && last.end == range.start
        {
            last.end = range.end;
            return;
        }
        let Err(range) = self.ranges.push(range) else {
            return;
        };
        let pages = |range: &Range<u64>| match range.contains(&needed) {
            true => u64::MAX,
            false => range.end - range.start,
        };
        let kept = self.ranges.iter().map(pages).enumerate();
        let smallest = kept.min_by_key(|(_, pages)| *pages);
        self.left_out += match smallest.filter(|(_, least)| *least < pages(&range)) {
            None => range.end - range.start,
            Some((index, least)) => {
                self.ranges.remove(index);
                // One was taken out just now.
                let _ = self.ranges.push(range);
                least
            }
        };
    }

    /// The same, where memory can come up to the frame `room`.
    #[must_use]
    pub const fn with_room(mut self, room: u64) -> Memory {
        self.room = room;
        self
    }

    /// Frames behind the last that is memory which can become memory.
    #[must_use]
    pub fn room(&self) -> Range<u64> {
        self.end()..self.room.max(self.end())
    }

    /// Pages of ranges that were one too many.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Frames from 0 up to the last that is memory.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |range| range.end)
    }

    /// The ranges that are memory, in order.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Whether a frame is memory.
    #[inline]
    #[must_use]
    pub fn contains(&self, frame: u64) -> bool {
        self.ranges.iter().any(|range| range.contains(&frame))
    }

    /// The ranges below `end` that are not memory.
    pub fn holes(&self, end: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let starts = core::iter::once(0).chain(self.ranges.iter().map(|range| range.end));
        let ends = self
            .ranges
            .iter()
            .map(|range| range.start)
            .chain([u64::MAX]);
        starts
            .zip(ends)
            .map(move |(start, next)| start.min(end)..next.min(end))
            .filter(|hole| hole.start < hole.end)
    }

    /// The machine frame of a frame: the same number where there is memory, all ones elsewhere.
    #[cold]
    #[inline(never)]
    #[must_use]
    pub fn mfn_or_ones(&self, pfn: Pfn) -> u64 {
        if self.contains(pfn.as_u64()) {
            pfn.as_u64()
        } else {
            !0
        }
    }

    /// The frame of a machine frame.
    #[cold]
    #[must_use]
    pub fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        self.contains(mfn.as_u64())
            .then_some(Pfn::truncate(mfn.as_u64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(ranges: &[Range<u64>]) -> Memory {
        let mut memory = Memory::none();
        for range in ranges {
            memory.add(range.clone(), 0);
        }
        memory
    }

    #[test]
    fn holes_are_what_the_ranges_leave() {
        let pc = memory(&[0..0x9f, 0x100..0x4000]);
        let holes = |memory: &Memory, end| -> Vec<_, 4> {
            memory
                .holes(end)
                .map(|hole| (hole.start, hole.end))
                .collect()
        };
        assert_eq!(holes(&pc, 0x400), [(0x9f, 0x100)]);
        assert_eq!(holes(&pc, 0x5000), [(0x9f, 0x100), (0x4000, 0x5000)]);
        assert_eq!(holes(&memory(&[1..2, 2..2]), 2), [(0, 1)]);
        assert_eq!(holes(&memory(&[]), 2), [(0, 2)]);
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let touching = memory(&[1..2, 2..5, 5..5, 6..7]);
        assert_eq!(touching.ranges(), [1..5, 6..7]);
        assert_eq!(touching.left_out(), 0);
    }

    #[test]
    fn of_too_many_ranges_the_smallest_are_left_out() {
        // Each one larger than the one before, but for the first, which is needed, and the last.
        let count = MAX_RANGES as u64 + 4;
        let range = |at: u64| match at {
            0 => 0..1,
            at if at == count => at * 100..at * 100 + 2,
            at => at * 100..at * 100 + at,
        };
        let all: std::vec::Vec<_> = (0..=count).map(range).collect();
        let some = memory(&all);
        let kept: std::vec::Vec<_> = [0]
            .into_iter()
            .chain(count - MAX_RANGES as u64 + 1..count)
            .map(range)
            .collect();
        assert_eq!(some.ranges(), kept);
        let pages = |ranges: &[Range<u64>]| -> u64 { ranges.iter().map(|r| r.end - r.start).sum() };
        assert_eq!(some.left_out(), pages(&all) - pages(&kept));
    }

    #[test]
    fn a_hole_has_no_frame_of_either_kind() {
        let pc = memory(&[0..0x9f, 0x100..0x4000]);
        assert_eq!(pc.end(), 0x4000);
        for (frame, is_memory) in [(0x9e, true), (0x9f, false), (0x100, true), (0x4000, false)] {
            let mfn = if is_memory { frame } else { !0 };
            assert_eq!(pc.mfn_or_ones(Pfn::truncate(frame)), mfn, "{frame:#x}");
            assert_eq!(
                pc.pfn(Mfn::truncate(frame)).is_some(),
                is_memory,
                "{frame:#x}"
            );
        }
    }
}
