//! The line that ends a run, and what it takes to pass.
//!
//! The kernel's word alone is not enough: Xen must have seen the power-off too, or a kernel that
//! dies after its last line would pass.

use std::fmt;

use crate::exit::{Failure, Result};

/// What the kernel says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// All is well.
    Pass,
    /// It ran to the end and found something wrong.
    Fail,
    /// It could not go on.
    Crash,
}

/// A parsed `verdict:` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The word after the colon.
    pub(crate) kind: Kind,
    /// `key=value` pairs in their order.
    pub(crate) fields: Vec<(String, String)>,
}

impl Verdict {
    /// Parses a console line; anything but a well-formed verdict at its start is not one.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let rest = line.trim_end().strip_prefix("verdict: ")?;
        let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let kind = match word {
            "pass" => Kind::Pass,
            "fail" => Kind::Fail,
            "crash" => Kind::Crash,
            _ => return None,
        };
        Some(Self {
            kind,
            fields: parse_fields(rest)?,
        })
    }

    /// The value of `key`.
    pub(crate) fn field(&self, key: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Why the guest did not pass, in its words.
    pub(crate) fn reason(&self) -> String {
        let word = match self.kind {
            Kind::Crash => "crashed",
            Kind::Pass | Kind::Fail => "failed",
        };
        let reason = self.field("reason").unwrap_or("no reason given");
        format!("the guest {word}: {reason}")
    }
}

fn parse_fields(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return Some(fields);
        }
        let (key, rest) = text.split_once('=')?;
        if key.is_empty() || key.contains([' ', '"']) {
            return None;
        }
        let value;
        (value, text) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                (word.to_owned(), rest)
            }
        };
        fields.push((key.to_owned(), value));
    }
}

/// Reads up to the closing quote; a backslash takes the next character as it is.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// Why a domain stopped, as Xen numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// SHUTDOWN_poweroff.
    Poweroff,
    /// SHUTDOWN_reboot.
    Reboot,
    /// SHUTDOWN_suspend.
    Suspend,
    /// SHUTDOWN_crash: by the kernel itself or by Xen.
    Crash,
    /// SHUTDOWN_watchdog.
    Watchdog,
    /// Anything newer.
    Other(u32),
}

impl Shutdown {
    /// From Xen's number.
    pub(crate) fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Poweroff,
            1 => Self::Reboot,
            2 => Self::Suspend,
            3 => Self::Crash,
            4 => Self::Watchdog,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poweroff => f.write_str("poweroff"),
            Self::Reboot => f.write_str("reboot"),
            Self::Suspend => f.write_str("suspend"),
            Self::Crash => f.write_str("crash"),
            Self::Watchdog => f.write_str("watchdog"),
            Self::Other(code) => write!(f, "reason {code}"),
        }
    }
}

/// How a run ended, seen from outside the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The domain stopped, and Xen gave this reason.
    Shutdown(Shutdown),
    /// Something below the kernel went wrong: Xen's panic, a dom0 that does not answer.
    Broken(String),
    /// A machine without Xen was powered off or reset; which of them is not known.
    Off,
    /// It was ended from here, since it had said all that it is judged by.
    Stopped,
    /// The domain was never built.
    Unbuilt {
        /// What whoever was to build it says.
        why: String,
        /// The least memory in MiB that it would take, if that is why.
        least_mib: Option<u32>,
    },
    /// Nothing ended in the seconds given.
    TimedOut(u64),
    /// The domain was destroyed, and Xen did not let go of it.
    Zombie {
        /// Its number.
        domid: u32,
        /// Pages of memory that it holds, if Xen said so.
        pages: Option<u64>,
        /// How the run ended before.
        end: Box<End>,
    },
}

impl End {
    /// Behind "the guest ended", what Xen or QEMU said of it.
    pub(crate) fn in_brackets(&self) -> String {
        match self {
            Self::Shutdown(reason) => format!(" (shutdown reason: {reason})"),
            Self::Off => " (powered off or reset)".into(),
            _ => String::new(),
        }
    }
}

/// What a run comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// One passing verdict, and a power-off.
    Pass,
    /// Anything else that ended, with the reason.
    Fail(String),
    /// What did not end.
    TimedOut(String),
    /// What cannot run as it was asked for.
    Usage(String),
    /// What this host cannot run.
    Host(String),
}

