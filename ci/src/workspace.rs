//! The repository this runs in, and the kernel built from it.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::compile;
use crate::exit::{Failure, Result};
use crate::image;
use crate::process;
use crate::provision::rust;
use crate::ui;

/// How many runs keep their logs.
const KEPT_RUNS: usize = 10;

/// The manifest of the fuzzer that coverage guides: a workspace of its own.
pub(crate) const FUZZER: &str = "guest/fuzz/Cargo.toml";

/// The features of the lean kernel.
pub(crate) const LEAN: &[&str] = &["--no-default-features", "--features=small"];

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
        let metadata = cargo_metadata::MetadataCommand::new()
            .current_dir(here())
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

    /// A cargo command at the root, for the host unless it says otherwise.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .current_dir(&self.root)
            .env_remove("CARGO_BUILD_TARGET");
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

    /// Builds the kernel without tests, programs and names, for size, in an output directory of its
    /// own, and returns the image.
    pub(crate) fn build_lean_kernel(&self) -> Result<PathBuf> {
        let target = self.lean_target();
        // Behind the manifest's own, whose place it takes.
        let for_size = ["--config", "profile.release.opt-level=\"z\""];
        let built = self.build_in(&target, "guest", &[LEAN, &for_size].concat())?;
        image::finish(&built)?;
        Ok(built)
    }

    /// Builds the plugin of QEMU that models caches.
    pub(crate) fn build_cache_model(&self) -> Result<PathBuf> {
        let mut cargo = self.cargo();
        cargo.args(["build", "--quiet", "--release", "--package", "cache-model"]);
        cargo.arg("--target-dir").arg(&self.target);
        let status = process::status(&mut cargo, Failure::file("run", "cargo"))?;
        if !status.success() {
            let what = "the plugin of QEMU does not build; see cargo's message";
            return Err(Failure::Guest(what.into()));
        }
        let name = format!("{}cache_model{}", DLL_PREFIX, DLL_SUFFIX);
        Ok(self.target.join("release").join(name))
    }

    fn lean_target(&self) -> PathBuf {
        self.target.join("lean")
    }

    /// Where the image is, once built, with its tests or without.
    pub(crate) fn image(&self, lean: bool) -> PathBuf {
        match lean {
            true => image_in(&self.lean_target(), "guest"),
            false => image_in(&self.target, "guest"),
        }
    }

    /// Builds the program of a package for the kernel's target, by the flags and the profile that
    /// the repository says and nothing else does.
    pub(crate) fn build(&self, package: &str) -> Result<PathBuf> {
        self.build_in(&self.target, package, &[])
    }

    fn build_in(&self, target: &Path, package: &str, more: &[&str]) -> Result<PathBuf> {
        rust::ensure_target(&self.root)?;
        let mut cargo = self.cargo();
        let dropped = compile::seal(&mut cargo, &self.root, std::env::vars_os())?;
        if !dropped.is_empty() {
            let names = dropped.join(", ");
            ui::say(format!(
                "the kernel is compiled by its own flags, not by {names}"
            ));
        }
        cargo
            .args(["build", "--release", "--package", package, "--bin", package])
            .args(["--target", rust::TARGET, "--target-dir"])
            .arg(target)
            .args(more);
        let status = process::status(&mut cargo, Failure::file("run", "cargo"))?;
        if !status.success() {
            return Err(Failure::Guest(format!(
                "{package} does not build; see cargo's message"
            )));
        }
        Ok(image_in(target, package))
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

fn image_in(target: &Path, package: &str) -> PathBuf {
    target.join(rust::TARGET).join("release").join(package)
}

/// Starts this program anew in an output directory of this checkout's own, if cargo put it into one
/// that lies elsewhere and that other checkouts may share.
///
/// Cargo knows a package by its place below the workspace and takes a file for unchanged by its
/// age, so that in a shared directory the programs and the kernel of one checkout pass for those of
/// another.
///
/// # Errors
/// Cargo does not say where it puts things, or cannot be run.
pub(crate) fn keep_apart() -> Result<()> {
    if std::env::var_os("CARGO_MANIFEST_DIR").is_none() {
        return Ok(());
    }
    let workspace = Workspace::find()?;
    let Some(own) = own_directory(&workspace.root, &workspace.target) else {
        return Ok(());
    };
    let mut cargo = workspace.cargo();
    cargo
        .args(["run", "--package", "ci", "--"])
        .args(std::env::args_os().skip(1))
        .env_remove("CARGO_BUILD_TARGET_DIR")
        .env("CARGO_TARGET_DIR", own);
    Err(Failure::file("run", "cargo")(cargo.exec()))
}

/// The output directory that no other checkout uses, unless it is `target` already.
fn own_directory(root: &Path, target: &Path) -> Option<PathBuf> {
    // FNV-1a: the same in every build of this program.
    let hash = root.as_os_str().as_encoded_bytes().iter();
    let hash = hash.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    let name = format!("checkout-{hash:016x}");
    (!target.starts_with(root) && !target.ends_with(&name)).then(|| target.join(name))
}

/// Where this is run: the package's directory as `cargo run` says it, or else the current one. What
/// was the directory when this was compiled says nothing: a checkout moves, and cargo takes a
/// program for fresh that another checkout left in the same output directory.
fn here() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| ".".into(), PathBuf::from)
}

/// Deletes all but the newest `keep` directories below `parent`, and none of a run that goes on: a
/// report names them.
fn prune(parent: &Path, keep: usize) {
    let mut runs: Vec<_> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    runs.sort();
    for (_, path) in runs.iter().rev().skip(keep) {
        if !goes_on(path) {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Whether the process is there that such a directory is named by: `SECONDS-PID-NAME`.
fn goes_on(run: &Path) -> bool {
    let name = run.file_name().unwrap_or_default().to_string_lossy();
    let pid = name
        .split('-')
        .nth(1)
        .and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkouts_that_share_an_output_directory_keep_apart() {
        let root = Path::new("/a/clone");
        assert_eq!(own_directory(root, &root.join("target")), None);
        let own = own_directory(root, Path::new("/shared")).unwrap();
        let other = own_directory(Path::new("/b/clone"), Path::new("/shared")).unwrap();
        assert!(own.starts_with("/shared") && own != other);
        assert_eq!(own_directory(root, &own), None);
        assert!(own_directory(root, &other).is_some());
    }

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
        let own = dir.path().join(format!("1-{}-test", std::process::id()));
        // Above the largest process id that Linux gives.
        let other = dir.path().join("1-4194305-test");
        for path in [&own, &other] {
            std::fs::create_dir(path).unwrap();
        }
        prune(dir.path(), 0);
        assert!(own.exists() && !other.exists());
    }
}
