//! `boot` as other programs use it: its exit statuses, all of those that README.md lists, and its
//! reports. QEMU is a shell script here, which says on its serial port what a kernel would.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// When a boot is given up that is not told when. One that goes on for ever, and is not waited for
/// once it has said all, takes two seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How often a test looks again; none gives up by itself.
const LOOK: Duration = Duration::from_millis(20);

/// The status of a QEMU whose guest asked for a power-off by the debug-exit port, and for a crash.
const POWEROFF: &str = "exit 33";
const CRASH: &str = "exit 39";
/// A guest that goes on without a word. The port is what QEMU's end closes.
const FOREVER: &str = "exec sleep 1000";

/// A machine of a test's own.
struct FakeHost(tempfile::TempDir);

impl FakeHost {
    /// One whose QEMU prints lines, in the escapes of `printf`, and then does something.
    fn new(says: &str, does: &str) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && echo QEMU emulator version 10.0.2 && exit\n\
             printf '{says}' > serial0.out\n: > {}\n{does}\n",
            host.path("started").display()
        );
        fs::write(host.path("qemu"), text).unwrap();
        fs::set_permissions(host.path("qemu"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(host.path("kernel"), kernel()).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ci"));
        command.args(["boot", "--via", "bare", "--kernel"]);
        command.arg(self.path("kernel"));
        command.arg("--qemu").arg(self.path("qemu"));
        command.arg("--junit").arg(self.path("junit.xml"));
        command.arg("--json").arg(self.path("report.json"));
        command.args(words);
        command.env("XDG_CACHE_HOME", self.path("cache"));
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Starts the command and waits until its QEMU has said all.
    fn start(&self) -> Child {
        let mut command = self.command(&[]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        while !self.path("started").exists() {
            assert!(child.try_wait().unwrap().is_none(), "ended too early");
            std::thread::sleep(LOOK);
        }
        child
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("report.json")).unwrap()).unwrap()
    }

    fn junit(&self) -> String {
        fs::read_to_string(self.path("junit.xml")).unwrap()
    }
}

/// A file that passes for a kernel which is entered without PV: an ELF file whose one segment is the
/// note PHYS32_ENTRY.
fn kernel() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let numbers: &[(u64, usize)] = &[
        // Executable, x86-64, version; entry, program headers, section headers, flags.
        (2, 2),
        (62, 2),
        (1, 4),
        (0, 8),
        (64, 8),
        (0, 8),
        (0, 4),
        // Sizes and numbers of headers.
        (64, 2),
        (56, 2),
        (1, 2),
        (0, 2),
        (0, 2),
        (0, 2),
        // PT_NOTE, readable: where, addresses, sizes, alignment.
        (4, 4),
        (4, 4),
        (120, 8),
        (0, 8),
        (0, 8),
        (20, 8),
        (20, 8),
        (4, 8),
        // The note: the lengths of its name and of its value, and which it is.
        (4, 4),
        (4, 4),
        (18, 4),
    ];
    for (number, bytes) in numbers {
        file.extend(&number.to_le_bytes()[..*bytes]);
    }
    file.extend(b"Xen\0\0\0\x10\0");
    file
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap()).unwrap()
}

/// The statuses in README.md: the first column of the table below the heading.
fn documented() -> BTreeSet<i32> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(readme).unwrap();
    let (_, table) = text.split_once("| exit status |").unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| {
        let cell = row.split('|').nth(1).unwrap();
        cell.split(',').map(|number| number.trim().parse().unwrap())
    })
    .collect()
}

#[test]
fn every_status_is_the_documented_one() {
    let mut seen = BTreeSet::new();
    let pass = r"verdict: pass pages=7\n";
    let cases: &[(&str, &str, &[&str], i32)] = &[
        (pass, POWEROFF, &[], 0),
        (pass, CRASH, &[], 1),
        (r"verdict: fail reason=x\n", POWEROFF, &[], 1),
        (r"hello\n", POWEROFF, &[], 1),
        (pass, POWEROFF, &["--expect", "a(b"], 2),
        (pass, POWEROFF, &["--mem", "many"], 2),
        (pass, POWEROFF, &["--xen", "4.17"], 2),
        (pass, POWEROFF, &["--kernel", "/dev/null"], 2),
        (pass, POWEROFF, &["--log", "/nonexistent/log"], 3),
        ("", "exit 1", &[], 3),
        (r"hello\n", FOREVER, &["--timeout", "1"], 4),
        (r"hello\n", POWEROFF, &["--expect", "hello"], 0),
        (r"hello\n", "exit 0", &["--expect", "hello"], 0),
        (r"hello\n", CRASH, &["--expect", "hello"], 1),
        (
            r"hello\n",
            POWEROFF,
            &["--expect", "hello", "--fail", "ello"],
            1,
        ),
        (r"hello\n", POWEROFF, &["--expect", "bye"], 1),
        (
            r"hello\n",
            FOREVER,
            &["--expect", "bye", "--timeout", "1"],
            4,
        ),
        // No line end, and no end: it is ended once it has said so.
        (
            r"\033[1mlogin: \033[6n",
            FOREVER,
            &["--expect", "^login: $"],
            0,
        ),
        (r"panic\n", FOREVER, &["--fail", "^panic$"], 1),
    ];
    for (says, does, words, status) in cases {
        let host = FakeHost::new(says, does);
        let mut command = host.command(&[]);
        if words.first() == Some(&"--kernel") {
            command = Command::new(env!("CARGO_BIN_EXE_ci"));
            command.args(["boot", "--via", "bare"]);
        }
        let since = Instant::now();
        let output = command.args(*words).output().unwrap();
        assert!(
            since.elapsed() < TIMEOUT,
            "{says} {words:?}: not ended before its time"
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(*status),
            "{says} {words:?}: {said}"
        );
        seen.insert(*status);
        let json = host.path("report.json");
        // Wrong usage is found before anything is written.
        if fs::exists(&json).unwrap() {
            assert_eq!(host.json()["status"], *status, "{says} {words:?}");
            let errors = host.junit().contains("failures=\"0\" errors=\"0\"");
            assert_eq!(errors, *status == 0, "{}", host.junit());
        }
    }
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let host = FakeHost::new(r"hello\n", FOREVER);
        let mut child = host.start();
        kill_process(pid(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(status));
        seen.insert(status);
        let json = host.json();
        assert_eq!(json["finished"], true);
        assert_eq!(json["status"], status);
        assert_eq!(json["rows"][0]["verdict"], "interrupted");
        assert!(
            host.junit().contains("<error type=\"interrupted\""),
            "{}",
            host.junit()
        );
    }
    assert_eq!(seen, documented());
    let help = Command::new(env!("CARGO_BIN_EXE_ci"))
        .arg("--help")
        .output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let (_, listed) = help.split_once("Exit status of every command:").unwrap();
    let numbers = listed.split(|c: char| !c.is_ascii_digit());
    let listed: BTreeSet<i32> = numbers.filter_map(|number| number.parse().ok()).collect();
    assert_eq!(seen, listed);
}

