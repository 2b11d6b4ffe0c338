//! Checks: what the command line can have the kernel test, and an image can be built without.
//!
//! The rooms of `check` register themselves here, and nothing below imports them: the boot makes the
//! checks that were asked for, in order, and the end of the run has the self-tests made. An image
//! without the feature `check` has none, and its command line refuses their words.

use core::fmt;

use heapless::String;
use linkme::distributed_slice;

use crate::before::Before;
use crate::options::Options;
use crate::println;
use crate::selection::Selection;
use crate::tested::Summary;

/// What a check is told.
pub(crate) struct Asked<'a> {
    /// The words of the command line.
    pub(crate) options: &'a Options<'a>,
    /// What there was to see before the kernel took over; only PV has it.
    pub(crate) before: Option<&'a Before>,
}

/// What the verdict is to say of what was done; each part begins with a blank.
pub(crate) type Facts = String<128>;

/// Why the verdict says fail, in a few words.
pub(crate) type Failed = String<96>;

/// A part of the boot that is made only if it is asked for.
pub(crate) struct Check {
    /// When: in ascending order.
    pub(crate) order: u8,
    /// Makes it if it is asked for, prints what it finds, and adds to the facts.
    pub(crate) run: fn(&Asked<'_>, &mut Facts) -> Result<(), Failed>,
}

/// Every check that is part of the boot, in no order.
#[distributed_slice]
pub(crate) static CHECKS: [Check];

/// What a word's value can name.
pub(crate) struct Named {
    /// The word.
    pub(crate) word: &'static str,
    /// Whether there is something of that name.
    pub(crate) exists: fn(&str) -> bool,
}

/// Words whose values name something, in no order.
#[distributed_slice]
pub(crate) static NAMED: [Named];

/// Whether there is something that has the name which the list of a word gives it.
pub(crate) fn exists(word: &str, name: &str) -> bool {
    NAMED
        .iter()
        .any(|named| named.word == word && (named.exists)(name))
}

/// Who makes self-tests: one, or nobody.
#[distributed_slice]
pub(crate) static TESTERS: [fn(Selection<'_>, bool) -> Summary];

/// Makes the checks that were asked for; `between` is called behind each.
///
/// # Errors
/// The first that fails, or what `between` does.
pub(crate) fn run(
    asked: &Asked<'_>,
    between: impl Fn() -> Result<(), Failed>,
) -> Result<Facts, Failed> {
    let mut facts = Facts::new();
    let orders = CHECKS.iter().map(|check| check.order);
    for order in 0..=orders.max().unwrap_or(0) {
        for check in CHECKS.iter().filter(|check| check.order == order) {
            (check.run)(asked, &mut facts)?;
            between()?;
        }
    }
    Ok(facts)
}

/// Makes self-tests, if this image has any; `privileged` says whether Xen allows the kernel more than
/// others.
pub(crate) fn self_test(selection: Selection<'_>, privileged: bool) -> Option<Summary> {
    let tester = TESTERS.first().filter(|_| selection != Selection::None)?;
    Some(tester(selection, privileged))
}

/// What a check came to; prints why it could not be made, for which the verdict has its name.
///
/// # Errors
/// The name, if it could not be made.
pub(crate) fn or_fail<T>(what: &str, result: Result<T, impl fmt::Display>) -> Result<T, Failed> {
    result.map_err(|e| {
        println!("{what}: {e}");
        reason(what)
    })
}

/// The reason of a verdict; cut if it is too long.
pub(crate) fn reason(words: impl fmt::Display) -> Failed {
    let mut reason = Failed::new();
    let _ = fmt::Write::write_fmt(&mut reason, format_args!("{words}"));
    reason
}
