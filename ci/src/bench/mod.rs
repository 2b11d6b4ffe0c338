//! `cargo xtask bench`: what the kernel's operations cost, in instructions of kernel and Xen
//! together.
//!
//! QEMU counts (`-icount shift=0,sleep=off`): the time-stamp counter then advances by one an
//! instruction, the same to the digit in every run, so a figure says something about the code and
//! nothing about the machine it ran on. `run` boots and reads, `report` keeps, `table`, `plot` and
//! `readme` show, `baseline` judges; `cache` counts what a count of instructions does not see.

mod baseline;
mod cache;
mod curve;
mod linux;
mod plot;
mod readme;
mod report;
mod run;
mod table;

use std::path::{Path, PathBuf};

use crate::cli::{BenchArgs, Versus};
use crate::exit::{Failure, Result};
use crate::provision::Provision;
use crate::ui;
use crate::workspace::Workspace;

pub(crate) use baseline::{Baseline, Change, Judgement, TOLERANCE_PERCENT};
pub(crate) use curve::{RISE_FROM_ONE_PERCENT, RISE_PERCENT, rises};
pub(crate) use readme::{Compared, compare};
pub(crate) use report::{Measurement, Report};

/// Where results go, below cargo's output directory.
const DIR: &str = "bench";

/// Measures, prints, writes.
pub(crate) fn bench(arguments: &BenchArgs) -> Result<()> {
    if (arguments.renew || arguments.readme) && (!arguments.names.is_empty() || arguments.programs)
    {
        return Err(Failure::Usage(
            "--renew and --readme take the whole bench: name no operations, and no part of it"
                .into(),
        ));
    }
    let workspace = Workspace::find()?;
    let provision = arguments.provision.open()?;
    let image = workspace.build_kernel()?;
    if arguments.cache {
        println!(
            "{}",
            cache::table(&workspace, &provision, &image, &arguments.names)?
        );
        return Ok(());
    }
    let mut report = match arguments.programs {
        true => run::programs(&workspace, &provision, &image)?,
        false => run::kernel(&workspace, &provision, &image, &arguments.names)?,
    };
    if !arguments.programs && arguments.names.is_empty() {
        report.programs = run::programs(&workspace, &provision, &image)?.programs;
    }
    if wants_sizes(arguments) {
        report.kernel.push(run::lean(&workspace, &provision)?);
        report.memory = run::memory_sizes(&workspace, &provision, &image, run::SIZES)?;
    }
    if arguments.vs == Some(Versus::Linux) || arguments.readme {
        report.linux = linux::measure(&workspace, &provision, &arguments.names)?;
    }
    println!("{}", table::all(&report));

    let dir = workspace.target.join(DIR);
    std::fs::create_dir_all(&dir).map_err(Failure::file("create", &dir))?;
    let json = arguments.json.clone().unwrap_or(dir.join("bench.json"));
    write(&json, &report.to_json())?;
    let plots = arguments.plot.clone().unwrap_or(dir);
    std::fs::create_dir_all(&plots).map_err(Failure::file("create", &plots))?;
    let mut written = vec![json];
    for (name, svg) in plot::all(&report)? {
        let path = plots.join(name);
        write(&path, &svg)?;
        written.push(path);
    }
    if arguments.renew {
        written.push(renew(&workspace, &report)?);
    }
    if arguments.readme {
        written.extend(readme::write(&workspace.root, &report)?);
    }
    let names: Vec<_> = written
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    ui::say(format!("written: {}", names.join(" ")));
    Ok(())
}

/// Memory sizes take several boots: only with the whole bench, or when the entry is asked for.
fn wants_sizes(arguments: &BenchArgs) -> bool {
    !arguments.programs && arguments.names.is_empty()
        || arguments.names.iter().any(|name| name.starts_with("entry"))
}

/// Renews the baseline and prints what changed.
fn renew(workspace: &Workspace, report: &Report) -> Result<PathBuf> {
    let path = Baseline::path(&workspace.root);
    let mut baseline = Baseline::read(&path)?;
    for change in baseline.renew(report) {
        println!("{change}");
    }
    write(&path, &baseline.to_json())?;
    Ok(path)
}

/// The run that the regression gate judges, with the boots that the README tells of.
pub(crate) fn for_gate(
    workspace: &Workspace,
    provision: &Provision,
    image: &Path,
) -> Result<Report> {
    let mut report = run::kernel(workspace, provision, image, &[])?;
    report.programs = run::programs(workspace, provision, image)?.programs;
    report.kernel.push(run::lean(workspace, provision)?);
    report.memory = run::memory_sizes(workspace, provision, image, run::ENDS)?;
    Ok(report)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Failure::file("write", path))
}
