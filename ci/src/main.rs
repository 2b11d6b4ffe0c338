//! The command behind `cargo xtask`: builds the kernel, brings up real Xen under QEMU without
//! installing anything, boots the kernel in every PV way and judges how it went.
//!
//! `provision` gets what is needed, `stack` runs it, `console` reads what it says, `test` puts
//! these together into the suite, `bench` counts. Start at `boot`.

mod bench;
mod boot;
mod cli;
mod compile;
mod console;
mod doctor;
mod exit;
mod fuzz;
mod image;
mod interrupt;
mod locate;
mod process;
mod provision;
mod report;
mod rules;
mod soak;
mod stack;
mod test;
mod ui;
mod words;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use exit::{Failure, Result};
use provision::cache::Cache;
use provision::gather;
use provision::packages::Bundle;
use workspace::Workspace;

fn main() -> ExitCode {
    interrupt::watch();
    process::remember_own();
    let cli = Cli::parse();
    match workspace::keep_apart().and_then(|()| run(&cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Boot(arguments) => boot::boot(arguments),
        Command::Doctor(arguments) => doctor::doctor(arguments),
        Command::Setup(arguments) => boot::setup(arguments),
        Command::Build(arguments) => {
            let workspace = Workspace::find()?;
            let image = match arguments.lean {
                true => workspace.build_lean_kernel()?,
                false => workspace.build_kernel()?,
            };
            println!("{}", image.display());
            match arguments.show {
                true => image::show(&image),
                false => Ok(()),
            }
        }
        Command::Rules(arguments) => rules::rules(arguments),
        Command::Fuzz(arguments) => fuzz::fuzz(arguments),
        Command::Soak(arguments) => soak::soak(arguments),
        Command::Test(arguments) => test::test(arguments),
        Command::Bench(arguments) => bench::bench(arguments),
        Command::Lock(arguments) => match &arguments.into {
            Some(dir) => gather::gather(&Bundle::all().collect::<Vec<_>>(), dir),
            None => provision::lock::renew(&Workspace::find()?.root),
        },
        Command::Clean(arguments) => clean(arguments.cache),
    }
}

fn clean(cache: bool) -> Result<()> {
    let logs = Workspace::find()?.target.join("boot");
    if logs.exists() {
        std::fs::remove_dir_all(&logs).map_err(Failure::file("delete", &logs))?;
    }
    if cache {
        Cache::open()?.empty()
    } else {
        Ok(())
    }
}
