//! The rule book: what Xen demands of a 64-bit PV guest, every rule a page and a test.
//!
//! A rule is one file in `src/rules`: its `//!` comment is the page, its `test` says whether the
//! rule holds. The same tests run on the host against the model and in the guest against real
//! Xen, through [`Machine`]. Where dom0, a domU and the shim's guest are treated differently, the
//! difference is part of the rule.
//!
//! What no rule thinks of, [`differential`] finds: the same random requests on the model and on real Xen.
//!
//! # Invariants
//!
//! - A test puts back what it changes ([`test_bench::TestBench`] does most of it), so rules run in any order
//!   within one boot. One whose test can end the domain says so ([`Rule::kills`]).
//! - A result is one line (see [`Report`]). A line that announces a rule and is followed by none
//!   is a crash.
#![no_std]
#![allow(
    clippy::result_large_err,
    reason = "an outcome carries its words because there is no allocator, and there are few"
)]

#[cfg(feature = "std")]
extern crate std;

#[cfg(feature = "std")]
pub mod book;
pub mod differential;
pub mod machine;
#[cfg(feature = "std")]
pub mod on_model;
mod report;
pub mod test_bench;

use core::fmt;

pub use machine::{About, Cause, Entry, Fault, Kind, Machine, Observed, Page};
pub use report::{Outcome, Report, Text, Verdict};

/// What a page's test is written with.
pub(crate) mod prelude {
    pub(crate) use hypercall::{
        MachAddr, Mfn, Op,
        abi::{self, mmu::*, xen::DOMID_SELF},
        mmu::Level,
    };

    pub(crate) use crate::{
        Cause, Check, Kind, Machine, expect, expect_eq, expect_result, fail, skip, test_bench::*,
    };
}

include!(concat!(env!("OUT_DIR"), "/rules.rs"));

/// The pages, one module each, and the table made of them.
#[path = "rules"]
pub mod pages {
    pages!();
}

pub use pages::RULES;

/// What a test returns: nothing to say, or why not.
pub type Check = Result<(), Outcome>;

/// A rule of the PV ABI.
#[derive(Clone, Copy)]
pub struct Rule {
    /// By which it is known: R9 is 9.
    pub number: u16,
    /// In a few words.
    pub title: &'static str,
    /// In full, as Markdown.
    pub statement: &'static str,
    /// Why Xen does it so.
    pub why: &'static str,
    /// Where it is written: files of the Xen tree, headers, advisories.
    pub source: &'static str,
    /// What the test takes from the host for good, and how that is seen; empty for nearly all.
    pub costs: &'static str,
    /// The test can end the domain, so it gets a boot of its own.
    pub kills: bool,
    /// What the page says is about a fault of Xen's that is not public: no list of rules shows it,
    /// and only its number names it.
    pub withheld: bool,
    /// The page's file in `src/rules`.
    pub file: &'static str,
    /// The test.
    pub test: fn(&dyn Machine) -> Check,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = if self.withheld {
            "withheld"
        } else {
            self.title
        };
        write!(f, "R{:02}: {title}", self.number)
    }
}

impl Rule {
    /// The rule with this number.
    pub fn find(number: u16) -> Option<&'static Rule> {
        RULES.iter().find(|rule| rule.number == number)
    }

    /// Whether `name` means this rule: `R9`, `r09`, `9`, or a part of the title that it shows.
    pub fn is_called(&self, name: &str) -> bool {
        let digits = name.strip_prefix(['R', 'r']).unwrap_or(name);
        match digits.parse::<u16>() {
            Ok(number) => number == self.number,
            Err(_) => !self.withheld && !name.is_empty() && self.title.contains(name),
        }
    }

    /// Tests the rule.
    pub fn run(&self, machine: &dyn Machine) -> Report {
        let outcome = match (self.test)(machine) {
            Ok(()) => Outcome::Pass,
            Err(outcome) => outcome,
        };
        Report {
            number: self.number,
            outcome,
        }
    }
}

/// How many rules ended how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// They hold.
    pub pass: u32,
    /// They do not hold.
    pub fail: u32,
    /// The test could not be carried out.
    pub error: u32,
    /// There is nothing to test here.
    pub skip: u32,
}

/// Tests the rules that `filter` picks, and writes to `sink`, for each, a line that announces it
/// and a line with the result.
pub fn run(
    machine: &dyn Machine,
    filter: &dyn Fn(&Rule) -> bool,
    sink: &mut dyn fmt::Write,
) -> Summary {
    let mut summary = Summary::default();
    for rule in RULES.iter().filter(|rule| filter(rule)) {
        // A sink that fails cannot be told so; the missing line will be noticed.
        let _ = writeln!(sink, "rule R{:02} run", rule.number);
        let report = rule.run(machine);
        match report.outcome {
            Outcome::Pass => summary.pass += 1,
            Outcome::Fail(_) => summary.fail += 1,
            Outcome::Error(_) => summary.error += 1,
            Outcome::Skip(_) => summary.skip += 1,
        }
        let _ = writeln!(sink, "{report}");
    }
    summary
}
