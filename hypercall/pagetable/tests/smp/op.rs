//! What vCPUs do, and the addresses that they do it to.

use pagetable::Flags;
use pagetable::fuzz::Rng;

use super::common::{BASE, PAGE};

/// Bytes of a table's worth of pages.
const SPAN: u64 = 512 * PAGE;
/// Pages that lie together.
const REGION: usize = 64;
/// Regions of the kernel's half: all but the last begin with a table, that one lies across two.
const KERNELS: usize = 4;
/// Regions of the user half of each space, likewise.
const USERS: usize = 2;
const USER_BASE: u64 = 5 << 30;
/// The kernel's pages, which all spaces share; those of the user half come behind them.
pub(super) const KERNEL: usize = KERNELS * REGION;
/// Pages of the user half of each space.
pub(super) const USER: usize = USERS * REGION;
/// All that a vCPU sees.
pub(super) const PAGES: usize = KERNEL + USER;
/// Frames that are mapped in them.
pub(super) const POOL: usize = 48;
/// Places for mappings that own their frames.
pub(super) const OWNERS: usize = 8;
/// Spaces that there can be besides the one that boot ran in.
pub(super) const SPACES: usize = 3;

/// Rights that pages are mapped with.
pub(super) const KINDS: [Flags; 5] = [
    Flags::DATA,
    // Neither A nor D, which processors set.
    Flags::DATA.difference(Flags::ACCESSED.union(Flags::DIRTY)),
    Flags::CONST,
    Flags::DATA.union(Flags::USER),
    Flags::CONST.union(Flags::USER),
];

/// One step of one vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    /// Maps frames of the pool, or unmaps what is mapped there.
    Map {
        at: usize,
        n: usize,
        frame: usize,
        kind: usize,
    },
    Unmap {
        at: usize,
        n: usize,
    },
    /// Makes pages writable, or read-only.
    Protect {
        at: usize,
        n: usize,
        write: bool,
    },
    Move {
        from: usize,
        to: usize,
        n: usize,
    },
    /// Moves all pages of a region with their table.
    MoveTable {
        from: usize,
        to: usize,
    },
    /// Writes an entry, whatever was there.
    Set {
        at: usize,
        frame: usize,
        kind: usize,
    },
    Enter,
    Leave,
    Pause,
    Resume,
    Flush,
    NewSpace,
    Switch {
        to: usize,
    },
    DropSpace {
        which: usize,
    },
    /// Another operation, in a space from outside of it.
    InSpace {
        which: usize,
        at: usize,
        n: usize,
        frame: usize,
    },
    Alloc,
    Free {
        which: usize,
    },
    /// Maps frames that the mapping owns, or unmaps and frees them.
    Own {
        place: usize,
        n: usize,
    },
    /// Xen gives the processor of a vCPU to another domain for a while.
    SchedOut {
        vcpu: usize,
    },
}

/// The address of a page.
pub(super) fn va(at: usize) -> u64 {
    let (region, page) = (at / REGION, (at % REGION) as u64);
    let (base, region, last) = match region.checked_sub(KERNELS) {
        None => (BASE, region, KERNELS - 1),
        Some(user) => (USER_BASE, user, USERS - 1),
    };
    let first = base + region as u64 * 2 * SPAN;
    let across = if region == last {
        SPAN - REGION as u64 / 2 * PAGE
    } else {
        0
    };
    first + across + page * PAGE
}

/// The address of an owning mapping.
pub(super) fn owner_va(place: usize) -> u64 {
    BASE + 32 * SPAN + place as u64 * 8 * PAGE
}

/// The first page of a region whose table moves.
pub(super) fn region(which: usize) -> usize {
    which % (KERNELS - 1) * REGION
}

/// The pages that share a region's table with its first.
pub(super) fn pages_of(first: usize) -> std::ops::Range<usize> {
    first..first + REGION
}

/// Pages of whole tables.
pub(super) const TABLE: u64 = SPAN / PAGE;

/// The next step, for so many vCPUs, of which it is also chosen which takes it.
pub(super) fn generate(rng: &mut Rng, vcpus: usize) -> (usize, Op) {
    let below = |rng: &mut Rng, n: usize| rng.below(n as u64) as usize;
    let vcpu = below(rng, vcpus);
    let (at, frame) = (below(rng, PAGES), below(rng, POOL));
    let n = [1, 1, 1, 1, 2, 3, 8, 20, 45, 64][below(rng, 10)];
    // Ranges end with their region.
    let n = n.min(REGION - at % REGION);
    let op = match below(rng, 100) {
        0..22 => Op::Map {
            at,
            n,
            frame,
            kind: below(rng, KINDS.len()),
        },
        22..32 => Op::Unmap { at, n },
        32..46 => Op::Protect {
            at,
            n,
            write: below(rng, 2) == 0,
        },
        46..52 => Op::Move {
            from: at,
            to: below(rng, PAGES),
            n,
        },
        52..54 => Op::MoveTable {
            from: region(frame),
            to: region(n + at),
        },
        54..60 => Op::Set {
            at,
            frame,
            kind: below(rng, KINDS.len()),
        },
        60..69 => Op::Enter,
        69..76 => Op::Leave,
        76 => Op::Pause,
        77..81 => Op::Resume,
        81 => Op::Flush,
        82 => Op::NewSpace,
        83..86 => Op::Switch {
            to: below(rng, SPACES + 1),
        },
        86 if below(rng, 3) == 0 => Op::DropSpace {
            which: below(rng, SPACES + 1),
        },
        86..90 => Op::InSpace {
            which: below(rng, SPACES + 1),
            at: KERNEL + at % USER,
            n: n.min(REGION - at % REGION),
            frame,
        },
        90..92 => Op::Alloc,
        92..94 => Op::Free { which: frame },
        94..99 => Op::Own {
            place: below(rng, OWNERS),
            n: 1 + frame % 3,
        },
        _ => Op::SchedOut {
            vcpu: below(rng, vcpus),
        },
    };
    (vcpu, op)
}
