//! Domains whose memory Xen's tools take away and give back while they run, or move as a whole while
//! all of their vCPUs work on it.

use super::odd::{Odd, PROMPT, SAVE_ELSEWHERE, USUAL, acknowledged, host, keys, odd};
use super::smoke::{PASS, Smoke};
use crate::stack::{Dump, SAVE, Via};

/// Tests of them.
pub(super) const MEMORY: &[Odd] = &[
    Odd {
        // A quarter of it is gone while it is saved, and comes at other machine frames. It is asked for more
        // than it can do without, and asks for more than Xen lets it have: it says so, and goes on. The
        // tools find what it has in the end, and that there is no more.
        smoke: Smoke {
            mem_mib: Some(16),
            ..odd(
                "memory goes and comes by xl mem-set",
                &[Via::Xl],
                "",
                PASS,
                &[
                    "keeps it, not 1024K: the kernel must have ",
                    "not 16384K: Xen has no more for it; asks again in 1 s",
                    "balloon: has 16384K, as asked",
                ],
            )
        },
        as_it_is: true,
        acts: &[
            host(PROMPT, "xl mem-set $domain 12"),
            keys("has 12288K, as asked", "mem\r"),
            host(" 1024 given back to Xen", SAVE_ELSEWHERE),
            keys("control: restored", "audit\r"),
            host(": clean", "xl destroy filler; xl mem-set $domain 1"),
            host(
                "keeps it, not 1024K",
                "xenstore-write /local/domain/$domain/memory/target 16384",
            ),
            host("asks again in 1 s", "xl mem-set $domain 16"),
            keys("has 16384K, as asked", "selftest mm.map,frames.alloc\r"),
            host(" failed=0 ", "xl mem-set $domain 10"),
        ],
        dump: Some(Dump::Live("has 10240K, as asked")),
        host: &["dump: all 2560 pages, and 4 page tables on the way to the p2m list"],
        ..USUAL
    },
    Odd {
        // Twice what it was built with: numbers of frames, records, direct map and p2m list grow, and all of
        // it is memory. It shrinks, is saved with what is left, comes at other machine frames and grows again.
        smoke: Smoke {
            mem_mib: Some(64),
            ..odd(
                "memory comes beyond what it was built with",
                &[Via::Xl],
                "",
                PASS,
                &["    32768 pages, 32768 in the direct map"],
            )
        },
        config: &["maxmem=128"],
        as_it_is: true,
        acts: &[
            host(PROMPT, "xl mem-set $domain 128"),
            keys("has 131072K, as asked", "mem\r"),
            keys("32768 in the direct map", "selftest mm.map,frames.alloc\r"),
            host(" failed=0 ", "xl mem-set $domain 16"),
            host("has 16384K, as asked", SAVE_ELSEWHERE),
            keys("control: restored", "audit\r"),
            host(": clean", "xl destroy filler; xl mem-set $domain 20"),
        ],
        dump: Some(Dump::Live("has 20480K, as asked")),
        host: &["dump: all 5120 pages, and 4 page tables on the way to the p2m list"],
        ..USUAL
    },
    Odd {
        // What xl says counts pages of its own.
        smoke: odd(
            "its memory goes and comes",
            &[Via::Pvh],
            "",
            PASS,
            &[" 16384 given back to Xen"],
        ),
        as_it_is: true,
        acts: &[
            host(PROMPT, "xl mem-set $domain 64"),
            keys(", as asked", "mem\r"),
            keys(" given back to Xen", "audit\r"),
            host(": clean", "xl mem-set $domain 128"),
            keys(", as asked", "selftest mm.map,frames.alloc\r"),
            host(" failed=0 ", acknowledged!("xl shutdown $domain")),
        ],
        host: &["unanswered: ''"],
        ..USUAL
    },
    Odd {
        // Its map shows more memory than it has, which Xen would give it when it looks there: the kernel
        // does not, and asks for it when it may have it.
        smoke: Smoke {
            mem_mib: Some(64),
            ..odd(
                "its memory comes beyond what it was built with",
                &[Via::Pvh],
                "",
                PASS,
                &[" failed=0 "],
            )
        },
        config: &["maxmem=128"],
        as_it_is: true,
        acts: &[
            host(PROMPT, "xl mem-set $domain 128"),
            keys(", as asked", "mem\r"),
            keys(" in the direct map", "selftest mm.map,frames.alloc\r"),
            host(" failed=0 ", "xl mem-set $domain 32"),
            keys(", as asked", "audit\r"),
            host(": clean", "xl mem-set $domain 100"),
            host(", as asked", acknowledged!("xl shutdown $domain")),
        ],
        host: &["unanswered: ''"],
        ..USUAL
    },
    Odd {
        // `cargo xtask soak`, in short.
        smoke: Smoke {
            mem_mib: Some(16),
            ..odd(
                "all vCPUs work while it is saved",
                &[Via::Xl],
                "",
                PASS,
                &["soak: 2 suspends, 0 of them cancelled; ", " cpus=4 "],
            )
        },
        vcpus: Some(4),
        as_it_is: true,
        acts: &[
            keys(PROMPT, "soak\r"),
            host("soak: begins", SAVE),
            host("soak: 1 suspends, ", SAVE),
            host("soak: 2 suspends, ", acknowledged!("xl shutdown $domain")),
        ],
        host: &["unanswered: ''"],
        ..USUAL
    },
];
