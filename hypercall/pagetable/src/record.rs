//! A frame's two states in one word: what Xen applied and what is planned.
//!
//! 8 bytes a frame, so that a page of records serves exactly one chunk of the direct map.

use crate::state::{Kind, State, Transition};

/// What is known about one frame. A state takes 24 bits: kind in 0-3, level in 4-6, pinned in 7,
/// links from 8 on. The applied one lies in bits 0-23, the planned one in 24-47; bit 48 says that
/// the frame is orphaned; from bit 49 on stands how many transitions are in waiting for it, in all
/// logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record(u64);

/// Bits of a state.
const STATE: u32 = 24;
/// Nobody holds the frame, whatever it is: see `Frames::orphan`.
const ORPHAN: u64 = 1 << 48;
/// Where the number of transitions in waiting begins: 15 bits, more than the logs of 63 vCPUs hold.
const WAITING: u32 = 49;

/// The most there can be.
const MOST_WAITING: u16 = (1 << (64 - WAITING)) - 1;
/// Where the links of the applied state begin, and those of the planned one.
const APPLIED_LINKS: u32 = 8;
const PLANNED_LINKS: u32 = STATE + APPLIED_LINKS;
/// All bits of a number of links.
const LINKS: u64 = u16::MAX as u64;
/// The bits of a state's kind and level.
const KIND_AND_LEVEL: u64 = 0x7f;

const _: () = assert!(Kind::ALL.len() <= 16, "a kind has four bits");

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
    /// From both states, with nothing in waiting.
    #[inline]
    pub(super) fn new(applied: State, planned: State) -> Record {
        Record(pack(applied) | pack(planned) << STATE)
    }

    /// The same with other states.
    #[inline]
    pub(super) fn with_states(self, applied: State, planned: State) -> Record {
        Record(Record::new(applied, planned).0 | self.0 >> (2 * STATE) << (2 * STATE))
    }

    /// How many planned transitions have neither come true nor been given up.
    #[inline]
    pub(super) const fn waiting(self) -> u16 {
        (self.0 >> WAITING) as u16
    }

    /// The same with another number of transitions in waiting, below 2^15.
    #[inline]
    pub(super) const fn with_waiting(self, waiting: u16) -> Record {
        Record(self.0 << (64 - WAITING) >> (64 - WAITING) | (waiting as u64) << WAITING)
    }

    /// Whether nobody holds the frame.
    #[inline]
    pub(super) const fn is_orphan(self) -> bool {
        self.0 & ORPHAN != 0
    }

    /// The same, held by nobody or again by somebody.
    #[inline]
    pub(super) const fn with_orphan(self, orphaned: bool) -> Record {
        Record(self.0 & !ORPHAN | if orphaned { ORPHAN } else { 0 })
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
        (unpack(self.0), unpack(self.0 >> STATE))
    }

    /// The same with one more link of a table of this level planned, or one less: what changes most
    /// often, and nothing else of the record. `None` if it takes a closer look. For the drop of a link
    /// the caller has seen that nobody else has any in waiting.
    #[inline(always)]
    pub(super) const fn with_link_planned(self, transition: Transition) -> Option<Record> {
        let (links, waiting) = (self.0 >> PLANNED_LINKS & LINKS, self.waiting());
        if waiting == MOST_WAITING {
            return None;
        }
        let one = 1 << PLANNED_LINKS;
        let waits = 1 << WAITING;
        match transition {
            Transition::Link(level) if self.is_table_of(level) && links < LINKS => {
                Some(Record(self.0 + one + waits))
            }
            Transition::Unlink if self.is_table_in_both() && links > 0 => {
                Some(Record(self.0 - one + waits))
            }
            _ => None,
        }
    }

    /// The same with a planned link of a table, or the drop of one, come true; as
    /// [`with_link_planned`](Self::with_link_planned).
    #[inline(always)]
    pub(super) const fn with_link_applied(self, transition: Transition) -> Option<Record> {
        let links = self.0 >> APPLIED_LINKS & LINKS;
        if self.waiting() == 0 {
            return None;
        }
        let one = 1 << APPLIED_LINKS;
        let waits = 1 << WAITING;
        match transition {
            Transition::Link(level) if self.is_table_of(level) && links < LINKS => {
                Some(Record(self.0 + one - waits))
            }
            Transition::Unlink if self.is_table_in_both() && links > 0 => {
                Some(Record(self.0 - one - waits))
            }
            _ => None,
        }
    }

    /// The same with one more link of a table, or one less, that has come true already: that of a base
    /// register. `None` if it takes a closer look.
    #[inline(always)]
    pub(super) const fn with_link(self, transition: Transition) -> Option<Record> {
        let applied = self.0 >> APPLIED_LINKS & LINKS;
        let planned = self.0 >> PLANNED_LINKS & LINKS;
        let one = 1 << APPLIED_LINKS | 1 << PLANNED_LINKS;
        match transition {
            Transition::Link(level)
                if self.is_table_of(level) && applied < LINKS && planned < LINKS =>
            {
                Some(Record(self.0 + one))
            }
            Transition::Unlink if self.is_table_in_both() && applied > 0 && planned > 0 => {
                Some(Record(self.0 - one))
            }
            _ => None,
        }
    }

    /// Whether the frame is a table of this level in both states.
    #[inline(always)]
    const fn is_table_of(self, level: u8) -> bool {
        let table = Kind::Table as u64 | (level as u64 & 7) << 4;
        self.0 & KIND_AND_LEVEL == table && self.0 >> STATE & KIND_AND_LEVEL == table
    }

    /// Whether the frame is a table in both states.
    #[inline(always)]
    const fn is_table_in_both(self) -> bool {
        let table = Kind::Table as u64;
        self.0 & 15 == table && self.0 >> STATE & 15 == table
    }

    /// Whether the frame is handed out and nothing else, in both states: what most are.
    #[inline(always)]
    pub(super) const fn is_owned(self) -> bool {
        const KINDS: u64 = 15 | 15 << STATE;
        self.0 & KINDS == Kind::Owned as u64 | (Kind::Owned as u64) << STATE
    }

    /// Whether the frame may be mapped writable in both states: as [`State::may_be_writable`], for
    /// loops over many frames.
    #[inline]
    pub(super) const fn may_be_writable(self) -> bool {
        let both = WRITABLE_KINDS >> (self.0 & 15) & WRITABLE_KINDS >> (self.0 >> STATE & 15);
        both & 1 == 1
    }
}

