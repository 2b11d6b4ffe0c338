//! Boots that must end in a certain way, on every stack. A row of [`TABLE`] is a test; a row more
//! is a test more.

use std::time::{Duration, Instant};

use super::odd::{ODD, Odd};
use super::{Suite, skips};
use crate::console::transcript::{Show, Transcript};
use crate::console::verdict::{End, Kind, Shutdown, Verdict, judge, kept};
use crate::exit::{Failure, Result};
use crate::report::Facts;
use crate::stack::{Job, Mode, Session, Setting, Via};
use crate::words;

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

/// What a run of all self-tests says besides its verdict: one test of each kind was there.
const SELFTESTS: &[&str] = &[
    "selftest mm.protect.512 ",
    "selftest interrupt.lazy.timer.3 ................... pass",
    "selftest oom.exhaustion ",
    "selftest image.store_to_table ",
    " failed=0 ",
];

/// The smoke tests.
const TABLE: &[Smoke] = &[
    Smoke {
        name: "the records are right after a benchmark",
        vias: &[Via::Dom0],
        mem_mib: None,
        cmdline: "bench=lazy_empty selftest=mm",
        expect: PASS,
        says: &["selftest mm.audit ................................. pass"],
    },
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
        name: "a page fault of who uses the page tables is reported with its walk",
        vias: &[Via::Dom0, Via::Bare],
        mem_mib: None,
        cmdline: "provoke=heldfault",
        expect: CRASH,
        says: &[
            "#PF",
            "= not mapped",
            "the page tables were in use",
            "backtrace",
        ],
    },
    Smoke {
        // The page tables are borrowed while they are borrowed: with both places, not by waiting.
        name: "a lock that is taken again is reported",
        vias: &[Via::Dom0, Via::Xl, Via::Pvh, Via::Bare],
        mem_mib: None,
        cmdline: "provoke=relock",
        expect: CRASH,
        says: &[
            "the lock that is taken at guest/src/boot/provoke.rs:",
            " is held by the same vCPU, since guest/src/boot/provoke.rs:",
            "backtrace",
        ],
    },
    Smoke {
        // The console's own lock, which the report needs.
        name: "a print in a print is reported",
        vias: &[Via::Dom0, Via::Xl, Via::Pvh, Via::Bare],
        mem_mib: None,
        cmdline: "provoke=reprint",
        expect: CRASH,
        says: &[" is held by the same vCPU, since guest/src/", "backtrace"],
    },
    Smoke {
        name: "an event storm is held back and said",
        vias: &[Via::Dom0, Via::Xl, Via::Pvh, Via::Bare],
        mem_mib: None,
        cmdline: "selftest=interrupt.storm",
        expect: PASS,
        says: &[
            "selftest interrupt.storm.own ",
            "is raised faster than it is served",
            " failed=0 ",
        ],
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
        name: "a fault in the fault handler is reported",
        vias: &[Via::Dom0, Via::Xl, Via::Pvh, Via::Bare],
        mem_mib: None,
        cmdline: "provoke=doublefault",
        expect: CRASH,
        says: &["double fault"],
    },
    Smoke {
        // PV has no other stack to report on: Xen ends the domain, which must not pass for a pass.
        name: "a stack overflow ends the domain",
        vias: &[Via::Dom0, Via::Xl],
        mem_mib: None,
        cmdline: "provoke=stackoverflow",
        expect: ends(&[], Shutdown::Crash, 1),
        says: &[],
    },
    Smoke {
        name: "a stack overflow is reported",
        vias: NATIVE,
        mem_mib: None,
        cmdline: "provoke=stackoverflow",
        expect: CRASH,
        says: &["#DF", "backtrace"],
    },
    Smoke {
        name: "four levels by Xen",
        vias: PV,
        mem_mib: None,
        cmdline: "",
        expect: PASS,
        says: &["mmu: 4 levels (xen-pv)"],
    },
    Smoke {
        name: "five levels where the processor has them",
        vias: &[Via::Bare],
        mem_mib: None,
        cmdline: "",
        expect: PASS,
        says: &["guest 0.1.0 on bare", "mmu: 5 levels (la57)", " levels=5"],
    },
    Smoke {
        name: "four levels when told so",
        vias: &[Via::Bare],
        mem_mib: None,
        cmdline: "selftest no5lvl log=warn,mmu=info",
        expect: PASS,
        says: &[
            "mmu: 4 levels (no5lvl)",
            " levels=4 selftests=",
            " failed=0 ",
        ],
    },
    Smoke {
        name: "random operations do as the reference with five levels",
        vias: &[Via::Bare],
        mem_mib: None,
        cmdline: "fuzz=1:20000",
        expect: PASS,
        says: &["page tables of 5 levels", "no divergence"],
    },
    Smoke {
        name: "four levels where there are no more",
        vias: &[Via::Pvh, Via::Bare4],
        mem_mib: None,
        cmdline: "",
        expect: PASS,
        says: &["mmu: 4 levels (no la57)", " levels=4"],
    },
    Smoke {
        name: "what only booted is given back",
        vias: EVERYWHERE,
        mem_mib: None,
        cmdline: "selftest=image.given_back",
        expect: PASS,
        says: &[
            "init: called directmap",
            "mm: gave back ",
            "selftest image.given_back ",
            " failed=0 ",
        ],
    },
    Smoke {
        name: "what PV lacks is said",
        vias: PV,
        mem_mib: None,
        cmdline: "",
        expect: PASS,
        says: &["boot: only a PVH guest chooses the frame of shared_info"],
    },
    Smoke {
        name: "a dom0 has no xenstore, and says so",
        vias: &[Via::Dom0],
        mem_mib: None,
        cmdline: "",
        expect: PASS,
        says: &["xenstore: Xen's tools gave this domain no xenstore"],
    },
    Smoke {
        name: "there is no xenstore without Xen, which is said",
        vias: &[Via::Bare],
        mem_mib: None,
        cmdline: "",
        expect: PASS,
        says: &["init: xenstore not called, not on bare: there is no Xen to ask"],
    },
    Smoke {
        name: "what there is not without PV is said",
        vias: NATIVE,
        mem_mib: None,
        cmdline: "selftest=image.p2m",
        expect: PASS,
        says: &[
            "boot: only a PV guest's page tables are checked by Xen",
            "selftest image.p2m ................................ skip: not on ",
        ],
    },
    Smoke {
        name: "a reboot is not taken for a power-off",
        vias: &[Via::Dom0, Via::Xl, Via::Pvh, Via::Bare],
        mem_mib: None,
        cmdline: "provoke=reboot",
        expect: ends(&[Kind::Pass], Shutdown::Reboot, 1),
        says: &[],
    },
    Smoke {
        name: "passes with little memory",
        vias: EVERYWHERE,
        mem_mib: Some(32),
        cmdline: "",
        expect: PASS,
        says: &[],
    },
    Smoke {
        name: "passes with much memory",
        vias: &[Via::Dom0, Via::Xl, Via::Pvh, Via::Bare],
        mem_mib: Some(1024),
        cmdline: "",
        expect: PASS,
        says: &[],
    },
    Smoke {
        // As an ordinary domain this proves as well that no page table is written but by asking
        // Xen: the writable-pagetables assist is off, and a store would fault.
        name: "self-tests pass",
        vias: EVERYWHERE,
        mem_mib: None,
        cmdline: "log=warn selftest",
        expect: PASS,
        says: SELFTESTS,
    },
    Smoke {
        name: "self-tests pass with 16 MiB",
        vias: &[Via::Dom0, Via::Xl, Via::Bare],
        mem_mib: Some(16),
        cmdline: "log=warn selftest",
        expect: PASS,
        says: SELFTESTS,
    },
    Smoke {
        name: "self-tests pass with 64 MiB",
        vias: &[Via::Xl, Via::Shim],
        mem_mib: Some(64),
        cmdline: "log=warn selftest",
        expect: PASS,
        says: SELFTESTS,
    },
    Smoke {
        name: "self-tests pass with 512 MiB",
        vias: &[Via::Xl],
        mem_mib: Some(512),
        cmdline: "log=warn selftest",
        expect: PASS,
        says: SELFTESTS,
    },
    Smoke {
        name: "self-tests pass with 3 GiB",
        vias: &[Via::Dom0, Via::Xl, Via::Bare],
        mem_mib: Some(3072),
        cmdline: "log=warn selftest",
        expect: PASS,
        says: SELFTESTS,
    },
    Smoke {
        name: "a self-test that does not exist is not passed",
        vias: &[Via::Dom0],
        mem_mib: None,
        cmdline: "selftest=mm.nothing",
        expect: FAIL,
        says: &["there is no 'mm.nothing'"],
    },
    Smoke {
        name: "a list with a name that nothing has is refused",
        vias: EVERYWHERE,
        mem_mib: None,
        cmdline: "selftest=mm.map,nosuch",
        expect: FAIL,
        says: &["there is no 'nosuch'"],
    },
    Smoke {
        name: "words of loaders are passed over and said",
        vias: EVERYWHERE,
        mem_mib: None,
        cmdline: "placeholder\troot=/dev/x acpi=off -- no5lvl nonsense",
        expect: PASS,
        says: &[
            "passed over 'placeholder': for GRUB",
            "passed over 'no5lvl nonsense': for programs",
        ],
    },
    Smoke {
        name: "bytes that are no text are refused",
        vias: &[Via::Dom0, Via::Xl, Via::Pvh, Via::Bare],
        mem_mib: None,
        cmdline: "log=w\u{e4}rn",
        expect: FAIL,
        says: &["not printable ASCII"],
    },
    Smoke {
        // A divergence is printed with the seed and the step that replay it.
        name: "the page tables agree with a reference",
        vias: &[Via::Dom0, Via::Xl],
        mem_mib: Some(24),
        cmdline: "log=warn fuzz=1:150000",
        expect: PASS,
        says: &["no divergence"],
    },
    Smoke {
        name: "a hang is given up",
        vias: &[Via::Dom0, Via::Xl, Via::Bare],
        mem_mib: None,
        cmdline: "provoke=hang",
        expect: HANG,
        says: &[],
    },
];

