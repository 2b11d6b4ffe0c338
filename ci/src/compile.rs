//! How the kernel is compiled, whatever the environment says: an image must not depend on what its
//! build does not see.
//!
//! Cargo lets variables of the environment replace the compiler, its flags and every line of a
//! profile, and configuration files above the repository or in a home directory as well. What the
//! image needs is therefore passed where nothing outranks it, and what would replace the rest is
//! not handed on, and is named.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::exit::{Failure, Result};

/// Variables that say how something is compiled, in whole or by their beginning.
const REPLACING: &[&str] = &[
    "RUSTFLAGS",
    "RUSTC",
    "RUSTC_BOOTSTRAP",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_BUILD_*",
    "CARGO_PROFILE_*",
    "CARGO_TARGET_X86_64_UNKNOWN_NONE_*",
    "CARGO_UNSTABLE_*",
];

/// Of these, what only says where things go and how fast.
const HARMLESS: &[&str] = &[
    "CARGO_BUILD_BUILD_DIR",
    "CARGO_BUILD_JOBS",
    "CARGO_BUILD_TARGET_DIR",
];

/// What configuration files could replace, besides the profile.
const CONFIGURED: &[(&str, &str)] = &[
    ("build.rustc", "\"rustc\""),
    ("build.rustc-wrapper", "\"\""),
    ("build.rustc-workspace-wrapper", "\"\""),
    ("target.x86_64-unknown-none.linker", "\"rust-lld\""),
];

fn replaces(name: &str) -> bool {
    let is = |known: &str| match known.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == known,
    };
    REPLACING.iter().any(|known| is(known)) && !HARMLESS.contains(&name)
}

/// Has a cargo command at `root` compile the kernel's way; the names of what is not handed on of the
/// environment.
///
/// # Errors
/// The manifest that has the profile cannot be read.
pub(crate) fn seal(
    cargo: &mut Command,
    root: &Path,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<String>> {
    let manifest = root.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).map_err(Failure::file("read", &manifest))?;
    let dropped = leave_out(cargo, environment);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", linker::flags::encoded());
    for (key, value) in profile(&text) {
        cargo.arg("--config");
        cargo.arg(format!("profile.release.{key}={value}"));
    }
    for (key, value) in CONFIGURED {
        cargo.arg("--config").arg(format!("{key}={value}"));
    }
    Ok(dropped)
}

/// Has a cargo command compile as manifests and configuration files say; the names of what is not
/// handed on of the environment.
pub(crate) fn leave_out(
    cargo: &mut Command,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<String> {
    let names = environment.filter_map(|(name, _)| name.into_string().ok());
    let dropped: Vec<_> = names.filter(|name| replaces(name)).collect();
    for name in &dropped {
        cargo.env_remove(name);
    }
    dropped
}

/// The lines of the release profile: key and value, as they are written.
fn profile(manifest: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = manifest.lines().map(str::trim);
    lines
        .skip_while(|line| *line != "[profile.release]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &[&str] = &[
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_PROFILE_RELEASE_LTO",
        "CARGO_TARGET_X86_64_UNKNOWN_NONE_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
    ];

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    fn sealed(names: &[&str]) -> (Command, Vec<String>) {
        let mut cargo = Command::new("cargo");
        let variables = names.iter().map(|name| (name.into(), "x".into()));
        let dropped = seal(&mut cargo, root(), variables).unwrap();
        (cargo, dropped)
    }

    #[test]
    fn what_would_replace_flags_is_not_handed_on_and_is_named() {
        let (cargo, dropped) = sealed(HOSTILE);
        assert_eq!(dropped, HOSTILE);
        for name in HOSTILE {
            let (_, value) = cargo.get_envs().find(|(key, _)| key == name).unwrap();
            let own = (*name == "CARGO_ENCODED_RUSTFLAGS").then(linker::flags::encoded);
            assert_eq!(value.map(|value| value.to_str().unwrap().to_owned()), own);
        }
    }

    #[test]
    fn where_things_go_is_the_caller_s() {
        let names = [
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_JOBS",
            "CARGO",
            "PATH",
            "RUSTUP_TOOLCHAIN",
        ];
        assert!(sealed(&names).1.is_empty());
    }

    #[test]
    fn the_whole_profile_is_passed_on() {
        let (cargo, _) = sealed(&[]);
        let args: Vec<_> = cargo.get_args().map(|arg| arg.to_str().unwrap()).collect();
        for key in [
            "opt-level=3",
            "debug=\"line-tables-only\"",
            "split-debuginfo=\"off\"",
            "strip=\"none\"",
            "debug-assertions=false",
            "overflow-checks=false",
            "lto=\"fat\"",
            "panic=\"abort\"",
            "incremental=false",
            "codegen-units=1",
            "rpath=false",
        ] {
            let line = format!("profile.release.{key}");
            assert!(args.contains(&line.as_str()), "{line}");
        }
    }
}
