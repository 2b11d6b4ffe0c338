//! The order of init calls: a topological sort, and what can be wrong with a table.
//!
//! By level first; within a level a call comes after those it names, and otherwise by name, so that
//! the order depends on what was declared and not on how the linker laid it out. The build sorts
//! the tables of the linked image for every subarch by this very function and refuses an image
//! whose table cannot be sorted; the kernel sorts by it at boot.

use core::fmt;

use heapless::Vec;

use crate::subarch::{Subarch, Subarches};
use crate::tables::{InitCall, Level};

/// Calls that a table can have.
pub const MOST: usize = 64;
/// Members of a cycle that are named.
const NAMED: usize = 6;

/// An init call as the sort sees it: in the kernel's memory, or read from an image.
pub trait Call {
    /// Its name.
    fn name(&self) -> &str;
    /// When it is made.
    fn level(&self) -> Level;
    /// Where it is made.
    fn subarches(&self) -> Subarches;
    /// The name of what must come before it, by number; `None` behind the last.
    fn after(&self, index: usize) -> Option<&str>;
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

    fn after(&self, index: usize) -> Option<&str> {
        self.after.get(index).copied()
    }
}

/// Why a table cannot be sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderError<'a> {
    /// More than [`MOST`] calls.
    TooMany(usize),
    /// Two calls have this name.
    Twice(&'a str),
    /// A call names another that is not in the table.
    Missing {
        /// The call.
        call: &'a str,
        /// What it names.
        dependency: &'a str,
    },
    /// A call is made where what it depends on is not.
    Lacks {
        /// The call.
        call: &'a str,
        /// What it names.
        dependency: &'a str,
        /// Where.
        on: Subarches,
    },
    /// A call depends on one of a later level.
    Later {
        /// The call and its level.
        call: (&'a str, Level),
        /// What it names, and its level.
        dependency: (&'a str, Level),
    },
    /// Calls that wait for each other: each for the next, the last for the first. The first six
    /// are named, and how many there are.
    Cycle(Vec<&'a str, NAMED>, usize),
}

impl fmt::Display for OrderError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OrderError::TooMany(count) => {
                write!(f, "{count} init calls; there is room for {MOST}")
            }
            OrderError::Twice(name) => write!(f, "two init calls are named {name}"),
            OrderError::Missing { call, dependency } => {
                write!(
                    f,
                    "init call {call} comes after {dependency}, which no table has"
                )
            }
            OrderError::Lacks {
                call,
                dependency,
                on,
            } => write!(
                f,
                "init call {call} comes after {dependency}, which is not made on {on}"
            ),
            OrderError::Later { call, dependency } => write!(
                f,
                "init call {} of level {} comes after {} of the later level {}",
                call.0,
                call.1.name(),
                dependency.0,
                dependency.1.name()
            ),
            OrderError::Cycle(names, count) => {
                f.write_str("init calls wait for each other: ")?;
                names
                    .iter()
                    .try_for_each(|name| write!(f, "{name} after "))?;
                if *count > names.len() {
                    write!(f, "{} more after ", count - names.len())?;
                }
                f.write_str(names.first().unwrap_or(&"?"))
            }
        }
    }
}

fn dependencies<C: Call>(call: &C) -> impl Iterator<Item = &str> {
    (0..).map_while(|index| call.after(index))
}

fn find<'a, C: Call>(calls: &'a [C], name: &str) -> Option<&'a C> {
    calls.iter().find(|call| call.name() == name)
}

/// Sorts the calls that are made on `subarch`.
///
/// # Errors
/// What is wrong with the table, on whichever subarch.
pub fn order<C: Call>(calls: &[C], subarch: Subarch) -> Result<Vec<&C, MOST>, OrderError<'_>> {
    let all = check(calls)?;
    let here = |call: &&C| call.subarches().has(subarch);
    Ok(all.into_iter().filter(here).collect())
}

