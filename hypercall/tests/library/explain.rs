//! Each rule that Xen may have had in mind, next to the requests that come closest to breaking it.

use std::collections::HashSet;

use hypercall::{
    Errno, Errno as E, ExtOp, Level,
    Level::{L1, L2, L3, L4},
    Mfn,
    batch::{Reason, explain},
};

const F: u64 = 0x1234_5000;
/// Another frame.
const G: u64 = 0x5432_1000;
const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const PWT: u64 = 1 << 3;
const PCD: u64 = 1 << 4;
/// PAT in an L1 entry.
const PSE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
/// The last frame of 52 bits, which stands for none.
const NONE: u64 = 0x000f_ffff_ffff_f000;
const NX: u64 = 1 << 63;

type Case = (Level, usize, u64, u64, Errno, Reason);

#[track_caller]
fn check(cases: &[Case]) {
    for &(level, index, old, new, errno, reason) in cases {
        let found = explain(level, index, old, new, errno);
        assert_eq!(found, reason, "{level} {index} {old:#x} {new:#x} {errno}");
    }
}

#[test]
fn xens_slots_are_those_of_an_l4_table_only() {
    check(&[
        (L4, 255, 0, F | P, E::EINVAL, Reason::TableOfOtherType),
        (L4, 256, 0, F | P, E::EINVAL, Reason::XenSlot),
        (L4, 271, 0, 0, E::EINVAL, Reason::XenSlot),
        (L4, 272, 0, F | P, E::EINVAL, Reason::TableOfOtherType),
        (L3, 256, 0, F | P, E::EINVAL, Reason::TableOfOtherType),
        (L4, 256, 0, F | P, E::EBUSY, Reason::TableEntryRefused),
    ]);
}

#[test]
fn flags_that_a_level_does_not_allow() {
    for flag in [PWT, PCD, PSE] {
        check(&[
            (L1, 0, 0, F | P | flag, E::EINVAL, Reason::CacheBits),
            (L1, 0, 0, F | flag, E::EINVAL, Reason::NotATable),
        ]);
    }
    for level in [L2, L3, L4] {
        check(&[
            (level, 0, 0, F | P | PSE | PWT, E::EINVAL, Reason::LargePage),
            (level, 0, 0, F | P | PWT, E::EINVAL, Reason::CacheBits),
            (level, 0, 0, F | P | PCD, E::EINVAL, Reason::CacheBits),
            (
                level,
                0,
                0,
                F | P | GLOBAL,
                E::EINVAL,
                Reason::GlobalAboveL1,
            ),
            // Not present, they are no more than bits.
            (level, 0, 0, F | PSE, E::EINVAL, Reason::NotATable),
            (level, 0, 0, F | PWT, E::EINVAL, Reason::NotATable),
            (level, 0, 0, F | GLOBAL, E::EINVAL, Reason::NotATable),
        ]);
    }
    // At L1, G is allowed.
    check(&[(L1, 0, 0, F | P | GLOBAL, E::EINVAL, Reason::NotATable)]);
}

#[test]
fn a_frame_that_does_not_fit() {
    check(&[
        (L1, 0, 0, NONE | P | NX, E::EINVAL, Reason::NoFrame),
        (L1, 0, 0, NONE, E::EINVAL, Reason::NotATable),
        (L1, 0, 0, (NONE ^ 0x1000) | P, E::EINVAL, Reason::NotATable),
        // A new frame, or one that was not present before.
        (L2, 0, G | P, F | P, E::EINVAL, Reason::TableOfOtherType),
        (L2, 0, F, F | P, E::EINVAL, Reason::TableOfOtherType),
        (L2, 0, F | P, F | P | RW, E::EINVAL, Reason::NotATable),
        (L2, 0, G | P, F, E::EINVAL, Reason::NotATable),
    ]);
}

