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

use core::fmt;

use marks::init;

use crate::console::filter::{Filter, FilterError};
use crate::foreign;
use crate::selection::Selection;

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
               reboot, hang, vcpupanic",
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

/// Words of checks, which an image can be built without.
const CHECKS: &[&str] = &["selftest", "bench", "rules", "fuzz", "differential"];

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
}

impl Provoke {
    const ALL: [(&'static str, Provoke); 10] = [
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
    /// When the direct map is populated.
    pub directmap: DirectMap,
}

impl Options<'_> {
    /// Whether the domain stays when all is done that was asked for, until it is shut down. A run of
    /// tests ends with its verdict: whoever asks for one waits for that.
    #[must_use]
    pub fn stays(&self) -> bool {
        let tests = [self.selftest, self.bench, self.rules];
        let tested = tests.iter().any(|tests| *tests != Selection::None)
            || self.fuzz.is_some()
            || self.differential.is_some();
        self.monitor || !(self.once || tested)
    }
}

/// Why a command line is refused; `index` counts words from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmdlineError<'a> {
    /// The offending word, whole, or the line if `index` is 0.
    pub word: &'a [u8],
    /// Its place among the words, from 1; 0 if it is about the line.
    pub index: usize,
    /// What is wrong with it.
    pub reason: Reason<'a>,
}

impl CmdlineError<'_> {
    /// Where and what, as far as it is about a word.
    fn place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, word) = (self.index, self.word.escape_ascii());
        match index {
            0 => f.write_str("command line: "),
            _ => write!(f, "command line, word {index}: '{word}': "),
        }
    }

    /// One line, short enough for a verdict.
    #[must_use]
    pub fn summary(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(move |f| {
            self.place(f)?;
            match self.reason {
                Reason::Unknown => f.write_str("unknown word"),
                Reason::NotText => f.write_str("not text"),
                Reason::NeedsValue => f.write_str("value missing"),
                Reason::TakesNoValue => f.write_str("value not allowed"),
                Reason::BadValue | Reason::BadFilter(_) => f.write_str("bad value"),
                Reason::NoSuch(name) => write!(f, "no '{name}'"),
                Reason::Twice => f.write_str("given twice"),
                Reason::Against(other) => write!(f, "against {other}"),
                Reason::NotBuiltIn => f.write_str("not in this image"),
                Reason::TooLong => write!(f, "longer than {LONGEST} bytes, perhaps cut off"),
            }
        })
    }
}

