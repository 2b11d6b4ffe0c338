//! Boots that count: each job as the only domain on Xen under a counting QEMU.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::report::{Boot, Measurement, Report};
use crate::boot::program::{BUSYBOX, Program};
use crate::console::contract::{Contract, Pattern};
use crate::console::transcript::Show;
use crate::console::verdict::{Outcome, judge};
use crate::exit::{Failure, Result};
use crate::interrupt;
use crate::provision::Provision;
use crate::stack::{Job, Mode, Ran, Setting, Via, rootfs};
use crate::ui;
use crate::workspace::Workspace;

/// Memory sizes in MiB that boots are measured at.
pub(super) const SIZES: &[u32] = &[64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// The least and the most of them, of which the README tells.
pub(super) const ENDS: &[u32] = &[64, 8192];

/// Memory of the domain that operations are measured in.
pub(super) const MEM_MIB: u32 = 128;

/// When a boot is given up; the longest takes some ten seconds.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Prints nothing that would be counted: a line on the console costs thousands of instructions.
pub(super) const QUIET: &str = "log=off";

/// The count of the lean kernel.
pub(super) const LEAN: &str = "entry_to_ready_lean";

/// What a boot said.
pub(super) struct Said {
    /// Measurements.
    pub(super) measurements: Vec<Measurement>,
    /// The package version of Xen.
    pub(super) xen: String,
    /// Every line of the kernel's.
    pub(super) lines: Vec<String>,
}

/// A boot to count.
pub(super) struct Counted<'a> {
    /// What boots as dom0.
    pub(super) kernel: &'a Path,
    /// Its words.
    pub(super) cmdline: &'a str,
    /// Its memory.
    pub(super) mem_mib: u32,
    /// Its initial RAM disk.
    pub(super) initrd: Option<PathBuf>,
    /// A plugin of QEMU, with its arguments; it takes ten times as long.
    pub(super) plugin: Option<String>,
}

/// The word that asks for the kernel's operations, or those whose names start as given.
pub(super) fn word(names: &[String]) -> String {
    match names {
        [] => "bench".into(),
        names => format!("bench={}", names.join(",")),
    }
}

/// Measures the kernel's operations, or those whose names start as given.
pub(crate) fn kernel(
    workspace: &Workspace,
    provision: &Provision,
    image: &Path,
    names: &[String],
) -> Result<Report> {
    let cmdline = format!("{QUIET} {}", word(names));
    let step = ui::spinner("count instructions");
    let said = boot(
        workspace,
        provision,
        Counted {
            kernel: image,
            cmdline: &cmdline,
            mem_mib: MEM_MIB,
            initrd: None,
            plugin: None,
        },
    )?;
    step.clear();
    let unknown = names
        .iter()
        .find(|name| !said.measurements.iter().any(|m| m.name.starts_with(*name)));
    if let Some(name) = unknown {
        return Err(Failure::Usage(format!(
            "no operation is called {name}; `cargo xtask bench` without a name lists them all"
        )));
    }
    Ok(Report {
        xen: said.xen,
        rustc: compiler(&workspace.root),
        kernel: said.measurements,
        ..Report::default()
    })
}

/// Measures what programs wait for: the program that Linux runs as well, on the kernel.
pub(super) fn programs(
    workspace: &Workspace,
    provision: &Provision,
    image: &Path,
) -> Result<Report> {
    let step = ui::spinner("count instructions of programs");
    let (_dir, archive) = ramdisk(workspace)?;
    let said = boot(
        workspace,
        provision,
        Counted {
            kernel: image,
            cmdline: &format!("{QUIET} init=/init -- by-status"),
            mem_mib: MEM_MIB,
            initrd: Some(archive),
            plugin: None,
        },
    )?;
    step.clear();
    let mut programs = said.measurements;
    for measurement in &mut programs {
        measurement.name = format!("program.{}", measurement.operation());
    }
    programs.push(prompt(workspace, provision, image)?);
    Ok(Report {
        xen: said.xen,
        rustc: compiler(&workspace.root),
        programs,
        ..Report::default()
    })
}

