//! Unmodified static programs on the kernel and on Debian's Linux, in the kernel's place on the same Xen:
//! every applet of busybox, a script of two hundred commands, a thousand system calls right and wrong, and
//! programs with threads, of Rust's standard library and of Go's. What they say there is what they must say
//! here.
//!
//! And what no Linux need say: calls at random, ten thousand processes, two hundred at once, and a script in
//! little memory, each with an audit of the page tables at its end, which the kernel makes by itself.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::go;
use super::programs::{CALLS, difference};
use super::session::{self, Boot};
use super::smoke::{self, PASS, Smoke};
use super::{Suite, quietly};
use crate::boot::program::{BUSYBOX, Program};
use crate::console::contract::{Contract, Pattern};
use crate::exit::{Failure, Result};
use crate::process;
use crate::stack::{Job, Via, rootfs};

/// What its dom0 runs first, on either kernel.
const ALL: &str = include_str!("programs/all.sh");
/// One real use of each applet that has one here.
const APPLETS: &str = include_str!("programs/applets");
const APPLETS_RUN: &str = include_str!("programs/applets.sh");
const COMMANDS: &str = include_str!("programs/commands.sh");
const GO: &str = include_str!("programs/go.sh");

/// Where they run: as a PV guest, and with page tables of the kernel's own.
const VIAS: &[Via] = &[Via::Dom0, Via::Bare4];

/// When a run is given up, of those that take minutes.
const TIMEOUT: Duration = Duration::from_secs(1200);

/// Memory for Linux in MiB.
const LINUX_MIB: u32 = 512;

/// The last line of all.
const END: &str = "end of script";

/// Applets that are not run, and why.
const LEFT_OUT: &[(&str, &[&str])] = &[
    (
        "there is no network",
        &[
            "arp",
            "arping",
            "brctl",
            "dnsdomainname",
            "ftpget",
            "ftpput",
            "httpd",
            "ifconfig",
            "ip",
            "ipneigh",
            "nameif",
            "nc",
            "netstat",
            "nslookup",
            "ping",
            "ping6",
            "rdate",
            "route",
            "tc",
            "telnet",
            "tftp",
            "traceroute",
            "traceroute6",
            "tunctl",
            "udhcpc",
            "udhcpd",
            "vconfig",
            "wget",
        ],
    ),
    (
        "there are no block devices",
        &[
            "blkdiscard",
            "blockdev",
            "fatattr",
            "findfs",
            "freeramdisk",
            "fsfreeze",
            "fstrim",
            "losetup",
            "lsscsi",
            "mt",
            "nbd-client",
            "partprobe",
            "resume",
            "swapoff",
            "swapon",
            "ubirename",
        ],
    ),
    (
        "there is no such device: a virtual console, a clock of a PC's, I2C, a watchdog, raw memory",
        &[
            "acpid",
            "adjtimex",
            "chvt",
            "deallocvt",
            "devmem",
            "dumpkmap",
            "hwclock",
            "i2cdetect",
            "i2cdump",
            "i2cget",
            "i2cset",
            "i2ctransfer",
            "loadfont",
            "loadkmap",
            "openvt",
            "setkeycodes",
            "watchdog",
        ],
    ),
    (
        "the kernel has no modules and says nothing to programs",
        &[
            "depmod", "dmesg", "insmod", "klogd", "logread", "mdev", "modinfo", "modprobe",
            "rmmod", "syslogd", "uevent",
        ],
    ),
    (
        "there are no namespaces, and the root stays where it is",
        &["nsenter", "pivot_root", "unshare"],
    ),
    (
        "it ends the run, or is its first process",
        &["halt", "linuxrc", "poweroff", "reboot"],
    ),
    ("it asks a person", &["sulogin"]),
];

/// Something to run besides: its words, and what it says at the end.
struct More {
    smoke: Smoke,
    words: &'static [&'static str],
    program: &'static str,
}

const fn more(
    name: &'static str,
    mem_mib: Option<u32>,
    program: &'static str,
    words: &'static [&'static str],
    says: &'static [&'static str],
) -> More {
    More {
        smoke: Smoke {
            name,
            vias: VIAS,
            mem_mib,
            cmdline: "log=off",
            expect: PASS,
            says,
        },
        words,
        program,
    }
}

