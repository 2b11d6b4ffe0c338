//! The freestanding Rust target, which rustup does not install by itself everywhere.

use std::path::Path;
use std::process::Command;

use crate::exit::{Failure, Result};
use crate::ui;

/// What the kernel is compiled for.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

/// Adds the target to the toolchain if it is missing.
pub(crate) fn ensure_target(workspace: &Path) -> Result<()> {
    let output = Command::new("rustc")
        .current_dir(workspace)
        .args(["--print", "sysroot"])
        .output()
        .map_err(|error| {
            Failure::host(
                format!("rustc cannot be run: {error}"),
                "install Rust with rustup",
            )
        })?;
    let sysroot = String::from_utf8_lossy(&output.stdout);
    if Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(TARGET)
        .is_dir()
    {
        return Ok(());
    }
    ui::say(format!(
        "Rust target {TARGET} is missing; adding it with rustup"
    ));
    let status = Command::new("rustup")
        .current_dir(workspace)
        .args(["target", "add", TARGET])
        .status()
        .map_err(|error| {
            Failure::host(
                format!("the Rust target {TARGET} is missing and rustup cannot be run: {error}"),
                "install the target the way your Rust was installed",
            )
        })?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::host(
            format!("`rustup target add {TARGET}` failed"),
            "see its message above; a toolchain without rustup needs the target's own package",
        ))
    }
}
