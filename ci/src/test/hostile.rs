//! A dom0 that means harm: it writes over the rings that it shares with a running domain, and raises
//! events without an end. The domain says what it finds, and goes on as far as that can be.

use super::odd::{Odd, PROMPT, USUAL, host, keys, odd};
use super::smoke::PASS;
use crate::stack::Via;

/// Runs the program `hostile` on the page of a ring of the domain's.
macro_rules! on_ring {
    ($verb:literal, $ring:literal, $rest:literal) => {
        concat!(
            "chmod +x /jobs/program; /jobs/program ",
            $verb,
            " $domain $(xenstore-read /local/domain/$domain/",
            $ring,
            "/ring-ref) ",
            $rest
        )
    };
}

/// Tests of it. Offsets are those of `xencons_interface` (`in_prod`, `out_cons`) and of
/// `xenstore_domain_interface` (`rsp`, `rsp_prod`, `req_cons` and on to `error`, `server_features`).
pub(super) const HOSTILE: &[Odd] = &[Odd {
    smoke: odd(
        "a dom0 that writes over its rings is survived",
        &[Via::Xl],
        "monitor",
        PASS,
        &["bytes waiting in a ring of 1024"],
    ),
    config: &["name=\"a-name\""],
    hostile: true,
    acts: &[
        // Both indices of the console that are dom0's.
        host(
            PROMPT,
            on_ring!("words", "console", "3076 0x12345678 0x7fffffff"),
        ),
        keys("bytes waiting in a ring of", "store read name\r"),
        // All ports, as fast as dom0 can; then it is to be as before.
        host(
            "a-name",
            "/jobs/program storm 1000; \
             printf 'audit\\r' > $(xenstore-read /local/domain/$domain/console/tty)",
        ),
        // Answers that nobody asked for, of bytes that mean nothing.
        host(
            ": clean",
            concat!(
                on_ring!("words", "store", "2064 3; "),
                on_ring!("noise", "store", "1024 1024; "),
                on_ring!("add", "store", "2060 300")
            ),
        ),
        // A xenstored that begins anew, as this one says it does, and serves on.
        host(
            "Xen's tools cannot ask anything",
            on_ring!("words", "store", "2048 0 0 0 0 3 0 0"),
        ),
        host("control: xenstored has begun anew", "xl sysrq $domain h"),
        // And an index that cannot be, where it no longer does.
        host(
            "sysrq: help",
            concat!(
                on_ring!("words", "store", "2064 0; "),
                on_ring!("words", "store", "2060 0x7fffffff"),
                "; printf 'store read name\\raudit\\r' > \
                 $(xenstore-read /local/domain/$domain/console/tty)"
            ),
        ),
        keys(": clean", "poweroff\r"),
    ],
    host: &["hostile: "],
    ..USUAL
}];