const MORE: &[More] = &[
    more(
        "a million system calls at random",
        None,
        "calls",
        &["fuzz", "1", "1000000"],
        &[" calls: of ", " program=0"],
    ),
    more(
        "ten thousand processes that each run a program",
        None,
        "calls",
        &["spawn", "10000"],
        &["10000 children ran a program and ended", " program=0"],
    ),
    more(
        "two hundred processes at once",
        None,
        "calls",
        &["crowd", "200"],
        &[
            "200 processes stood at once, 200 spoke, 200 ended",
            " program=0",
        ],
    ),
];

/// The script but for the applets, in little memory.
const LITTLE: Smoke = Smoke {
    name: "two hundred commands in little memory",
    vias: VIAS,
    mem_mib: Some(16),
    cmdline: "log=warn init=/bin/busybox -- sh /little.sh",
    expect: PASS,
    says: &[END, " program=0"],
};

/// Each want of a program refused once: in a run of all self-tests only some are.
const REFUSALS: Smoke = Smoke {
    name: "each want of a program refused once",
    vias: VIAS,
    mem_mib: None,
    cmdline: "log=off selftest=programs.no_",
    expect: PASS,
    says: &["programs.no_heap", " failed=0"],
};

/// What says that memory was too short: the kernel of a process that it ended, or a program of a file.
const TOO_LITTLE: &[&str] = &["out of memory: ", "No space left on device"];

/// What the boots are called: Linux' own is made whenever one is that is compared with it.
pub(super) fn names() -> Vec<String> {
    let mut names = Vec::new();
    for &via in VIAS {
        names.push(script_title(via));
        let rows = MORE.iter().map(|more| &more.smoke);
        let rows = rows.chain([&LITTLE, &REFUSALS]);
        names.extend(rows.map(|smoke| title(smoke, via)));
    }
    names
}

/// What a boot of a row is called.
fn title(smoke: &Smoke, via: Via) -> String {
    format!("programs: {}: {}", smoke.name, via.name())
}

/// What the script's boot is called.
fn script_title(via: Via) -> String {
    format!(
        "programs: applets, commands, system calls and threads as under Linux: {}",
        via.name()
    )
}

/// Runs all of it, or what was asked for.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    let kernel = suite.kernel()?;
    let program = Program::find(BUSYBOX, &suite.provision)?;
    if suite.only.is_none() {
        covered(suite, &program)?;
    }
    let (ramdisk, little) = ramdisks(suite, &program)?;
    let linux = rootfs::kernel(&suite.provision.dom0()?, &suite.provision.cache)?;
    let said = Rc::new(RefCell::new(BTreeMap::new()));
    let compared = |via| [script_title(via), title(&LITTLE, via)];
    let is_compared = |via: &Via| compared(*via).iter().any(|name| suite.wants(name));
    if VIAS.iter().any(is_compared) {
        // By itself: what it says must be there before anything is compared with it.
        session::run(suite, &[as_linux(&linux, &ramdisk, &said)])?;
    }
    for &via in VIAS {
        let mut boots = vec![as_kernel(&kernel, &ramdisk, via, &said)];
        boots.extend(besides(&kernel, &little, via));
        boots.push(in_little_memory(&kernel, &little, via, &said));
        boots.push(boot_of(&REFUSALS, &kernel, via));
        boots.retain(|boot| suite.wants(&boot.name));
        session::run(suite, &boots)?;
    }
    Ok(())
}

/// The applets of a list, by their lines.
fn listed() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = APPLETS.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some((line.split_once(": ")?.0, line)))
}

/// Reports whether every applet is run or left out for a reason, and none both.
fn covered(suite: &mut Suite, program: &Program) -> Result<()> {
    let since = Instant::now();
    let (applets, mut wrong) = (program.applets()?, Vec::new());
    for applet in &applets {
        let run = listed().filter(|(name, _)| name == applet).count();
        let left_out = LEFT_OUT.iter().flat_map(|(_, names)| *names);
        let left_out = left_out.filter(|name| *name == applet).count();
        if run + left_out != 1 {
            wrong.push(format!(
                "{applet}: run {run} times, left out {left_out} times"
            ));
        }
    }
    let result = match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n")),
    };
    let name = format!(
        "programs: each of {} applets is run or left out",
        applets.len() + 1
    );
    suite.report(&name, since, result);
    Ok(())
}

