//! Debian's static busybox, unmodified, on the kernel: what it says and how it ends is what the same
//! binary says and does under the Linux that the tests run on, byte for byte. And a thousand system calls,
//! which come to what they come to under Debian's Linux: that is in a file, and `test programs` asks Linux
//! whether it is right.

use std::path::Path;
use std::process::Command;

use super::session::Boot;
use super::smoke::{self, FAIL, PASS, Smoke};
use super::{Suite, title, titles};
use crate::boot::program::{BUSYBOX, Program};
use crate::exit::{Failure, Result};
use crate::stack::{Job, Via};

/// The script's name, in the ramdisk and here.
const FILE: &str = "script";

/// What the shell is given in the first test: files, pipes, children, signals.
const SCRIPT: &str = include_str!("programs.sh");

/// What runs the list of system calls.
const CALLS_SCRIPT: &str = "export PATH=/bin HOME=/root TERM=linux; cd /; calls cases < /dev/null";

/// What each of them comes to under Debian's Linux.
pub(super) const CALLS: &str = include_str!("programs/calls");

/// What makes a dynamic program, whose interpreter nobody has, and runs it: an ELF header, one program header
/// (`PT_INTERP`), the name.
const DYNAMIC: &str = r"
z() { head -c $1 /dev/zero; }
{
    printf '\177ELF\2\1\1'; z 9; printf '\3\0\76\0\1\0\0\0'; z 8; printf '\100'; z 19
    printf '\100\0\70\0\1\0'; z 6
    printf '\3\0\0\0\4\0\0\0\170'; z 23; printf '\12'; z 7; printf '\12'; z 7; printf '\1'; z 7
    printf '/lib/none\0'
} > dynamic
chmod +x dynamic
./dynamic 2>/dev/null
echo status $?
";

/// What a test's output is held against.
enum Against {
    /// What the same says under the Linux that this runs on.
    Host,
    /// What it says under Debian's.
    Listed(&'static str),
    /// Nothing but what the row expects.
    Nothing,
}

/// A test.
struct Row {
    smoke: Smoke,
    script: &'static str,
    against: Against,
}

const fn row(
    name: &'static str,
    vias: &'static [Via],
    script: &'static str,
    expect: smoke::Expect,
    says: &'static [&'static str],
) -> Row {
    Row {
        smoke: Smoke {
            name,
            vias,
            mem_mib: None,
            cmdline: "log=off",
            expect,
            says,
        },
        script,
        against: Against::Host,
    }
}

/// Where programs can be run: in the hardware virtualisation that QEMU emulates Xen 4.17 loses the addresses
/// of page faults, so that neither the shim nor PVH has them there; with `--xen 4.20` both do.
const WITH_ADDRESSES: &[Via] = &[Via::Dom0, Via::Xl, Via::Bare, Via::Bare4];

const ROWS: &[Row] = &[
    row(
        "busybox says what it says under Linux",
        WITH_ADDRESSES,
        SCRIPT,
        PASS,
        &[" program=0"],
    ),
    row(
        "a program's status is the boot's",
        &[Via::Dom0, Via::Bare],
        "echo before; exit 3",
        FAIL,
        &["the program ended with 3"],
    ),
    row(
        "a program that is killed fails the boot",
        &[Via::Dom0, Via::Bare],
        "kill -SEGV $$",
        FAIL,
        &["the program ended with signal-11"],
    ),
    Row {
        against: Against::Nothing,
        smoke: Smoke {
            name: "a dynamic program is refused by name",
            vias: &[Via::Bare],
            mem_mib: None,
            cmdline: "log=warn",
            expect: PASS,
            says: &[
                "a dynamic program, which /lib/none would put together",
                "status 127",
                " program=0",
            ],
        },
        script: DYNAMIC,
    },
    Row {
        against: Against::Listed(CALLS),
        ..row(
            "system calls come to what they come to under Linux",
            &[Via::Dom0],
            CALLS_SCRIPT,
            PASS,
            &[" program=0"],
        )
    },
];

/// What tests of a way are called.
pub(super) fn names(via: Via) -> Vec<String> {
    titles(ROWS.iter().map(|row| (row.smoke.name, row.smoke.vias)), via)
}

