//! The kernel's command line: every word is known or the boot fails.
//!
//! A mistyped word that is silently ignored makes a CI run test something else than it says, so an
//! unknown word, a bad value or a word given twice is an error that names the word and its place.
//! The words stand in one table, [`WORDS`], from which the error text and the help are made.
//!
//! The grammar is the same for every way in. A line is bytes; words are parted by blanks and control
//! characters; a word of the kernel's is printable ASCII. Words that loaders add by themselves stand
//! in [`foreign`] and are passed over, whatever bytes they have; so is all that follows a word `--`,
//! which is how a loader's user says that the rest is for programs. Xen's builders cut a line off at
//! [`LONGEST`] + 1 bytes without a word, so a line of that length is refused: what is left of its
//! last word may be another word.

mod error;
#[cfg(test)]
mod tests;

use marks::init;

use crate::console::filter::Filter;
use crate::foreign;
use crate::selection::Selection;
pub use error::{CmdlineError, Reason};

/// The longest line that is taken, in bytes: one less than Xen's builders leave of any line that is
/// too long for `start_info.cmd_line` (`MAX_GUEST_CMDLINE`, of which one is for the NUL).
pub const LONGEST: usize = 1022;

/// A word of the command line: its form and what it does.
pub struct Word {
    /// The part before `=`.
    pub name: &'static str,
    /// How it is written, with its value if it takes one.
    pub form: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// Every word the kernel knows.
pub const WORDS: &[Word] = &[
    Word {
        name: "log",
        form: "log=LEVEL[,MODULE=LEVEL...]",
        help: "what is printed: off error warn info debug trace, in all and by module",
    },
    Word {
        name: "selftest",
        form: "selftest[=NAME[,NAME...]]",
        help: "run the self-tests, all of them or those whose names start with a NAME",
    },
    Word {
        name: "provoke",
        form: "provoke=KIND",
        help: "fail on purpose: panic, pagefault, doublefault, stackoverflow, relock, reprint, \
               reboot, hang, vcpupanic, heldpark, threadoverflow, lockorder",
    },
    Word {
        name: "once",
        form: "once",
        help: "give the verdict and power off instead of staying until the domain is shut down; \
               words of tests mean it as well",
    },
    Word {
        name: "monitor",
        form: "monitor",
        help: "stay and read commands, also after tests",
    },
    Word {
        name: "init",
        form: "init=PATH",
        help: "run that program of the ramdisk, with what follows -- as its arguments, and end with it",
    },
    Word {
        name: "events",
        form: "events=fifo|2level",
        help: "how Xen says what is raised: in queues where it can (default), or by two levels of bits",
    },
    Word {
        name: "directmap",
        form: "directmap=lazy|full",
        help: "map memory when it is first handed out (default), or all of it at boot",
    },
    Word {
        name: "no5lvl",
        form: "no5lvl",
        help: "page tables of four levels where there could be five",
    },
    Word {
        name: "bench",
        form: "bench[=NAME[,NAME...]]",
        help: "count instructions of page-table operations and print them",
    },
    Word {
        name: "rules",
        form: "rules[=NAME[,NAME...]]",
        help: "judge this Xen by the rule book, or by those rules; R9 or a part of a title names one",
    },
    Word {
        name: "fuzz",
        form: "fuzz=SEED[:OPS]",
        help: "carry out random page-table operations, 10000 or OPS, and compare with a reference",
    },
    Word {
        name: "differential",
        form: "differential=[FROM..]TO[:STEPS]",
        help: "make the random requests of the seeds from FROM, or 0, to before TO, 500 or STEPS \
               each, and print digests",
    },
];

/// What an image can be built without.
#[derive(Clone, Copy, Debug)]
struct Parts {
    checks: bool,
    programs: bool,
}

impl Parts {
    /// What this image has.
    const HERE: Parts = Parts {
        checks: cfg!(feature = "check"),
        programs: cfg!(feature = "programs"),
    };

    /// What a word is for, if that is not there.
    #[init]
    fn lack(self, word: &str) -> Option<&'static str> {
        match word {
            "selftest" | "bench" | "rules" | "fuzz" | "differential" if !self.checks => {
                Some("self-tests, benchmarks, rules and fuzzing")
            }
            "init" if !self.programs => Some("what runs programs"),
            _ => None,
        }
    }
}

/// A deliberate failure, for testing whoever watches the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provoke {
    /// `panic!`.
    Panic,
    /// A read of an address that is not mapped.
    PageFault,
    /// The same by somebody who is using the page tables.
    HeldFault,
    /// A fault inside the fault handler.
    DoubleFault,
    /// Recursion into the guard page below the stack.
    StackOverflow,
    /// Borrow the page tables while they are borrowed.
    Relock,
    /// Print while something is printed.
    Reprint,
    /// Ask for a reboot instead of powering off.
    Reboot,
    /// Never end.
    Hang,
    /// `panic!` on the last vCPU, with all of them at work.
    VcpuPanic,
    /// Wait as a thread does while the page tables are in use.
    HeldPark,
    /// Recursion into the guard page below the stack of a thread.
    ThreadOverflow,
    /// Allocate while the page tables are in use, which the heap may need to grow.
    LockOrder,
}