/// The root of both kernels, and one that fits into little memory.
fn ramdisks(suite: &mut Suite, program: &Program) -> Result<(PathBuf, PathBuf)> {
    let calls = suite.workspace.build("calls")?;
    let threads = build_threads(suite)?;
    let read = |path: &Path| std::fs::read(path).map_err(Failure::file("read", path));
    let applets = program.applets()?;
    let known =
        listed().filter(|(name, _)| *name == BUSYBOX || applets.iter().any(|has| has == name));
    let lines: String = known.map(|(_, line)| format!("{line}\n")).collect();
    let little_script = ALL.replace("sh /applets.sh\n", "");
    let dir = suite.workspace.target.join("programs-linux");
    std::fs::create_dir_all(&dir).map_err(Failure::file("create", &dir))?;
    let (calls, threads) = (read(&calls)?, read(&threads)?);
    let (ramdisk, little) = (dir.join("root.cpio"), dir.join("little.cpio"));
    let mut files = vec![
        ("little.sh", little_script.as_bytes()),
        ("commands.sh", COMMANDS.as_bytes()),
        ("bin/calls", &calls),
        ("bin/threads", &threads),
    ];
    program.pack(&little, &files)?;
    files.extend([
        ("all.sh", ALL.as_bytes()),
        ("applets", lines.as_bytes()),
        ("applets.sh", APPLETS_RUN.as_bytes()),
    ]);
    let esbuild = go::esbuild(&suite.provision.cache)?;
    if let Some(esbuild) = &esbuild {
        files.extend([("go.sh", GO.as_bytes()), ("bin/esbuild", esbuild)]);
    }
    program.pack(&ramdisk, &files)?;
    Ok((ramdisk, little))
}

/// Builds the program with threads, static, by the standard library and a C library that are Rust's own.
fn build_threads(suite: &Suite) -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-musl";
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]);
    rustup.current_dir(&suite.workspace.root);
    let mut cargo = suite.workspace.cargo();
    cargo.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "threads",
        "--target",
        TARGET,
    ]);
    let run = |command: &mut Command, name| {
        quietly("build the program with threads", || {
            process::output(command, Failure::file("run", name))
        })
    };
    for (command, name) in [(&mut rustup, "rustup"), (&mut cargo, "cargo")] {
        let output = run(command, name)?;
        if !output.status.success() {
            return Err(Failure::host(
                String::from_utf8_lossy(&output.stderr).into_owned(),
                format!("rustup target add {TARGET}"),
            ));
        }
    }
    Ok(suite.workspace.target.join(TARGET).join("release/threads"))
}

/// What each part of the script said, by its name.
type Said = Rc<RefCell<BTreeMap<String, Vec<String>>>>;

/// The script on Linux; what it says is kept.
fn as_linux(kernel: &Path, ramdisk: &Path, said: &Said) -> Boot {
    let said = said.clone();
    let end = Pattern::parse(&format!("^{END}")).ok();
    Boot {
        name: "programs: what they say under Linux".into(),
        job: Job {
            cmdline: "console=hvc0 quiet panic=-1 rdinit=/bin/busybox -- sh /all.sh".into(),
            mem_mib: Some(LINUX_MIB),
            initrd: Some(ramdisk.into()),
            contract: Contract {
                expect: end,
                ..Contract::default()
            },
            timeout: Some(TIMEOUT),
            ..Job::new("linux", Via::Dom0, kernel)
        },
        check: Box::new(move |transcript, _| {
            if !transcript.guest.iter().any(|line| line == END) {
                return Err("Linux did not come to the end of the script".into());
            }
            let parts = parts(&transcript.guest);
            let calls = parts.get("calls").map_or(&[][..], Vec::as_slice);
            let listed: Vec<_> = CALLS.lines().map(str::to_owned).collect();
            let differs = difference(&listed, calls);
            *said.borrow_mut() = parts.clone();
            match differs {
                Some((line, listed, said)) => Err(format!(
                    "line {line} of ci/src/test/programs/calls is {listed:?}, and {said:?} under Linux"
                )),
                None => Ok(()),
            }
        }),
    }
}