impl Outcome {
    /// The same of a domain that was destroyed and that Xen did not let go of.
    pub(crate) fn but_kept(self, domid: u32, pages: Option<u64>) -> Self {
        let kept = kept(domid, pages);
        match self {
            Self::Pass => Self::Fail(kept),
            Self::Fail(reason) => Self::Fail(format!("{reason}; {kept}")),
            Self::TimedOut(reason) => Self::TimedOut(format!("{reason}; {kept}")),
            never_ran => never_ran,
        }
    }

    /// What `boot` returns for it, and so its exit status.
    pub(crate) fn into_result(self) -> Result<()> {
        match self {
            Self::Pass => Ok(()),
            Self::Fail(reason) => Err(Failure::Guest(reason)),
            Self::TimedOut(reason) => Err(Failure::TimedOut(reason)),
            Self::Usage(reason) => Err(Failure::Usage(reason)),
            Self::Host(reason) => Err(Failure::host(reason, "see the log for what came before")),
        }
    }
}

/// Weighs the console's lines against the end that Xen saw.
pub(crate) fn judge(lines: &[String], end: &End) -> Outcome {
    let place = match unfinished(lines) {
        Some(name) => format!(", in self-test {name}"),
        None => String::new(),
    };
    match how_it_ended(lines, end) {
        Outcome::Pass => Outcome::Pass,
        Outcome::Fail(reason) => Outcome::Fail(reason + &place),
        Outcome::TimedOut(reason) => Outcome::TimedOut(reason + &place),
        never_ran => never_ran,
    }
}

/// The self-test that was announced last, if it never said how it ended: the one that crashed.
fn unfinished(lines: &[String]) -> Option<&str> {
    let announced = lines.iter().rev().find_map(|line| {
        let (name, rest) = line.strip_prefix("selftest ")?.split_once(' ')?;
        rest.starts_with("...").then_some((name, rest))
    });
    let (name, rest) = announced?;
    let ended = rest.trim_start_matches('.').trim_start();
    let states = ["pass", "FAIL:", "ERROR:", "skip:"];
    let finished = states.iter().any(|state| ended.starts_with(state));
    (!finished).then_some(name)
}

/// What is wrong about a zombie, in words.
pub(crate) fn kept(domid: u32, pages: Option<u64>) -> String {
    let pages = pages.map_or("an unknown number".into(), |pages| pages.to_string());
    format!("domain {domid} was destroyed and is not gone: Xen keeps {pages} of its pages")
}

