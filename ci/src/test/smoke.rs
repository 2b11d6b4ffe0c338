//! Boots that must end in a certain way, on every stack.

mod table;

use std::path::Path;
use std::time::Duration;

use super::hostile::HOSTILE;
use super::long::LONG;
use super::memory::MEMORY;
use super::odd::{ODD, Odd};
use super::saved::SAVED;
use super::session::Boot;
use crate::console::verdict::{End, Kind, Shutdown, Verdict, judge, kept};
use crate::exit::Failure;
use crate::stack::{Job, Via};
use crate::words;
pub(super) use table::SELFTESTS;
use table::TABLE;

/// How a boot is to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expect {
    /// The verdicts on the console.
    verdicts: &'static [Kind],
    /// The reason of shutdown that Xen saw, or none for a boot that never ends.
    shutdown: Option<Shutdown>,
    /// The exit status that `boot` gives it.
    status: u8,
}

pub(super) const PASS: Expect = ends(&[Kind::Pass], Shutdown::Poweroff, 0);
pub(super) const FAIL: Expect = ends(&[Kind::Fail], Shutdown::Poweroff, 1);
pub(super) const CRASH: Expect = ends(&[Kind::Crash], Shutdown::Crash, 1);
const HANG: Expect = Expect {
    verdicts: &[],
    shutdown: None,
    status: 4,
};

pub(super) const fn ends(verdicts: &'static [Kind], shutdown: Shutdown, status: u8) -> Expect {
    Expect {
        verdicts,
        shutdown: Some(shutdown),
        status,
    }
}

/// One boot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Smoke {
    /// What it shows.
    pub(super) name: &'static str,
    /// The stacks it runs on.
    pub(super) vias: &'static [Via],
    /// Memory in MiB, or the stack's default.
    pub(super) mem_mib: Option<u32>,
    /// Words for the kernel.
    pub(super) cmdline: &'static str,
    /// The end.
    pub(super) expect: Expect,
    /// What the console must say, each on some line.
    pub(super) says: &'static [&'static str],
}

/// Every way of running.
pub(super) const EVERYWHERE: &[Via] = &[
    Via::Dom0,
    Via::Xl,
    Via::Shim,
    Via::Pvh,
    Via::Bare,
    Via::Bare4,
];

/// Where Xen owns the page tables.
pub(super) const PV: &[Via] = &[Via::Dom0, Via::Xl, Via::Shim];
/// Where the kernel owns them.
pub(super) const NATIVE: &[Via] = &[Via::Pvh, Via::Bare, Via::Bare4];

/// Every row, with what is odd about it.
fn table() -> impl Iterator<Item = (&'static Smoke, Option<&'static Odd>)> {
    let odd = ODD
        .iter()
        .chain(SAVED)
        .chain(MEMORY)
        .chain(HOSTILE)
        .map(|odd| (&odd.smoke, Some(odd)));
    TABLE.iter().map(|smoke| (smoke, None)).chain(odd)
}

/// When a boot is given up. Most take about a second, all self-tests in the shim on a busy machine
/// half a minute.
pub(super) const TIMEOUT: Duration = Duration::from_secs(90);

/// A boot that is to hang need not be waited for as long.
const HANG_TIMEOUT: Duration = Duration::from_secs(5);

/// A row on one of its stacks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    smoke: &'static Smoke,
    odd: Option<&'static Odd>,
    via: Via,
}

/// The tests of a stack.
pub(super) fn rows(via: Via) -> Vec<Row> {
    table()
        .filter(|(smoke, _)| smoke.vias.contains(&via))
        .map(|(smoke, odd)| Row { smoke, odd, via })
        .collect()
}

impl Row {
    /// What it is called in reports.
    pub(super) fn name(&self) -> String {
        format!("{}: {}", self.via.name(), self.smoke.name)
    }

