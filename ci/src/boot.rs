//! `cargo xtask boot`: one kernel, one stack, one verdict.

mod flags;
mod kernel;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::BootArgs;
use crate::console::transcript::{Show, Transcript};
use crate::console::verdict::{Outcome, Verdict, judge};
use crate::exit::{Failure, Result};
use crate::interrupt;
use crate::process;
use crate::stack::{Job, Mode, Setting, Via};
use crate::ui;
use crate::workspace::Workspace;

/// Long enough for any stack on a slow machine.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// How much of the logs a failure shows.
const TAIL_LINES: usize = 30;

/// Builds, boots and judges.
pub(crate) fn boot(arguments: &BootArgs) -> Result<()> {
    flags::check(arguments)?;
    let workspace = Workspace::find()?;
    let provision = arguments.provision.open()?;
    let kernel = match &arguments.kernel {
        Some(path) => {
            let path = existing(path)?;
            kernel::check(&path, arguments.via)?;
            path
        }
        None if arguments.lean => workspace.build_lean_kernel()?,
        None => workspace.build_kernel()?,
    };
    let job = job(arguments, kernel)?;
    let mode = Mode {
        icount: arguments.icount,
        gdb: arguments.gdb,
        interactive: arguments.interactive,
        xen_log: arguments.xen_log.unwrap_or_default(),
    };
    let dir = workspace.run_dir(job.via.name())?;
    let jobs = [job];
    let setting = Setting {
        provision: &provision,
        mode,
        workspace: &workspace.root,
        dir: &dir,
    };
    let mut session = jobs[0].via.stack().open(setting, &jobs)?;
    let mut transcript = Transcript::create(&dir, Show::Guest, arguments.log.as_deref())?;
    let end = session.run(&jobs[0], &mut transcript);
    transcript.finish();
    drop(session);
    if arguments.interactive && matches!(end, Err(Failure::Interrupted)) && !interrupt::requested()
    {
        ui::say("left the console; the domain is gone");
        return Ok(());
    }
    let outcome = judge(&transcript.guest, &end?);
    if outcome == Outcome::Pass {
        ui::say(summary(&transcript.guest));
    } else {
        ui::say(transcript.tail(TAIL_LINES));
    }
    outcome.into_result()
}

/// The passing verdict's facts, for a person.
fn summary(lines: &[String]) -> String {
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

fn job(arguments: &BootArgs, kernel: PathBuf) -> Result<Job> {
    let mut cmdline = arguments.cmdline.clone();
    if arguments.interactive {
        cmdline = format!("{cmdline} monitor").trim_start().to_owned();
    }
    // A person or a debugger takes as long as it takes.
    let patient = arguments.interactive || arguments.gdb;
    let timeout = match arguments.timeout {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => (!patient).then_some(DEFAULT_TIMEOUT),
    };
    Ok(Job {
        name: "guest".into(),
        via: arguments.via,
        kernel,
        cmdline,
        mem_mib: arguments.mem,
        vcpus: arguments.vcpus,
        initrd: arguments.initrd.as_deref().map(existing).transpose()?,
        cpu: arguments.cpu.clone(),
        config: arguments.config.clone(),
        dump: None,
        acts: &[],
        timeout,
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
