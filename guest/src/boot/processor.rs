//! What the kernel asks of the processor, asked before it is used.
//!
//! A feature that is not there shows as a fault far from its cause: without NX an entry with that bit
//! is refused by Xen, or faults where nobody is yet to report it. CPUID says it in time, and the
//! kernel in one sentence.

use core::fmt;

/// A feature with the reason for wanting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// As manuals call it.
    pub name: &'static str,
    /// What for.
    pub why: &'static str,
    /// The CPUID leaf whose EDX says so, and the bit in it.
    leaf: u32,
    bit: u32,
}

const fn edx(name: &'static str, leaf: u32, bit: u32, why: &'static str) -> Feature {
    Feature {
        name,
        why,
        leaf,
        bit,
    }
}

/// All that are relied on. Long mode is asked for by the entry, which cannot go on without it. Of
/// the rest of a 64-bit processor the kernel uses no SSE, no XSAVE, no PGE and no MSR but EFER; five
/// levels are used where they are (`mm::levels`).
const NEEDED: [Feature; 3] = [
    edx("TSC", 1, 4, "time is read from it"),
    edx("CX8", 1, 8, "page-table entries change atomically"),
    edx("NX", 0x8000_0001, 20, "all data is mapped no-execute"),
];

/// The first feature that is lacking. `cpuid` gives EAX and EDX of a leaf.
pub fn lacking(cpuid: impl Fn(u32) -> (u32, u32)) -> Option<Feature> {
    NEEDED.into_iter().find(|feature| {
        // Beyond the last leaf of its range, processors answer with another's.
        let (last, _) = cpuid(feature.leaf & 0x8000_0000);
        last < feature.leaf || cpuid(feature.leaf).1 >> feature.bit & 1 == 0
    })
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the processor has no {}: {}", self.name, self.why)
    }
}

/// EAX and EDX of a leaf, as the processor answers where the kernel runs.
#[cfg(target_os = "none")]
pub(crate) fn cpuid(leaf: u32) -> (u32, u32) {
    let id = core::arch::x86_64::__cpuid(leaf);
    (id.eax, id.edx)
}

/// EAX and EDX of a leaf, as Xen answers a PV guest: the instruction itself, executed there, may
/// speak of what the processor has and Xen does not use. The bytes before it have Xen emulate it
/// (`XEN_EMULATE_PREFIX`, `xen/include/public/arch-x86/xen.h`).
#[cfg(target_os = "none")]
pub(crate) fn cpuid_by_xen(leaf: u32) -> (u32, u32) {
    let (eax, edx);
    // SAFETY: Xen takes UD2 with these bytes behind it for CPUID, which changes four registers. RBX
    // is LLVM's own and put back.
    unsafe {
        core::arch::asm!(
            "mov {saved}, rbx",
            "ud2",
            ".ascii \"xen\"",
            "cpuid",
            "mov rbx, {saved}",
            saved = out(reg) _,
            inlateout("eax") leaf => eax,
            inlateout("ecx") 0 => _,
            lateout("edx") edx,
            options(nostack),
        );
    }
    (eax, edx)
}

/// Says that a feature is lacking, and ends the run.
#[cfg(target_os = "none")]
pub(crate) fn refuse(feature: Feature) -> ! {
    crate::println!("{feature}");
    crate::verdict::fail(format_args!("no {}", feature.name));
    crate::power::off()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_is_missed_by_name() {
        let all = |leaf: u32| match leaf {
            0 => (7, 0),
            0x8000_0000 => (0x8000_0008, 0),
            _ => (0, !0),
        };
        assert_eq!(lacking(all), None);
        for feature in NEEDED {
            let without = |leaf| match all(leaf) {
                (eax, edx) if leaf == feature.leaf => (eax, edx & !(1 << feature.bit)),
                answer => answer,
            };
            let found = lacking(without).unwrap();
            assert_eq!(found, feature);
            assert!(found.to_string().contains(feature.name));
        }
        let old = |leaf| match leaf {
            0x8000_0000 => (0, 0),
            leaf => all(leaf),
        };
        assert_eq!(lacking(old).unwrap().name, "NX");
    }
}
