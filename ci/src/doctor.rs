//! `cargo xtask doctor`: what of all that boots and tests need is there, what is missing, and what to do.
//! It changes nothing and fetches nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::exit::{Failure, Result};
use crate::provision::cache::{self, Cache};
use crate::provision::origin::Origin;
use crate::provision::packages::{Bundle, XEN_RELEASES};
use crate::provision::qemu::{self, Qemu};
use crate::provision::{rust, space};
use crate::ui;
use crate::workspace::Workspace;

/// What all that is fetched takes, unpacked, and what cargo builds: as measured, rounded up.
const CACHE: u64 = 2 << 30;
const BUILD: u64 = 3 << 30;

/// How it is with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It is there.
    Good,
    /// It is got by itself when it is needed, or not needed.
    Later,
    /// It is missing, and nothing gets it.
    Missing,
}

/// Something that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    name: &'static str,
    state: State,
    /// What was found, or is missing.
    found: String,
    /// What to do about it, if something is to be done.
    remedy: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Good => "ok",
            State::Later => "later",
            State::Missing => "MISSING",
        };
        write!(f, "{state:<8}{}: {}", self.name, self.found)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n        what to do: {remedy}"),
            None => Ok(()),
        }
    }
}

/// All of them, for other programs.
#[derive(Debug, Serialize)]
struct Report<'a> {
    format: u32,
    status: u8,
    findings: &'a [Finding],
}

/// What is looked at.
struct Ground {
    origin: Origin,
    workspace: PathBuf,
    target: PathBuf,
    cache: PathBuf,
    kvm: PathBuf,
    free: fn(&Path) -> std::io::Result<u64>,
}

/// Looks and says what was found.
///
/// # Errors
/// Something is missing.
pub(crate) fn doctor(arguments: &DoctorArgs) -> Result<()> {
    let workspace = Workspace::find()?;
    let ground = Ground {
        origin: arguments.mirror.origin()?,
        workspace: workspace.root,
        target: workspace.target,
        cache: Cache::place()?,
        kvm: "/dev/kvm".into(),
        free: space::free,
    };
    let findings = ground.examine();
    let missing = findings
        .iter()
        .filter(|finding| finding.state == State::Missing);
    let missing = missing.count();
    if arguments.json {
        let report = Report {
            format: 1,
            status: u8::from(missing > 0),
            findings: &findings,
        };
        let text = serde_json::to_string_pretty(&report);
        let text = text.map_err(|error| Failure::Guest(error.to_string()))?;
        println!("{text}");
    } else {
        findings.iter().for_each(|finding| println!("{finding}"));
    }
    match missing {
        0 => Ok(()),
        1 => Err(Failure::Guest("one thing is missing".into())),
        more => Err(Failure::Guest(format!("{more} things are missing"))),
    }
}

fn good(name: &'static str, found: impl Into<String>) -> Finding {
    Finding {
        name,
        state: State::Good,
        found: found.into(),
        remedy: None,
    }
}

fn later(name: &'static str, found: impl Into<String>) -> Finding {
    Finding {
        state: State::Later,
        ..good(name, found)
    }
}

fn missing(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        state: State::Missing,
        remedy: Some(remedy.into()),
        ..good(name, found)
    }
}

impl Ground {
    fn examine(&self) -> Vec<Finding> {
        let bundles = self.bundles();
        let lacking = bundles.iter().any(|finding| finding.state != State::Good);
        let mut findings = vec![
            self.rust(),
            self.target(),
            self.linker(),
            self.origin(lacking),
        ];
        findings.extend(bundles);
        findings.extend([
            self.disk(
                "disk of the cache",
                &self.cache,
                if lacking { CACHE } else { 0 },
            ),
            self.disk("disk of the build", &self.target, BUILD),
            self.writable(),
            self.lock(),
            self.kvm(),
        ]);
        findings
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        self.origin.host().program(name)
    }

    fn rust(&self) -> Finding {
        let lacks: Vec<_> = ["cargo", "rustc"]
            .into_iter()
            .filter(|name| self.program(name).is_none())
            .collect();
        match lacks.as_slice() {
            [] => good("Rust", "cargo and rustc are there"),
            lacks => missing(
                "Rust",
                format!("no {} in PATH", lacks.join(", no ")),
                "install stable Rust by rustup",
            ),
        }
    }

