//! The rule book on the running Xen: the kernel as the [`rules::Machine`] that its tests ask for.
//!
//! What Xen is expected to do stands in the `rules` crate, not here; this module only offers the
//! means. Everything is put back afterwards, which an audit of the kernel's own tables confirms.

mod entry;
mod machine;
mod upcall;

use core::fmt::{self, Write};

use hypercall::{Hypervisor, Op};
use rules::{About, RULES, Rule, differential};

use crate::before::{Before, Kind};
use crate::checks::{self, Asked, CHECKS, Check, Facts, Failed, NAMED, Named};
use crate::console::print;
use crate::mm::{self, MmError, Tables};
use crate::options::Differential;
use crate::println;
use crate::selection::Selection;
use crate::xen::HV;
use linkme::distributed_slice;

use machine::Real;

/// How a run ended.
#[derive(Clone, Copy, Debug)]
struct Summary {
    counts: rules::Summary,
    first: Option<u16>,
    clean: bool,
}

impl Summary {
    /// Whether there was anything to judge, all of it holds, and no trace is left.
    fn is_good(&self) -> bool {
        let rules::Summary { pass, skip, .. } = self.counts;
        self.failed() == 0 && pass + skip > 0 && self.clean
    }

    fn failed(&self) -> u32 {
        self.counts.fail + self.counts.error
    }

    fn judged(&self) -> u32 {
        self.counts.pass + self.failed() + self.counts.skip
    }

    /// What went wrong, in a few words.
    fn reason(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(|f| match self.first {
            Some(first) => write!(
                f,
                "{} of {} rules fail, the first is R{first:02}",
                self.failed(),
                self.judged()
            ),
            None if self.judged() == 0 => f.write_str("no rule of this name"),
            None => f.write_str("the rules left traces in the page tables"),
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (judged, failed, skipped) = (self.judged(), self.failed(), self.counts.skip);
        write!(f, "rules={judged} failed={failed} skipped={skipped}")
    }
}

/// First of all checks: the rules are about a kernel that has done nothing yet.
#[distributed_slice(CHECKS)]
static CHECK: Check = Check {
    order: 0,
    run: check,
};

/// Judges Xen by the rules and makes random requests, as far as asked for.
fn check(asked: &Asked<'_>, facts: &mut Facts) -> Result<(), Failed> {
    let Asked { options, before } = asked;
    if options.rules == Selection::None && options.differential.is_none() {
        return Ok(());
    }
    let before = checks::or_fail("rules", before.ok_or("the rules are about PV"))?;
    if options.rules != Selection::None {
        let summary = checks::or_fail("rules", run(options.rules, before))?;
        if !summary.is_good() {
            return Err(checks::reason(summary.reason()));
        }
        // There is room for all checks.
        let _ = write!(facts, " {summary}");
    }
    match options.differential {
        Some(seeds) if !checks::or_fail("differential", differential_runs(seeds, before))? => {
            Err(checks::reason("differential"))
        }
        _ => Ok(()),
    }
}

/// Judges this Xen by the selected rules. Those that can end the domain must be named.
///
/// # Errors
/// There is not enough memory, or a hypercall failed that does not on any Xen.
fn run(selection: Selection<'_>, before: &Before) -> Result<Summary, MmError> {
    let mut first = None;
    let (counts, clean) = undisturbed(before, |machine| {
        let mut counts = rules::Summary::default();
        for rule in RULES.iter().filter(|rule| selects(selection, rule)) {
            let this = |other: &Rule| other.number == rule.number;
            let one = rules::run(machine, &this, &mut Lines);
            if one.fail + one.error > 0 {
                first.get_or_insert(rule.number);
            }
            counts.pass += one.pass;
            counts.fail += one.fail;
            counts.error += one.error;
            counts.skip += one.skip;
        }
        counts
    })?;
    Ok(Summary {
        counts,
        first,
        clean,
    })
}

/// Makes random requests, the same as the model gets elsewhere, and prints what came of them.
/// False if one of the seeds could not be carried out, or left traces.
///
/// # Errors
/// As for [`run`].
fn differential_runs(seeds: Differential, before: &Before) -> Result<bool, MmError> {
    let Differential { from, to, steps } = seeds;
    let (counts, clean) = undisturbed(before, |machine| {
        differential::run_many(machine, from..to, steps, &mut Lines)
    })?;
    Ok(counts.error == 0 && clean)
}

#[distributed_slice(NAMED)]
static NAMES: Named = Named {
    word: "rules",
    exists,
};

/// Whether a rule is called so.
fn exists(name: &str) -> bool {
    RULES.iter().any(|rule| rule.is_called(name))
}

fn selects(selection: Selection<'_>, rule: &Rule) -> bool {
    match selection {
        Selection::None => false,
        Selection::All => !rule.kills,
        Selection::Named(list) => list.split(',').any(|name| rule.is_called(name)),
    }
}

/// Calls `f` with a kernel that does nothing of its own, and says whether the page tables are in
/// order afterwards.
fn undisturbed<R>(before: &Before, f: impl FnOnce(&Real<'_>) -> R) -> Result<(R, bool), MmError> {
    // No Xen refuses to say.
    let version = hypercall::version::version(&HV);
    let about = About {
        kind: match before.kind {
            Kind::Dom0 => rules::Kind::Dom0,
            Kind::DomU => rules::Kind::DomU,
            Kind::Shim => rules::Kind::Shim,
        },
        model: false,
        version: version.map_or((0, 0), |version| (version.major, version.minor)),
        debug: is_debug_build(),
        vcpus: vcpus(),
    };
    let machine = Real::new(about, before)?;
    let was = HV.mask_upcalls();
    let result = f(&machine);
    HV.restore_upcalls(was);
    machine.end()?;
    let audit = mm::with_all(Tables::audit)?;
    if !audit.is_clean() {
        println!("audit after the rules: {audit}");
    }
    Ok((result, audit.is_clean()))
}

/// A debug Xen overwrites all of a multicall's entry but the result.
fn is_debug_build() -> bool {
    let version = hypercall::abi::version::XENVER_version;
    let mut calls = [hypercall::multicall::entry(
        Op::XenVersion,
        [version.into(), 0, 0, 0, 0],
    )];
    // SAFETY: asking for the version touches no memory.
    let result = unsafe { hypercall::multicall::multicall(&HV, &mut calls) };
    result.is_ok() && calls[0].op != Op::XenVersion as u64
}

/// How many vCPUs the domain may have.
fn vcpus() -> u32 {
    let exists = |id: &u32| hypercall::vcpu::is_up(&HV, *id).is_ok();
    (0..128).take_while(exists).count() as u32
}

/// The console, for lines that others watch for.
struct Lines;

impl fmt::Write for Lines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        print(format_args!("{text}"));
        Ok(())
    }
}
