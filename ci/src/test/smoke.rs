//! Boots that must end in a certain way, on every stack. A row of [`TABLE`] is a test; a row more
//! is a test more.

use std::time::{Duration, Instant};

use super::Suite;
use crate::console::transcript::{Show, Transcript};
use crate::console::verdict::{End, Kind, Outcome, Shutdown, Verdict, judge};
use crate::exit::{Failure, Result};
use crate::stack::{Job, Mode, Session, Setting, Via};

/// How a boot is to end.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// With this verdict, and this reason of shutdown in Xen's eyes.
    Verdict(Kind, Shutdown),
    /// Not at all.
    TimeOut,
}

const PASS: Expect = Expect::Verdict(Kind::Pass, Shutdown::Poweroff);
const FAIL: Expect = Expect::Verdict(Kind::Fail, Shutdown::Poweroff);
const CRASH: Expect = Expect::Verdict(Kind::Crash, Shutdown::Crash);

/// One boot.
#[derive(Debug, Clone, Copy)]
struct Smoke {
    /// What it shows.
    name: &'static str,
    /// The stacks it runs on.
    vias: &'static [Via],
    /// Memory in MiB, or the stack's default.
    mem_mib: Option<u32>,
    /// Words for the kernel.
    cmdline: &'static str,
    /// The end.
    expect: Expect,
    /// What the console must say, each on some line.
    says: &'static [&'static str],
}

const EVERYWHERE: &[Via] = &[Via::Dom0, Via::Xl, Via::Shim];

/// The smoke tests.
const TABLE: &[Smoke] = &[
    Smoke {
        name: "passes",
        vias: EVERYWHERE,
        mem_mib: None,
        cmdline: "",
        expect: PASS,
        says: &[],
    },
    Smoke {
        name: "a panic is reported",
        vias: EVERYWHERE,
        mem_mib: None,
        cmdline: "provoke=panic",
        expect: CRASH,
        says: &["provoked", "backtrace", "guest::trap::report::panic"],
    },
    Smoke {
        name: "a page fault is reported",
        vias: EVERYWHERE,
        mem_mib: None,
        cmdline: "provoke=pagefault",
        expect: CRASH,
        says: &["#PF", "page fault", "backtrace"],
    },
    Smoke {
        name: "an unknown word is refused",
        vias: EVERYWHERE,
        mem_mib: None,
        cmdline: "log=debug nonsense",
        expect: FAIL,
        says: &["nonsense"],
    },
    Smoke {
        name: "a hang is given up",
        vias: &[Via::Dom0, Via::Xl],
        mem_mib: None,
        cmdline: "provoke=hang",
        expect: Expect::TimeOut,
        says: &[],
    },
];

/// When a boot is given up; it takes about a second.
const TIMEOUT: Duration = Duration::from_secs(40);

/// A boot that is to hang need not be waited for as long.
const HANG_TIMEOUT: Duration = Duration::from_secs(5);

/// A row on one of its stacks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    smoke: &'static Smoke,
    via: Via,
}

/// The tests of a stack.
pub(super) fn rows(via: Via) -> Vec<Row> {
    TABLE
        .iter()
        .filter(|smoke| smoke.vias.contains(&via))
        .map(|smoke| Row { smoke, via })
        .collect()
}

impl Row {
    /// What it is called in reports.
    pub(super) fn name(&self) -> String {
        format!("{}: {}", self.via.name(), self.smoke.name)
    }

    fn job(&self, kernel: std::path::PathBuf) -> Job {
        let hangs = matches!(self.smoke.expect, Expect::TimeOut);
        Job {
            name: self.smoke.name.replace(' ', "-"),
            via: self.via,
            kernel,
            cmdline: self.smoke.cmdline.into(),
            mem_mib: self.smoke.mem_mib,
            vcpus: None,
            initrd: None,
            timeout: Some(if hangs { HANG_TIMEOUT } else { TIMEOUT }),
        }
    }
}

