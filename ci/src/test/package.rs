//! The crates that other kernels take: each is packed as for a registry and builds from its package
//! alone, with the others of the repository as they are here; and all of them by the oldest Rust that
//! they say they take, where rustup has it.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::{Suite, checks, quietly};
use crate::compile;
use crate::exit::{Failure, Result};
use crate::process;
use crate::provision::rust;

/// The packages, and where they are.
pub(super) const CRATES: &[(&str, &str)] = &[
    ("byte-ring", "hypercall/byte-ring"),
    ("hypercall", "hypercall"),
    ("marks", "linker/marks"),
    ("model", "hypercall/model"),
    ("pagetable", "hypercall/pagetable"),
    ("rules", "hypercall/rules"),
    ("xen-pv-rt", "hypercall/rt"),
    ("xenstore-wire", "hypercall/xenstore"),
];

/// Packs and builds each.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    for (name, _) in CRATES {
        let since = Instant::now();
        let mut command = suite.workspace.cargo();
        command.args(["package", "--allow-dirty", "--package", name]);
        command
            .arg("--target-dir")
            .arg(suite.workspace.target.join("package-check"));
        for (other, dir) in CRATES.iter().filter(|(other, _)| other != name) {
            let path = suite.workspace.root.join(dir);
            command.args(["--config", &patch(other, &path)]);
        }
        let title = format!("package: {name}");
        let failed = Failure::file("run", "cargo");
        let output = quietly(&title, || process::output(&mut command, failed))?;
        let result = match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        };
        suite.report(&title, since, result);
    }
    oldest(suite)
}

/// Compiles all of them with the oldest Rust, for the host and without a system.
fn oldest(suite: &mut Suite) -> Result<()> {
    let version = oldest_rust(&suite.workspace.root)? + ".0";
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "list", "--installed", "--toolchain", &version]);
    let targets = process::output(&mut rustup, Failure::file("run", "rustup"));
    let has = |target: &str| {
        let targets = targets.as_ref().map_or(&[][..], |output| &output.stdout);
        String::from_utf8_lossy(targets)
            .lines()
            .any(|line| line == target)
    };
    let install = format!(
        "rustup toolchain install {version} --profile minimal --target {}",
        rust::TARGET
    );
    for (title, target, features) in [
        ("for the host", "x86_64-unknown-linux-gnu", &[][..]),
        ("without a system", rust::TARGET, checks::OPTIONAL),
    ] {
        let title = format!("package: all build by Rust {version}, {title}");
        if !has(target) {
            println!("skip  {title}: {install}");
            continue;
        }
        let mut command = Command::new("rustup");
        compile::leave_out(&mut command, std::env::vars_os());
        let crates = CRATES.iter().map(|(name, _)| *name);
        let crates = crates.filter(|name| target != rust::TARGET || checks::is_freestanding(name));
        command
            .current_dir(&suite.workspace.root)
            .args(["run", &version, "cargo", "check", "--quiet", "--locked"])
            .args(["--target", target, "--target-dir"])
            .arg(suite.workspace.target.join("oldest"))
            .args(features)
            .args(crates.flat_map(|name| ["--package", name]));
        checks::single(suite, &title, command)?;
    }
    Ok(())
}

/// The version in the root's manifest.
fn oldest_rust(root: &Path) -> Result<String> {
    let manifest = root.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).map_err(Failure::file("read", &manifest))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \""));
    let version = line.map_or("", |rest| rest.trim_end_matches('"'));
    Ok(version.into())
}

/// Has a crate of the registry, which may have one of this name, be that of the repository.
fn patch(name: &str, path: &Path) -> String {
    format!(
        "patch.crates-io.{name}.path={:?}",
        path.display().to_string()
    )
}

#[cfg(test)]
mod tests {
    use cargo_metadata::{DependencyKind, MetadataCommand};

    use super::*;

    #[test]
    fn what_a_package_needs_is_there() {
        let metadata = MetadataCommand::new().no_deps().exec().unwrap();
        let root = metadata.workspace_root.as_std_path();
        let below = |dir: &str| {
            let all = metadata.packages.iter();
            let dir = root.join(dir);
            all.filter(move |package| package.manifest_path.as_std_path().starts_with(&dir))
        };
        let mut names: Vec<_> = below("hypercall")
            .chain(below("linker/marks"))
            .map(|p| p.name.as_str())
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            CRATES.iter().map(|(name, _)| *name).collect::<Vec<_>>()
        );
        for (name, dir) in CRATES {
            let mut packages = metadata.packages.iter();
            let package = packages.find(|package| package.name == *name).unwrap();
            assert_eq!(
                package.manifest_path.as_std_path(),
                root.join(dir).join("Cargo.toml")
            );
            assert!(
                package.description.is_some() && package.license.is_some(),
                "{name}"
            );
            assert!((1..=5).contains(&package.keywords.len()), "{name}");
            let oldest = oldest_rust(root).unwrap();
            let said = package.rust_version.as_ref().unwrap();
            assert_eq!(format!("{}.{}", said.major, said.minor), oldest, "{name}");
            let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
            assert!(readme.contains(&format!("Rust {oldest}")), "README.md");
            assert!(!package.categories.is_empty(), "{name}");
            let readme = root.join(dir).join(package.readme.as_ref().unwrap());
            let text = std::fs::read_to_string(&readme).unwrap();
            assert!(
                text.starts_with(&format!("# {name}\n")),
                "{}",
                readme.display()
            );
            for dependency in &package.dependencies {
                let Some(path) = &dependency.path else {
                    continue;
                };
                // Of a package its tests have no need, and cargo leaves out what has no version.
                let version = dependency.req.to_string();
                let expected = match dependency.kind {
                    DependencyKind::Development => "*".to_owned(),
                    _ => format!("={}", package.version),
                };
                assert_eq!(version, expected, "{name} on {path}");
                assert!(
                    names.contains(&dependency.name.as_str()),
                    "{name} on {path}"
                );
            }
        }
    }

    #[test]
    fn a_crate_of_the_registry_is_replaced_by_that_of_the_repository() {
        let text = patch("model", Path::new("/a b/model"));
        assert_eq!(text, "patch.crates-io.model.path=\"/a b/model\"");
    }
}