    fn target(&self) -> Finding {
        const NAME: &str = "Rust target";
        let has = match self.program("rustc") {
            Some(rustc) => rust::compiles(&rustc, &self.workspace),
            None => Err("there is no rustc".into()),
        };
        match has {
            Ok(true) => good(NAME, rust::TARGET),
            Ok(false) if self.program("rustup").is_some() => later(
                NAME,
                format!("{}, which rustup adds when it is needed", rust::TARGET),
            ),
            Ok(false) => missing(
                NAME,
                format!(
                    "{} is not in this toolchain, and there is no rustup",
                    rust::TARGET
                ),
                "install it the way your Rust was installed",
            ),
            Err(why) => missing(
                NAME,
                format!("rustc does not say: {why}"),
                "install Rust anew",
            ),
        }
    }

    /// What links the tool itself; the kernel is linked by Rust's own linker.
    fn linker(&self) -> Finding {
        match self.program("cc") {
            Some(cc) => good("C linker", cc.display().to_string()),
            None => missing("C linker", "no cc in PATH", "install gcc or clang"),
        }
    }

    fn origin(&self, lacking: bool) -> Finding {
        const NAME: &str = "packages";
        match self.origin.words() {
            Ok(words) => good(NAME, format!("they come from {words}")),
            Err(failure) if lacking => {
                let (found, remedy) = parts(failure);
                missing(NAME, found, remedy)
            }
            Err(failure) => later(NAME, format!("all are there; {}", parts(failure).0)),
        }
    }

    /// Whether there is something that packages can come from.
    fn has_origin(&self) -> bool {
        self.origin.words().is_ok()
    }

    fn bundles(&self) -> Vec<Finding> {
        let xen = XEN_RELEASES[0];
        let mut findings = vec![self.qemu()];
        for (name, bundle, needed) in [
            ("Xen", Bundle::Hypervisor(xen), "for all but bare"),
            ("Linux dom0", Bundle::Dom0(xen), "for xl, shim and pvh"),
            ("Xen's headers", Bundle::Headers(xen), "for the tests"),
        ] {
            let place = self.cache.join("current").join(bundle.name());
            findings.push(match place.canonicalize() {
                Ok(tree) => good(name, file_name(&tree)),
                Err(_) => self.unfetched(name, &format!("{}, {needed}", bundle.name())),
            });
        }
        findings
    }

    /// What is not in the cache.
    fn unfetched(&self, name: &'static str, what: &str) -> Finding {
        match self.has_origin() {
            true => later(name, format!("{what}: fetched when it is needed")),
            false => missing(
                name,
                format!("{what}: not in the cache, and there is nothing to fetch it from"),
                "see `packages` above",
            ),
        }
    }

    fn qemu(&self) -> Finding {
        const NAME: &str = "QEMU";
        let own = self.program(qemu::PROGRAM);
        let own = own.and_then(|path| Some((Qemu::version_at(&path)?, path)));
        let fetched = self.cache.join("current/qemu").canonicalize();
        match (own, fetched) {
            (Some((version, path)), _) if version >= qemu::GOOD => {
                good(NAME, format!("{version}, {}", path.display()))
            }
            (_, Ok(tree)) => good(NAME, file_name(&tree)),
            (Some((version, path)), Err(_)) => {
                let old = format!("{} is {version}, older than {}", path.display(), qemu::GOOD);
                match self.has_origin() {
                    true => later(
                        NAME,
                        format!("{old}: a newer one is fetched when it is needed"),
                    ),
                    false => later(
                        NAME,
                        format!("{old}: it boots, but does not judge every rule"),
                    ),
                }
            }
            (None, Err(_)) => self.unfetched(NAME, "to run anything"),
        }
    }

    fn disk(&self, name: &'static str, place: &Path, needed: u64) -> Finding {
        let there = place.ancestors().find(|dir| dir.exists()).unwrap_or(place);
        match (self.free)(there) {
            Ok(free) if free >= needed => good(
                name,
                format!("{} are free in {}", ui::size(free), place.display()),
            ),
            Ok(free) => missing(
                name,
                format!(
                    "{} are free in {}, and it may take {}",
                    ui::size(free),
                    place.display(),
                    ui::size(needed)
                ),
                "free some, or have XDG_CACHE_HOME or CARGO_TARGET_DIR name a directory elsewhere",
            ),
            Err(error) => missing(
                name,
                format!("{}: {error}", place.display()),
                "see the message",
            ),
        }
    }

