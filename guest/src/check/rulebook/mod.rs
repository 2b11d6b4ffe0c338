//! The rule book on the running Xen: the kernel as the [`rules::Machine`] that its tests ask for.
//!
//! What Xen is expected to do stands in the `rules` crate, not here; this module only offers the
//! means. Everything is put back afterwards, which an audit of the kernel's own tables confirms.

mod entry;
mod machine;
mod upcall;

use core::fmt;

use hypercall::abi::start_info::start_info;
use hypercall::addr::ADDR_MASK;
use hypercall::{Hypervisor, Mfn, Op};
use rules::{About, RULES, Rule, twin};

use crate::boot::cmdline::Twins;
use crate::console::print;
use crate::mm::{self, MmError, Tables};
use crate::println;
use crate::selection::Selection;
use crate::trap::probe;
use crate::xen::XEN;

pub(crate) use rules::Kind;

use machine::Real;

/// What only a kernel that has just been started can see.
pub(crate) struct Before {
    kind: Kind,
    /// What Xen said, before its page was used for something else.
    start_info: start_info,
    /// The flags of an entry of the initial mapping.
    flags: Option<u64>,
}

impl Before {
    /// Looks at the machine as Xen left it, for a kernel started as `kind`. `l4` is the address of the top table, `spare` that of a
    /// page which nothing used yet; `table` finds the address of another table.
    pub(crate) fn look(
        kind: Kind,
        start_info: &start_info,
        l4: u64,
        spare: u64,
        table: impl Fn(Mfn) -> Option<u64>,
    ) -> Before {
        let flags = || {
            let (mut at, mut value) = (l4, 0);
            for shift in [39, 30, 21, 12] {
                value = probe::read(at + (spare >> shift & 511) * 8).ok()?;
                if shift > 12 {
                    at = table(Mfn::truncate((value & ADDR_MASK) >> 12))?;
                }
            }
            Some(value & !ADDR_MASK)
        };
        Before {
            kind,
            start_info: *start_info,
            flags: flags(),
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    counts: rules::Summary,
    first: Option<u16>,
    clean: bool,
}

impl Summary {
    /// Whether there was anything to judge, all of it holds, and no trace is left.
    pub(crate) fn is_good(&self) -> bool {
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
    pub(crate) fn reason(&self) -> impl fmt::Display + '_ {
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

/// Judges this Xen by the selected rules. Those that can end the domain must be named.
///
/// # Errors
/// There is not enough memory, or a hypercall failed that does not on any Xen.
pub(crate) fn run(selection: Selection<'_>, before: &Before) -> Result<Summary, MmError> {
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
pub(crate) fn twins(twins: Twins, before: &Before) -> Result<bool, MmError> {
    let Twins { seeds, steps } = twins;
    let (counts, clean) = undisturbed(before, |machine| {
        twin::run_many(machine, 0..seeds, steps, &mut Lines)
    })?;
    Ok(counts.error == 0 && clean)
}

/// Whether a rule is called so.
pub(crate) fn exists(name: &str) -> bool {
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
    let version = hypercall::version::version(&XEN);
    let about = About {
        kind: before.kind,
        model: false,
        version: version.map_or((0, 0), |version| (version.major, version.minor)),
        debug: is_debug_build(),
        vcpus: vcpus(),
    };
    let machine = Real::new(about, before)?;
    let was = XEN.mask_upcalls();
    let result = f(&machine);
    XEN.restore_upcalls(was);
    machine.end()?;
    let audit = mm::with(Tables::audit)?;
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
    let result = unsafe { hypercall::multicall::multicall(&XEN, &mut calls) };
    result.is_ok() && calls[0].op != Op::XenVersion as u64
}

/// How many vCPUs the domain may have.
fn vcpus() -> u32 {
    let exists = |id: &u32| hypercall::vcpu::is_up(&XEN, *id).is_ok();
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
