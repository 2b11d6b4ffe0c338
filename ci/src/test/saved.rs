//! Domains that are saved and restored, or go on after all, and what the tools find of them then.

use super::odd::{Odd, PROMPT, SAVE_ELSEWHERE, USUAL, WHOLE, acknowledged, host, keys, odd};
use super::smoke::{PASS, Smoke};
use crate::stack::{Dump, SAVE, Via};

/// Tests of it.
pub(super) const SAVED: &[Odd] = &[
    Odd {
        // Its page tables and console each time, and what they do in the end.
        smoke: Smoke {
            mem_mib: Some(64),
            ..odd(
                "xl saves and restores it three times",
                &[Via::Xl],
                "log=info,suspend=debug",
                PASS,
                &[
                    "suspend: the machine frames are others: ",
                    "store read: xenstored refuses with ENOENT",
                ],
            )
        },
        as_it_is: true,
        acts: &[
            host(PROMPT, SAVE_ELSEWHERE),
            keys("control: restored", "audit\r"),
            host(": clean", SAVE_ELSEWHERE),
            keys("control: restored", "audit\r"),
            host(": clean", SAVE),
            keys("control: restored", "selftest mm\r"),
            keys(" failed=0 ", "store read nothing\r"),
            host(
                "refuses with ENOENT",
                acknowledged!("xl destroy filler; xl shutdown $domain"),
            ),
        ],
        host: &["unanswered: ''"],
        ..USUAL
    },
    Odd {
        // It stands between the kernel and the tools, and does for it what they do for others.
        smoke: Smoke {
            mem_mib: Some(64),
            ..odd(
                "a save goes by the shim",
                &[Via::Shim],
                "",
                PASS,
                &["store read: xenstored refuses with ENOENT"],
            )
        },
        as_it_is: true,
        acts: &[
            host(PROMPT, SAVE),
            keys("control: restored", "audit\r"),
            keys(": clean", "store read nothing\r"),
            host("refuses with ENOENT", acknowledged!("xl shutdown $domain")),
        ],
        host: &["unanswered: ''"],
        ..USUAL
    },
    Odd {
        // The tools' view of its p2m list is that of the new domain.
        smoke: Smoke {
            mem_mib: Some(16),
            ..odd(
                "a dump of a restored domain is whole",
                &[Via::Xl],
                "",
                PASS,
                &[],
            )
        },
        as_it_is: true,
        acts: &[
            host(PROMPT, SAVE_ELSEWHERE),
            host("control: restored", "xl destroy filler"),
        ],
        dump: Some(Dump::Live("control: restored")),
        host: WHOLE,
        ..USUAL
    },
    Odd {
        // A checkpoint, a file that has no room, and a restore; work for all vCPUs after each.
        smoke: Smoke {
            mem_mib: Some(64),
            ..odd(
                "a suspend is cancelled, with four vCPUs",
                &[Via::Xl],
                "",
                PASS,
                &[
                    "control: goes on as it was",
                    "control: restored",
                    " cpus=4 ",
                ],
            )
        },
        vcpus: Some(4),
        as_it_is: true,
        acts: &[
            host(PROMPT, "save -c $domain /tmp/save; follow $domain"),
            keys("control: goes on as it was", "selftest smp.time\r"),
            host(
                " failed=0 ",
                "mkdir -p /small; mount -t tmpfs -o size=1m none /small; save $domain /small/save",
            ),
            keys("control: goes on as it was", "selftest smp.time\r"),
            host(" failed=0 ", SAVE),
            keys("control: restored", "selftest smp.time,smp.queued\r"),
            host(" failed=0 ", acknowledged!("xl shutdown $domain")),
        ],
        host: &["Failed to save domain, resuming domain", "unanswered: ''"],
        ..USUAL
    },
    Odd {
        // Between two of them, on two vCPUs; those that are left are made in the restored domain.
        smoke: Smoke {
            mem_mib: Some(64),
            ..odd(
                "xl saves it in the middle of its self-tests",
                &[Via::Xl],
                "selftest",
                PASS,
                &["control: restored", " failed=0 "],
            )
        },
        vcpus: Some(2),
        acts: &[host("selftest mm.map.1 ", SAVE)],
        ..USUAL
    },
    Odd {
        // Its ports, its page of Xen's and its upcalls each time; and the word that is obeyed last.
        smoke: Smoke {
            mem_mib: Some(64),
            ..odd(
                "it is saved, restored and goes on, and obeys a halt",
                &[Via::Pvh],
                "",
                PASS,
                &[
                    "control: goes on as it was",
                    "store read: xenstored refuses with ENOENT",
                    "control: asked to halt",
                ],
            )
        },
        as_it_is: true,
        acts: &[
            host(PROMPT, SAVE),
            keys("control: restored", "audit\r"),
            keys(": clean", "selftest interrupt,task.timers\r"),
            host(" failed=0 ", "save -c $domain /tmp/save; follow $domain"),
            keys("control: goes on as it was", "store read nothing\r"),
            host(
                "refuses with ENOENT",
                "xenstore-write /local/domain/$domain/control/shutdown halt",
            ),
        ],
        ..USUAL
    },
];