    fn job(&self, kernel: std::path::PathBuf) -> Job {
        let hangs = self.smoke.expect.shutdown.is_none();
        let job = Job {
            cmdline: words::once(self.smoke.cmdline),
            mem_mib: self.smoke.mem_mib,
            timeout: Some(if hangs { HANG_TIMEOUT } else { TIMEOUT }),
            ..Job::new(self.smoke.name.replace(' ', "-"), self.via, kernel)
        };
        match self.odd {
            Some(odd) => odd.apply(job),
            None => job,
        }
    }
}

/// The boots of `kernel` on these ways, with the program `hostile` for those that use it.
pub(super) fn boots(kernel: &Path, hostile: Option<&Path>, vias: &[Via]) -> Vec<Boot> {
    boots_of(vias.iter().flat_map(|&via| rows(via)), kernel, hostile)
}

/// The boots of a way for which the usual run has no time.
pub(super) fn long_boots(kernel: &Path, via: Via) -> Vec<Boot> {
    let rows = LONG.iter().filter(|odd| odd.smoke.vias.contains(&via));
    let rows = rows.map(|odd| Row {
        smoke: &odd.smoke,
        odd: Some(odd),
        via,
    });
    boots_of(rows, kernel, None)
}

fn boots_of(rows: impl Iterator<Item = Row>, kernel: &Path, hostile: Option<&Path>) -> Vec<Boot> {
    let program = |row: &Row| row.odd.filter(|odd| odd.hostile).and(hostile);
    rows.map(|row| Boot {
        name: row.name(),
        job: Job {
            program: program(&row).map(Path::to_path_buf),
            ..row.job(kernel.into())
        },
        check: Box::new(move |transcript, end| {
            check(row.smoke, &transcript.guest, end)?;
            row.odd.map_or(Ok(()), |odd| odd.check(&transcript.host))
        }),
    })
    .collect()
}

/// Compares what happened to what the row wants.
pub(super) fn check(smoke: &Smoke, lines: &[String], end: &End) -> std::result::Result<(), String> {
    let expect = smoke.expect;
    let verdicts: Vec<_> = lines
        .iter()
        .filter_map(|line| Verdict::parse(line))
        .map(|verdict| verdict.kind)
        .collect();
    let shutdown = match end {
        End::Shutdown(reason) => Some(*reason),
        End::TimedOut(_) => None,
        End::Broken(what) | End::Unbuilt { why: what, .. } => return Err(what.clone()),
        End::Zombie { domid, pages, .. } => return Err(kept(*domid, *pages)),
        End::Off | End::Stopped => return Err(format!("the guest ended{}", end.in_brackets())),
    };
    let outcome = judge(lines, end).into_result();
    let status = outcome.as_ref().map_or_else(Failure::status, |()| 0);
    let found = (verdicts.as_slice(), shutdown, status);
    let wanted = (expect.verdicts, expect.shutdown, expect.status);
    if found != wanted {
        let said = outcome.map_or_else(|failure| failure.to_string(), |()| "passed".into());
        return Err(format!(
            "verdicts, shutdown and exit status should be {wanted:?} and are {found:?}: {said}"
        ));
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
    fn what_broke_below_the_kernel_fails_every_row() {
        let broken = End::Broken("Xen panicked".into());
        for expect in [PASS, FAIL, CRASH, HANG] {
            assert!(check(&smoke(expect), &lines("hello\n"), &broken).is_err());
        }
    }

    #[test]
    fn a_domain_that_is_not_gone_fails_every_row() {
        for (expect, text, end) in [
            (
                PASS,
                "hello\nverdict: pass\n",
                End::Shutdown(Shutdown::Poweroff),
            ),
            (HANG, "hello\n", End::TimedOut(5)),
        ] {
            assert_eq!(check(&smoke(expect), &lines(text), &end), Ok(()));
            let zombie = End::Zombie {
                domid: 7,
                pages: Some(1),
                end: Box::new(end),
            };
            assert!(check(&smoke(expect), &lines(text), &zombie).is_err());
        }
    }

    #[test]
    fn a_hang_is_a_time_out_and_nothing_else() {
        let smoke = smoke(HANG);
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
