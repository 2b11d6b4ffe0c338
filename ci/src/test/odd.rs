//! Boots on a machine or as a domain that is not the usual one, and what is asked of it beside what
//! its console says.

use super::smoke::{CRASH, Expect, FAIL, PASS, Smoke, ends};
use crate::console::verdict::{Kind, Shutdown};
use crate::stack::{Act, Does, Dump, Job, SAVE, Via};

/// Such a boot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Odd {
    pub(super) smoke: Smoke,
    /// See [`Job::vcpus`].
    pub(super) vcpus: Option<u32>,
    /// See [`Job::cpu`].
    pub(super) cpu: &'static [&'static str],
    /// See [`Job::config`].
    pub(super) config: &'static [&'static str],
    /// See [`Job::dump`].
    pub(super) dump: Option<Dump>,
    /// See [`Job::acts`].
    pub(super) acts: &'static [Act],
    /// Whether it is given the words alone, and not the one by which a kernel ends that is not told to
    /// stay.
    pub(super) as_it_is: bool,
    /// Whether its acts use the program `hostile`.
    pub(super) hostile: bool,
    /// What Xen, or the dom0, must say.
    pub(super) host: &'static [&'static str],
}

impl Odd {
    /// Asks for it.
    pub(super) fn apply(&self, job: Job) -> Job {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Job {
            vcpus: self.vcpus,
            cpu: owned(self.cpu),
            config: owned(self.config),
            dump: self.dump,
            acts: self.acts,
            cmdline: match self.as_it_is {
                true => self.smoke.cmdline.into(),
                false => job.cmdline,
            },
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
pub(super) const USUAL: Odd = Odd {
    smoke: odd("", &[], "", PASS, &[]),
    vcpus: None,
    cpu: &[],
    config: &[],
    dump: None,
    acts: &[],
    as_it_is: false,
    hostile: false,
    host: &[],
};

pub(super) const fn odd(
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
pub(super) const WHOLE: &[&str] =
    &["dump: all 4096 pages, and 4 page tables on the way to the p2m list"];

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

/// When the monitor waits for a command.
pub(super) const PROMPT: &str = "monitor: type help";

pub(super) const fn host(when: &'static str, command: &'static str) -> Act {
    Act {
        when,
        does: Does::Host(command),
    }
}

pub(super) const fn keys(when: &'static str, keys: &'static str) -> Act {
    Act {
        when,
        does: Does::Type(keys),
    }
}

/// Has xl do something that the domain acknowledges in xenstore, and waits for that.
macro_rules! acknowledged {
    ($command:literal) => {
        concat!(
            $command,
            "; for i in $(seq 40); do word=$(xenstore-read /local/domain/$domain/control/shutdown); \
             [ \"$word\" ] || break; usleep 50000; done; echo \"unanswered: '$word'\""
        )
    };
}

pub(super) use acknowledged;

/// As [`SAVE`], at other machine frames: another domain takes those that it had.
pub(super) const SAVE_ELSEWHERE: &str = "unfollow; save $domain /tmp/save && { detach; filler 64; \
                              restore /tmp/save; }";

/// What all self-tests on four vCPUs say besides their verdict.
pub(super) const ON_FOUR: &[&str] = &[
    "smp: 4 vCPUs run",
    "selftest smp.raced ................................ pass",
    " cpus=4 ",
    " failed=0 ",
];

/// Tests of such boots.
pub(super) const ODD: &[Odd] = &[
    Odd {
        smoke: odd(
            "self-tests pass on four vCPUs",
            &[Via::Xl],
            "selftest",
            PASS,
            ON_FOUR,
        ),
        vcpus: Some(4),
        ..USUAL
    },
    Odd {
        // All of them take half a minute there, and a whole run has twenty.
        smoke: odd(
            "self-tests of vCPUs pass on four",
            &[Via::Dom0, Via::Shim],
            "selftest=smp",
            PASS,
            &["smp: 4 vCPUs run", " cpus=4 ", " failed=0 "],
        ),
        vcpus: Some(4),
        ..USUAL
    },
    Odd {
        // Of the kernel's own tables nobody else sees to it that other processors forget what has changed.
        smoke: odd(
            "self-tests of vCPUs pass on four processors",
            &[Via::Bare, Via::Bare4],
            "selftest=smp.e,smp.d,smp.s,smp.r,task.spread",
            PASS,
            &[
                "smp: 4 vCPUs run",
                "selftest smp.seen_by_all.45 ....................... pass",
                " cpus=4 ",
                " failed=0 ",
            ],
        ),
        vcpus: Some(4),
        ..USUAL
    },
    Odd {
        // The registers of its interrupt controller are memory there.
        smoke: odd(
            "a processor without x2APIC has others beside it",
            &[Via::Bare],
            "",
            PASS,
            &["smp: 4 vCPUs run", " cpus=4 "],
        ),
        vcpus: Some(4),
        cpu: &["-x2apic"],
        ..USUAL
    },
    Odd {
        smoke: odd(
            "vCPUs that are offline are left alone",
            &[Via::Xl],
            "",
            PASS,
            &[
                "vCPU 2 and those behind it are offline, by xenstore",
                " cpus=2 ",
            ],
        ),
        vcpus: Some(2),
        config: &["maxvcpus=4"],
        ..USUAL
    },
    Odd {
        // Two of them go, stay away from a restored domain, and come back there. Threads go on all the
        // time.
        smoke: Smoke {
            mem_mib: Some(64),
            ..odd(
                "vCPUs come and go by xl vcpu-set",
                &[Via::Xl],
                "",
                PASS,
                &["smp: 2 vCPUs run", " cpus=4 "],
            )
        },
        vcpus: Some(4),
        as_it_is: true,
        acts: &[
            keys(PROMPT, "busy 4\r"),
            host("busy: all 8 threads go on", "xl vcpu-set $domain 2"),
            keys("smp: 2 vCPUs run", "busy\r"),
            keys("busy: all 8 threads go on", "selftest smp.time\r"),
            host(" failed=0 ", SAVE),
            keys("control: restored", "busy\r"),
            keys("busy: all 8 threads go on", "selftest smp.time\r"),
            host(" failed=0 ", "xl vcpu-set $domain 4"),
            keys("smp: 4 vCPUs run", "busy\r"),
            keys("busy: all 8 threads go on", "selftest smp.time\r"),
            host(" failed=0 ", acknowledged!("xl shutdown $domain")),
        ],
        host: &["unanswered: ''"],
        ..USUAL
    },
    Odd {
        // Those that come back find what the others have changed.
        smoke: odd(
            "vCPUs of a PVH domain come and go by xl vcpu-set",
            &[Via::Pvh],
            "",
            PASS,
            &["smp: 4 vCPUs run", "smp: 2 vCPUs run", " cpus=4 "],
        ),
        vcpus: Some(4),
        as_it_is: true,
        acts: &[
            host(PROMPT, "xl vcpu-set $domain 2"),
            keys("smp: 2 vCPUs run", "selftest smp.seen_by_all\r"),
            host(" failed=0 ", "xl vcpu-set $domain 4"),
            keys("smp: 4 vCPUs run", "selftest smp.seen_by_all\r"),
            host(" failed=0 ", acknowledged!("xl shutdown $domain")),
        ],
        host: &["unanswered: ''"],
        ..USUAL
    },
    Odd {
        smoke: odd(
            "a panic on another vCPU stops all",
            &[Via::Dom0, Via::Xl, Via::Shim, Via::Pvh, Via::Bare],
            "provoke=vcpupanic",
            CRASH,
            &["on vCPU 3 of 4; the others are stopped", "guest::smp::run"],
        ),
        vcpus: Some(4),
        ..USUAL
    },
    Odd {
        smoke: odd(
            "the fuzzer passes beside other vCPUs",
            &[Via::Dom0, Via::Xl, Via::Bare],
            "fuzz=7:5000",
            PASS,
            &["no divergence", " cpus=2 "],
        ),
        vcpus: Some(2),
        ..USUAL
    },
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
        dump: Some(Dump::Live(PROMPT)),
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
    Odd {
        // Without a word: neither `once`, which others get, nor `monitor`.
        smoke: odd(
            "a domain stays until it is shut down",
            &[Via::Xl, Via::Shim, Via::Pvh],
            "",
            PASS,
            &["running: via=", "control: asked to poweroff"],
        ),
        acts: &[host(PROMPT, acknowledged!("xl shutdown $domain"))],
        as_it_is: true,
        host: &["Shutting down domain ", "unanswered: ''"],
        ..USUAL
    },
    Odd {
        // Some twelve of them: between two of them the word is seen and acknowledged, and what was
        // not made is not passed.
        smoke: odd(
            "xl shutdown ends a run of self-tests",
            &[Via::Xl, Via::Pvh],
            "selftest",
            FAIL,
            &[
                "control: asked to poweroff",
                "asked to power off: no more self-tests",
            ],
        ),
        acts: &[host(
            "selftest mm.map.1 ",
            acknowledged!("xl shutdown $domain"),
        )],
        host: &["unanswered: ''"],
        ..USUAL
    },
    Odd {
        // A reboot is no power-off, and `boot` says so by its status.
        smoke: odd(
            "xl reboot reboots it",
            &[Via::Xl, Via::Shim, Via::Pvh],
            "monitor",
            ends(&[Kind::Pass], Shutdown::Reboot, 1),
            &["control: asked to reboot"],
        ),
        acts: &[host(PROMPT, acknowledged!("xl reboot $domain"))],
        host: &["Rebooting domain ", "unanswered: ''"],
        ..USUAL
    },
    Odd {
        smoke: odd(
            "xl asks, pauses it, and presses keys",
            &[Via::Xl, Via::Pvh],
            "monitor",
            PASS,
            &["nmi: vCPU 0 is here", "  h  help", " in the direct map, "],
        ),
        acts: &[
            host(PROMPT, "xl trigger $domain nmi"),
            host(
                "backtrace:",
                "xl pause $domain; xl list | tail -n 1; xl unpause $domain; xl sysrq $domain h",
            ),
            host("  o  power off", "xl sysrq $domain m"),
            host(" of them free", "xl sysrq $domain x"),
            host("sysrq: no key 'x'", "xl sysrq $domain o"),
        ],
        host: &["p---"],
        ..USUAL
    },
    Odd {
        smoke: odd(
            "xl sysrq crashes it",
            &[Via::Xl],
            "monitor",
            CRASH,
            &["sysrq: crash", "asked for by sysrq", "backtrace"],
        ),
        acts: &[host(PROMPT, "xl sysrq $domain c")],
        ..USUAL
    },
    Odd {
        // It is stopped, asked, and goes on: one request is lost, and no other.
        smoke: odd(
            "an xenstored that is silent is said, and no hang",
            &[Via::Xl],
            "monitor",
            PASS,
            &[
                "store read: xenstored does not answer: nothing came in 5 s",
                " came too late",
            ],
        ),
        config: &["name=\"a-name\""],
        acts: &[
            host(
                PROMPT,
                "tty=$(xenstore-read /local/domain/$domain/console/tty); \
                 hush && printf 'store read name\\r' > $tty",
            ),
            host(
                "xenstored does not answer",
                "speak; printf 'store read name\\r' > $tty",
            ),
            keys("a-name", "poweroff\r"),
        ],
        ..USUAL
    },
    Odd {
        smoke: odd(
            "domain and dom0 read what the other writes",
            &[Via::Xl, Via::Shim, Via::Pvh],
            "monitor",
            PASS,
            &["store read: xenstored refuses with ENOENT"],
        ),
        config: &["name=\"a-name\""],
        acts: &[
            keys(
                PROMPT,
                "store read name\rstore read nothing\rstore write data/from-domain its word\r\
                 store ls data\r",
            ),
            keys("a-name", "store watch data\r"),
            host(
                "until a key is typed",
                "xenstore-read /local/domain/$domain/data/from-domain; \
                 xenstore-write /local/domain/$domain/data/from-host 1",
            ),
            keys("data/from-host", " poweroff\r"),
        ],
        host: &["its word"],
        ..USUAL
    },
];
