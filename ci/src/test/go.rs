//! A static program of Go's, as its makers give it away: esbuild, by npm, whose run time has threads, signals
//! and memory in ways that no program of Rust or C has.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use super::quietly;
use crate::exit::{Failure, Result};
use crate::ui;

/// The package, in a version whose bytes npm compares with the registry's sum.
const PACKAGE: &str = "@esbuild/linux-x64@0.28.2";

/// The program, from `dir` or by npm; none, and a word about that, where npm is not there or cannot have it.
pub(super) fn esbuild(dir: &Path) -> Result<Option<Vec<u8>>> {
    let program = dir.join("package/bin/esbuild");
    if !program.exists() {
        std::fs::create_dir_all(dir).map_err(Failure::file("create", dir))?;
        let fetched = quietly("fetch a program of Go's by npm", || fetch(dir));
        if let Err(why) = fetched {
            ui::say(format!("no program of Go's is run: {why}"));
            return Ok(None);
        }
    }
    let bytes = std::fs::read(&program).map_err(Failure::file("read", &program))?;
    Ok(Some(bytes))
}

fn fetch(dir: &Path) -> std::result::Result<(), String> {
    let run = |command: &mut Command| {
        let name = command.get_program().to_string_lossy().into_owned();
        match command.current_dir(dir).output() {
            Ok(output) if output.status.success() => Ok(output.stdout),
            Ok(output) => Err(format!(
                "{name}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(e) if e.kind() == ErrorKind::NotFound => Err(format!("{name} is not there")),
            Err(e) => Err(format!("{name}: {e}")),
        }
    };
    let packed = run(Command::new("npm").args(["pack", "--silent", PACKAGE]))?;
    let packed = String::from_utf8_lossy(&packed);
    let file = packed.lines().last().unwrap_or_default().trim();
    run(Command::new("tar").args(["-xzf", file])).map(drop)
}
