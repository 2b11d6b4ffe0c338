//! The repository this runs in, and the kernel built from it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::exit::{Failure, Result};
use crate::image;
use crate::provision::rust;

/// How many runs keep their logs.
const KEPT_RUNS: usize = 10;

/// The manifest of the fuzzer that coverage guides: a workspace of its own.
pub(crate) const FUZZER: &str = "guest/fuzz/Cargo.toml";

/// The repository and cargo's output directory.
pub(crate) struct Workspace {
    /// Where `Cargo.toml` is.
    pub(crate) root: PathBuf,
    /// Where cargo puts what it builds.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let metadata = cargo_metadata::MetadataCommand::new()
            .current_dir(if manifest.is_dir() {
                manifest
            } else {
                Path::new(".")
            })
            .no_deps()
            .exec()
            .map_err(|error| {
                Failure::host(
                    format!("cargo does not describe the workspace: {error}"),
                    "run `cargo xtask` inside the repository",
                )
            })?;
        Ok(Self {
            root: metadata.workspace_root.into_std_path_buf(),
            target: metadata.target_directory.into_std_path_buf(),
        })
    }

    /// A cargo command at the root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        command
    }

    /// A cargo command for the fuzzer, as its lock file has it.
    pub(crate) fn fuzzer_cargo(&self, command: &str) -> Command {
        let mut cargo = self.cargo();
        cargo.args([command, "--locked", "--manifest-path", FUZZER]);
        cargo
    }

    /// Where cargo puts what it builds of the fuzzer.
    pub(crate) fn fuzzer_target(&self) -> PathBuf {
        self.target.join("fuzz/build")
    }

    /// Builds the kernel and returns the image.
    pub(crate) fn build_kernel(&self) -> Result<PathBuf> {
        let built = self.build("guest")?;
        image::finish(&built)?;
        Ok(built)
    }

    /// Builds the program of a package for the kernel's target.
    pub(crate) fn build(&self, package: &str) -> Result<PathBuf> {
        rust::ensure_target(&self.root)?;
        let status = self
            .cargo()
            .args(["build", "--release", "--package", package, "--bin", package])
            .args(["--target", rust::TARGET])
            .status()
            .map_err(Failure::file("run", "cargo"))?;
        if !status.success() {
            return Err(Failure::Guest(format!(
                "{package} does not build; see cargo's message"
            )));
        }
        Ok(self.target.join(rust::TARGET).join("release").join(package))
    }

    /// A new directory for the logs of a run; the oldest of earlier ones go.
    pub(crate) fn run_dir(&self, name: &str) -> Result<PathBuf> {
        let parent = self.target.join("boot");
        prune(&parent, KEPT_RUNS - 1);
        let seconds = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs());
        let dir = parent.join(format!("{seconds}-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(Failure::file("create", &dir))?;
        Ok(dir)
    }
}

/// Deletes all but the newest `keep` directories below `parent`.
fn prune(parent: &Path, keep: usize) {
    let mut runs: Vec<_> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    runs.sort();
    for (_, path) in runs.iter().rev().skip(keep) {
        let _ = std::fs::remove_dir_all(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_runs_go_and_new_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..4 {
            std::fs::create_dir(dir.path().join(number.to_string())).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(15));
        }
        prune(dir.path(), 2);
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["2", "3"]);
    }
}
