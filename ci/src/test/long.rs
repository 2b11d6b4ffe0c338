//! Boots that take so long that a whole run has no time for them, of which it makes shorter ones: all
//! self-tests on several vCPUs, and with more memory. They belong to the group `vcpus`.

use super::odd::{ON_FOUR, Odd, USUAL, odd};
use super::smoke::{PASS, SELFTESTS, Smoke};
use crate::stack::Via;

/// These boots.
pub(super) const LONG: &[Odd] = &[
    Odd {
        smoke: odd(
            "all self-tests pass on four vCPUs",
            &[Via::Dom0, Via::Shim],
            "selftest",
            PASS,
            ON_FOUR,
        ),
        vcpus: Some(4),
        ..USUAL
    },
    Odd {
        smoke: Smoke {
            mem_mib: Some(64),
            ..odd(
                "all self-tests pass with 64 MiB",
                &[Via::Shim],
                "log=warn selftest",
                PASS,
                SELFTESTS,
            )
        },
        ..USUAL
    },
    Odd {
        smoke: Smoke {
            mem_mib: Some(3072),
            ..odd(
                "all self-tests pass with 3 GiB",
                &[Via::Dom0, Via::Bare],
                "log=warn selftest",
                PASS,
                SELFTESTS,
            )
        },
        ..USUAL
    },
];