/// The boots on these ways.
pub(super) fn boots(suite: &Suite, kernel: &Path, vias: &[Via]) -> Result<Vec<Boot>> {
    let program = Program::find(BUSYBOX, &suite.provision)?;
    let dir = suite.workspace.target.join("programs");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(Failure::file("remove", &dir))?;
    }
    program.link(&dir.join("bin"))?;
    let mut boots = Vec::new();
    for (number, row) in ROWS.iter().enumerate() {
        let on: Vec<_> = vias
            .iter()
            .filter(|via| row.smoke.vias.contains(via))
            .filter(|via| suite.wants(&title(row.smoke.name, **via)))
            .collect();
        if on.is_empty() {
            continue;
        }
        let ramdisk = dir.join(format!("{number}.cpio"));
        let mut files = vec![(FILE, row.script.as_bytes())];
        let calls;
        let expected = match row.against {
            Against::Listed(said) => {
                let path = suite.workspace.build("calls")?;
                calls = std::fs::read(&path).map_err(Failure::file("read", &path))?;
                files.push(("bin/calls", &calls));
                Some(said.lines().map(str::to_owned).collect())
            }
            Against::Host => Some(under_linux(&program, &dir, row.script)?),
            Against::Nothing => None,
        };
        program.pack(&ramdisk, &files)?;
        boots.extend(on.into_iter().map(|&via| {
            let expected: Option<Vec<_>> = expected.clone();
            Boot {
                name: title(row.smoke.name, via),
                job: Job {
                    cmdline: program.words(row.smoke.cmdline, &["sh".into(), FILE.into()]),
                    initrd: Some(ramdisk.clone()),
                    timeout: Some(smoke::TIMEOUT),
                    ..Job::new(row.smoke.name.replace([' ', '\''], "-"), via, kernel)
                },
                check: Box::new(move |transcript, end| {
                    smoke::check(&row.smoke, &transcript.guest, end)?;
                    expected.as_ref().map_or(Ok(()), |expected| {
                        compare(&said(&transcript.guest), expected)
                    })
                }),
            }
        }));
    }
    Ok(boots)
}

/// What the shell says under the Linux that this runs on.
fn under_linux(program: &Program, dir: &Path, script: &str) -> Result<Vec<String>> {
    let file = dir.join(FILE);
    std::fs::write(&file, script).map_err(Failure::file("write", &file))?;
    let output = Command::new(dir.join("bin").join(BUSYBOX))
        .args(["sh", FILE])
        .env_clear()
        .env("PATH", dir.join("bin"))
        .current_dir(dir)
        .output()
        .map_err(Failure::file("run", program.file()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}

/// What a program says: all between the kernel's first line and its verdict.
fn said(lines: &[String]) -> Vec<String> {
    let first = lines.iter().position(|line| line.starts_with("guest "));
    let lines = lines.iter().skip(first.map_or(0, |first| first + 1));
    let own = lines.take_while(|line| !line.starts_with("verdict: "));
    own.cloned().collect()
}

/// The first line in which two texts differ: its number, and what each has there.
pub(super) fn difference<'a>(
    found: &'a [String],
    expected: &'a [String],
) -> Option<(usize, Option<&'a String>, Option<&'a String>)> {
    let count = found.len().max(expected.len());
    let mut lines = (0..count).map(|at| (at + 1, found.get(at), expected.get(at)));
    lines.find(|(_, found, expected)| found != expected)
}

fn compare(found: &[String], expected: &[String]) -> std::result::Result<(), String> {
    match difference(found, expected) {
        None => Ok(()),
        Some((line, found, expected)) => Err(format!(
            "line {line} of the program's output is {found:?}, and {expected:?} under Linux"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_output_is_what_lies_between() {
        let all = lines("guest 0.1.0 on Xen\none\ntwo\nverdict: pass via=\"x\"\nlater");
        let said = said(&all);
        assert_eq!(said, ["one", "two"]);
        assert_eq!(compare(&said, &lines("one\ntwo")), Ok(()));
        assert!(compare(&said, &lines("one\ntwo\nthree")).is_err());
        assert!(compare(&said, &lines("one")).is_err());
        assert!(compare(&said, &lines("one\nother")).is_err());
    }
}
