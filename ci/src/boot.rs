//! `cargo xtask boot`: one kernel, one stack, one verdict.

mod dry;
mod flags;
mod kernel;
pub(crate) mod program;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::program::Program;
use crate::cli::BootArgs;
use crate::console::contract::{Contract, judge};
use crate::console::transcript::Show;
use crate::console::verdict::{End, Kind, Outcome, Shutdown, Verdict};
use crate::exit::{Failure, Result};
use crate::interrupt;
use crate::process;
use crate::provision::Provision;
use crate::provision::origin::Origin;
use crate::report::{Facts, Report, Row, State};
use crate::stack::{Job, Mode, Setting, Via};
use crate::ui;
use crate::words;
use crate::workspace::Workspace;

/// Long enough for any stack on a slow machine.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// The ramdisk of a program, among the files of a run.
const RAMDISK: &str = "program.cpio";

/// How much of the logs a failure shows.
const TAIL_LINES: usize = 30;

/// Builds, boots and judges.
pub(crate) fn boot(arguments: &BootArgs) -> Result<()> {
    flags::check(arguments)?;
    if arguments.dry_run {
        return dry::run(arguments);
    }
    let mut report = Report::open("boot", &arguments.report)?;
    let result = reported(arguments, &mut report);
    report.close(result)
}

fn reported(arguments: &BootArgs, report: &mut Report) -> Result<()> {
    let workspace = Workspace::find()?;
    let provision = arguments.provision.open()?;
    let kernel = match &arguments.kernel {
        Some(path) => given(path, arguments.via)?,
        None if arguments.lean => workspace.build_lean_kernel()?,
        None => workspace.build_kernel()?,
    };
    let mut job = job(arguments, kernel)?;
    let mode = mode(arguments);
    let dir = workspace.run_dir(job.via.name())?;
    if let Some(program) = program(arguments, &provision)? {
        let ramdisk = dir.join(RAMDISK);
        program.pack(&ramdisk, &[])?;
        hand(&program, ramdisk, arguments, &mut job);
    }
    let setting = Setting {
        provision: &provision,
        mode,
        workspace: &workspace.root,
        dir: &dir,
    };
    let since = Instant::now();
    let stack = job.via.stack();
    let ran = setting.run(&*stack, &job, Show::Guest, arguments.log.as_deref())?;
    let (transcript, end) = (ran.transcript, ran.end);
    if arguments.interactive && matches!(end, Err(Failure::Interrupted)) && !interrupt::requested()
    {
        ui::say("left the console; the domain is gone");
        return Ok(());
    }
    let contract = &job.contract;
    let mut row = Row {
        group: job.via.name().into(),
        name: file_name(&job.kernel),
        state: State::Pass,
        message: String::new(),
        seconds: Some(since.elapsed().as_secs_f64()),
        facts: Facts::of(&transcript),
    };
    let outcome = end.map(|end| {
        let crashed = crashed(&transcript.guest, &end);
        (judge(contract, &transcript.guest, &end), crashed)
    });
    let result = match outcome {
        Ok((Outcome::Pass, _)) => {
            row.message = summary(contract, &transcript.guest);
            ui::say(&row.message);
            Ok(())
        }
        Ok((outcome, crashed)) => {
            let tail = transcript.tail(TAIL_LINES);
            ui::say(transcript.unseen(TAIL_LINES));
            let failure = outcome.into_result().err();
            if let Some(failure) = &failure {
                row.state = match State::from(failure) {
                    State::Fail if crashed => State::Crash,
                    state => state,
                };
                row.message = format!("{failure}\n{}", tail.trim_end());
            }
            failure.map_or(Ok(()), Err)
        }
        Err(failure) => {
            row.state = State::from(&failure);
            row.message = failure.to_string();
            Err(failure)
        }
    };
    report.add(row);
    result
}

/// The program that is to be run, if one is.
fn program(arguments: &BootArgs, provision: &Provision) -> Result<Option<Program>> {
    let program = arguments.program.as_deref();
    program
        .map(|name| Program::find(name, provision))
        .transpose()
}

/// Has a boot run a program from a ramdisk.
fn hand(program: &Program, ramdisk: PathBuf, arguments: &BootArgs, job: &mut Job) {
    job.cmdline = program.words(&arguments.cmdline, &arguments.arguments);
    job.initrd = Some(ramdisk);
}

