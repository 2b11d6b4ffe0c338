//! The kernel's command line: every word is known or the boot fails.
//!
//! A mistyped word that is silently ignored makes a CI run test something else than it says, so an
//! unknown word, a bad value or a word given twice is an error that names the word and its place.
//! The words stand in one table, [`WORDS`], from which the error text and the help are made.

use core::fmt;

use crate::console::filter::{Filter, FilterError};
use crate::selection::Selection;

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
               reboot, hang",
    },
    Word {
        name: "monitor",
        form: "monitor",
        help: "read commands from the console instead of powering off",
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
        name: "twin",
        form: "twin=SEEDS[:STEPS]",
        help: "make the random requests of so many seeds, 500 or STEPS each, and print digests",
    },
];

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
}

impl Provoke {
    const ALL: [(&'static str, Provoke); 9] = [
        ("panic", Provoke::Panic),
        ("pagefault", Provoke::PageFault),
        ("heldfault", Provoke::HeldFault),
        ("doublefault", Provoke::DoubleFault),
        ("stackoverflow", Provoke::StackOverflow),
        ("relock", Provoke::Relock),
        ("reprint", Provoke::Reprint),
        ("reboot", Provoke::Reboot),
        ("hang", Provoke::Hang),
    ];
}

/// When the direct map is populated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectMap {
    /// In 2 MiB steps, when the frame allocator first hands out from a step.
    #[default]
    Lazy,
    /// All of it at boot.
    Full,
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
pub struct Twins {
    /// How many sequences, from number 0 on.
    pub seeds: u64,
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
    pub twin: Option<Twins>,
    /// The failure to provoke.
    pub provoke: Option<Provoke>,
    /// Whether to stay and read commands.
    pub monitor: bool,
    /// When the direct map is populated.
    pub directmap: DirectMap,
}

/// Why a command line is refused; `index` counts words from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmdlineError<'a> {
    /// The offending word, whole.
    pub word: &'a str,
    /// Its place among the words, from 1.
    pub index: usize,
    /// What is wrong with it.
    pub reason: Reason<'a>,
}

impl CmdlineError<'_> {
    /// One line, short enough for a verdict.
    #[must_use]
    pub fn summary(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(move |f| {
            let reason = match self.reason {
                Reason::Unknown => "unknown word",
                Reason::NeedsValue => "value missing",
                Reason::TakesNoValue => "value not allowed",
                Reason::BadValue | Reason::BadFilter(_) => "bad value",
                Reason::Twice => "given twice",
            };
            write!(
                f,
                "command line, word {}: '{}': {reason}",
                self.index, self.word
            )
        })
    }
}

/// What is wrong with a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason<'a> {
    /// No such word.
    Unknown,
    /// The word needs a value and has none.
    NeedsValue,
    /// The word takes no value.
    TakesNoValue,
    /// The value is not one of those allowed.
    BadValue,
    /// The log filter does not parse.
    BadFilter(FilterError<'a>),
    /// The same word came before.
    Twice,
}

impl fmt::Display for CmdlineError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command line, word {}: '{}': ", self.index, self.word)?;
        let name = self.word.split('=').next().unwrap_or(self.word);
        let form = WORDS.iter().find(|w| w.name == name).map_or("", |w| w.form);
        match &self.reason {
            Reason::Unknown => {
                f.write_str("unknown word; known are:")?;
                WORDS.iter().try_for_each(|w| write!(f, " {}", w.form))
            }
            Reason::NeedsValue => write!(f, "needs a value: {form}"),
            Reason::TakesNoValue => write!(f, "takes no value: {form}"),
            Reason::BadValue => {
                let help = WORDS.iter().find(|w| w.name == name).map_or("", |w| w.help);
                write!(f, "not a value it knows: {form} ({help})")
            }
            Reason::BadFilter(e) => write!(f, "{e}"),
            Reason::Twice => f.write_str("given twice"),
        }
    }
}

/// A number, decimal or with 0x, and perhaps one more behind a colon.
fn two_numbers(text: &str) -> Option<(u64, Option<u64>)> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    match text.split_once(':') {
        None => Some((number(text)?, None)),
        Some((first, second)) => Some((number(first)?, Some(number(second)?))),
    }
}