#[inline]
fn pack(state: State) -> u64 {
    u64::from(state.kind as u8)
        | u64::from(state.level & 7) << 4
        | u64::from(state.pinned) << 7
        | u64::from(state.links) << 8
}

#[inline]
fn unpack(bits: u64) -> State {
    State {
        kind: Kind::ALL
            .get(bits as usize & 15)
            .copied()
            .unwrap_or(Kind::Hole),
        level: (bits >> 4 & 7) as u8,
        pinned: bits >> 7 & 1 != 0,
        links: (bits >> 8) as u16,
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
                let orphaned = record.with_orphan(true);
                assert_eq!(orphaned.states(), (applied, planned));
                assert!(orphaned.is_orphan() && !record.is_orphan());
                assert_eq!(orphaned.with_orphan(false), record);
                let waits = orphaned.with_waiting(0x7fff);
                assert_eq!(
                    (waits.waiting(), waits.states()),
                    (0x7fff, orphaned.states())
                );
                assert_eq!(waits.with_states(planned, applied).waiting(), 0x7fff);
                assert!(waits.is_orphan());
                assert_eq!(waits.with_waiting(0), orphaned);
            }
        }
    }

    /// The short ways change what the long ones do, or nothing.
    #[test]
    fn a_link_counts_as_the_states_say() {
        let states = Kind::ALL.into_iter().flat_map(|kind| {
            [0, 1, 2, 5, 7].into_iter().flat_map(move |level| {
                [0, 1, 2, 0x7fff, 0xfffe, 0xffff].map(move |links| State {
                    kind,
                    level,
                    links,
                    pinned: links == 2,
                })
            })
        });
        let mut short = 0;
        for (applied, planned) in states
            .clone()
            .flat_map(|a| states.clone().map(move |p| (a, p)))
        {
            for transition in [0, 1, 2, 5]
                .map(Transition::Link)
                .into_iter()
                .chain([Transition::Unlink])
            {
                for waiting in [0, 1, 2, MOST_WAITING] {
                    let record = Record::new(applied, planned)
                        .with_waiting(waiting)
                        .with_orphan(true);
                    if let Some(found) = record.with_link_planned(transition) {
                        let next = planned.after(transition).unwrap();
                        let long = record.with_states(applied, next).with_waiting(waiting + 1);
                        assert_eq!(found, long, "{applied} {planned} {transition}");
                        short += 1;
                    }
                    if let Some(found) = record.with_link_applied(transition) {
                        let next = applied.after(transition).unwrap();
                        let long = record.with_states(next, planned).with_waiting(waiting - 1);
                        assert_eq!(found, long, "{applied} {planned} {transition}");
                        short += 1;
                    }
                    if let Some(found) = record.with_link(transition) {
                        let next = |state: State| state.after(transition).unwrap();
                        let long = record.with_states(next(applied), next(planned));
                        assert_eq!(found, long, "{applied} {planned} {transition}");
                        short += 1;
                    }
                }
            }
        }
        assert!(short > 100);
    }

    #[test]
    fn the_short_cut_says_what_the_states_say() {
        for applied in Kind::ALL.map(State::of) {
            for planned in Kind::ALL.map(State::of) {
                let record = Record::new(applied, planned);
                let both = applied.may_be_writable() && planned.may_be_writable();
                assert_eq!(record.may_be_writable(), both, "{applied} and {planned}");
                let owned = State::of(Kind::Owned);
                assert_eq!(record.is_owned(), (applied, planned) == (owned, owned));
            }
        }
    }
}