    fn writable(&self) -> Finding {
        let there = self.cache.ancestors().find(|dir| dir.exists());
        let there = there.unwrap_or(&self.cache);
        match rustix::fs::access(there, rustix::fs::Access::WRITE_OK) {
            Ok(()) => good("cache", self.cache.display().to_string()),
            Err(error) => missing(
                "cache",
                format!("{} cannot be written: {error}", there.display()),
                "make it this user's, or have XDG_CACHE_HOME name another directory",
            ),
        }
    }

    fn lock(&self) -> Finding {
        match cache::holder(&self.cache) {
            None => good("lock", "no other run fills the cache"),
            Some(who) => later(
                "lock",
                format!("{who} fills the cache; others wait until it is done"),
            ),
        }
    }

    fn kvm(&self) -> Finding {
        let open = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&self.kvm);
        match open {
            Ok(_) => good("KVM", "there, and needed for --via kvm-shim alone"),
            Err(_) => later(
                "KVM",
                "not there, and not needed: only --via kvm-shim uses it",
            ),
        }
    }
}

/// What a failure says is missing, and what to do.
fn parts(failure: Failure) -> (String, String) {
    match failure {
        Failure::Host { missing, remedy } => (missing, remedy),
        other => (other.to_string(), "see the message".into()),
    }
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::provision::host::Host;
    use crate::provision::mirror::Mirror;

    /// A machine in a directory.
    struct Machine(tempfile::TempDir);

    impl Machine {
        /// One with these programs, each a shell script, and an os-release.
        fn new(release: &str, programs: &[(&str, &str)]) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            for dir in ["etc/apt", "bin", "work", "sysroot"] {
                std::fs::create_dir_all(machine.path(dir)).unwrap();
            }
            std::fs::write(machine.path("etc/os-release"), release).unwrap();
            for (name, text) in programs {
                let path = machine.path("bin").join(name);
                std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
                let mode = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(&path, mode).unwrap();
            }
            machine
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn host(&self) -> Host {
            Host::at(self.0.path(), vec![self.path("bin")])
        }

        fn examine(&self, mirror: Option<Mirror>) -> Vec<Finding> {
            let ground = Ground {
                origin: match mirror {
                    Some(mirror) => Origin::Mirror(mirror, self.host()),
                    None => Origin::Host(self.host()),
                },
                workspace: self.path("work"),
                target: self.path("work/target"),
                cache: self.path("cache"),
                kvm: self.path("dev/kvm"),
                free: |_| Ok(BUILD),
            };
            ground.examine()
        }

        /// As it has all that is fetched.
        fn fetched(&self) {
            let current = self.path("cache/current");
            std::fs::create_dir_all(&current).unwrap();
            for name in ["qemu", "xen-4.17", "dom0-4.17", "headers-4.17"] {
                let tree = self.path("cache/bundles").join(format!("{name}_1"));
                std::fs::create_dir_all(&tree).unwrap();
                std::os::unix::fs::symlink(&tree, current.join(name)).unwrap();
            }
        }
    }

    /// Rust with the target, and a linker.
    fn rust(machine: &Path) -> String {
        let library = machine.join("sysroot/lib/rustlib").join(rust::TARGET);
        std::fs::create_dir_all(library).unwrap();
        format!("echo {}", machine.join("sysroot").display())
    }

    fn state(findings: &[Finding], name: &str) -> State {
        let finding = findings.iter().find(|finding| finding.name == name);
        finding.unwrap_or_else(|| panic!("{name}")).state
    }

    const FEDORA: &str = "ID=fedora\nPRETTY_NAME=\"Fedora Linux 43\"\n";
    const DEBIAN: &str = "ID=debian\nVERSION_CODENAME=bookworm\n";

    #[test]
    fn an_empty_machine_lacks_all_and_is_told_what_to_do() {
        let machine = Machine::new(FEDORA, &[]);
        let findings = machine.examine(None);
        for name in [
            "Rust",
            "Rust target",
            "C linker",
            "packages",
            "QEMU",
            "Xen",
            "Linux dom0",
        ] {
            assert_eq!(state(&findings, name), State::Missing, "{name}");
        }
        assert!(
            findings
                .iter()
                .all(|finding| { (finding.state == State::Missing) == finding.remedy.is_some() })
        );
        let text: String = findings
            .iter()
            .map(|finding| format!("{finding}\n"))
            .collect();
        for says in [
            "MISSING Rust: no cargo, no rustc",
            "Fedora Linux 43, has no apt-get",
            "--mirror",
        ] {
            assert!(text.contains(says), "{says} is not in: {text}");
        }
        assert_eq!(state(&findings, "KVM"), State::Later);
    }

    #[test]
    fn what_gets_by_itself_is_not_missing() {
        let programs = [("cargo", ""), ("rustup", ""), ("cc", ""), ("apt-get", "")];
        let machine = Machine::new(DEBIAN, &programs);
        let sysroot = machine.path("sysroot");
        let rustc = machine.path("bin/rustc");
        std::fs::write(&rustc, format!("#!/bin/sh\necho {}\n", sysroot.display())).unwrap();
        std::fs::set_permissions(&rustc, std::fs::Permissions::from_mode(0o755)).unwrap();
        let source = "deb http://m.example/debian bookworm main\n";
        std::fs::write(machine.path("etc/apt/sources.list"), source).unwrap();
        let findings = machine.examine(None);
        let bad: Vec<_> = findings
            .iter()
            .filter(|finding| finding.state == State::Missing)
            .collect();
        assert!(bad.is_empty(), "{bad:?}");
        assert_eq!(state(&findings, "Rust target"), State::Later);
        assert_eq!(state(&findings, "QEMU"), State::Later);
        std::fs::write(machine.path("etc/apt/sources.list"), "").unwrap();
        assert_eq!(state(&machine.examine(None), "packages"), State::Missing);
    }

    #[test]
    fn a_machine_with_everything_needs_no_archive() {
        let machine = Machine::new(FEDORA, &[("cargo", ""), ("cc", "")]);
        let text = rust(machine.0.path());
        let rustc = machine.path("bin/rustc");
        std::fs::write(&rustc, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&rustc, std::fs::Permissions::from_mode(0o755)).unwrap();
        machine.fetched();
        let findings = machine.examine(None);
        for name in [
            "Rust",
            "Rust target",
            "QEMU",
            "Xen",
            "Linux dom0",
            "Xen's headers",
            "lock",
        ] {
            assert_eq!(state(&findings, name), State::Good, "{name}");
        }
        assert_eq!(state(&findings, "packages"), State::Later);
    }

    #[test]
    fn a_mirror_helps_where_something_can_fetch_from_it() {
        let named = |text: &str| Mirror::find(Some(text), None, None).unwrap();
        let machine = Machine::new(FEDORA, &[]);
        let remote = machine.examine(named("http://m.example/debian"));
        assert_eq!(state(&remote, "packages"), State::Missing);
        assert_eq!(state(&remote, "Xen"), State::Missing);
        let dir = machine.path("bin").display().to_string();
        assert_eq!(state(&machine.examine(named(&dir)), "Xen"), State::Later);
        let machine = Machine::new(FEDORA, &[("wget", "")]);
        let remote = machine.examine(named("http://m.example/debian"));
        assert_eq!(state(&remote, "packages"), State::Good);
    }

    #[test]
    fn an_old_qemu_is_told_from_a_good_one() {
        for (version, expected) in [("10.1.0", State::Good), ("7.2.1", State::Later)] {
            let says = format!("echo QEMU emulator version {version}");
            let machine = Machine::new(FEDORA, &[("qemu-system-x86_64", &says)]);
            assert_eq!(state(&machine.examine(None), "QEMU"), expected, "{version}");
        }
    }

    #[test]
    fn a_full_disk_and_a_held_lock_are_said() {
        let machine = Machine::new(FEDORA, &[]);
        let ground = Ground {
            origin: Origin::Host(machine.host()),
            workspace: machine.path("work"),
            target: machine.path("work/target"),
            cache: machine.path("cache"),
            kvm: machine.path("dev/kvm"),
            free: |_| Ok(1 << 20),
        };
        let cache = Cache::at(machine.path("cache")).unwrap();
        let _guard = cache.lock().unwrap();
        let findings = ground.examine();
        assert_eq!(state(&findings, "disk of the cache"), State::Missing);
        assert_eq!(state(&findings, "disk of the build"), State::Missing);
        let lock = findings
            .iter()
            .find(|finding| finding.name == "lock")
            .unwrap();
        assert!(
            lock.found.contains(&format!("pid {}", std::process::id())),
            "{lock}"
        );
    }
}
