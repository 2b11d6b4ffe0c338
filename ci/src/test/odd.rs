//! Boots on a machine or as a domain that is not the usual one, and what is asked of it beside what
//! its console says.

use super::smoke::{CRASH, Expect, FAIL, PASS, Smoke, ends};
use crate::console::verdict::{Kind, Shutdown};
use crate::stack::{Dump, Job, Via};

/// Such a boot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Odd {
    pub(super) smoke: Smoke,
    /// See [`Job::cpu`].
    cpu: &'static [&'static str],
    /// See [`Job::config`].
    config: &'static [&'static str],
    /// See [`Job::dump`].
    dump: Option<Dump>,
    /// What Xen, or the dom0, must say.
    host: &'static [&'static str],
}

impl Odd {
    /// Asks for it.
    pub(super) fn apply(&self, job: Job) -> Job {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Job {
            cpu: owned(self.cpu),
            config: owned(self.config),
            dump: self.dump,
            ..job
        }
    }

    /// Whether Xen and the dom0 said what they must.
    pub(super) fn check(&self, host: &[String]) -> Result<(), String> {
        let silent = |text: &&&str| !host.iter().any(|line| line.contains(**text));
        let Some(text) = self.host.iter().find(silent) else {
            return Ok(());
        };
        let dump = host.iter().rev().find(|line| line.starts_with("dump: "));
        let instead = dump.map_or("", String::as_str);
        Err(format!("the host never says \"{text}\" {instead}"))
    }
}

/// What most of them are.
const USUAL: Odd = Odd {
    smoke: odd("", &[], "", PASS, &[]),
    cpu: &[],
    config: &[],
    dump: None,
    host: &[],
};

const fn odd(
    name: &'static str,
    vias: &'static [Via],
    cmdline: &'static str,
    expect: Expect,
    says: &'static [&'static str],
) -> Smoke {
    Smoke {
        name,
        vias,
        mem_mib: None,
        cmdline,
        expect,
        says,
    }
}

/// What the kernel says where there is no NX.
const NO_NX: &[&str] = &["the processor has no NX: all data is mapped no-execute"];

/// What is said of a dump of a domain with 16 MiB.
const WHOLE: &[&str] = &["dump: all 4096 pages, and 4 page tables on the way to the p2m list"];

/// A line that loaders cut off behind `selftest`, which is a word as well.
const LONG: &str = {
    const LINE: [u8; 1030] = {
        let (start, end) = (b"log=warn", b"selftest=mm.map");
        let mut line = [b' '; 1030];
        let mut at = 0;
        while at < start.len() {
            line[at] = start[at];
            at += 1;
        }
        let mut at = 0;
        while at < end.len() {
            line[1015 + at] = end[at];
            at += 1;
        }
        line
    };
    match str::from_utf8(&LINE) {
        Ok(line) => line,
        Err(_) => panic!(),
    }
};

/// Tests of such boots.
pub(super) const ODD: &[Odd] = &[
    Odd {
        smoke: odd(
            "a processor without NX is refused",
            &[Via::Dom0, Via::Bare, Via::Bare4],
            "",
            FAIL,
            NO_NX,
        ),
        cpu: &["-nx"],
        ..USUAL
    },
    Odd {
        smoke: odd(
            "a domain without NX is refused",
            &[Via::Pvh],
            "",
            FAIL,
            NO_NX,
        ),
        config: &["cpuid=\"host,nx=0\""],
        ..USUAL
    },
    Odd {
        smoke: odd(
            "a processor without long mode is refused",
            &[Via::Bare],
            "",
            ends(&[Kind::Crash], Shutdown::Crash, 1),
            &["the processor has no long mode"],
        ),
        cpu: &["-lm"],
        ..USUAL
    },
    Odd {
        // All that it has can be used, and no more: Xen ends a domain that touches what it has not.
        smoke: odd(
            "a domain that may grow knows what it has",
            &[Via::Pvh],
            "selftest",
            PASS,
            &[" pages=32768 ", " failed=0 "],
        ),
        config: &["memory=128", "maxmem=256"],
        ..USUAL
    },
    Odd {
        smoke: odd(
            "a line that loaders cut off is refused",
            &[Via::Dom0, Via::Xl, Via::Pvh, Via::Bare],
            LONG,
            FAIL,
            &["bytes or more; loaders cut a line off there"],
        ),
        ..USUAL
    },
    Odd {
        smoke: Smoke {
            mem_mib: Some(16),
            ..odd(
                "a dump of a running domain is whole",
                &[Via::Xl],
                "monitor",
                PASS,
                &[],
            )
        },
        dump: Some(Dump::Live("monitor: type help")),
        host: WHOLE,
        ..USUAL
    },
    Odd {
        smoke: Smoke {
            mem_mib: Some(16),
            ..odd(
                "a dump of a domain that crashed is whole",
                &[Via::Xl],
                "provoke=panic",
                CRASH,
                &[],
            )
        },
        config: &["on_crash=\"coredump-destroy\""],
        dump: Some(Dump::Crash),
        host: WHOLE,
        ..USUAL
    },
];
