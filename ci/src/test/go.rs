//! A static program of Go's, as its makers give it away: esbuild, by npm, whose run time has threads, signals
//! and memory in ways that no program of Rust or C has.

use std::path::Path;
use std::process::Command;

use super::quietly;
use crate::exit::{Failure, Result};
use crate::process;
use crate::provision::cache::Cache;
use crate::ui;

/// The package, in a version whose bytes npm compares with the registry's sum.
const PACKAGE: &str = "@esbuild/linux-x64@0.28.2";
/// What the cache calls its program.
const KEY: &str = "esbuild_0.28.2";

/// The program, from the cache or by npm; none, and a word about that, where npm is not there or cannot have
/// it.
pub(super) fn esbuild(cache: &Cache) -> Result<Option<Vec<u8>>> {
    let made = quietly("have a program of Go's, by npm", || {
        cache.derived(KEY, |draft| {
            let dir = cache.temporary()?;
            fetch(dir.path())?;
            let program = dir.path().join("package/bin/esbuild");
            std::fs::rename(&program, draft).map_err(Failure::file("move", &program))
        })
    });
    match made {
        Ok(program) => {
            let bytes = std::fs::read(&program).map_err(Failure::file("read", &program))?;
            Ok(Some(bytes))
        }
        Err(Failure::Interrupted) => Err(Failure::Interrupted),
        Err(why) => {
            ui::say(format!("no program of Go's is run: {why}"));
            Ok(None)
        }
    }
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