#[test]
fn what_is_busy() {
    check(&[
        // The right to write is gained: with another frame, from read-only, from not present.
        (
            L1,
            0,
            G | P | RW,
            F | P | RW,
            E::EBUSY,
            Reason::WritableMapOfTable,
        ),
        (
            L1,
            0,
            F | P,
            F | P | RW,
            E::EBUSY,
            Reason::WritableMapOfTable,
        ),
        (
            L1,
            0,
            F | RW,
            F | P | RW,
            E::EBUSY,
            Reason::WritableMapOfTable,
        ),
        // It is not: kept, absent, or for nothing present.
        (L1, 0, F | P | RW, F | P | RW | NX, E::EBUSY, Reason::Race),
        (L1, 0, G | P, F | P, E::EBUSY, Reason::FrameNotOwned),
        (L1, 0, F | P, F | P | NX, E::EBUSY, Reason::Race),
        (L1, 0, G | P, F | RW, E::EBUSY, Reason::Race),
        (L1, 0, G | P, F, E::EBUSY, Reason::Race),
    ]);
    for level in [L2, L3, L4] {
        check(&[
            (level, 0, G | P, F | P, E::EBUSY, Reason::TableEntryRefused),
            (level, 0, F | P, F | P | RW, E::EBUSY, Reason::Race),
            (level, 0, G | P, F, E::EBUSY, Reason::Race),
        ]);
    }
}

#[test]
fn what_is_forbidden() {
    check(&[
        (L1, 0, 0, F | P, E::EPERM, Reason::DeviceFrame),
        (L2, 0, 0, F | P, E::EPERM, Reason::TableEntryRefused),
        (L4, 300, 0, F | P, E::EPERM, Reason::TableEntryRefused),
        (L1, 0, 0, F | P, E::EACCES, Reason::XenPage),
        (L3, 0, 0, F | P, E::EACCES, Reason::XenPage),
        (L1, 0, 0, F | P, E::ENOMEM, Reason::NoMemory),
    ]);
}

#[test]
fn operations_and_calls() {
    let mfn = Mfn::truncate(5);
    let pin = ExtOp::Pin(L4, mfn);
    for op in [
        pin,
        ExtOp::NewBaseptr(mfn),
        ExtOp::NewUserBaseptr(Some(mfn)),
    ] {
        for errno in [E::EINVAL, E::EBUSY, E::EPERM] {
            assert_eq!(Reason::of_ext(&op, errno), Reason::PinType);
        }
    }
    let unpin = ExtOp::Unpin(mfn);
    for (op, errno, reason) in [
        (unpin, E::EINVAL, Reason::NotPinned),
        (unpin, E::EPERM, Reason::Other),
        (ExtOp::ClearPage(mfn), E::EINVAL, Reason::BadFrame),
        (ExtOp::FlushCache, E::EACCES, Reason::CacheBits),
        (pin, E::ENOMEM, Reason::NoMemory),
    ] {
        assert_eq!(Reason::of_ext(&op, errno), reason, "{op:?} {errno}");
    }
    for (errno, reason) in [
        (E::EFAULT, Reason::ListUnreadable),
        (E::ESRCH, Reason::NoDomain),
        (E::ENOMEM, Reason::NoMemory),
        (E::ENOSYS, Reason::Unknown),
        (E::EOPNOTSUPP, Reason::NotSupported),
        (E::E2BIG, Reason::Other),
    ] {
        assert_eq!(Reason::of_call(errno), reason);
        assert_eq!(Reason::of_machphys(errno), reason);
    }
    assert_eq!(Reason::of_machphys(E::EINVAL), Reason::BadFrame);
    assert_eq!(Reason::of_machphys(E::EPERM), Reason::FrameNotOwned);
}

#[test]
fn each_reason_has_words_of_its_own() {
    let reasons = [
        Reason::LargePage,
        Reason::XenSlot,
        Reason::CacheBits,
        Reason::NotATable,
        Reason::TableOfOtherType,
        Reason::WritableMapOfTable,
        Reason::NotPinned,
        Reason::Other,
    ];
    let words: HashSet<_> = reasons.iter().map(ToString::to_string).collect();
    assert_eq!(words.len(), reasons.len());
    assert!(Reason::LargePage.to_string().contains("PSE"));
    assert!(Reason::NotPinned.to_string().contains("not pinned"));
}