impl Provoke {
    const ALL: [(&'static str, Provoke); 13] = [
        ("panic", Provoke::Panic),
        ("pagefault", Provoke::PageFault),
        ("heldfault", Provoke::HeldFault),
        ("doublefault", Provoke::DoubleFault),
        ("stackoverflow", Provoke::StackOverflow),
        ("relock", Provoke::Relock),
        ("reprint", Provoke::Reprint),
        ("reboot", Provoke::Reboot),
        ("hang", Provoke::Hang),
        ("vcpupanic", Provoke::VcpuPanic),
        ("heldpark", Provoke::HeldPark),
        ("threadoverflow", Provoke::ThreadOverflow),
        ("lockorder", Provoke::LockOrder),
    ];
}

/// When the direct map is populated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectMap {
    /// In chunks of 2 MiB, when the frame allocator first hands out from one.
    #[default]
    Lazy,
    /// All of it at boot.
    Full,
}

/// How Xen says which events there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Abi {
    /// In queues, where it can.
    #[default]
    Fifo,
    /// By two levels of bits.
    TwoLevel,
}

/// A run of the page tables' fuzzer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fuzz {
    /// Which.
    pub seed: u64,
    /// How many operations.
    pub ops: u64,
}

/// Random requests whose results another machine can be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Differential {
    /// The first sequence.
    pub from: u64,
    /// The one that is no longer made.
    pub to: u64,
    /// How many requests in each.
    pub steps: u32,
}

/// What the command line asked for.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    /// What the console shows.
    pub log: Filter,
    /// Self-tests to run.
    pub selftest: Selection<'a>,
    /// Operations to measure.
    pub bench: Selection<'a>,
    /// Rules of the rule book to judge.
    pub rules: Selection<'a>,
    /// Random page-table operations to carry out.
    pub fuzz: Option<Fuzz>,
    /// Random requests to make.
    pub differential: Option<Differential>,
    /// The failure to provoke.
    pub provoke: Option<Provoke>,
    /// Whether to end with the verdict, without a test that would.
    pub once: bool,
    /// Whether to stay, also after tests.
    pub monitor: bool,
    /// The program to run.
    pub init: Option<&'a str>,
    /// What follows `--`: the program's arguments.
    pub arguments: &'a [u8],
    /// When the direct map is populated.
    pub directmap: DirectMap,
    /// How Xen says which events there are.
    pub events: Abi,
}

impl Options<'_> {
    /// Whether the domain stays when all is done that was asked for, until it is shut down. A run of
    /// tests ends with its verdict: whoever asks for one waits for that.
    #[must_use]
    pub fn stays(&self) -> bool {
        let tests = [self.selftest, self.bench, self.rules];
        let tested = tests.iter().any(|tests| *tests != Selection::None)
            || self.fuzz.is_some()
            || self.differential.is_some()
            || self.init.is_some();
        self.monitor || !(self.once || tested)
    }
}

/// A number, decimal or with 0x.
#[init]
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A number, and perhaps one more behind a colon.
#[init]
fn two_numbers(text: &str) -> Option<(u64, Option<u64>)> {
    match text.split_once(':') {
        None => Some((number(text)?, None)),
        Some((first, second)) => Some((number(first)?, Some(number(second)?))),
    }
}

/// Which random requests. None of them is not to be taken for a run that passed.
#[init]
fn seeds(text: &str) -> Option<Differential> {
    let (seeds, steps) = match text.split_once(':') {
        None => (text, 500),
        Some((seeds, steps)) => (seeds, number(steps)?.try_into().ok()?),
    };
    let (from, to) = match seeds.split_once("..") {
        None => (0, number(seeds)?),
        Some((from, to)) => (number(from)?, number(to)?),
    };
    (from < to && steps > 0).then_some(Differential { from, to, steps })
}

/// A word of a line, with its place from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed<'a> {
    /// The word; after `--` the rest of the line.
    pub word: &'a [u8],
    /// Whose it is.
    pub whose: &'static str,
}

/// What of a line is not the kernel's: words that loaders add, and what follows `--`.
pub fn passed_over(line: &[u8]) -> impl Iterator<Item = Passed<'_>> {
    let (own, rest) = split(line);
    let known = words(own).filter_map(|word| {
        let whose = foreign::owner(word)?;
        Some(Passed { word, whose })
    });
    let whose = "programs";
    known.chain(rest.map(|word| Passed { word, whose }))
}

/// The line up to a word `--`, and what follows that.
fn split(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    let start = line.as_ptr().addr();
    match words(line).find(|word| *word == b"--") {
        Some(word) => {
            let at = word.as_ptr().addr() - start;
            (&line[..at], Some(line[at + word.len()..].trim_ascii()))
        }
        None => (line, None),
    }
}