/// Every row, with what is odd about it.
fn table() -> impl Iterator<Item = (&'static Smoke, Option<&'static Odd>)> {
    let odd = ODD.iter().map(|odd| (&odd.smoke, Some(odd)));
    TABLE.iter().map(|smoke| (smoke, None)).chain(odd)
}

/// When a boot is given up. Most take about a second, all self-tests in the shim on a busy machine
/// half a minute.
const TIMEOUT: Duration = Duration::from_secs(90);

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
        let mut transcript = Transcript::create(&dir, Show::Nothing, None)?.explaining(job);
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
            Err(Failure::Interrupted) => {
                transcript.finish();
                return Err(suite.interrupted(&row.name(), since, Facts::of(&transcript)));
            }
            Err(failure) => End::Broken(failure.to_string()),
        };
        transcript.finish();
        let result = check(row.smoke, &transcript.guest, &end)
            .and_then(|()| skips::check(&transcript.guest, row.via, row.smoke.mem_mib))
            .and_then(|()| row.odd.map_or(Ok(()), |odd| odd.check(&transcript.host)))
            .map_err(|reason| format!("{reason}\n{}", transcript.tail(30).trim_end()));
        if !matches!(end, End::Broken(_) | End::Zombie { .. }) {
            session = Some(open);
        }
        suite.report_with(&row.name(), since, result, Facts::of(&transcript));
    }
    Ok(())
}

/// Compares what happened to what the row wants.
fn check(smoke: &Smoke, lines: &[String], end: &End) -> std::result::Result<(), String> {
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
