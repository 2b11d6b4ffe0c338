//! Self-tests: the kernel examines itself on the Xen it runs on.
//!
//! A test is a function and a line that registers it, in whatever module knows the subject:
//!
//! ```text
//! /// What must hold, why, and how it would show if it did not.
//! fn nesting(context: &mut Context) -> TestResult { … }
//! selftest!("lazy.nesting", nesting, needs EVERYWHERE);
//! selftest!("mm.map", map, SIZES, needs EVERYWHERE); // once for each size: mm.map.1, mm.map.512, …
//! selftest!("x.y", y, needs XEN_TABLES);             // only where Xen checks the tables
//! ```
//!
//! The linker collects the registrations. A test ends in one of five states: it *passes*; it
//! *fails*, saying what was expected and what was found; it meets an *error*, something that had
//! to work for the test to be made at all; it is *skipped*, with the reason; or it *crashes*, which
//! nobody here can report: its name is printed before it runs, so that whoever watches knows it.
//!
//! After each test its mappings are removed, lazy mode must be as before and no frame may be
//! missing; after each group the page tables are audited.

mod busy;
mod context;
mod forked;
mod frames;
mod handlers;
mod heap;
mod held;
mod image;
mod interrupt;
mod lazy;
mod local_checks;
mod native_interrupts;
mod oom;
mod pages;
mod pile;
mod program_shares;
mod programs;
mod queues;
mod race;
mod refused_once;
mod runner;
mod runstates;
mod single;
mod smp;
mod smp_pace;
mod smp_spaces;
mod smp_waiters;
mod soak;
mod spaces;
mod starved;
mod task;
mod task_mix;
mod task_times;
mod usermode;
mod xen_checks;

extern crate alloc;

use core::fmt::{self, Write};

use heapless::String;
use linker::tables::SelfTest;
use linkme::distributed_slice;

use crate::lock::Lock;
use crate::rank;

pub(crate) use context::Context;

/// What a test does.
pub(crate) type TestFn = fn(&mut Context) -> TestResult;

/// A registered test.
pub(crate) type Test = SelfTest<TestFn>;

/// Every test, in no order.
#[distributed_slice]
pub(crate) static SELFTESTS: [Test];

/// How a test ended.
pub(crate) type TestResult = Result<(), Trouble>;

/// How a test ended that did not pass. The words are kept aside ([`reason`]), so that results stay
/// small on a small stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// What must hold does not.
    Fail,
    /// The test could not be made.
    Error,
    /// It has no meaning here.
    Skip,
}

static REASON: Lock<String<480>, rank::Noted> = Lock::new(String::new());

/// Keeps the words.
fn explain(words: impl fmt::Display) {
    let mut reason = REASON.lock();
    reason.clear();
    // Words that do not fit are cut.
    let _ = write!(reason, "{words}");
}

/// Why the last test that did not pass did not.
fn reason() -> String<480> {
    REASON.lock().clone()
}

impl Trouble {
    /// A failure, in words.
    pub(crate) fn fail(words: impl fmt::Display) -> Trouble {
        explain(words);
        Trouble::Fail
    }

    /// An error, in words.
    pub(crate) fn error(words: impl fmt::Display) -> Trouble {
        explain(words);
        Trouble::Error
    }

    /// Why the test is skipped.
    pub(crate) fn skip(words: impl fmt::Display) -> Trouble {
        explain(words);
        Trouble::Skip
    }
}

/// What nobody expected to go wrong is an error.
impl<E: core::error::Error> From<E> for Trouble {
    fn from(error: E) -> Trouble {
        Trouble::error(error)
    }
}

/// Registers a test; see the [module](self).
macro_rules! selftest {
    ($name:literal, $function:path, needs $needs:ident) => {
        $crate::check::selftest::selftest!($name, $function, &[], needs $needs);
    };
    ($name:literal, $function:path, $pages:expr, needs $needs:ident) => {
        linker::record!("self-test", $name, stringify!($needs));
        const _: () = {
            #[linkme::distributed_slice($crate::check::selftest::SELFTESTS)]
            static TEST: $crate::check::selftest::Test = $crate::check::selftest::Test {
                item: linker::tables::Item {
                    name: $name,
                    needs: &$crate::capability::$needs,
                },
                pages: $pages,
                file: file!(),
                line: line!(),
                run: $function,
            };
        };
    };
}
pub(crate) use selftest;

/// Fails the test unless what was found is what is expected.
macro_rules! expect_eq {
    ($found:expr, $expected:expr, $($what:tt)+) => {{
        let (found, expected) = ($found, $expected);
        if found != expected {
            return Err($crate::check::selftest::Trouble::fail(format_args!(
                "{}: expected {expected:x?}, found {found:x?}",
                format_args!($($what)+)
            )));
        }
    }};
}
pub(crate) use expect_eq;

/// Fails the test unless what was found has the expected form.
macro_rules! expect_matches {
    ($found:expr, $pattern:pat $(if $guard:expr)?, $($what:tt)+) => {{
        let found = $found;
        if !matches!(found, $pattern $(if $guard)?) {
            return Err($crate::check::selftest::Trouble::fail(format_args!(
                "{}: expected {}, found {found:x?}",
                format_args!($($what)+),
                stringify!($pattern $(if $guard)?),
            )));
        }
    }};
}
pub(crate) use expect_matches;
