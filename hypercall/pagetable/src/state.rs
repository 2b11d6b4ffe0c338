//! What a frame is, and what it may become.
//!
//! Xen counts for every frame how it is used, and refuses a use that conflicts (`get_page_type`,
//! `xen/arch/x86/mm.c`). The kernel keeps the part of that record that its own requests decide, so
//! that an illegal transition is a typed error before Xen is asked: a frame that is mapped writable
//! cannot become a table, a table in use cannot be freed, and so on.
//!
//! ```text
//!            alloc            seal(level)          link
//!    Free ─────────▶ Owned ─────────────▶ Table 0 ──────▶ Table 1 … n
//!      ▲   ◀───────         ◀─────────────   │ ▲  ◀──────
//!      │     free              unseal        │ │  unlink      pin and unpin at any count
//!   (in the direct map RW)    (in the direct map read-only)
//!
//!    a part of the image ─────────▶ Owned ◀──────▶ Code
//!                         release          freeze, thaw
//! ```
//!
//! A frame in use can also be given to Xen for a page of its own (`share`), which is for good. One
//! that is to be executed is frozen before: read-only in the direct map until it is thawed. One whose
//! memory goes back to Xen (`give back`) keeps its number, for memory that comes later (`regain`).
//!
//! Entries of user mode's half are counted too, as a page may be mapped in several spaces: a frame in
//! use becomes user mode's with the first entry that maps it (`link` at level 0), and is in use again
//! with the last that goes. What somebody holds besides, such as a page of a file, is pinned meanwhile
//! (`pin` at level 0), and in use again once it is neither.
//!
//! ```
//! use pagetable::state::{Kind, State};
//!
//! assert!(State::of(Kind::Owned).may_be_writable());
//! assert!(!State::table(1, 1, false).may_be_writable());
//! ```

use core::fmt;

/// What a frame is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Handed out to nobody; writable.
    #[default]
    Free,
    /// Handed out; writable.
    Owned,
    /// A page table or about to be one; mapped read-only.
    Table,
    /// Code or constants of the image; mapped read-only.
    ImageConst,
    /// Variables of the image.
    ImageData,
    /// Handed out, and read-only since it was made executable somewhere.
    Code,
    /// Variables of the image that were made read-only.
    ImageFrozen,
    /// The p2m list and the tables that map it; mapped read-only.
    P2m,
    /// A page that Xen or its tools share: console, xenstore.
    Shared,
    /// Part of the module loaded with the kernel.
    Module,
    /// No memory behind this pfn.
    Hole,
    /// Memory of user mode's, which entries of its half map; writable.
    User,
    /// Its memory was given back to Xen; nothing maps it.
    Given,
}

impl Kind {
    /// All of them, each at the place of its number.
    pub const ALL: [Kind; 13] = [
        Kind::Free,
        Kind::Owned,
        Kind::Table,
        Kind::ImageConst,
        Kind::ImageData,
        Kind::Code,
        Kind::ImageFrozen,
        Kind::P2m,
        Kind::Shared,
        Kind::Module,
        Kind::Hole,
        Kind::User,
        Kind::Given,
    ];

    /// Whether it is frozen: read-only in the direct map, and writable nowhere else.
    #[must_use]
    pub const fn is_frozen(self) -> bool {
        matches!(self, Kind::Code | Kind::ImageFrozen)
    }
}

/// A frame's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// What it is.
    pub kind: Kind,
    /// For tables: the level, 1 to 5.
    pub level: u8,
    /// For tables: entries and base registers that refer to it. For user mode's memory: entries of
    /// its half that map it, each counted once however many spaces share the table it lies in.
    pub links: u16,
    /// For tables: whether it is pinned. For user mode's memory: whether somebody holds it besides the
    /// entries.
    pub pinned: bool,
}

/// A transition from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Handed out.
    Alloc,
    /// Given back.
    Free,
    /// Given to Xen or its tools, for a page that they share.
    Share,
    /// Made read-only, to be a table of this level.
    Seal(u8),
    /// Made writable again.
    Unseal,
    /// An entry or a base register refers to it, as a table of this level; at level 0, an entry of user
    /// mode's half maps it.
    Link(u8),
    /// One reference less.
    Unlink,
    /// Pinned as a table of this level; at level 0, held as memory of user mode's.
    Pin(u8),
    /// Unpinned.
    Unpin,
    /// A part of the image that is not needed any more becomes memory to hand out.
    Release,
    /// Made read-only as it is: memory in use becomes code, variables of the image constants.
    Freeze,
    /// Made writable again.
    Thaw,
    /// Its memory goes back to Xen.
    GiveBack,
    /// It has memory again, the holder's.
    Regain,
}

