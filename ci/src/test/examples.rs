//! The kernels in the examples of the crate `xen-pv-rt`, built and booted as anybody else's would be; and
//! one that is made as its README says.

mod stranger;

use std::path::{Path, PathBuf};

use super::session::Boot;
use super::smoke::{self, CRASH, FAIL, PASS, PV, Smoke, ends};
use super::{Suite, title, titles};
use crate::cli::ProvisionArgs;
use crate::compile;
use crate::console::verdict::Shutdown;
use crate::exit::{Failure, Result};
use crate::process;
use crate::provision::rust;
use crate::stack::{Job, Via};
use crate::workspace::Workspace;

/// Where they are.
const EXAMPLES: &str = "hypercall/rt/examples";

/// Those that there are, and how many lines of code each has at most: they are there to be read.
pub(super) const ALL: &[(&str, usize)] = &[("crash", 40), ("hello", 20), ("mapping", 60)];

/// A boot of one.
struct Row {
    example: &'static str,
    smoke: Smoke,
}

const fn row(
    example: &'static str,
    vias: &'static [Via],
    cmdline: &'static str,
    smoke: Smoke,
) -> Row {
    let smoke = Smoke {
        vias,
        cmdline,
        ..smoke
    };
    Row { example, smoke }
}

const fn shows(name: &'static str, expect: smoke::Expect, says: &'static [&'static str]) -> Smoke {
    Smoke {
        name,
        vias: &[],
        mem_mib: None,
        cmdline: "",
        expect,
        says,
    }
}

const TABLE: &[Row] = &[
    row(
        "hello",
        PV,
        "",
        shows(
            "the example hello says it",
            PASS,
            &["hello from a domain of "],
        ),
    ),
    row(
        "mapping",
        PV,
        "",
        shows(
            "the example mapping maps a page",
            PASS,
            &[" pages are free", "in use, writable"],
        ),
    ),
    row(
        "crash",
        &[Via::Dom0],
        "",
        shows("an error of an example's main is its verdict", FAIL, &[]),
    ),
    row(
        "crash",
        &[Via::Dom0],
        "panic",
        shows(
            "a panic of an example is reported",
            CRASH,
            &["as I was told", "backtrace:", "  #3  ffffffff80"],
        ),
    ),
    row(
        "crash",
        &[Via::Dom0, Via::Xl],
        "pagefault",
        shows(
            "a page fault of an example is reported",
            CRASH,
            &[
                "unexpected exception #PF (page fault), vector 14, error code 0x",
                "page fault: read of a page that is not present at 0x00005eadbeef0000",
                "  rip e030:ffffffff80",
                "  #0  ffffffff80",
            ],
        ),
    ),
    row(
        "crash",
        &[Via::Dom0],
        "overflow",
        // Xen finds no place to push the fault on: not a word of the kernel's, and nothing overwritten.
        shows(
            "the stack of an example ends at a page that is not there",
            ends(&[], Shutdown::Crash, 1),
            &[],
        ),
    ),
];

/// What the tests of a way are called.
pub(super) fn boot_names(via: Via) -> Vec<String> {
    titles(
        TABLE.iter().map(|row| (row.smoke.name, row.smoke.vias)),
        via,
    )
}

/// What the kernel that is made as a README says is called, on the way that it boots on.
pub(super) fn stranger_name(via: Via) -> Option<String> {
    (via == stranger::VIA).then(|| title(stranger::NAME, via))
}

/// Builds those that boot on these ways; their boots.
pub(super) fn boots(suite: &Suite, vias: &[Via]) -> Result<Vec<Boot>> {
    let mut boots = Vec::new();
    for (example, _) in ALL {
        let rows = TABLE.iter().filter(|row| row.example == *example);
        let rows = rows.flat_map(|row| row.smoke.vias.iter().map(move |via| (row, *via)));
        let rows = rows
            .filter(|(row, via)| vias.contains(via) && suite.wants(&title(row.smoke.name, *via)));
        let rows: Vec<_> = rows.collect();
        if rows.is_empty() {
            continue;
        }
        let kernel = build(&suite.workspace, example)?;
        boots.extend(rows.into_iter().map(|(row, via)| Boot {
            name: title(row.smoke.name, via),
            job: Job {
                cmdline: row.smoke.cmdline.into(),
                timeout: Some(smoke::TIMEOUT),
                ..Job::new(row.smoke.name.replace(' ', "-"), via, kernel.clone())
            },
            check: Box::new(|transcript, end| smoke::check(&row.smoke, &transcript.guest, end)),
        }));
    }
    Ok(boots)
}

/// Has a kernel made as the README says, where one of these ways is that by which it boots it.
pub(super) fn run(suite: &mut Suite, provision: &ProvisionArgs, vias: &[Via]) -> Result<()> {
    match vias.contains(&stranger::VIA) {
        true => stranger::run(suite, provision),
        false => Ok(()),
    }
}

/// The manifest of an example, from the repository's root.
pub(super) fn manifest(example: &str) -> String {
    format!("{EXAMPLES}/{example}/Cargo.toml")
}

/// A cargo command for an example, from its directory: as its own manifest, its own lock file and its
/// own configuration have it.
pub(super) fn cargo(workspace: &Workspace, example: &str, command: &str) -> std::process::Command {
    let mut cargo = workspace.cargo();
    compile::leave_out(&mut cargo, std::env::vars_os());
    cargo
        .current_dir(workspace.root.join(EXAMPLES).join(example))
        .args([command, "--locked", "--target-dir"])
        .arg(target(workspace));
    cargo
}

/// Where cargo puts what it builds of them.
fn target(workspace: &Workspace) -> PathBuf {
    workspace.target.join("examples")
}

fn build(workspace: &Workspace, example: &str) -> Result<PathBuf> {
    rust::ensure_target(&workspace.root)?;
    let mut cargo = cargo(workspace, example, "build");
    cargo.args(["--release", "--quiet"]);
    let status = process::status(&mut cargo, Failure::file("run", "cargo"))?;
    if !status.success() {
        let what = format!("the example {example} does not build; see cargo's message");
        return Err(Failure::Guest(what));
    }
    let built = Path::new(rust::TARGET).join("release").join(example);
    Ok(target(workspace).join(built))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    #[test]
    fn examples_are_short_enough_to_be_read() {
        let mut there: Vec<_> = std::fs::read_dir(root().join(EXAMPLES))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        assert_eq!(there, ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        for (name, most) in ALL {
            let path = root().join(EXAMPLES).join(name).join("src/main.rs");
            let lines = std::fs::read_to_string(path).unwrap().lines().count();
            assert!(lines < *most, "{name} has {lines} lines, not under {most}");
        }
    }

    #[test]
    fn each_example_is_booted_and_each_row_has_its_example() {
        for (name, _) in ALL {
            assert!(TABLE.iter().any(|row| row.example == *name), "{name}");
        }
        for row in TABLE {
            assert!(ALL.iter().any(|(name, _)| *name == row.example));
        }
    }
}