/// A ramdisk whose first program measures, in a directory that goes when it is dropped.
pub(super) fn ramdisk(workspace: &Workspace) -> Result<(tempfile::TempDir, PathBuf)> {
    let program = workspace.build("linux-bench")?;
    let dir = tempfile::tempdir().map_err(Failure::file("create a directory in", "/tmp"))?;
    let archive = dir.path().join("initramfs");
    rootfs::with_init(&program, &archive)?;
    Ok((dir, archive))
}

/// Measures the boot with each of these sizes of memory.
pub(super) fn memory_sizes(
    workspace: &Workspace,
    provision: &Provision,
    image: &Path,
    sizes: &[u32],
) -> Result<Vec<Boot>> {
    let step = ui::progress("count boots by memory size", sizes.len() as u64, false);
    let mut boots = Vec::new();
    for (done, &mib) in sizes.iter().enumerate() {
        step.set(done as u64);
        let said = boot(
            workspace,
            provision,
            Counted {
                kernel: image,
                cmdline: &format!("{QUIET} bench=entry"),
                mem_mib: mib,
                initrd: None,
                plugin: None,
            },
        )?;
        let find = |name: &str| -> Result<u64> {
            let found = said.measurements.iter().find(|m| m.name == name);
            found
                .map(|measurement| measurement.instructions)
                .ok_or_else(|| Failure::Guest(format!("the kernel does not report {name}")))
        };
        boots.push(Boot {
            mib,
            entry_to_first_byte: find("entry_to_first_byte")?,
            entry_to_ready: find("entry_to_ready")?,
        });
    }
    step.clear();
    Ok(boots)
}

/// Measures how soon the lean kernel, which has no benchmarks, owns its memory: it says so itself when
/// it does.
pub(super) fn lean(workspace: &Workspace, provision: &Provision) -> Result<Measurement> {
    let image = workspace.build_lean_kernel()?;
    let said = boot(
        workspace,
        provision,
        Counted {
            kernel: &image,
            cmdline: &format!("once {QUIET},init=debug"),
            mem_mib: MEM_MIB,
            initrd: None,
            plugin: None,
        },
    )?;
    let ticks = said.lines.iter().find_map(|line| ticks_to_ready(line));
    let instructions = ticks
        .ok_or_else(|| Failure::Guest("the lean kernel does not say when it was ready".into()))?;
    Ok(Measurement {
        name: LEAN.into(),
        pages: 1,
        instructions,
        hypercalls: 0,
        way: None,
    })
}

/// What the kernel says of that in a line of its log.
fn ticks_to_ready(line: &str) -> Option<u64> {
    ticks_until(line, "the kernel owned its memory")
}

/// How many ticks a line of the log says that it took from the entry until something happened.
fn ticks_until(line: &str, what: &str) -> Option<u64> {
    let (before, after) = line.split_once(" ticks from the entry until ")?;
    let ticks = before.rsplit(' ').next()?;
    after.starts_with(what).then(|| ticks.parse().ok())?
}

/// Measures how soon a shell's prompt is there, from a ramdisk with Debian's busybox: the kernel says when a
/// program has written for the first time.
pub(super) fn prompt(
    workspace: &Workspace,
    provision: &Provision,
    image: &Path,
) -> Result<Measurement> {
    const PROMPT: &str = "a program wrote something";
    let dir = tempfile::tempdir().map_err(Failure::file("create a directory in", "/tmp"))?;
    let archive = dir.path().join("initramfs");
    Program::find(BUSYBOX, provision)?.pack(&archive, &[])?;
    let expect = Pattern::parse(PROMPT).ok();
    let job = Job {
        cmdline: format!("{QUIET},user=debug init=/bin/busybox -- sh"),
        mem_mib: Some(MEM_MIB),
        initrd: Some(archive),
        timeout: Some(TIMEOUT),
        contract: Contract {
            expect,
            ..Contract::default()
        },
        ..Job::new("bench", Via::Dom0, image)
    };
    let transcript = count(workspace, provision, &job)?.transcript;
    let ticks = transcript.guest.iter();
    let ticks = ticks.filter_map(|line| ticks_until(line, PROMPT)).next();
    let instructions = ticks.ok_or_else(|| {
        ui::say(transcript.tail(30));
        Failure::Guest("the shell did not come to its prompt".into())
    })?;
    Ok(Measurement {
        name: "program.entry_to_prompt".into(),
        pages: 1,
        instructions,
        hypercalls: 0,
        way: None,
    })
}

