//! A static program of Go's, as its makers give it away: esbuild, by npm, whose run time has threads, signals
//! and memory in ways that no program of Rust or C has.

use std::path::Path;
use std::process::Command;

use super::quietly;
use crate::exit::{Failure, Result};
use crate::process;
use crate::ui;

/// The package, in a version whose bytes npm compares with the registry's sum.
const PACKAGE: &str = "@esbuild/linux-x64@0.28.2";

/// The program, from `dir` or by npm; none, and a word about that, where npm is not there or cannot have it.
pub(super) fn esbuild(dir: &Path) -> Result<Option<Vec<u8>>> {
    let program = dir.join("package/bin/esbuild");
    if !program.exists() {
        std::fs::create_dir_all(dir).map_err(Failure::file("create", dir))?;
        match quietly("fetch a program of Go's by npm", || fetch(dir)) {
            Ok(()) => {}
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(why) => {
                ui::say(format!("no program of Go's is run: {why}"));
                return Ok(None);
            }
        }
    }
    let bytes = std::fs::read(&program).map_err(Failure::file("read", &program))?;
    Ok(Some(bytes))
}

fn fetch(dir: &Path) -> Result<()> {
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(dir);
        let output = process::output(&mut command, Failure::file("run", program))?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(Failure::host(
                String::from_utf8_lossy(&output.stderr).trim(),
                format!("have {program} work by itself"),
            )),
        }
    };
    let packed = run("npm", &["pack", "--silent", PACKAGE])?;
    let packed = String::from_utf8_lossy(&packed);
    let file = packed.lines().last().unwrap_or_default().trim();
    run("tar", &["-xzf", file]).map(drop)
}