/// Parses a whole command line.
///
/// # Errors
/// The first word that is not understood.
pub fn parse(line: &str) -> Result<Options<'_>, CmdlineError<'_>> {
    let mut options = Options::default();
    let mut seen = 0_u32;
    for (i, word) in line.split_ascii_whitespace().enumerate() {
        let error = |reason| CmdlineError {
            word,
            index: i + 1,
            reason,
        };
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let place = WORDS
            .iter()
            .position(|w| w.name == name)
            .ok_or_else(|| error(Reason::Unknown))?;
        if seen & (1 << place) != 0 {
            return Err(error(Reason::Twice));
        }
        seen |= 1 << place;
        let needed = || {
            value
                .filter(|v| !v.is_empty())
                .ok_or_else(|| error(Reason::NeedsValue))
        };
        let selection = || match value {
            None => Ok(Selection::All),
            Some("") => Err(error(Reason::NeedsValue)),
            Some(list) => Ok(Selection::Named(list)),
        };
        match name {
            "log" => {
                options.log = Filter::parse(needed()?).map_err(|e| error(Reason::BadFilter(e)))?;
            }
            "selftest" => options.selftest = selection()?,
            "bench" => options.bench = selection()?,
            "rules" => options.rules = selection()?,
            "fuzz" => {
                let (seed, ops) = two_numbers(needed()?).ok_or_else(|| error(Reason::BadValue))?;
                let ops = ops.unwrap_or(10_000);
                options.fuzz = Some(Fuzz { seed, ops });
            }
            "twin" => {
                let (seeds, steps) = two_numbers(needed()?)
                    .and_then(|(seeds, steps)| Some((seeds, steps.unwrap_or(500).try_into().ok()?)))
                    .ok_or_else(|| error(Reason::BadValue))?;
                options.twin = Some(Twins { seeds, steps });
            }
            "provoke" => {
                let kind = needed()?;
                let found = Provoke::ALL.iter().find(|(name, _)| *name == kind);
                options.provoke = Some(found.ok_or_else(|| error(Reason::BadValue))?.1);
            }
            "monitor" | "no5lvl" if value.is_some() => {
                return Err(error(Reason::TakesNoValue));
            }
            "monitor" => options.monitor = true,
            // Read by the entry, which is where it takes effect.
            "no5lvl" => {}
            "directmap" => {
                options.directmap = match needed()? {
                    "lazy" => DirectMap::Lazy,
                    "full" => DirectMap::Full,
                    _ => return Err(error(Reason::BadValue)),
                };
            }
            _ => return Err(error(Reason::Unknown)),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_asks_for_nothing() {
        let o = parse("").unwrap();
        assert_eq!(
            (o.selftest, o.provoke, o.monitor),
            (Selection::None, None, false)
        );
    }

    #[test]
    fn every_word_of_the_table_is_understood() {
        for word in WORDS {
            let example = match word.name {
                "log" => "log=warn,mm=trace",
                "provoke" => "provoke=panic",
                "directmap" => "directmap=full",
                "fuzz" => "fuzz=0x2a:1000",
                "twin" => "twin=7",
                other => other,
            };
            parse(example).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    #[test]
    fn an_unknown_word_is_named_with_its_place() {
        let e = parse("selftest  slef-test").unwrap_err();
        assert_eq!(
            (e.word, e.index, e.reason),
            ("slef-test", 2, Reason::Unknown)
        );
        assert!(
            e.to_string()
                .contains("word 2: 'slef-test': unknown word; known are: log=")
        );
    }

    #[test]
    fn bad_values_are_refused() {
        for (line, reason) in [
            ("log", Reason::NeedsValue),
            ("log=", Reason::NeedsValue),
            ("monitor=1", Reason::TakesNoValue),
            ("no5lvl=1", Reason::TakesNoValue),
            ("provoke=fire", Reason::BadValue),
            ("directmap=some", Reason::BadValue),
            ("selftest=", Reason::NeedsValue),
            ("fuzz=1:", Reason::BadValue),
            ("fuzz=-1", Reason::BadValue),
            ("twin=1:0x100000000", Reason::BadValue),
        ] {
            assert_eq!(parse(line).unwrap_err().reason, reason, "{line}");
        }
        assert_eq!(parse("monitor monitor").unwrap_err().reason, Reason::Twice);
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(line in ".{0,200}") {
            let _ = parse(&line);
        }
    }
}
