//! What a kernel is judged by that gives no `verdict:` line: the texts of its success and its failure,
//! given as regular expressions by `--expect` and `--fail`.
//!
//! Both are looked for in each line of the guest's console by itself, as a terminal would show it:
//! what colours it or asks where the cursor is does not count. A line with
//! the text of failure outweighs everything else; the text of success takes the place of a passing
//! verdict and of the power-off, so that a kernel that never ends can pass as well.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

use regex::Regex;

use super::transcript::Transcript;
use super::verdict::{self, End, Kind, Outcome, Shutdown, Verdict};

/// How long a run goes on behind the line that decides: for a panic's report, for a crash right
/// behind a success, and for a kernel to power off by itself.
const SETTLE: Duration = Duration::from_secs(2);

/// A regular expression that fits some lines and not all.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    /// Reads an expression.
    ///
    /// # Errors
    /// Why it is none, and at which of its characters, counted from 1; or why it is of no use.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |at: usize, why: String| {
            let character = text[..at].chars().count() + 1;
            format!("at character {character}: {why}")
        };
        match regex_syntax::parse(text) {
            Ok(_) => {}
            Err(regex_syntax::Error::Parse(error)) => {
                return Err(wrong(error.span().start.offset, error.kind().to_string()));
            }
            Err(regex_syntax::Error::Translate(error)) => {
                return Err(wrong(error.span().start.offset, error.kind().to_string()));
            }
            Err(other) => return Err(other.to_string()),
        }
        let regex = Regex::new(text).map_err(|error| error.to_string())?;
        match regex.is_match("") {
            true => Err("it fits an empty line, so that any kernel would say it".into()),
            false => Ok(Self(regex)),
        }
    }

    fn fits(&self, line: &str) -> bool {
        self.0.is_match(&plain(line))
    }

    /// The first line that it fits.
    fn find<'a>(&self, lines: &'a [String]) -> Option<Cow<'a, str>> {
        let mut lines = lines.iter().map(|line| plain(line));
        lines.find(|line| self.0.is_match(line))
    }
}

/// A line without escape sequences: ESC, `[`, parameters and a final letter (ECMA-48, 5.4), or ESC
/// and one character. One that is cut off goes to the line's end.
pub(crate) fn plain(line: &str) -> Cow<'_, str> {
    const ESCAPE: char = '\u{1b}';
    if !line.contains(ESCAPE) {
        return line.into();
    }
    let mut text = String::new();
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c != ESCAPE {
            text.push(c);
        } else if rest.next() == Some('[') {
            rest.find(|c| ('@'..='~').contains(c));
        }
    }
    text.into()
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// What `--expect` and `--fail` say; without them the kernel's verdict alone counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contract {
    /// `--expect`.
    pub(crate) expect: Option<Pattern>,
    /// `--fail`.
    pub(crate) fail: Option<Pattern>,
    /// Whether a run goes on for as long as it likes although its outcome is known: a person or a
    /// debugger is at it.
    pub(crate) patient: bool,
}

impl Contract {
    fn decides(&self, line: &str) -> bool {
        let fits = |pattern: &Option<Pattern>| pattern.as_ref().is_some_and(|p| p.fits(line));
        fits(&self.expect) || fits(&self.fail)
    }

    /// The line for which the kernel passed.
    pub(crate) fn success<'a>(&self, lines: &'a [String]) -> Option<Cow<'a, str>> {
        self.expect.as_ref()?.find(lines)
    }
}

/// Weighs the console's lines, by the contract as well, against the end that Xen saw.
pub(crate) fn judge(contract: &Contract, lines: &[String], end: &End) -> Outcome {
    match end {
        End::Unbuilt { .. } => return verdict::judge(lines, end),
        End::Zombie { domid, pages, end } => {
            return judge(contract, lines, end).but_kept(*domid, *pages);
        }
        _ => {}
    }
    if let Some(fail) = &contract.fail
        && let Some(line) = fail.find(lines)
    {
        return Outcome::Fail(format!(
            "the console says what --fail '{fail}' fits: {line}"
        ));
    }
    let Some(expect) = &contract.expect else {
        return verdict::judge(lines, end);
    };
    let bad = lines
        .iter()
        .filter_map(|line| Verdict::parse(line))
        .find(|verdict| verdict.kind != Kind::Pass);
    if let Some(verdict) = bad {
        return Outcome::Fail(verdict.reason());
    }
    match (expect.find(lines), end) {
        (Some(line), End::Shutdown(reason @ (Shutdown::Crash | Shutdown::Watchdog))) => {
            Outcome::Fail(format!(
                "the console says what --expect '{expect}' fits ({line}), but Xen saw the guest end \
                 by {reason}"
            ))
        }
        (_, End::Broken(what)) => Outcome::Fail(what.clone()),
        (Some(_), _) => Outcome::Pass,
        (None, End::TimedOut(seconds)) => Outcome::TimedOut(format!(
            "time-out: no line of the console fits --expect '{expect}' within {seconds} s"
        )),
        (None, end) => Outcome::Fail(format!(
            "the guest ended{}, and no line of the console fits --expect '{expect}'",
            end.in_brackets()
        )),
    }
}