impl Transition {
    /// Whether it changes a count, as transitions of several vCPUs may at once: not what the frame
    /// is, nor whether it is pinned.
    #[inline]
    #[must_use]
    pub const fn is_counted(self) -> bool {
        matches!(self, Transition::Link(_) | Transition::Unlink)
    }
}

/// A transition that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Illegal {
    /// The state it was asked in.
    pub state: State,
    /// The transition.
    pub transition: Transition,
}

impl State {
    /// A frame with a fixed purpose.
    #[must_use]
    pub const fn of(kind: Kind) -> State {
        State {
            kind,
            level: 0,
            links: 0,
            pinned: false,
        }
    }

    /// A table that Xen built.
    #[must_use]
    pub const fn table(level: u8, links: u16, pinned: bool) -> State {
        State {
            kind: Kind::Table,
            level,
            links,
            pinned,
        }
    }

    /// Whether the kernel may have it mapped writable.
    #[must_use]
    pub const fn may_be_writable(self) -> bool {
        matches!(
            self.kind,
            Kind::Free | Kind::Owned | Kind::ImageData | Kind::Shared | Kind::Module | Kind::User
        )
    }

    /// The state after `transition`.
    ///
    /// # Errors
    /// The transition is not allowed in this state.
    pub fn after(self, transition: Transition) -> Result<State, Illegal> {
        let table = |level: u8| self.kind == Kind::Table && self.level == level;
        let next = match transition {
            Transition::Alloc if self.kind == Kind::Free => Some(State::of(Kind::Owned)),
            Transition::Free if self.kind == Kind::Owned => Some(State::of(Kind::Free)),
            Transition::Share if self.kind == Kind::Owned => Some(State::of(Kind::Shared)),
            Transition::Seal(level) if self.kind == Kind::Owned => {
                Some(State::table(level, 0, false))
            }
            Transition::Unseal if self.kind == Kind::Table && self.links == 0 && !self.pinned => {
                Some(State::of(Kind::Owned))
            }
            Transition::Link(0) if self.kind == Kind::Owned => Some(State {
                links: 1,
                ..State::of(Kind::User)
            }),
            Transition::Link(0) if self.kind == Kind::User => self
                .links
                .checked_add(1)
                .map(|links| State { links, ..self }),
            Transition::Unlink if self.kind == Kind::User && self.links == 1 && !self.pinned => {
                Some(State::of(Kind::Owned))
            }
            Transition::Unlink if self.kind == Kind::User => self
                .links
                .checked_sub(1)
                .map(|links| State { links, ..self }),
            Transition::Link(level) if table(level) => self
                .links
                .checked_add(1)
                .map(|links| State { links, ..self }),
            Transition::Unlink if self.kind == Kind::Table => self
                .links
                .checked_sub(1)
                .map(|links| State { links, ..self }),
            Transition::Pin(0) if self.kind == Kind::Owned => Some(State {
                pinned: true,
                ..State::of(Kind::User)
            }),
            Transition::Unpin if self.kind == Kind::User && self.pinned && self.links == 0 => {
                Some(State::of(Kind::Owned))
            }
            Transition::Pin(level) if table(level) && !self.pinned => Some(State {
                pinned: true,
                ..self
            }),
            Transition::Unpin if self.pinned => Some(State {
                pinned: false,
                ..self
            }),
            Transition::Release
                if matches!(
                    self.kind,
                    Kind::ImageConst | Kind::ImageData | Kind::ImageFrozen
                ) =>
            {
                Some(State::of(Kind::Owned))
            }
            Transition::Freeze if self.kind == Kind::Owned => Some(State::of(Kind::Code)),
            Transition::Freeze if self.kind == Kind::ImageData => {
                Some(State::of(Kind::ImageFrozen))
            }
            Transition::Thaw if self.kind == Kind::Code => Some(State::of(Kind::Owned)),
            Transition::Thaw if self.kind == Kind::ImageFrozen => Some(State::of(Kind::ImageData)),
            Transition::GiveBack if self.kind == Kind::Owned => Some(State::of(Kind::Given)),
            Transition::Regain if self.kind == Kind::Given => Some(State::of(Kind::Owned)),
            _ => None,
        };
        next.ok_or(Illegal {
            state: self,
            transition,
        })
    }

    /// The state without a `transition` that was planned and did not come true, given what was
    /// `applied`. Counts go back by what the transition changed, so that those of others stay
    /// counted; whatever else a frame is has one planner at a time, and is what it was.
    #[must_use]
    pub const fn without(self, transition: Transition, applied: State) -> State {
        match transition {
            Transition::Link(_) => State {
                links: self.links.wrapping_sub(1),
                ..self
            },
            Transition::Unlink => State {
                links: self.links.wrapping_add(1),
                ..self
            },
            Transition::Pin(_) | Transition::Unpin => State {
                pinned: applied.pinned,
                ..self
            },
            _ => State {
                kind: applied.kind,
                level: applied.level,
                ..self
            },
        }
    }