#[test]
fn a_run_that_is_killed_does_not_pass_for_one_that_ended() {
    let host = FakeHost::new(r"verdict: pass\n", FOREVER);
    fs::write(
        host.path("report.json"),
        "{\"status\": 0, \"finished\": true}",
    )
    .unwrap();
    let mut child = host.start();
    kill_process(pid(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    let json = host.json();
    assert_eq!(
        (&json["finished"], &json["status"]),
        (&false.into(), &Value::Null)
    );
    assert!(host.junit().contains("errors=\"1\""), "{}", host.junit());
}

#[test]
fn a_report_has_verdict_figures_time_and_logs() {
    let host = FakeHost::new(
        r#"\033[31mred\001\nverdict: fail reason="a\033b <&>" pages=7\n"#,
        POWEROFF,
    );
    host.run(&[]);
    let row = &host.json()["rows"][0];
    assert_eq!(
        (&row["group"], &row["name"], &row["verdict"]),
        (&"bare".into(), &"kernel".into(), &"fail".into())
    );
    assert_eq!(row["figures"]["pages"], 7);
    assert_eq!(row["figures"]["reason"], "a\u{1b}b <&>");
    assert!(row["seconds"].as_f64().unwrap() > 0.0);
    let log = fs::read_to_string(row["logs"][0].as_str().unwrap()).unwrap();
    assert!(log.contains("verdict: fail"), "{log}");
    let junit = host.junit();
    assert!(!junit.contains(|c: char| c < ' ' && c != '\n'), "{junit:?}");
    assert!(junit.contains("value=\"a␛b &lt;&amp;&gt;\""), "{junit}");
    assert!(junit.contains("␛[31mred␁"), "{junit}");
}

#[test]
fn a_place_for_a_report_is_tried_before_anything_is_run() {
    let host = FakeHost::new(r"verdict: pass\n", POWEROFF);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ci"));
    command.args([
        "boot",
        "--via",
        "bare",
        "--json",
        "/nonexistent/report.json",
    ]);
    command.arg("--kernel").arg(host.path("kernel"));
    let output = command
        .arg("--qemu")
        .arg(host.path("qemu"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(!host.path("started").exists());
}

#[test]
fn a_dry_run_runs_and_writes_nothing() {
    let host = FakeHost::new(r"verdict: pass\n", POWEROFF);
    let output = host.run(&[
        "--dry-run",
        "--cmdline",
        "a 'b'",
        "--log",
        "/nonexistent/log",
    ]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for name in ["started", "cache", "junit.xml", "report.json"] {
        assert!(!host.path(name).exists(), "{name}");
    }
    let line = said.lines().last().unwrap();
    for part in [
        format!("ln -s {} kernel", host.path("kernel").display()),
        format!("{} -accel tcg", host.path("qemu").display()),
        r"-append 'a '\''b'\'''".to_owned(),
    ] {
        assert!(line.contains(&part), "{part} is not in {line}");
    }
}

/// Another run fills the cache: here the test itself, which names itself in the lock as a run does.
#[test]
fn a_run_that_waits_says_for_whom() {
    let host = FakeHost::new("", POWEROFF);
    for dir in ["mirror", "cache/xen-pv-guest"] {
        fs::create_dir_all(host.path(dir)).unwrap();
    }
    let path = host.path("cache/xen-pv-guest/lock");
    fs::write(&path, std::process::id().to_string()).unwrap();
    let lock = fs::File::open(&path).unwrap();
    lock.lock().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ci"));
    command.args(["boot", "--via", "pvh", "--kernel"]);
    command.arg(host.path("kernel"));
    command.arg("--qemu").arg(host.path("qemu"));
    command.arg("--mirror").arg(host.path("mirror"));
    command.env("XDG_CACHE_HOME", host.path("cache"));
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = said.next().unwrap().unwrap();
    let who = format!("waiting for the run with pid {}", std::process::id());
    assert!(first.starts_with(&who), "{first}");
    drop(lock);
    let rest: Vec<_> = said.map_while(Result::ok).collect();
    let missing = rest
        .iter()
        .any(|line| line.contains("_amd64.deb is nowhere"));
    assert!(missing, "{rest:?}");
    assert_eq!(child.wait().unwrap().code(), Some(3));
}