/// Watches a console for the line that decides.
#[derive(Debug)]
pub(crate) struct Watch {
    contract: Contract,
    /// Complete lines that were looked at.
    seen: usize,
    /// When such a line came.
    decided: Option<Instant>,
    /// The same of the line that is not complete yet, for as long as it decides.
    prompt: Option<Instant>,
}

impl Watch {
    /// A watch by this contract.
    pub(crate) fn new(contract: &Contract) -> Self {
        Self {
            contract: contract.clone(),
            seen: 0,
            decided: None,
            prompt: None,
        }
    }

    /// When the run may stop since all is said, if a line has decided. What a console says last often
    /// has no line end, such as a prompt, and counts like a line.
    pub(crate) fn until(&mut self, transcript: &Transcript) -> Option<Instant> {
        if self.contract.patient {
            return None;
        }
        let lines = transcript.guest.get(self.seen..).unwrap_or_default();
        self.seen = transcript.guest.len();
        if self.decided.is_none() && lines.iter().any(|line| self.contract.decides(line)) {
            self.decided = Some(Instant::now());
        }
        match self.contract.decides(&transcript.partial()) {
            true => self.prompt = self.prompt.or_else(|| Some(Instant::now())),
            false => self.prompt = None,
        }
        let since = self.decided.or(self.prompt)?;
        Some(since + SETTLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::transcript::Show;

    fn contract(expect: Option<&str>, fail: Option<&str>) -> Contract {
        let pattern = |text: Option<&str>| text.map(|text| Pattern::parse(text).unwrap());
        Contract {
            expect: pattern(expect),
            fail: pattern(fail),
            patient: false,
        }
    }

    fn both() -> Contract {
        contract(Some("^all (good|well)$"), Some("(?i)panic"))
    }

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    const POWEROFF: End = End::Shutdown(Shutdown::Poweroff);
    const CRASH: End = End::Shutdown(Shutdown::Crash);

    fn reason(contract: &Contract, text: &str, end: &End) -> (u8, String) {
        match judge(contract, &lines(text), end).into_result() {
            Ok(()) => (0, String::new()),
            Err(failure) => (failure.status(), failure.to_string()),
        }
    }

    #[test]
    fn a_wrong_expression_is_told_with_its_place() {
        for (text, says) in [
            ("a(b", "at character 2: unclosed group"),
            ("ä[b", "at character 2: unclosed character class"),
            ("ok{3", "at character 3: unclosed counted repetition"),
            (
                r"\p{Nonsense}",
                "at character 1: Unicode property not found",
            ),
            (
                "*",
                "at character 1: repetition operator missing expression",
            ),
            ("", "fits an empty line"),
            (".*", "fits an empty line"),
            ("^$", "fits an empty line"),
            ("(a{1000}){1000}", "size limit"),
        ] {
            let why = Pattern::parse(text).unwrap_err();
            assert!(why.contains(says), "{text}: {why}");
        }
    }

    #[test]
    fn the_text_of_success_is_enough_unless_the_domain_crashed() {
        for end in [
            POWEROFF,
            End::Shutdown(Shutdown::Reboot),
            End::Off,
            End::Stopped,
            End::TimedOut(3),
        ] {
            assert_eq!(reason(&both(), "x\nall well\ny\n", &end).0, 0, "{end:?}");
        }
        for end in [
            CRASH,
            End::Shutdown(Shutdown::Watchdog),
            End::Broken("Xen panicked".into()),
        ] {
            assert_eq!(reason(&both(), "all well\n", &end).0, 1, "{end:?}");
        }
    }

    #[test]
    fn the_text_of_failure_outweighs_everything_in_any_order() {
        for text in [
            "all well\nkernel Panic\n",
            "kernel Panic\nall well\n",
            "kernel Panic\nverdict: pass\n",
        ] {
            for end in [POWEROFF, CRASH, End::Stopped, End::TimedOut(3)] {
                let (status, why) = reason(&both(), text, &end);
                assert_eq!(status, 1, "{text}");
                assert!(
                    why.contains("(?i)panic") && why.contains("kernel Panic"),
                    "{why}"
                );
            }
        }
        // One line that both fit.
        let contract = contract(Some("all well"), Some("Panic"));
        assert_eq!(reason(&contract, "all well, no Panic", &POWEROFF).0, 1);
    }

    #[test]
    fn an_expression_fits_one_line_and_not_two() {
        let contract = contract(Some("(?s)all.well"), None);
        assert_eq!(reason(&contract, "all\nwell\n", &POWEROFF).0, 1);
        assert_eq!(reason(&contract, "all well\n", &POWEROFF).0, 0);
    }

    #[test]
    fn what_a_terminal_does_not_show_does_not_count() {
        for (line, shown) in [
            ("\u{1b}[1;32mok\u{1b}[0m", "ok"),
            ("/ # \u{1b}[6n", "/ # "),
            ("o\u{1b}7k \u{1b}[3", "ok "),
            ("\u{1b}", ""),
            ("[1m plain", "[1m plain"),
        ] {
            assert_eq!(plain(line), shown, "{line:?}");
        }
        let contract = contract(Some("^ok$"), None);
        assert_eq!(reason(&contract, "\u{1b}[32mok\u{1b}[0m\n", &POWEROFF).0, 0);
    }

    #[test]
    fn silence_is_told_with_what_was_waited_for() {
        let (status, why) = reason(&both(), "all well?\n", &End::TimedOut(3));
        assert_eq!(status, 4);
        assert!(why.contains("'^all (good|well)$' within 3 s"), "{why}");
        let (status, why) = reason(&both(), "hello\n", &POWEROFF);
        assert_eq!(status, 1);
        assert!(
            why.contains("(shutdown reason: poweroff)") && why.contains("'^all (good|well)$'"),
            "{why}"
        );
    }

    #[test]
    fn a_bad_verdict_fails_and_a_good_one_is_not_enough() {
        for (text, status) in [
            ("all well\nverdict: fail reason=x\n", 1),
            ("all well\nverdict: crash reason=x\n", 1),
            ("verdict: pass\n", 1),
            ("all well\nverdict: pass\n", 0),
        ] {
            assert_eq!(reason(&both(), text, &POWEROFF).0, status, "{text}");
        }
        let (_, why) = reason(&both(), "verdict: fail reason=\"no memory\"\n", &POWEROFF);
        assert_eq!(why, "the guest failed: no memory");
    }

    #[test]
    fn without_a_text_of_success_the_verdict_is_needed() {
        let contract = contract(None, Some("panic"));
        assert_eq!(reason(&contract, "verdict: pass\n", &POWEROFF).0, 0);
        assert_eq!(reason(&contract, "hello\n", &POWEROFF).0, 1);
        assert_eq!(reason(&contract, "panic\nverdict: pass\n", &POWEROFF).0, 1);
        assert_eq!(reason(&contract, "verdict: pass\n", &CRASH).0, 1);
    }

    #[test]
    fn what_never_ran_and_what_is_not_gone_are_told_as_ever() {
        let unbuilt = End::Unbuilt {
            why: "no room".into(),
            least_mib: None,
        };
        assert_eq!(reason(&both(), "", &unbuilt).0, 3);
        let zombie = End::Zombie {
            domid: 7,
            pages: Some(1),
            end: Box::new(POWEROFF),
        };
        let (status, why) = reason(&both(), "all well\n", &zombie);
        assert_eq!(status, 1);
        assert!(why.contains("domain 7"), "{why}");
    }

    #[test]
    fn a_run_may_stop_once_a_line_has_decided() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Transcript::create(dir.path(), Show::Nothing, None).unwrap();
        let mut transcript = open();
        let mut watch = Watch::new(&both());
        transcript.shared_bytes(b"(XEN) all well\r\nhello\r\n");
        assert_eq!(watch.until(&transcript), None);
        transcript.shared_bytes(b"all well");
        let first = watch.until(&transcript).unwrap();
        assert_eq!(watch.until(&transcript), Some(first));
        // The line goes on, and is another.
        transcript.shared_bytes(b" that ends well\n");
        assert_eq!(watch.until(&transcript), None);
        transcript.shared_bytes(b"Panic\n");
        let decided = watch.until(&transcript).unwrap();
        transcript.shared_bytes(b"all well\n");
        assert_eq!(watch.until(&transcript), Some(decided));

        let mut patient = Watch::new(&Contract {
            patient: true,
            ..both()
        });
        assert_eq!(patient.until(&transcript), None);
        let mut none = Watch::new(&Contract::default());
        assert_eq!(none.until(&transcript), None);
    }
}