/// The words of a line. What parts them is what the entry takes for it (`entry::pvh`): blanks and
/// control characters other than DEL.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte <= b' ')
        .filter(|word| !word.is_empty())
}

/// A list of names, none of them empty: an empty one would be the beginning of every name.
#[init]
fn selection(value: Option<&str>) -> Result<Selection<'_>, Reason<'static>> {
    match value {
        None => Ok(Selection::All),
        Some(list) if list.split(',').any(str::is_empty) => Err(Reason::NeedsValue),
        Some(list) => Ok(Selection::Named(list)),
    }
}

/// Parses a whole command line.
///
/// # Errors
/// The first word that is not understood, or a line that may not be whole.
#[init]
pub fn parse(line: &[u8]) -> Result<Options<'_>, CmdlineError<'_>> {
    parse_for(line, Parts::HERE)
}

/// Parses a command line for an image that has these parts.
#[init]
fn parse_for(line: &[u8], parts: Parts) -> Result<Options<'_>, CmdlineError<'_>> {
    let mut options = Options::default();
    let mut seen = 0_u32;
    if line.len() > LONGEST {
        return Err(CmdlineError {
            word: line,
            index: 0,
            reason: Reason::TooLong,
        });
    }
    let (own, rest) = split(line);
    options.arguments = rest.unwrap_or_default();
    for (i, word) in words(own).enumerate() {
        let error = |reason| CmdlineError {
            word,
            index: i + 1,
            reason,
        };
        if foreign::owner(word).is_some() {
            continue;
        }
        let text = str::from_utf8(word)
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or_else(|| error(Reason::NotText))?;
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let place = WORDS
            .iter()
            .position(|w| w.name == name)
            .ok_or_else(|| error(Reason::Unknown))?;
        if let Some(what) = parts.lack(name) {
            return Err(error(Reason::NotBuiltIn(what)));
        }
        if seen & (1 << place) != 0 {
            return Err(error(Reason::Twice));
        }
        seen |= 1 << place;
        let needed = || {
            value
                .filter(|v| !v.is_empty())
                .ok_or_else(|| error(Reason::NeedsValue))
        };
        match name {
            "log" => {
                options.log = Filter::parse(needed()?).map_err(|e| error(Reason::BadFilter(e)))?;
            }
            "selftest" => options.selftest = selection(value).map_err(error)?,
            "bench" => options.bench = selection(value).map_err(error)?,
            "rules" => options.rules = selection(value).map_err(error)?,
            "fuzz" => {
                let (seed, ops) = two_numbers(needed()?)
                    .filter(|(_, ops)| *ops != Some(0))
                    .ok_or_else(|| error(Reason::BadValue))?;
                let ops = ops.unwrap_or(10_000);
                options.fuzz = Some(Fuzz { seed, ops });
            }
            "differential" => {
                let found = seeds(needed()?).ok_or_else(|| error(Reason::BadValue))?;
                options.differential = Some(found);
            }
            "provoke" => {
                let kind = needed()?;
                let found = Provoke::ALL.iter().find(|(name, _)| *name == kind);
                options.provoke = Some(found.ok_or_else(|| error(Reason::BadValue))?.1);
            }
            "monitor" | "once" | "no5lvl" if value.is_some() => {
                return Err(error(Reason::TakesNoValue));
            }
            "monitor" if options.once => return Err(error(Reason::Against("once"))),
            "once" if options.monitor => return Err(error(Reason::Against("monitor"))),
            "monitor" => options.monitor = true,
            "once" => options.once = true,
            // Read by the entry, which is where it takes effect.
            "no5lvl" => {}
            "init" => options.init = Some(needed()?),
            "directmap" => {
                options.directmap = match needed()? {
                    "lazy" => DirectMap::Lazy,
                    "full" => DirectMap::Full,
                    _ => return Err(error(Reason::BadValue)),
                };
            }
            "events" => {
                options.events = match needed()? {
                    "fifo" => Abi::Fifo,
                    "2level" => Abi::TwoLevel,
                    _ => return Err(error(Reason::BadValue)),
                };
            }
            _ => return Err(error(Reason::Unknown)),
        }
    }
    Ok(options)
}

/// The first name in the lists of a command line that names nothing, where `exists` says whether a
/// word's value can name it.
///
/// # Errors
/// That name, with the word that it stands in.
pub fn check_names<'a>(
    line: &'a [u8],
    exists: impl Fn(&str, &str) -> bool,
) -> Result<(), CmdlineError<'a>> {
    for (i, word) in words(split(line).0).enumerate() {
        let Some((name, list)) = str::from_utf8(word).ok().and_then(|w| w.split_once('=')) else {
            continue;
        };
        let lists = ["selftest", "bench", "rules"];
        if !lists.contains(&name) {
            continue;
        }
        if let Some(stranger) = list.split(',').find(|item| !exists(name, item)) {
            return Err(CmdlineError {
                word,
                index: i + 1,
                reason: Reason::NoSuch(stranger),
            });
        }
    }
    Ok(())
}
