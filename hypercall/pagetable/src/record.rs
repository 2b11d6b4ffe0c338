//! A frame's two states in one word: what Xen applied and what is planned.
//!
//! 8 bytes a frame, so that a page of records serves exactly one step of the direct map.

use crate::state::{Kind, State};

/// What is known about one frame. Either half: kind in bits 0-7, level in 8-10, pinned in 12, links
/// from 16 on; the applied state below, the planned one above. Bit 13 is the whole record's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record(u64);

/// Nobody holds the frame, whatever it is: see `Frames::strand`.
const STRANDED: u64 = 1 << 13;

/// One bit for each kind that may be mapped writable.
const WRITABLE_KINDS: u64 = {
    let (mut bits, mut i) = (0, 0);
    while i < Kind::ALL.len() {
        assert!(Kind::ALL[i] as usize == i, "a kind's place is its number");
        bits |= (State::of(Kind::ALL[i]).may_be_writable() as u64) << i;
        i += 1;
    }
    bits
};

impl Record {
    /// From both states.
    pub(super) fn new(applied: State, planned: State) -> Record {
        let pack = |s: State| -> u64 {
            u64::from(s.kind as u8)
                | u64::from(s.level) << 8
                | u64::from(s.pinned) << 12
                | u64::from(s.links) << 16
        };
        Record(pack(applied) | pack(planned) << 32)
    }

    /// Whether nobody holds the frame.
    #[inline]
    pub(super) const fn is_stranded(self) -> bool {
        self.0 & STRANDED != 0
    }

    /// The same, held by nobody or again by somebody.
    #[inline]
    pub(super) const fn with_stranded(self, stranded: bool) -> Record {
        Record(self.0 & !STRANDED | if stranded { STRANDED } else { 0 })
    }

    /// From the word it is kept in.
    #[inline]
    pub(super) const fn from_bits(bits: u64) -> Record {
        Record(bits)
    }

    /// The word to keep it in.
    #[inline]
    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// Both states: (applied, planned).
    #[inline]
    pub(super) fn states(self) -> (State, State) {
        let unpack = |bits: u64| State {
            kind: Kind::ALL
                .get(bits as usize & 0xff)
                .copied()
                .unwrap_or(Kind::Hole),
            level: (bits >> 8 & 7) as u8,
            pinned: bits >> 12 & 1 != 0,
            links: (bits >> 16) as u16,
        };
        (unpack(self.0 & 0xffff_ffff), unpack(self.0 >> 32))
    }

    /// Whether the frame may be mapped writable in both states: as [`State::may_be_writable`], for
    /// loops over many frames.
    #[inline]
    pub(super) const fn may_be_writable(self) -> bool {
        let both = WRITABLE_KINDS >> (self.0 & 0x3f) & WRITABLE_KINDS >> (self.0 >> 32 & 0x3f);
        both & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_survive_being_packed() {
        for kind in Kind::ALL {
            for planned in [State::table(4, 65535, true), State::of(Kind::Free)] {
                let applied = State {
                    kind,
                    level: 3,
                    links: 7,
                    pinned: false,
                };
                let record = Record::from_bits(Record::new(applied, planned).bits());
                assert_eq!(record.states(), (applied, planned));
                let stranded = record.with_stranded(true);
                assert_eq!(stranded.states(), (applied, planned));
                assert!(stranded.is_stranded() && !record.is_stranded());
                assert_eq!(stranded.with_stranded(false), record);
            }
        }
    }

    #[test]
    fn the_short_cut_says_what_the_states_say() {
        for applied in Kind::ALL.map(State::of) {
            for planned in Kind::ALL.map(State::of) {
                let record = Record::new(applied, planned);
                let both = applied.may_be_writable() && planned.may_be_writable();
                assert_eq!(record.may_be_writable(), both, "{applied} and {planned}");
            }
        }
    }
}