/// Looks for everything that can be wrong, and sorts all calls. An order of all is one of those on
/// each subarch, since what a call depends on is made wherever the call is.
fn check<C: Call>(calls: &[C]) -> Result<Vec<&C, MOST>, OrderError<'_>> {
    let mut waiting: Vec<&C, MOST> = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        waiting
            .push(call)
            .map_err(|_| OrderError::TooMany(calls.len()))?;
        if find(&calls[..index], call.name()).is_some() {
            return Err(OrderError::Twice(call.name()));
        }
        for name in dependencies(call) {
            edge(calls, call, name)?;
        }
    }
    waiting.sort_unstable_by_key(|call| (call.level(), call.name()));
    let mut sorted: Vec<&C, MOST> = Vec::new();
    while !waiting.is_empty() {
        let is_waiting = |name: &str| waiting.iter().any(|other| other.name() == name);
        let ready = waiting
            .iter()
            .position(|call| !dependencies(*call).any(is_waiting));
        let Some(ready) = ready else {
            let members = cycle(&waiting);
            let named = members.iter().copied().take(NAMED).collect();
            return Err(OrderError::Cycle(named, members.len()));
        };
        // Both have room for all.
        let _ = sorted.push(waiting.remove(ready));
    }
    Ok(sorted)
}

/// Checks one dependency.
fn edge<'a, C: Call>(calls: &'a [C], call: &'a C, name: &'a str) -> Result<(), OrderError<'a>> {
    let (call, dependency) = match find(calls, name) {
        Some(dependency) => (call, dependency),
        None => {
            return Err(OrderError::Missing {
                call: call.name(),
                dependency: name,
            });
        }
    };
    let lacking = call.subarches().difference(dependency.subarches());
    if !lacking.is_empty() {
        return Err(OrderError::Lacks {
            call: call.name(),
            dependency: name,
            on: lacking,
        });
    }
    if dependency.level() > call.level() {
        return Err(OrderError::Later {
            call: (call.name(), call.level()),
            dependency: (name, dependency.level()),
        });
    }
    Ok(())
}