    /// Whether a mapping of it may be executable, by [`Transition::Freeze`] or as the image's own.
    #[must_use]
    pub const fn may_be_executable(self) -> bool {
        matches!(self.kind, Kind::Code | Kind::ImageConst | Kind::ImageFrozen)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Table => {
                write!(f, "L{} table with {} links", self.level, self.links)?;
                f.write_str(if self.pinned { ", pinned" } else { "" })
            }
            Kind::Free => f.write_str("free"),
            Kind::Owned => f.write_str("in use, writable"),
            Kind::ImageConst => f.write_str("read-only part of the image"),
            Kind::ImageData => f.write_str("writable part of the image"),
            Kind::Code => f.write_str("in use, read-only as code"),
            Kind::ImageFrozen => f.write_str("part of the image that was made read-only"),
            Kind::P2m => f.write_str("part of the p2m list"),
            Kind::Shared => f.write_str("shared with Xen"),
            Kind::Module => f.write_str("part of the module"),
            Kind::Hole => f.write_str("no memory"),
            Kind::User => {
                write!(f, "user mode's, mapped by {} entries", self.links)?;
                f.write_str(if self.pinned { ", held" } else { "" })
            }
            Kind::Given => f.write_str("given back to Xen"),
        }
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Transition::Alloc => f.write_str("hand it out"),
            Transition::Free => f.write_str("free it"),
            Transition::Share => f.write_str("share it with Xen"),
            Transition::Seal(level) => write!(f, "make it an L{level} table"),
            Transition::Unseal => f.write_str("make it writable"),
            Transition::Link(0) => f.write_str("map it for user mode"),
            Transition::Pin(0) => f.write_str("hold it for user mode"),
            Transition::Link(level) => write!(f, "refer to it as an L{level} table"),
            Transition::Unlink => f.write_str("drop a reference to it"),
            Transition::Pin(level) => write!(f, "pin it as an L{level} table"),
            Transition::Unpin => f.write_str("unpin it"),
            Transition::Release => f.write_str("take it out of the image"),
            Transition::Freeze => f.write_str("make it read-only as it is"),
            Transition::Thaw => f.write_str("let it be written again"),
            Transition::GiveBack => f.write_str("give it back to Xen"),
            Transition::Regain => f.write_str("have memory behind it again"),
        }
    }
}

