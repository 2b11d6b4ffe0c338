//! The build itself: it depends on what the repository says, not on the environment.

use std::time::Instant;

use super::{Suite, checks, quietly};
use crate::exit::{Failure, Result};
use crate::process;
use crate::provision::rust;

/// What must not change the image. The image that is there already was built without.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("RUSTFLAGS", "-Cdebuginfo=2"),
    ("CARGO_ENCODED_RUSTFLAGS", "-Cdebuginfo=2"),
    ("CARGO_BUILD_RUSTFLAGS", "-Cdebuginfo=2"),
    (
        "CARGO_TARGET_X86_64_UNKNOWN_NONE_RUSTFLAGS",
        "-Cforce-frame-pointers=no",
    ),
    ("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", "false"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
    ("CARGO_INCREMENTAL", "1"),
    ("CARGO_BUILD_TARGET", rust::TARGET),
    ("RUSTC_WORKSPACE_WRAPPER", "false"),
];

/// Builds the kernel in a hostile environment, and by cargo alone without its flags.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    let path = suite.kernel()?;
    let read = || std::fs::read(&path).map_err(Failure::file("read", &path));
    let before = read()?;
    let mut command = process::own()?;
    command
        .arg("build")
        .current_dir(&suite.workspace.root)
        .envs(ENVIRONMENT.iter().copied());
    let since = Instant::now();
    let name = "build: the environment does not change the image";
    let output = quietly(name, || {
        process::output(&mut command, Failure::file("run", "cargo xtask build"))
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    let result = match (output.status.success(), before == read()?) {
        (true, true) => Ok(()),
        (true, false) => Err("the image is another one".into()),
        (false, _) => Err(format!("it does not build\n{said}")),
    };
    suite.report(name, since, result);

    let mut command = suite.workspace.cargo();
    command
        .args(["check", "--package", "guest", "--target", rust::TARGET])
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-Cdebuginfo=1");
    let since = Instant::now();
    let name = "build: cargo alone refuses to build the kernel without its flags";
    let (success, text) = checks::run(name, command)?;
    let result = match (success, text.contains("build by `cargo xtask build`")) {
        (false, true) => Ok(()),
        (false, false) => Err(format!("it fails for another reason\n{text}")),
        (true, _) => Err("it builds".into()),
    };
    suite.report(name, since, result);
    Ok(())
}
