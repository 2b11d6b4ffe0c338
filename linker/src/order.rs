//! The order of init calls.
//!
//! By level first; within a level a call comes after those it names, and otherwise by name, so that
//! the order depends on what was declared and not on how the linker laid it out. The build has
//! looked at what can be wrong with the same table, and shows the order by the same functions.

use crate::subarch::{Subarch, Subarches};
use crate::tables::{InitCall, Level};

/// An init call as the order sees it: in the kernel's memory, or read from an image.
pub trait Call {
    /// Its name.
    fn name(&self) -> &str;
    /// When it is made.
    fn level(&self) -> Level;
    /// Where it is made.
    fn subarches(&self) -> Subarches;
    /// The names of what must come before it.
    fn after(&self) -> impl Iterator<Item = &str>;
}

impl<F> Call for InitCall<F> {
    fn name(&self) -> &str {
        self.item.name
    }

    fn level(&self) -> Level {
        self.level
    }

    fn subarches(&self) -> Subarches {
        self.item.needs.subarches()
    }

    fn after(&self) -> impl Iterator<Item = &str> {
        self.after.iter().copied()
    }
}

/// The call of this name.
pub fn find<'a, C: Call>(calls: &'a [C], name: &str) -> Option<&'a C> {
    calls.iter().find(|call| call.name() == name)
}

/// How many calls must at least come before this one; `None` if it waits for itself, or for one
/// that is not there.
pub fn rank<C: Call>(calls: &[C], call: &C) -> Option<usize> {
    rank_within(calls, call, calls.len())
}

/// The same, if no path to it is longer than `longest`.
fn rank_within<C: Call>(calls: &[C], call: &C, longest: usize) -> Option<usize> {
    let mut rank = 0;
    for name in call.after() {
        let before = rank_within(calls, find(calls, name)?, longest.checked_sub(1)?)?;
        rank = rank.max(before + 1);
    }
    Some(rank)
}

/// The calls that are made on `subarch`, in order. Each has a name of its own and a [`rank`].
pub fn order<C: Call>(calls: &[C], subarch: Subarch) -> impl Iterator<Item = &C> {
    let levels = Level::ALL.into_iter();
    levels.flat_map(move |level| order_at(calls, subarch, level))
}

/// Those among them that are made at a level.
pub fn order_at<C: Call>(calls: &[C], subarch: Subarch, level: Level) -> impl Iterator<Item = &C> {
    let key = |call: &C| rank(calls, call);
    let here = calls
        .iter()
        .filter(move |call| call.level() == level && call.subarches().has(subarch));
    let next = move |last: Option<&C>| {
        let later =
            |call: &&C| last.is_none_or(|last| (key(call), call.name()) > (key(last), last.name()));
        let later = here.clone().filter(later);
        later.min_by(|a, b| (key(a), a.name()).cmp(&(key(b), b.name())))
    };
    core::iter::successors(next(None), move |last| next(Some(last)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fake {
        name: String,
        level: Level,
        subarches: Subarches,
        after: Vec<String>,
    }

    impl Call for Fake {
        fn name(&self) -> &str {
            &self.name
        }
        fn level(&self) -> Level {
            self.level
        }
        fn subarches(&self) -> Subarches {
            self.subarches
        }
        fn after(&self) -> impl Iterator<Item = &str> {
            self.after.iter().map(String::as_str)
        }
    }

    fn call(name: &str, subarches: Subarches, after: &[&str]) -> Fake {
        Fake {
            name: name.into(),
            level: if name == "zero" {
                Level::Memory
            } else {
                Level::Core
            },
            subarches,
            after: after.iter().map(|name| (*name).into()).collect(),
        }
    }

    fn names(calls: &[Fake], subarch: Subarch) -> Vec<&str> {
        order(calls, subarch).map(Call::name).collect()
    }

    #[test]
    fn calls_come_by_level_then_after_what_they_name_then_by_name() {
        let all = Subarches::all();
        let calls = [
            call("timer", all, &["events"]),
            call("pic", Subarches::BARE, &["zero"]),
            call("events", all, &[]),
            call("alarm", all, &["timer"]),
            call("zero", all, &[]),
        ];
        assert_eq!(
            names(&calls, Subarch::XenPv),
            ["zero", "events", "timer", "alarm"]
        );
        assert_eq!(
            names(&calls, Subarch::Bare),
            ["zero", "events", "pic", "timer", "alarm"]
        );
    }

    #[test]
    fn what_waits_for_itself_or_for_nobody_has_no_rank() {
        let all = Subarches::all();
        let calls = [
            call("a", all, &["b"]),
            call("b", all, &["a"]),
            call("c", all, &["nobody"]),
            call("d", all, &[]),
        ];
        let ranks: Vec<_> = calls.iter().map(|call| rank(&calls, call)).collect();
        assert_eq!(ranks, [None, None, None, Some(0)]);
    }

    proptest! {
        /// Each call comes after what it names, and the order is the same however the linker laid
        /// the table out.
        #[test]
        fn the_order_keeps_every_promise(
            edges in proptest::collection::vec((0_usize..12, 0_usize..12), 0..20),
            turn in 0_usize..12,
        ) {
            let mut calls: Vec<_> =
                (0..12).map(|n| call(&format!("c{n:02}"), Subarches::all(), &[])).collect();
            for (from, to) in edges {
                if to < from {
                    calls[from].after.push(format!("c{to:02}"));
                }
            }
            calls.rotate_left(turn);
            let sorted: Vec<_> = order(&calls, Subarch::Bare).collect();
            prop_assert_eq!(sorted.len(), calls.len());
            let place = |name: &str| sorted.iter().position(|call| call.name == name);
            for call in &calls {
                for before in &call.after {
                    prop_assert!(place(before) < place(&call.name));
                }
            }
            let first: Vec<_> = sorted.iter().map(|call| call.name.clone()).collect();
            calls.rotate_left(1);
            let again: Vec<_> = order(&calls, Subarch::Bare).map(|call| call.name.clone()).collect();
            prop_assert_eq!(first, again);
        }
    }
}