/// Runs the tests of stacks that share what they run on.
pub(super) fn run(suite: &mut Suite, vias: &[Via]) -> Result<()> {
    let kernel = suite.kernel()?;
    let rows: Vec<_> = vias.iter().flat_map(|&via| rows(via)).collect();
    let jobs: Vec<_> = rows.iter().map(|row| row.job(kernel.clone())).collect();
    let mut session: Option<Box<dyn Session + '_>> = None;
    let dir = suite.workspace.run_dir("test")?;
    for (row, job) in rows.iter().zip(&jobs) {
        let since = Instant::now();
        let dir = dir.join(format!("{}-{}", job.via.name(), job.name));
        let mut transcript = Transcript::create(&dir, Show::Nothing, None)?;
        // A stack that broke down is opened anew for the tests that are left.
        let mut open = match session.take() {
            Some(open) => open,
            None => {
                let provision = &suite.provision;
                let workspace = &suite.workspace.root;
                let setting = Setting {
                    provision,
                    mode: Mode::default(),
                    workspace,
                    dir: &dir,
                };
                job.via.stack().open(setting, &jobs)?
            }
        };
        let end = match open.run(job, &mut transcript) {
            Ok(end) => end,
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure) => End::Broken(failure.to_string()),
        };
        transcript.finish();
        let result = check(row.smoke, &transcript.guest, &end)
            .map_err(|reason| format!("{reason}\n{}", transcript.tail(30).trim_end()));
        if !matches!(end, End::Broken(_)) {
            session = Some(open);
        }
        suite.report(&row.name(), since, result);
    }
    Ok(())
}

/// Compares what happened to what the row wants.
fn check(smoke: &Smoke, lines: &[String], end: &End) -> std::result::Result<(), String> {
    let outcome = judge(lines, end);
    match smoke.expect {
        Expect::TimeOut => {
            if !matches!(outcome, Outcome::TimedOut(_)) {
                return Err(format!("expected no end, got {outcome:?}"));
            }
        }
        Expect::Verdict(kind, shutdown) => {
            let verdicts: Vec<_> = lines
                .iter()
                .filter_map(|line| Verdict::parse(line))
                .map(|v| v.kind)
                .collect();
            if verdicts != [kind] || *end != End::Shutdown(shutdown) {
                let wanted = format!("expected one verdict {kind:?} and shutdown by {shutdown}");
                return Err(format!(
                    "{wanted}, got {verdicts:?} and {end:?}: {outcome:?}"
                ));
            }
            // The exit status of `boot` follows from the outcome.
            if (kind == Kind::Pass) != (outcome == Outcome::Pass) {
                return Err(format!("a verdict {kind:?} was judged {outcome:?}"));
            }
        }
    }
    let silent = |text: &&&str| !lines.iter().any(|line| line.contains(**text));
    match smoke.says.iter().find(silent) {
        Some(text) => Err(format!("the console never says \"{text}\"")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn smoke(expect: Expect) -> Smoke {
        Smoke {
            expect,
            says: &["hello"],
            ..TABLE[0]
        }
    }

    #[test]
    fn every_stack_has_its_four_tests() {
        for &via in EVERYWHERE {
            assert!(rows(via).len() >= 4, "{}", via.name());
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = EVERYWHERE
            .iter()
            .flat_map(|&via| rows(via))
            .map(|row| row.name())
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_row_holds_only_if_all_of_it_does() {
        let poweroff = End::Shutdown(Shutdown::Poweroff);
        let crash = End::Shutdown(Shutdown::Crash);
        let good = lines("hello\nverdict: pass\n");
        assert_eq!(check(&smoke(PASS), &good, &poweroff), Ok(()));
        assert!(check(&smoke(PASS), &good, &crash).is_err());
        assert!(check(&smoke(PASS), &lines("verdict: pass\n"), &poweroff).is_err());
        assert!(check(&smoke(PASS), &lines("hello\n"), &poweroff).is_err());
        assert!(check(&smoke(FAIL), &good, &poweroff).is_err());
        assert!(check(&smoke(CRASH), &lines("hello\nverdict: crash\n"), &poweroff).is_err());
        assert_eq!(
            check(&smoke(CRASH), &lines("hello\nverdict: crash\n"), &crash),
            Ok(())
        );
    }

    #[test]
    fn a_hang_is_a_time_out_and_nothing_else() {
        let smoke = smoke(Expect::TimeOut);
        assert_eq!(check(&smoke, &lines("hello\n"), &End::TimedOut(5)), Ok(()));
        assert!(
            check(
                &smoke,
                &lines("hello\n"),
                &End::Shutdown(Shutdown::Poweroff)
            )
            .is_err()
        );
    }
}