/// The script on the kernel, which must say the same.
fn as_kernel(kernel: &Path, ramdisk: &Path, via: Via, said: &Said) -> Boot {
    let said = said.clone();
    const ROW: Smoke = Smoke {
        name: "programs as under Linux",
        vias: VIAS,
        mem_mib: None,
        cmdline: "log=off init=/bin/busybox -- sh /all.sh",
        expect: PASS,
        says: &[END, " program=0"],
    };
    Boot {
        name: script_title(via),
        job: Job {
            cmdline: ROW.cmdline.into(),
            initrd: Some(ramdisk.into()),
            timeout: Some(TIMEOUT),
            ..Job::new("script", via, kernel)
        },
        check: Box::new(move |transcript, end| {
            smoke::check(&ROW, &transcript.guest, end)?;
            compare(&parts(&transcript.guest), &said.borrow())
        }),
    }
}

/// The boot of a row of the group's, which must say what the row has.
fn boot_of(smoke: &'static Smoke, kernel: &Path, via: Via) -> Boot {
    Boot {
        name: title(smoke, via),
        job: Job {
            cmdline: smoke.cmdline.into(),
            mem_mib: smoke.mem_mib,
            ..Job::new(smoke.name.replace(' ', "-"), via, kernel)
        },
        check: Box::new(|transcript, end| smoke::check(smoke, &transcript.guest, end)),
    }
}

/// The script in little memory: it must say the same, but where memory is too short, and that it must say.
fn in_little_memory(kernel: &Path, ramdisk: &Path, via: Via, said: &Said) -> Boot {
    let said = said.clone();
    let mut boot = boot_of(&LITTLE, kernel, via);
    boot.job.initrd = Some(ramdisk.into());
    boot.job.timeout = Some(TIMEOUT);
    boot.check = Box::new(move |transcript, end| {
        smoke::check(&LITTLE, &transcript.guest, end)?;
        let mut said = said.borrow().clone();
        said.retain(|part, _| matches!(part.as_str(), "calls" | "threads" | "commands"));
        let is_said = |line: &String| TOO_LITTLE.iter().any(|words| line.contains(words));
        match transcript.guest.iter().any(is_said) {
            true => Ok(()),
            false => compare(&parts(&transcript.guest), &said),
        }
    });
    boot
}

/// What is run besides.
fn besides(kernel: &Path, ramdisk: &Path, via: Via) -> impl Iterator<Item = Boot> {
    MORE.iter().map(move |more| {
        let mut boot = boot_of(&more.smoke, kernel, via);
        let (program, words) = (more.program, more.words.join(" "));
        boot.job.cmdline += &format!(" init=/bin/{program} -- {words}");
        boot.job.initrd = Some(ramdisk.into());
        boot.job.timeout = Some(TIMEOUT);
        boot
    })
}

/// The parts of what was said, each behind a line `== NAME`, up to the end.
fn parts(lines: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut parts = BTreeMap::new();
    let mut part: Option<&mut Vec<String>> = None;
    for line in lines.iter().take_while(|line| *line != END) {
        match (line.strip_prefix("== "), &mut part) {
            (Some(name), _) => part = Some(parts.entry(name.to_owned()).or_default()),
            (None, Some(part)) => part.push(line.clone()),
            (None, None) => {}
        }
    }
    parts
}

/// Says where two runs differ.
fn compare(
    found: &BTreeMap<String, Vec<String>>,
    expected: &BTreeMap<String, Vec<String>>,
) -> std::result::Result<(), String> {
    if expected.is_empty() {
        return Err("there is nothing of Linux' to compare with".into());
    }
    let mut wrong = Vec::new();
    for (name, expected) in expected {
        let found = found.get(name).map_or(&[][..], Vec::as_slice);
        if let Some((line, found, expected)) = difference(found, expected) {
            wrong.push(format!(
                "{name}: line {line}: {found:?}, and {expected:?} under Linux"
            ));
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_differs_is_named_by_its_part() {
        let linux = parts(&lines("boot\n== a\n1\n2\n== b\n3\nend of script\npanic"));
        assert_eq!(linux.len(), 2);
        assert_eq!(compare(&linux, &linux), Ok(()));
        let other = parts(&lines("== a\n1\n== b\n3\nend of script"));
        let found = compare(&other, &linux).unwrap_err();
        assert_eq!(found, "a: line 2: None, and Some(\"2\") under Linux");
        assert!(compare(&linux, &BTreeMap::new()).is_err());
    }

    #[test]
    fn no_applet_is_listed_twice() {
        let mut names: Vec<_> = listed().map(|(name, _)| name).collect();
        names.extend(LEFT_OUT.iter().flat_map(|(_, names)| *names));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
