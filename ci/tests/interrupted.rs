//! A signal sent to the command alone: it ends, all that it started ends, the exit status says which
//! signal it was, and so does a report.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How often a test looks again; none gives up by itself.
const LOOK: Duration = Duration::from_millis(20);

/// A program of the test's own that starts another, says which, and never ends.
fn endless(path: &Path, pid: &Path, first: &str) {
    let text = format!(
        "#!/bin/sh\n{first}\nsh -c 'echo $$ > {0}.new; mv {0}.new {0}; while :; do sleep 1; done' &\nwait\n",
        pid.display()
    );
    program(path, &text);
}

fn program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Waits for the endless program and signals the command; returns how it ended.
fn interrupt(mut command: Child, pid: &Path, signal: Signal) -> ExitStatus {
    while !pid.exists() {
        assert!(command.try_wait().unwrap().is_none(), "ended too early");
        std::thread::sleep(LOOK);
    }
    let number = Pid::from_raw(command.id().try_into().unwrap()).unwrap();
    kill_process(number, signal).unwrap();
    let status = command.wait().unwrap();
    // Whoever adopts it may still have to look at its end.
    let started = fs::read_to_string(pid).unwrap();
    let stat = PathBuf::from("/proc").join(started.trim()).join("stat");
    while fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
        std::thread::sleep(LOOK);
    }
    status
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ci"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[test]
fn tests_end_with_the_command() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let dir = tempfile::tempdir().unwrap();
        let (cargo, pid) = (dir.path().join("cargo"), dir.path().join("pid"));
        let real = env!("CARGO");
        let first = format!("[ \"$1\" = metadata ] && exec '{real}' \"$@\"");
        endless(&cargo, &pid, &first);
        let json = dir.path().join("report.json");
        let mut command = command();
        command.args(["test", "fmt", "--json"]).arg(&json);
        let child = command.env("CARGO", &cargo).spawn();
        let ended = interrupt(child.unwrap(), &pid, signal);
        assert_eq!(ended.code(), Some(status));
        let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
        assert_eq!(report["status"], status);
        assert_eq!(report["rows"][0]["name"], "fmt");
        assert_eq!(report["rows"][0]["verdict"], "interrupted");
    }
}

#[test]
fn a_download_that_is_interrupted_is_not_the_network_s_fault() {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !release.lines().any(|line| line == "ID=debian") {
        eprintln!("nothing is downloaded on a host that is not Debian");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (bin, pid) = (dir.path().join("bin"), dir.path().join("pid"));
    fs::create_dir(&bin).unwrap();
    endless(&bin.join("apt-get"), &pid, "");
    program(&bin.join("apt-config"), "#!/bin/sh\n");
    // The host's may be new enough.
    program(&bin.join("qemu-system-x86_64"), "#!/bin/sh\nexit 1\n");
    let path = std::env::var("PATH").unwrap();
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let child = command()
        .args(["setup", "--via", "dom0"])
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("XDG_CACHE_HOME", dir.path().join("cache"))
        .stderr(log)
        .spawn();
    let ended = interrupt(child.unwrap(), &pid, Signal::INT);
    let said = fs::read_to_string(dir.path().join("log")).unwrap();
    assert_eq!(ended.code(), Some(130), "{said}");
    assert!(
        said.contains("interrupted") && !said.contains("network"),
        "{said}"
    );
}
