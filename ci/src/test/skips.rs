//! Which self-tests may be skipped where, and for what reason: any other skip fails the boot.
//!
//! A skipped test counts as neither passed nor failed, so one that begins to be skipped would stay
//! green. Each row of [`ALLOWED`] names tests and says where their skip is expected. Rows that must
//! be skipped, because the way of running lacks what they look at, also fail if they are not: then
//! the row says something that is no longer true.

use super::smoke::{EVERYWHERE, NATIVE, PV};
use crate::stack::Via;

/// Tests that may be skipped.
struct Allowed {
    /// Their names, or what their names end in after a `*`.
    tests: &'static [&'static str],
    /// Where.
    vias: &'static [Via],
    /// With at most so many MiB of memory, or with any.
    up_to_mib: Option<u32>,
    /// What the reason ends in.
    reason: &'static str,
    /// Whether they are skipped always, there, or only if it so happens.
    always: bool,
}

/// Those that take several vCPUs.
const SMP: &[&str] = &[
    "interrupt.moved",
    "smp.down_and_up",
    "smp.everywhere",
    "smp.forked",
    "smp.marks",
    "smp.one_space",
    "smp.pace",
    "smp.queued",
    "smp.raced",
    "smp.seen_by_all",
    "smp.spaces",
    "smp.time",
    "smp.waiters",
    "task.across",
    "task.spread",
];

const ALLOWED: &[Allowed] = &[
    Allowed {
        tests: &[
            "programs.fork",
            "programs.handler",
            "programs.kernel",
            "programs.memory",
            "programs.no_frames",
            "programs.no_heap",
            "programs.no_hypercall",
            "programs.shared",
            "programs.preempted",
            "programs.refused",
            "programs.starved",
            "usermode.confined.2",
            "usermode.exits.2",
        ],
        vias: &[Via::Shim, Via::Pvh],
        up_to_mib: None,
        reason: "page faults come without their address",
        always: false,
    },
    Allowed {
        tests: &[
            "interrupt.array",
            "interrupt.moved",
            "interrupt.nmi",
            "interrupt.priority",
            "interrupt.runstate",
            "smp.waiters",
        ],
        vias: &[Via::Bare, Via::Bare4],
        up_to_mib: None,
        reason: "there is no Xen to ask",
        always: true,
    },
    Allowed {
        // The shim has no queues of events.
        tests: &["interrupt.priority"],
        vias: &[Via::Shim],
        up_to_mib: None,
        reason: "events come by two levels of bits",
        always: true,
    },
    Allowed {
        tests: &["interrupt.unknown"],
        vias: PV,
        up_to_mib: None,
        reason: "Xen takes a PV guest's interrupts and exceptions, and calls it back",
        always: true,
    },
    Allowed {
        tests: &["interrupt.page"],
        vias: &[Via::Dom0, Via::Xl, Via::Shim, Via::Bare, Via::Bare4],
        up_to_mib: None,
        reason: "only a PVH guest chooses the frame of shared_info",
        always: true,
    },
    Allowed {
        tests: &["interrupt.spurious", "interrupt.serial"],
        vias: &[Via::Dom0, Via::Xl, Via::Shim, Via::Pvh],
        up_to_mib: None,
        reason: "Xen gives its guests no PC devices",
        always: true,
    },
    Allowed {
        tests: &[
            "image.p2m",
            "image.p2m_for_tools",
            "programs.no_hypercall",
            "refuse.account",
            "refuse.cache_bits",
            "refuse.map_table",
            "refuse.pins",
            "refuse.raw_writable_table",
            "refuse.reserved_slot",
        ],
        vias: NATIVE,
        up_to_mib: None,
        reason: "only a PV guest's page tables are checked by Xen",
        always: true,
    },
    Allowed {
        tests: &["refuse.cache_bits.1"],
        vias: &[Via::Dom0],
        up_to_mib: None,
        reason: "dom0 may set cache attributes",
        always: true,
    },
    Allowed {
        // A boot with several says by itself that they pass.
        tests: SMP,
        vias: EVERYWHERE,
        up_to_mib: None,
        reason: "one vCPU runs",
        always: false,
    },
    Allowed {
        // Their frames are more than half of the memory.
        tests: &[
            "*.4096",
            "programs.fork",
            "programs.handler",
            "programs.kernel",
            "programs.memory",
            "programs.no_frames",
            "programs.no_heap",
            "programs.no_hypercall",
            "programs.shared",
            "programs.preempted",
            "programs.refused",
            "programs.starved",
        ],
        vias: EVERYWHERE,
        up_to_mib: Some(16),
        reason: " can be had",
        always: false,
    },
    Allowed {
        // It wants frames that follow each other, which the holes of little memory may not leave.
        tests: &["mm.set_ptes.4096"],
        vias: EVERYWHERE,
        up_to_mib: Some(16),
        reason: "no 4096 pages in a row",
        always: false,
    },
    Allowed {
        // It changes a timer before its time, and cannot while the machine does something else.
        tests: &["interrupt.timer.reset"],
        vias: EVERYWHERE,
        up_to_mib: None,
        reason: "the machine is too busy",
        always: false,
    },
];