/// Whether the guest crashed, by its own account or Xen's.
fn crashed(lines: &[String], end: &End) -> bool {
    let mut verdicts = lines.iter().filter_map(|line| Verdict::parse(line));
    match end {
        End::Zombie { end, .. } => crashed(lines, end),
        End::Shutdown(Shutdown::Crash | Shutdown::Watchdog) => true,
        _ => verdicts.any(|verdict| verdict.kind == Kind::Crash),
    }
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// What the boot passed by, for a person: the text that was asked for, or the verdict's facts.
fn summary(contract: &Contract, lines: &[String]) -> String {
    if let Some(line) = contract.success(lines) {
        return format!("passed: the console says {line}");
    }
    let fields = lines
        .iter()
        .find_map(|line| Verdict::parse(line))
        .map(|verdict| verdict.fields);
    let facts = fields
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| format!("{key} {value}"));
    let facts = facts.collect::<Vec<_>>().join(", ");
    if facts.is_empty() {
        "passed".into()
    } else {
        format!("passed: {facts}")
    }
}

fn mode(arguments: &BootArgs) -> Mode {
    Mode {
        icount: arguments.icount,
        gdb: arguments.gdb,
        interactive: arguments.interactive,
        xen_log: arguments.xen_log.unwrap_or_default(),
    }
}

/// A kernel that was given, if it is one of the kind that is entered this way.
fn given(path: &Path, via: Via) -> Result<PathBuf> {
    let path = existing(path)?;
    kernel::check(&path, via)?;
    Ok(path)
}

fn job(arguments: &BootArgs, kernel: PathBuf) -> Result<Job> {
    let cmdline = match arguments.interactive {
        true => words::monitor(&arguments.cmdline),
        // Another kernel has words of its own.
        false if arguments.kernel.is_none() || kernel::is_ours(&kernel) => {
            words::once(&arguments.cmdline)
        }
        false => arguments.cmdline.clone(),
    };
    // A person or a debugger takes as long as it takes.
    let patient = arguments.interactive || arguments.gdb;
    let timeout = match arguments.timeout {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => (!patient).then_some(DEFAULT_TIMEOUT),
    };
    Ok(Job {
        cmdline,
        symbols: arguments.symbols.as_deref().map(existing).transpose()?,
        mem_mib: arguments.mem,
        vcpus: arguments.vcpus,
        initrd: arguments.initrd.as_deref().map(existing).transpose()?,
        cpu: arguments.cpu.clone(),
        config: arguments.config.clone(),
        contract: Contract {
            expect: arguments.expect.clone(),
            fail: arguments.fail.clone(),
            patient,
        },
        timeout,
        ..Job::new("guest", arguments.via, kernel)
    })
}

fn existing(path: &Path) -> Result<PathBuf> {
    let found = path
        .canonicalize()
        .map_err(|error| Failure::Usage(format!("cannot open {}: {error}", path.display())))?;
    match found.is_file() {
        true => Ok(found),
        false => Err(Failure::Usage(format!("{} is no file", path.display()))),
    }
}

/// `cargo xtask setup`: everything that boots and tests need, without running any of them.
pub(crate) fn setup(arguments: &crate::cli::SetupArgs) -> Result<()> {
    let workspace = Workspace::find()?;
    crate::provision::rust::ensure_target(&workspace.root)?;
    let mut provision = arguments.provision.open()?;
    provision.update = arguments.update;
    if let (true, Origin::Mirror(mirror, _)) = (arguments.update, &provision.origin) {
        ui::say(format!(
            "nothing is updated from the mirror that {} names: ci/packages.lock says which packages, and \
             `cargo xtask lock` renews it",
            mirror.by()
        ));
    }
    for via in &arguments.via {
        via.stack().prepare(&provision)?;
    }
    provision.headers()?;
    let mut fetch = workspace.cargo();
    fetch.arg("fetch");
    for mut command in [fetch, workspace.fuzzer_cargo("fetch")] {
        let status = process::status(&mut command, Failure::file("run", "cargo"))?;
        if !status.success() {
            return Err(Failure::host("cargo fetch failed", "see its message above"));
        }
    }
    let names: Vec<_> = arguments.via.iter().map(|via: &Via| via.name()).collect();
    ui::say(format!(
        "ready for {}; kept in {}",
        names.join(", "),
        provision.cache.root().display()
    ));
    Ok(())
}