fn how_it_ended(lines: &[String], end: &End) -> Outcome {
    let verdicts: Vec<_> = lines
        .iter()
        .filter_map(|line| Verdict::parse(line))
        .collect();
    let shutdown = match end {
        End::TimedOut(seconds) => {
            let said = if verdicts.is_empty() {
                "no verdict"
            } else {
                "a verdict but no shutdown"
            };
            return Outcome::TimedOut(format!("time-out: {said} within {seconds} s"));
        }
        End::Broken(what) => return Outcome::Fail(what.clone()),
        End::Unbuilt { why, least_mib } => {
            return match least_mib {
                Some(least) => Outcome::Usage(format!(
                    "the domain cannot be built with so little memory: it takes --mem {least} at \
                     the least ({why})"
                )),
                None => Outcome::Host(format!("the domain cannot be built: {why}")),
            };
        }
        End::Zombie { domid, pages, end } => {
            return how_it_ended(lines, end).but_kept(*domid, *pages);
        }
        End::Off | End::Stopped => {
            let reason = match verdicts.iter().find(|verdict| verdict.kind != Kind::Pass) {
                Some(verdict) => verdict.reason(),
                None => format!("the guest ended{}, not by its verdict", end.in_brackets()),
            };
            return Outcome::Fail(reason);
        }
        End::Shutdown(reason) => *reason,
    };
    let fail = |text: String| Outcome::Fail(text);
    match verdicts.as_slice() {
        [] => fail(format!(
            "the guest ended without a verdict (shutdown reason: {shutdown})"
        )),
        [
            Verdict {
                kind: Kind::Pass, ..
            },
        ] if shutdown == Shutdown::Poweroff => Outcome::Pass,
        [
            Verdict {
                kind: Kind::Pass, ..
            },
        ] => fail(format!(
            "the guest passed, but Xen saw it end by {shutdown}, not poweroff"
        )),
        [verdict] => fail(format!(
            "{} (shutdown reason: {shutdown})",
            verdict.reason()
        )),
        many => fail(format!(
            "the guest gave {} verdicts instead of one",
            many.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    const POWEROFF: End = End::Shutdown(Shutdown::Poweroff);

    fn zombie(end: End) -> End {
        End::Zombie {
            domid: 7,
            pages: Some(1),
            end: Box::new(end),
        }
    }

    #[test]
    fn a_self_test_that_crashed_is_named() {
        let text = "selftest mm.map.1 .... pass\nselftest mm.map.2 ....\n\npanicked\n\
                    verdict: crash reason=\"panic\"\n";
        let crash = End::Shutdown(Shutdown::Crash);
        let Outcome::Fail(reason) = judge(&lines(text), &crash) else {
            panic!("a crash passes");
        };
        assert!(reason.ends_with("in self-test mm.map.2"), "{reason}");
        for text in [
            "selftest a.b ... skip: why",
            "selftest a.b ... FAIL: x\nmore",
            "selftest  [NAMES]  run the self-tests",
        ] {
            assert_eq!(unfinished(&lines(text)), None);
        }
    }

    #[test]
    fn a_verdict_has_a_word_and_fields() {
        let verdict = Verdict::parse("verdict: pass tests=3 pages=32768\r").unwrap();
        assert_eq!(verdict.kind, Kind::Pass);
        assert_eq!(verdict.field("pages"), Some("32768"));
        assert_eq!(verdict.field("page"), None);
    }

    #[test]
    fn quotes_hold_words_and_escaped_quotes() {
        let verdict = Verdict::parse(r#"verdict: crash reason="say \"no\" now" at=x"#).unwrap();
        assert_eq!(verdict.kind, Kind::Crash);
        assert_eq!(verdict.field("reason"), Some("say \"no\" now"));
        assert_eq!(verdict.field("at"), Some("x"));
    }

    #[test]
    fn what_only_looks_like_a_verdict_is_none() {
        for line in [
            "(XEN) verdict: pass",
            " verdict: pass",
            "verdict:pass",
            "verdict: passed",
            "verdict: fail reason=\"open",
            "verdict: fail because",
            "the verdict: pass",
        ] {
            assert_eq!(Verdict::parse(line), None, "{line}");
        }
    }

    #[test]
    fn passing_takes_one_verdict_and_a_power_off() {
        assert_eq!(
            judge(&lines("hello\nverdict: pass\n"), &POWEROFF),
            Outcome::Pass
        );
        for (text, end) in [
            ("hello\n", POWEROFF),
            ("verdict: pass\nverdict: pass\n", POWEROFF),
            ("verdict: pass\nverdict: fail reason=x\n", POWEROFF),
            ("verdict: fail reason=x\n", POWEROFF),
            ("verdict: crash reason=x\n", End::Shutdown(Shutdown::Crash)),
            ("verdict: pass\n", End::Shutdown(Shutdown::Crash)),
            ("verdict: pass\n", End::Shutdown(Shutdown::Reboot)),
            ("verdict: pass\n", End::Broken("Xen panicked".into())),
            ("verdict: pass\n", zombie(POWEROFF)),
        ] {
            assert!(
                matches!(judge(&lines(text), &end), Outcome::Fail(_)),
                "{text} {end:?}"
            );
        }
    }

    #[test]
    fn a_time_out_is_told_apart_even_after_a_verdict() {
        for text in ["", "verdict: pass\n"] {
            assert!(matches!(
                judge(&lines(text), &End::TimedOut(3)),
                Outcome::TimedOut(_)
            ));
        }
    }

    #[test]
    fn what_never_ran_is_not_the_kernel_s_fault() {
        for (least_mib, status) in [(Some(5), 2), (None, 3)] {
            let end = End::Unbuilt {
                why: "no room".into(),
                least_mib,
            };
            let failure = judge(&[], &end).into_result().unwrap_err();
            assert_eq!(failure.status(), status, "{failure}");
            assert!(failure.to_string().contains("no room"), "{failure}");
        }
    }

    #[test]
    fn silence_is_named() {
        let Outcome::Fail(text) = judge(&[], &POWEROFF) else {
            panic!("not a failure")
        };
        assert!(text.contains("the guest ended without a verdict"), "{text}");
    }

    #[test]
    fn reasons_are_numbered_as_in_xen() {
        let names: Vec<_> = (0..6)
            .map(|code| Shutdown::from_code(code).to_string())
            .collect();
        assert_eq!(
            names,
            [
                "poweroff", "reboot", "suspend", "crash", "watchdog", "reason 5"
            ]
        );
    }
}