impl Allowed {
    fn names(&self, test: &str) -> bool {
        self.tests.iter().any(|name| match name.strip_prefix('*') {
            Some(end) => test.ends_with(end),
            None => is_test(test, name),
        })
    }

    fn is_for(&self, via: Via, mem_mib: Option<u32>) -> bool {
        let fits = |most| mem_mib.is_some_and(|mib| mib <= most);
        self.vias.contains(&via) && self.up_to_mib.is_none_or(fits)
    }
}

/// Whether a line's test is the one of this name, of whatever size.
fn is_test(test: &str, name: &str) -> bool {
    test.strip_prefix(name).is_some_and(|rest| {
        let size = rest.strip_prefix('.');
        rest.is_empty() || size.is_some_and(|size| size.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// The test of a result line, and what is said of it behind the dots.
fn result(line: &str) -> Option<(&str, &str)> {
    let (test, rest) = line.strip_prefix("selftest ")?.split_once(' ')?;
    let said = rest.strip_prefix("...")?.trim_start_matches('.');
    Some((test, said.trim_start()))
}

/// Checks the skips of a boot on `via` with `mem_mib`.
///
/// # Errors
/// A test that is skipped and may not be, or that was not skipped and must be.
pub(super) fn check(
    lines: &[String],
    via: Via,
    mem_mib: Option<u32>,
) -> std::result::Result<(), String> {
    let allowed = || ALLOWED.iter().filter(|row| row.is_for(via, mem_mib));
    for (test, said) in lines.iter().filter_map(|line| result(line)) {
        let Some(reason) = said.strip_prefix("skip: ") else {
            if let Some(row) = allowed().find(|row| row.always && row.names(test)) {
                return Err(format!(
                    "self-test {test} is to be skipped ({}), and is not: {said}",
                    row.reason
                ));
            }
            continue;
        };
        if !allowed().any(|row| row.names(test) && reason.ends_with(row.reason)) {
            return Err(format!("self-test {test} may not be skipped: {reason}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, via: Via, mem_mib: Option<u32>) -> std::result::Result<(), String> {
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        check(&lines, via, mem_mib)
    }

    const SERIAL: &str = "selftest interrupt.serial ......................... skip: \
        not on xen-pv: Xen gives its guests no PC devices";

    #[test]
    fn a_skip_is_allowed_where_its_reason_holds() {
        assert_eq!(run(SERIAL, Via::Xl, None), Ok(()));
        let bare = run(SERIAL, Via::Bare, None).unwrap_err();
        assert!(
            bare.starts_with("self-test interrupt.serial may not"),
            "{bare}"
        );
        let other = SERIAL.replace("Xen gives its guests no PC devices", "it is late");
        assert!(run(&other, Via::Xl, None).is_err());
        let ordinary = "selftest mm.map.512 ............................... skip: x";
        assert!(run(ordinary, Via::Xl, None).is_err());
        assert_eq!(
            run(&ordinary.replace("skip: x", "pass"), Via::Xl, None),
            Ok(())
        );
    }

    #[test]
    fn little_memory_is_a_reason_only_with_little_memory() {
        let line = "selftest mm.map.4096 .............................. skip: \
            too little memory: 4192 frames needed, 3804 can be had";
        assert_eq!(run(line, Via::Xl, Some(16)), Ok(()));
        assert!(run(line, Via::Xl, Some(64)).is_err());
        assert!(run(line, Via::Xl, None).is_err());
        assert!(run(&line.replace("4096", "512"), Via::Xl, Some(16)).is_err());
    }

    #[test]
    fn what_must_be_skipped_does_not_pass_unseen() {
        let line = "selftest refuse.cache_bits.1 ...................... pass";
        let wrong = run(line, Via::Dom0, None).unwrap_err();
        assert!(wrong.contains("is to be skipped"), "{wrong}");
        assert_eq!(run(line, Via::Xl, None), Ok(()));
    }

    #[test]
    fn a_size_is_part_of_a_name_and_another_word_is_not() {
        assert!(is_test("refuse.pins", "refuse.pins") && is_test("refuse.pins.1", "refuse.pins"));
        assert!(!is_test("refuse.pins.twice", "refuse.pins"));
        assert!(!is_test("refuse.pinsx", "refuse.pins"));
    }
}