/// What is wrong with a word, or with the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason<'a> {
    /// No such word.
    Unknown,
    /// Bytes that are not printable ASCII.
    NotText,
    /// The word needs a value and has none, or an empty one in a list.
    NeedsValue,
    /// The word takes no value.
    TakesNoValue,
    /// The value is not one of those allowed.
    BadValue,
    /// The log filter does not parse.
    BadFilter(FilterError<'a>),
    /// A name in the value that nothing has.
    NoSuch(&'a str),
    /// The same word came before.
    Twice,
    /// This word came before, which means the opposite.
    Against(&'static str),
    /// The image was built without what the word asks for.
    NotBuiltIn,
    /// The line has as many bytes as loaders leave of one that is too long for them.
    TooLong,
}

impl fmt::Display for CmdlineError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place(f)?;
        let name = self.word.split(|byte| *byte == b'=').next();
        let word = WORDS.iter().find(|w| Some(w.name.as_bytes()) == name);
        let (form, help) = word.map_or(("", ""), |w| (w.form, w.help));
        match &self.reason {
            Reason::Unknown => {
                f.write_str("unknown word; known are:")?;
                WORDS.iter().try_for_each(|w| write!(f, " {}", w.form))?;
                f.write_str("; what follows a word -- is for others")
            }
            Reason::NotText => f.write_str("not printable ASCII"),
            Reason::NeedsValue => write!(f, "needs a value: {form}"),
            Reason::TakesNoValue => write!(f, "takes no value: {form}"),
            Reason::BadValue => write!(f, "not a value it knows: {form} ({help})"),
            Reason::BadFilter(e) => write!(f, "{e}"),
            Reason::NoSuch(name) => write!(f, "there is no '{name}'"),
            Reason::Twice => f.write_str("given twice"),
            Reason::Against(other) => write!(f, "means the opposite of '{other}', which is given"),
            Reason::NotBuiltIn => f.write_str(
                "this image was built without self-tests, benchmarks, rules and fuzzing: it is lean",
            ),
            Reason::TooLong => write!(
                f,
                "{} bytes or more; loaders cut a line off there, so that at most {LONGEST} are taken",
                self.word.len()
            ),
        }
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
    let whose = "programs, of which there are none";
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
    parse_for(line, cfg!(feature = "check"))
}

/// Parses a command line for an image with the checks, or without.
#[init]
fn parse_for(line: &[u8], has_checks: bool) -> Result<Options<'_>, CmdlineError<'_>> {
    let mut options = Options::default();
    let mut seen = 0_u32;
    if line.len() > LONGEST {
        return Err(CmdlineError {
            word: line,
            index: 0,
            reason: Reason::TooLong,
        });
    }
    for (i, word) in words(split(line).0).enumerate() {
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
        if !has_checks && CHECKS.contains(&name) {
            return Err(error(Reason::NotBuiltIn));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_asks_for_nothing() {
        let o = parse(b"").unwrap();
        assert_eq!(
            (o.selftest, o.provoke, o.monitor),
            (Selection::None, None, false)
        );
    }

    #[test]
    fn a_domain_stays_unless_it_is_tested_or_told_otherwise() {
        for (line, stays) in [
            ("", true),
            ("log=warn directmap=full", true),
            ("once", false),
            ("selftest=mm", false),
            ("bench", false),
            ("rules=R9", false),
            ("fuzz=1", false),
            ("differential=1", false),
            ("selftest monitor", true),
        ] {
            assert_eq!(parse(line.as_bytes()).unwrap().stays(), stays, "{line}");
        }
        for line in ["once monitor", "monitor once"] {
            let error = parse(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("means the opposite of"), "{error}");
        }
    }

    #[test]
    fn every_word_of_the_table_is_understood() {
        for word in WORDS {
            let example = match word.name {
                "log" => "log=warn,mm=trace",
                "provoke" => "provoke=panic",
                "directmap" => "directmap=full",
                "fuzz" => "fuzz=0x2a:1000",
                "differential" => "differential=7",
                other => other,
            };
            parse(example.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    #[test]
    fn an_unknown_word_is_named_with_its_place() {
        let e = parse(b"selftest  slef-test").unwrap_err();
        assert_eq!(
            (e.word, e.index, e.reason),
            (&b"slef-test"[..], 2, Reason::Unknown)
        );
        assert!(
            e.to_string()
                .contains("word 2: 'slef-test': unknown word; known are: log=")
        );
    }

    #[test]
    fn random_requests_are_of_any_seeds() {
        let found = |line: &'static str| parse(line.as_bytes()).unwrap().differential.unwrap();
        let seeds = |from, to, steps| Differential { from, to, steps };
        assert_eq!(found("differential=7"), seeds(0, 7, 500));
        assert_eq!(found("differential=0x10..20:9"), seeds(16, 20, 9));
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
            ("differential=1:0x100000000", Reason::BadValue),
            ("differential=0", Reason::BadValue),
            ("differential=1:0", Reason::BadValue),
            ("differential=7..7", Reason::BadValue),
            ("differential=7..", Reason::BadValue),
            ("fuzz=1:0", Reason::BadValue),
            ("selftest=mm.map,", Reason::NeedsValue),
            ("bench=,", Reason::NeedsValue),
            ("rules=R1,,R2", Reason::NeedsValue),
        ] {
            let reason_found = parse(line.as_bytes()).unwrap_err().reason;
            assert_eq!(reason_found, reason, "{line}");
        }
        let twice = parse(b"monitor monitor").unwrap_err();
        assert_eq!(twice.reason, Reason::Twice);
        let unknown = parse(b"log=warn,foo=trace").unwrap_err();
        assert!(unknown.to_string().contains("no module 'foo'"), "{unknown}");
    }

    #[test]
    fn a_line_that_may_have_been_cut_is_refused() {
        let line = |bytes: usize| [b"selftest=mm.".as_slice(), &vec![b'a'; bytes - 12]].concat();
        assert!(parse(&line(LONGEST)).is_ok());
        for bytes in [LONGEST + 1, LONGEST + 2] {
            let line = line(bytes);
            let e = parse(&line).unwrap_err();
            assert_eq!((e.index, e.reason), (0, Reason::TooLong));
            assert!(e.to_string().contains(&format!("{bytes} bytes")), "{e}");
        }
    }

    #[test]
    fn words_of_loaders_are_passed_over_and_said() {
        let line = b"placeholder root=/dev/m\xc3\xbcll ro\tlog=warn acpi=off noapic -- log=loud ";
        let options = parse(line).unwrap();
        assert_eq!(options.log.level_for("mm"), log::LevelFilter::Warn);
        let passed: Vec<_> = passed_over(line).map(|passed| passed.word).collect();
        let root = &b"root=/dev/m\xc3\xbcll"[..];
        assert_eq!(
            passed,
            [
                b"placeholder",
                root,
                b"ro",
                b"acpi=off",
                b"noapic",
                b"log=loud"
            ]
        );
        // A name that only begins like one of them is nobody's.
        for line in ["rootfs=1", "acpi_=1", "ROOT=1", "---", "--log"] {
            let reason = parse(line.as_bytes()).unwrap_err().reason;
            assert_eq!(reason, Reason::Unknown, "{line}");
        }
    }

    #[test]
    fn lines_as_loaders_write_them_ask_for_nothing() {
        for line in [
            // Qubes, for a domain of its.
            "root=/dev/mapper/dmroot ro nomodeset console=hvc0 rd_NO_PLYMOUTH rd.plymouth.enable=0 \
             plymouth.enable=0 xen_privcmd.unrestricted swiotlb=2048 apparmor=1 security=apparmor",
            // GRUB, for dom0, and Xen behind it.
            "placeholder root=UUID=0c268053-24fb-4ff7-8d2a-053a9006ef50 ro quiet noapic acpi=off",
            // The same, of the entry for recovery.
            "placeholder root=UUID=0c268053-24fb-4ff7-8d2a-053a9006ef50 ro single",
            // xl with `root` and nothing else.
            "root=/dev/xvda1",
        ] {
            let options = parse(line.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(options.selftest, Selection::None);
            let words = line.split_ascii_whitespace().count();
            assert_eq!(passed_over(line.as_bytes()).count(), words);
        }
    }

    #[test]
    fn no_word_of_the_kernels_is_foreign() {
        for word in WORDS {
            assert_eq!(foreign::owner(word.name.as_bytes()), None, "{}", word.name);
        }
    }

    #[test]
    fn whatever_is_not_text_is_refused_and_shown() {
        for (line, shown) in [
            (&b"self\xc3\xa4test"[..], "'self\\xc3\\xa4test'"),
            (b"log=warn\x7f", "'log=warn\\x7f'"),
            (b"\xff", "'\\xff'"),
        ] {
            let e = parse(line).unwrap_err();
            assert_eq!(e.reason, Reason::NotText);
            assert!(e.to_string().contains(shown), "{e}");
        }
    }

    #[test]
    fn a_name_in_a_list_must_name_something() {
        let exists = |word: &str, name: &str| word == "selftest" && "mm.map".starts_with(name);
        assert!(check_names(b"selftest=mm log=mm=info", exists).is_ok());
        let e = check_names(b"monitor selftest=mm,nosuch", exists).unwrap_err();
        assert_eq!((e.index, e.reason), (2, Reason::NoSuch("nosuch")));
        assert!(check_names(b"bench=mm -- rules=x", exists).is_err());
        assert!(check_names(b"-- rules=x", exists).is_ok());
    }

    #[test]
    fn a_lean_image_refuses_the_words_of_checks_and_no_others() {
        for word in WORDS {
            let refused = parse_for(word.name.as_bytes(), false)
                .err()
                .map(|e| e.reason);
            let is_check = CHECKS.contains(&word.name);
            assert_eq!(
                refused == Some(Reason::NotBuiltIn),
                is_check,
                "{}",
                word.name
            );
        }
        let error = parse_for(b"log=warn selftest=mm", false)
            .unwrap_err()
            .to_string();
        let says = "word 2: 'selftest=mm': this image was built without self-tests";
        assert!(error.contains(says), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(proptest::num::u8::ANY, 0..1100)) {
            let _ = parse(&line).map_err(|e| (e.to_string(), e.summary().to_string()));
            let _ = passed_over(&line).count();
        }

        #[test]
        fn what_parts_words_makes_no_difference(
            given in proptest::collection::vec(0_usize..6, 0..5),
            gaps in proptest::collection::vec("[\x01-\x20]{1,3}", 6)
        ) {
            let known = ["log=warn", "monitor", "fuzz=3:4", "acpi=off", "nonsense", "--"];
            let words: Vec<_> = given.iter().map(|index| known[*index]).collect();
            let plain = words.join(" ");
            let mut odd = gaps[5].clone();
            for (word, gap) in words.iter().zip(&gaps) {
                odd.push_str(word);
                odd.push_str(gap);
            }
            let said = |line: &str| {
                let parsed = parse(line.as_bytes()).map_err(|e| e.to_string());
                parsed.map(|o| (o.monitor, o.fuzz, o.log.max()))
            };
            proptest::prop_assert_eq!(said(&plain), said(&odd));
        }
    }
}