/// Boots once, to a passing verdict.
pub(super) fn boot(
    workspace: &Workspace,
    provision: &Provision,
    what: Counted<'_>,
) -> Result<Said> {
    let job = Job {
        cmdline: what.cmdline.to_owned(),
        mem_mib: Some(what.mem_mib),
        initrd: what.initrd,
        timeout: Some(match what.plugin {
            Some(_) => TIMEOUT * 10,
            None => TIMEOUT,
        }),
        plugin: what.plugin,
        ..Job::new("bench", Via::Dom0, what.kernel)
    };
    let ran = count(workspace, provision, &job)?;
    let (transcript, end) = (ran.transcript, ran.end?);
    let outcome = judge(&transcript.guest, &end);
    if outcome != Outcome::Pass {
        ui::say(transcript.tail(30));
    }
    outcome.into_result()?;
    Ok(Said {
        measurements: transcript
            .guest
            .iter()
            .filter_map(|line| Measurement::parse(line))
            .collect(),
        xen: transcript
            .host
            .iter()
            .find_map(|line| xen_version(line))
            .unwrap_or_else(|| "unknown".into()),
        lines: transcript.guest,
    })
}

/// Boots once while instructions are counted.
fn count(workspace: &Workspace, provision: &Provision, job: &Job) -> Result<Ran> {
    if interrupt::requested() {
        return Err(Failure::Interrupted);
    }
    let dir = workspace.run_dir("bench")?;
    let setting = Setting {
        provision,
        mode: Mode {
            icount: true,
            ..Mode::default()
        },
        workspace: &workspace.root,
        dir: &dir,
    };
    let stack = job.via.stack();
    setting.run(&*stack, job, Show::Nothing, None)
}

/// The version in Xen's banner: the package's, or that of a Xen built otherwise, and whether it is
/// one for debugging, which costs more.
fn xen_version(line: &str) -> Option<String> {
    let rest = line.strip_prefix("(XEN)")?.trim_start();
    let rest = rest.strip_prefix("Xen version ")?;
    let packaged = rest
        .split_once("(Debian ")
        .and_then(|(_, rest)| rest.split_once(')'));
    let version = match packaged {
        Some((version, _)) => version,
        None => rest.split_ascii_whitespace().next()?,
    };
    let debug = if rest.contains("debug=y") {
        " debug"
    } else {
        ""
    };
    Some(format!("{version}{debug}"))
}

fn compiler(root: &Path) -> String {
    let output = Command::new("rustc")
        .current_dir(root)
        .arg("--version")
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lean_kernel_says_when_it_was_ready() {
        let line =
            "[   0.021] debug init: 123456 ticks from the entry until the kernel owned its memory";
        assert_eq!(ticks_to_ready(line), Some(123_456));
        assert_eq!(
            ticks_to_ready("[   0.021] info  init: called directmap"),
            None
        );
    }

    #[test]
    fn the_version_is_the_package_s_where_there_is_one() {
        let banner =
            "(XEN) Xen version 4.17.7 (Debian 4.17.7+13-g24-0+deb12u1) (x@y) (gcc) debug=n";
        assert_eq!(xen_version(banner).unwrap(), "4.17.7+13-g24-0+deb12u1");
        let banner = "(XEN) Xen version 4.23-unstable (me@here) (gcc) debug=y Wed";
        assert_eq!(xen_version(banner).unwrap(), "4.23-unstable debug");
        assert_eq!(xen_version("Xen version 4.17.7"), None);
    }
}