impl fmt::Display for Illegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: the frame is {}", self.transition, self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(transitions: &[Transition]) -> Result<State, Illegal> {
        transitions
            .iter()
            .try_fold(State::default(), |state, transition| {
                state.after(*transition)
            })
    }

    #[test]
    fn a_table_is_born_used_and_freed() {
        use Transition::*;
        let life = [
            Alloc,
            Seal(1),
            Link(1),
            Link(1),
            Unlink,
            Unlink,
            Unseal,
            Free,
        ];
        assert_eq!(walk(&life), Ok(State::default()));
        assert_eq!(
            walk(&[Alloc, Seal(4), Pin(4), Link(4)]),
            Ok(State::table(4, 1, true))
        );
    }

    #[test]
    fn what_xen_would_refuse_is_refused_before() {
        use Transition::*;
        for (transitions, why) in [
            (&[Seal(1)][..], "a free frame is nobody's to seal"),
            (&[Alloc, Link(1)], "a writable frame is no table"),
            (&[Alloc, Seal(1), Link(2)], "a table has one level"),
            (
                &[Alloc, Seal(1), Link(1), Unseal],
                "a linked table stays read-only",
            ),
            (
                &[Alloc, Seal(1), Pin(1), Unseal],
                "a pinned table stays read-only",
            ),
            (
                &[Alloc, Seal(1), Free],
                "a sealed frame is not writable yet",
            ),
            (&[Alloc, Seal(1), Unlink], "no reference to drop"),
            (&[Alloc, Seal(1), Pin(1), Pin(1)], "pinned twice"),
            (&[Alloc, Seal(1), Unpin], "never pinned"),
            (&[Alloc, Free, Free], "freed twice"),
            (&[Share], "a free frame is nobody's to share"),
            (&[Alloc, Seal(1), Share], "a table is not shared"),
            (&[Alloc, Share, Free], "a shared frame does not come back"),
            (&[Alloc, Alloc], "handed out twice"),
            (&[Alloc, Release], "not a part of the image"),
            (&[Alloc, Freeze, Free], "code is not writable yet"),
            (&[Alloc, Freeze, Seal(1)], "code is no table"),
            (&[Freeze], "a free frame is nobody's to freeze"),
            (&[Alloc, Thaw], "not frozen"),
            (&[GiveBack], "a free frame is nobody's to give"),
            (&[Alloc, Seal(1), GiveBack], "a table is in use"),
            (
                &[Alloc, GiveBack, Free],
                "what has no memory is not handed out",
            ),
            (&[Alloc, Regain], "it has memory"),
        ] {
            assert!(walk(transitions).is_err(), "{why}");
        }
    }

    #[test]
    fn memory_in_use_can_be_shared_for_good() {
        let shared = walk(&[Transition::Alloc, Transition::Share]).unwrap();
        assert_eq!(shared, State::of(Kind::Shared));
        assert!(shared.may_be_writable() && !shared.may_be_executable());
    }

    #[test]
    fn memory_of_user_modes_is_counted_by_its_entries() {
        use Transition::*;
        let twice = walk(&[Alloc, Link(0), Link(0)]).unwrap();
        assert_eq!((twice.kind, twice.links), (Kind::User, 2));
        assert!(twice.may_be_writable() && !twice.may_be_executable());
        let in_use = walk(&[Alloc, Link(0), Link(0), Unlink, Unlink]);
        assert_eq!(in_use, Ok(State::of(Kind::Owned)));
        let full = State {
            links: u16::MAX,
            ..twice
        };
        assert!(full.after(Link(0)).is_err(), "a count does not overflow");
        for (transitions, why) in [
            (&[Link(0)][..], "a free frame is nobody's to map"),
            (&[Alloc, Link(0), Free], "a mapped frame stays"),
            (&[Alloc, Link(0), Seal(1)], "a mapped frame is no table"),
            (&[Alloc, Link(0), Unlink, Unlink], "no entry is left"),
            (&[Alloc, Seal(1), Link(0)], "a table is not mapped"),
        ] {
            assert!(walk(transitions).is_err(), "{why}");
        }
    }

    #[test]
    fn what_is_frozen_is_thawed_into_what_it_was() {
        for kind in [Kind::Owned, Kind::ImageData] {
            let frozen = State::of(kind).after(Transition::Freeze).unwrap();
            assert!(frozen.may_be_executable() && !frozen.may_be_writable());
            assert_eq!(frozen.after(Transition::Thaw), Ok(State::of(kind)));
        }
    }

    /// Whatever was planned, a refusal of all of it leaves what was applied; refusal of a part
    /// leaves what the rest alone would have made.
    #[test]
    fn a_refused_transition_leaves_what_the_others_make() {
        use Transition::*;
        let owned = walk(&[Alloc]).unwrap();
        let plans: &[(State, &[Transition])] = &[
            (owned, &[Seal(1), Link(1), Link(1), Unlink, Pin(1)]),
            (State::table(1, 0, false), &[Unseal]),
            (State::table(4, 3, true), &[Unlink, Unpin, Unlink, Link(4)]),
            (owned, &[Freeze, Thaw, Freeze]),
            (State::of(Kind::ImageData), &[Release]),
        ];
        for (applied, transitions) in plans {
            let planned = transitions
                .iter()
                .try_fold(*applied, |s, transition| s.after(*transition));
            let back = transitions
                .iter()
                .rev()
                .fold(planned.unwrap(), |s, transition| {
                    s.without(*transition, *applied)
                });
            assert_eq!(back, *applied, "{transitions:?}");
        }
        let two = State::table(1, 2, false);
        let other = two.after(Link(1)).unwrap();
        let both = other.after(Link(1)).unwrap();
        assert_eq!(both.without(Link(1), two), other, "another's link stays");
    }

    #[test]
    fn the_image_becomes_memory_once_and_nothing_else_does() {
        for kind in [Kind::ImageConst, Kind::ImageData] {
            let owned = State::of(kind).after(Transition::Release).unwrap();
            assert_eq!(owned, State::of(Kind::Owned));
            assert!(owned.after(Transition::Release).is_err());
            assert!(State::of(kind).after(Transition::Free).is_err());
        }
        for kind in [
            Kind::Free,
            Kind::P2m,
            Kind::Shared,
            Kind::Module,
            Kind::Hole,
        ] {
            assert!(
                State::of(kind).after(Transition::Release).is_err(),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn errors_read_as_sentences() {
        let e = walk(&[
            Transition::Alloc,
            Transition::Seal(1),
            Transition::Link(1),
            Transition::Unseal,
        ])
        .unwrap_err();
        assert_eq!(
            e.to_string(),
            "cannot make it writable: the frame is L1 table with 1 links"
        );
    }
}
