//! What an installation of Rust may lack: the freestanding target, which rustup does not install by
//! itself everywhere, and Miri.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::exit::{Failure, Result};
use crate::process;
use crate::ui;

/// What the kernel is compiled for.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

/// Whether the toolchain has the target.
pub(crate) fn has_target(workspace: &Path) -> Result<bool> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(workspace);
    let sysroot = sysroot(rustc).map_err(|error| {
        Failure::host(
            format!("rustc cannot be run: {error}"),
            "install Rust with rustup",
        )
    })?;
    Ok(sysroot.join("lib/rustlib").join(TARGET).is_dir())
}

/// Whether the toolchain of this compiler has the target, or why it does not say.
pub(crate) fn compiles(rustc: &Path, workspace: &Path) -> std::result::Result<bool, String> {
    let mut command = Command::new(rustc);
    command.current_dir(workspace);
    Ok(sysroot(command)?.join("lib/rustlib").join(TARGET).is_dir())
}

/// Adds the target to the toolchain if it is missing.
pub(crate) fn ensure_target(workspace: &Path) -> Result<()> {
    if has_target(workspace)? {
        return Ok(());
    }
    add(
        workspace,
        &format!("Rust target {TARGET}"),
        &["target", "add", TARGET],
    )
}

/// Adds Miri to the nightly toolchain if it is missing. The toolchain itself is for its owner to
/// add: it is not what the kernel is built with.
pub(crate) fn ensure_miri(workspace: &Path) -> Result<()> {
    let sysroot = sysroot(nightly(workspace, "rustc")).map_err(|error| {
        Failure::host(
            format!("Miri is part of nightly Rust, which cannot be run: {error}"),
            "rustup toolchain install nightly --profile minimal",
        )
    })?;
    let parts = ["bin/cargo-miri", "bin/miri", "lib/rustlib/src/rust/library"];
    if parts.iter().all(|part| sysroot.join(part).exists()) {
        return Ok(());
    }
    add(
        workspace,
        "Miri",
        &[
            "component",
            "add",
            "miri",
            "rust-src",
            "--toolchain",
            "nightly",
        ],
    )
}

/// A program of the nightly toolchain.
pub(crate) fn nightly(workspace: &Path, program: &str) -> Command {
    let mut command = Command::new("rustup");
    command
        .current_dir(workspace)
        .args(["run", "nightly", program]);
    command
}

/// Where a compiler's toolchain is, or why it does not say.
fn sysroot(mut rustc: Command) -> std::result::Result<PathBuf, String> {
    let output = rustc
        .args(["--print", "sysroot"])
        .output()
        .map_err(|error| error.to_string())?;
    let [said, complaint] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if output.status.success() {
        Ok(said.trim().into())
    } else {
        Err(complaint.lines().next().unwrap_or_default().to_owned())
    }
}

/// Has rustup add what is missing, after saying so.
fn add(workspace: &Path, what: &str, arguments: &[&str]) -> Result<()> {
    ui::say(format!("{what} is missing; adding it with rustup"));
    let mut rustup = Command::new("rustup");
    rustup.current_dir(workspace).args(arguments);
    let status = process::status(&mut rustup, |error| {
        Failure::host(
            format!("{what} is missing and rustup cannot be run: {error}"),
            "install it the way your Rust was installed",
        )
    })?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::host(
            format!("`rustup {}` failed", arguments.join(" ")),
            "see its message above; a toolchain without rustup needs a package of its own for it",
        ))
    }
}
