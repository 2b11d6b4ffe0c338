//! Boots that share what they run on: a dom0 for all domains of a way, or of several. They run one
//! after the other, or some at once, each of these by a stack of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Instant;

use super::{Suite, skips};
use crate::console::transcript::{Show, Transcript};
use crate::console::verdict::End;
use crate::exit::{Failure, Result};
use crate::provision::Provision;
use crate::report::Facts;
use crate::stack::{Job, Mode, Session, Setting};

/// A test that is one boot.
pub(super) struct Boot {
    /// What it is called in reports.
    pub(super) name: String,
    pub(super) job: Job,
    /// Looks at what was said and how it ended.
    pub(super) check: Check,
}

/// Says why a boot is not what it should be.
pub(super) type Check =
    Box<dyn Fn(&Transcript, &End) -> std::result::Result<(), String> + Send + Sync>;

/// Boots at once at most: each has memory of its own.
const MOST_AT_ONCE: usize = 4;
/// Processors for each of them: a boot of four vCPUs keeps as many busy, and one that has to share them
/// misses the times that it is judged by.
const PROCESSORS: usize = 4;

/// How many boots this machine runs at once.
pub(super) fn at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / PROCESSORS).clamp(1, MOST_AT_ONCE)
}

/// What came of a boot.
enum Came {
    /// It was judged.
    Judged(usize, Instant, std::result::Result<(), String>, Facts),
    /// A signal came meanwhile.
    Interrupted(usize, Instant, Facts),
    /// It could not be begun.
    Failed(Failure),
}

/// What boots have in common.
struct Boots<'a> {
    boots: &'a [Boot],
    jobs: Vec<Job>,
    /// The one that is to be run next.
    next: AtomicUsize,
    provision: &'a Provision,
    workspace: &'a Path,
    dir: PathBuf,
}

/// Runs boots of ways that share what they run on, one after the other.
pub(super) fn run(suite: &mut Suite, boots: &[Boot]) -> Result<()> {
    run_at_once(suite, boots, 1)
}

/// Runs boots of ways that share what they run on, so many at once, each by a session of its own.
pub(super) fn run_at_once(suite: &mut Suite, boots: &[Boot], lanes: usize) -> Result<()> {
    let provision = Arc::clone(&suite.provision);
    let workspace = suite.workspace.root.clone();
    let common = Boots {
        boots,
        jobs: boots.iter().map(|boot| boot.job.clone()).collect(),
        next: AtomicUsize::new(0),
        provision: &provision,
        workspace: &workspace,
        dir: suite.workspace.run_dir("test")?,
    };
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        for _ in 0..lanes.min(boots.len()) {
            let (common, tell) = (&common, tell.clone());
            scope.spawn(move || common.run(&tell));
        }
        drop(tell);
        // The others end what they are at.
        let stop = || common.next.store(boots.len(), Ordering::Relaxed);
        let mut result = Ok(());
        for came in told {
            match came {
                Came::Judged(which, since, judged, facts) => {
                    suite.report_with(&boots[which].name, since, judged, facts);
                }
                Came::Interrupted(which, since, facts) => {
                    stop();
                    result = Err(suite.interrupted(&boots[which].name, since, facts));
                }
                Came::Failed(failure) => {
                    stop();
                    result = result.and(Err(failure));
                }
            }
        }
        result
    })
}

impl Boots<'_> {
    /// Runs one after the other, until none is left.
    fn run(&self, tell: &Sender<Came>) {
        let mut session = None;
        loop {
            let which = self.next.fetch_add(1, Ordering::Relaxed);
            let (Some(boot), Some(job)) = (self.boots.get(which), self.jobs.get(which)) else {
                return;
            };
            let came = self.boot(which, boot, job, &mut session);
            // Whoever listens does so until all are through.
            let _ = tell.send(came.unwrap_or_else(Came::Failed));
        }
    }

    /// Runs one, by a session that is open or by one that is opened for it and those that are left.
    fn boot<'a>(
        &'a self,
        which: usize,
        boot: &Boot,
        job: &Job,
        session: &mut Option<Box<dyn Session + 'a>>,
    ) -> Result<Came> {
        let since = Instant::now();
        let dir = self.dir.join(format!("{}-{}", job.via.name(), job.name));
        let mut transcript = Transcript::create(&dir, Show::Nothing, None)?.explaining(job);
        // A stack that broke down is opened anew for the tests that are left.
        let mut open = match session.take() {
            Some(open) => open,
            None => {
                let setting = Setting {
                    provision: self.provision,
                    mode: Mode::default(),
                    workspace: self.workspace,
                    dir: &dir,
                };
                job.via.stack().open(setting, &self.jobs)?
            }
        };
        let end = match open.run(job, &mut transcript) {
            Ok(end) => end,
            Err(Failure::Interrupted) => {
                transcript.finish();
                let facts = Facts::of(&transcript);
                return Ok(Came::Interrupted(which, since, facts));
            }
            Err(failure) => End::Broken(failure.to_string()),
        };
        transcript.finish();
        let result = (boot.check)(&transcript, &end)
            .and_then(|()| skips::check(&transcript.guest, job.via, job.mem_mib))
            .map_err(|reason| format!("{reason}\n{}", transcript.tail(30).trim_end()));
        if !matches!(end, End::Broken(_) | End::Zombie { .. }) {
            *session = Some(open);
        }
        Ok(Came::Judged(which, since, result, Facts::of(&transcript)))
    }
}
