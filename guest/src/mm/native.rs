//! The machine where the kernel's frames are the machine's: no p2m list, no M2P, and memory with
//! holes in it.

use core::ops::Range;

use heapless::Vec;
use hypercall::{Mfn, Pfn};

/// Ranges of memory that can be kept apart.
pub const MAX_RANGES: usize = 32;

/// Frames that are memory, in order and apart from each other.
pub type Ranges = Vec<Range<u64>, MAX_RANGES>;

/// The memory of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    ranges: Ranges,
    /// Up to where memory can come behind the last range, if it is beyond that.
    room: u64,
}

impl Memory {
    /// Memory in these ranges of frames.
    #[must_use]
    pub const fn new(ranges: Ranges) -> Memory {
        Memory { ranges, room: 0 }
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
        Memory::new(ranges.iter().cloned().collect())
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