/// A cycle among calls each of which waits for another of them.
fn cycle<'a, C: Call>(waiting: &[&'a C]) -> Vec<&'a str, MOST> {
    let mut path: Vec<&str, MOST> = Vec::new();
    let mut at = waiting.first().copied();
    while let Some(call) = at {
        if let Some(start) = path.iter().position(|name| *name == call.name()) {
            return path.into_iter().skip(start).collect();
        }
        // A path without repetition is no longer than the table.
        let _ = path.push(call.name());
        at = dependencies(call).find_map(|name| {
            let next = waiting.iter().find(|other| other.name() == name);
            next.copied()
        });
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fake {
        name: String,
        level: Level,
        subarches: Subarches,
        after: std::vec::Vec<String>,
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
        fn after(&self, index: usize) -> Option<&str> {
            self.after.get(index).map(String::as_str)
        }
    }

    fn call(name: &str, after: &[&str]) -> Fake {
        Fake {
            name: name.into(),
            level: Level::Core,
            subarches: Subarches::all(),
            after: after.iter().map(|name| (*name).into()).collect(),
        }
    }

    fn names(calls: &[Fake], subarch: Subarch) -> std::vec::Vec<&str> {
        let sorted = order(calls, subarch).unwrap();
        sorted.into_iter().map(|call| call.name()).collect()
    }

    fn error(calls: &[Fake]) -> String {
        order(calls, Subarch::XenPv)
            .map(drop)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn calls_come_by_level_then_after_what_they_name_then_by_name() {
        let calls = [
            call("timer", &["events"]),
            call("events", &[]),
            call("alarm", &["timer"]),
            call("bells", &[]),
            Fake {
                level: Level::Memory,
                ..call("zero", &[])
            },
        ];
        let expected = ["zero", "bells", "events", "timer", "alarm"];
        assert_eq!(names(&calls, Subarch::XenPv), expected);
    }

    #[test]
    fn what_is_not_for_a_subarch_is_not_made_there() {
        let calls = [
            Fake {
                subarches: Subarches::XEN_PV,
                ..call("upcalls", &["table"])
            },
            Fake {
                subarches: Subarches::BARE,
                ..call("pic", &["table"])
            },
            call("table", &[]),
        ];
        assert_eq!(names(&calls, Subarch::XenPv), ["table", "upcalls"]);
        assert_eq!(names(&calls, Subarch::Bare), ["table", "pic"]);
        assert_eq!(names(&calls, Subarch::XenPvh), ["table"]);
    }

    #[test]
    fn a_cycle_is_refused_with_its_members() {
        let calls = [
            call("a", &["b"]),
            call("b", &["c"]),
            call("c", &["d"]),
            call("d", &["b"]),
        ];
        assert_eq!(
            error(&calls),
            "init calls wait for each other: b after c after d after b"
        );
        let ring: std::vec::Vec<_> = (0..9)
            .map(|n| call(&n.to_string(), &[&((n + 1) % 9).to_string()]))
            .collect();
        assert!(error(&ring).ends_with("4 after 5 after 3 more after 0"));
        assert_eq!(
            error(&[call("self", &["self"])]),
            "init calls wait for each other: self after self"
        );
    }

    #[test]
    fn a_missing_dependency_is_refused_with_both_names() {
        assert_eq!(
            error(&[call("a", &["evnets"])]),
            "init call a comes after evnets, which no table has"
        );
    }

    #[test]
    fn a_dependency_that_the_same_subarch_lacks_is_refused() {
        let calls = [
            call("timer", &["events"]),
            Fake {
                subarches: Subarches::XEN_PV.union(Subarches::BARE),
                ..call("events", &[])
            },
        ];
        assert_eq!(
            error(&calls),
            "init call timer comes after events, which is not made on xen-pvh"
        );
    }

    #[test]
    fn a_dependency_of_a_later_level_is_refused() {
        let calls = [
            call("early", &["late"]),
            Fake {
                level: Level::Service,
                ..call("late", &[])
            },
        ];
        assert_eq!(
            error(&calls),
            "init call early of level core comes after late of the later level service"
        );
    }

    #[test]
    fn names_are_unique_and_room_is_limited() {
        assert_eq!(
            error(&[call("a", &[]), call("a", &[])]),
            "two init calls are named a"
        );
        let many: std::vec::Vec<_> = (0..=MOST).map(|n| call(&n.to_string(), &[])).collect();
        assert_eq!(error(&many), "65 init calls; there is room for 64");
        let sorted = order(&many[..MOST], Subarch::Bare);
        assert_eq!(sorted.unwrap().len(), MOST);
    }

    proptest! {
        /// Any table is sorted or refused; a sorted one has every call after what it names, and the
        /// same order however the linker laid the table out.
        #[test]
        fn the_order_keeps_every_promise(
            edges in proptest::collection::vec((0_usize..12, 0_usize..12), 0..20),
            sets in proptest::collection::vec(1_u8..8, 12),
            levels in proptest::collection::vec(0_usize..3, 12),
            turn in 0_usize..12,
        ) {
            let mut calls: std::vec::Vec<_> = (0..12)
                .map(|n| Fake {
                    level: Level::ALL[levels[n]],
                    subarches: Subarches::from_bits_retain(sets[n]),
                    ..call(&format!("c{n:02}"), &[])
                })
                .collect();
            for (from, to) in edges {
                let name = format!("c{to:02}");
                calls[from].after.push(name);
            }
            for subarch in Subarch::ALL {
                let first: Option<std::vec::Vec<String>> = order(&calls, subarch)
                    .ok()
                    .map(|sorted| sorted.iter().map(|call| call.name.clone()).collect());
                if let Some(sorted) = &first {
                    let place = |name: &str| sorted.iter().position(|other| other == name);
                    for call in calls.iter().filter(|call| call.subarches.has(subarch)) {
                        for dependency in &call.after {
                            prop_assert!(place(dependency).unwrap() < place(&call.name).unwrap());
                        }
                    }
                    let made = calls.iter().filter(|call| call.subarches.has(subarch)).count();
                    prop_assert_eq!(sorted.len(), made);
                }
                calls.rotate_left(turn);
                let again = order(&calls, subarch)
                    .ok()
                    .map(|sorted| sorted.iter().map(|call| call.name.clone()).collect());
                prop_assert_eq!(first, again);
            }
        }
    }
}
