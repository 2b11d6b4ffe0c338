//! The operations of a fuzzing run, and the generator that makes them from a seed.
//!
//! An operation names pages and frames by their places in the fuzzer's window and pool, so that
//! one list means the same on every machine, and a shrunken list still means something.

use crate::entry::Flags;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Maps pool frames, from `frame` on and round, at empty pages.
    Map {
        /// First page.
        at: u16,
        /// Pages.
        n: u16,
        /// First frame of the pool.
        frame: u16,
        /// Which of [`KINDS`].
        kind: u8,
    },
    /// Maps one frame by its machine number.
    MapMachine {
        /// Page.
        at: u16,
        /// Frame of the pool.
        frame: u16,
        /// Which of [`KINDS`].
        kind: u8,
    },
    /// Unmaps.
    Unmap {
        /// First page.
        at: u16,
        /// Pages.
        n: u16,
    },
    /// Changes rights.
    Protect {
        /// First page.
        at: u16,
        /// Pages.
        n: u16,
        /// Which of [`CHANGES`].
        change: u8,
    },
    /// Changes rights together with those of the direct map.
    SetMemory {
        /// First page.
        at: u16,
        /// Pages.
        n: u16,
        /// To be executed, not to be, read-only, or writable.
        right: u8,
    },
    /// Moves pages.
    Move {
        /// First page of the source.
        from: u16,
        /// First page of the destination.
        to: u16,
        /// Pages.
        n: u16,
    },
    /// Writes entries for consecutive frames, whatever was there.
    SetPtes {
        /// First page.
        at: u16,
        /// Pages.
        n: u16,
        /// First frame, counted from the pool's longest run of consecutive frames.
        frame: u16,
        /// Which of [`KINDS`].
        kind: u8,
    },
    /// Writes one entry.
    SetPte {
        /// Page.
        at: u16,
        /// Frame of the pool.
        frame: u16,
        /// Which of [`KINDS`].
        kind: u8,
    },
    /// Clears one entry and looks at what it was.
    GetAndClear {
        /// Page.
        at: u16,
    },
    /// Takes the right to write from one page.
    WriteProtect {
        /// Page.
        at: u16,
    },
    /// Clears an accessed bit.
    ClearYoung {
        /// Page.
        at: u16,
    },
    /// Makes the tables for a page.
    Ensure {
        /// Page.
        at: u16,
    },
    /// Accesses a page, if nothing is queued.
    Touch {
        /// Page.
        at: u16,
    },
    /// Takes a frame from the allocator.
    Alloc,
    /// Gives one back.
    Free {
        /// Which of those taken.
        which: u16,
    },
    /// Takes all frames that are left but for a few.
    Hog {
        /// How many are left.
        leave: u8,
    },
    /// Gives them back.
    Unhog,
    /// Enters a lazy section.
    Enter,
    /// Leaves it.
    Leave,
    /// Pauses lazy mode.
    Pause,
    /// Ends the pause.
    Resume,
    /// The next operation happens in an interrupt.
    Interrupt,
    /// An interrupt begins; all until its end happens in it, further interrupts as well.
    EnterInterrupt,
    /// It ends.
    LeaveInterrupt,
    /// Makes an address space.
    NewSpace,
    /// Makes a space the current one.
    Switch {
        /// Which, counted from the one that boot ran in.
        to: u8,
    },
    /// Destroys a space, unless it is the current one.
    DropSpace {
        /// Which of those that were made.
        which: u8,
    },
    /// Moves the table that an L3 or L4 entry refers to elsewhere, and back.
    Shift {
        /// Page below the entry.
        at: u16,
        /// Whether it is the L4 entry, where that may change.
        upper: bool,
    },
    /// Makes a page code, and takes it back.
    Code {
        /// Whether it is data in between.
        way: u8,
    },
    /// Releases pages of the image.
    Release {
        /// First page.
        at: u8,
        /// Pages.
        n: u8,
    },
    /// Sends what is queued.
    Flush,
}

/// Rights that pages are mapped with.
pub const KINDS: [Flags; 6] = [
    Flags::DATA,
    Flags::CONST,
    Flags::CODE,
    Flags::PRESENT.union(Flags::NO_EXECUTE),
    Flags::PRESENT
        .union(Flags::WRITABLE)
        .union(Flags::NO_EXECUTE)
        .union(Flags::SOFTWARE0),
    Flags::CONST.union(Flags::USER),
];

/// Changes of rights: added, removed.
pub const CHANGES: [(Flags, Flags); 7] = [
    (Flags::WRITABLE, Flags::empty()),
    (Flags::empty(), Flags::WRITABLE),
    (Flags::WRITABLE.union(Flags::NO_EXECUTE), Flags::SOFTWARE0),
    (Flags::empty(), Flags::WRITABLE.union(Flags::NO_EXECUTE)),
    (Flags::SOFTWARE0, Flags::WRITABLE),
    (Flags::NO_EXECUTE, Flags::SOFTWARE0),
    (Flags::empty(), Flags::NO_EXECUTE),
];

/// Ranges of these lengths hit every way of doing things and both sides of each limit.
const SMALL: [u16; 16] = [1, 1, 1, 1, 2, 3, 5, 8, 16, 17, 43, 44, 45, 48, 64, 100];
const LARGE: [u16; 8] = [300, 511, 512, 512, 513, 700, 1024, 1536];

/// A generator of numbers: small, and the same everywhere (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// One below `n`, which is not 0.
    pub const fn below(&mut self, n: u64) -> u64 {
        ((self.next() >> 32) * n) >> 32
    }
}

impl Op {
    /// Whether it changes what all pages are mapped by, or the direct map, or takes from the image:
    /// after a failure that was arranged, nobody could tell what came of it.
    #[must_use]
    pub fn is_large(self) -> bool {
        matches!(
            self,
            Op::NewSpace
                | Op::Switch { .. }
                | Op::DropSpace { .. }
                | Op::Shift { .. }
                | Op::Release { .. }
                | Op::Code { .. }
                | Op::SetMemory { .. }
        )
    }
}

/// What is rarer than all else, as it concerns many pages at once.
fn generate_rare(rng: &mut Rng, at: u16, n: u16) -> Op {
    let which = rng.next() as u8;
    match rng.below(29) {
        0..3 => Op::EnterInterrupt,
        3..8 => Op::LeaveInterrupt,
        8 => Op::NewSpace,
        9..12 => Op::Switch { to: which },
        12 => Op::DropSpace { which },
        13 => Op::Release {
            at: which,
            n: rng.below(9) as u8,
        },
        14 => Op::Code { way: which },
        15..17 => Op::Shift {
            at,
            upper: which & 1 == 1,
        },
        // To make many pages executable fails, as some are writable; to make them data does not.
        _ => Op::SetMemory {
            at,
            n: if which & 3 == 0 { n.min(3) } else { n },
            right: which & 3,
        },
    }
}

/// The next operation, for a window of `pages`.
pub fn generate(rng: &mut Rng, pages: u16) -> Op {
    let n = match rng.below(16) {
        0..14 => SMALL[rng.below(SMALL.len() as u64) as usize],
        _ => LARGE[rng.below(LARGE.len() as u64) as usize],
    }
    .min(pages);
    let any = |rng: &mut Rng| rng.below(u64::from(pages)) as u16;
    // Tables begin at multiples of 512: on them, right before them, anywhere.
    let start = |rng: &mut Rng| {
        let at = any(rng);
        let at = match rng.below(4) {
            0 => at & !511,
            1 => (at & !511).wrapping_sub(rng.below(50) as u16),
            _ => at,
        };
        if at >= pages { 0 } else { at }
    };
    let at = start(rng);
    let frame = rng.next() as u16;
    let kind = rng.below(KINDS.len() as u64) as u8;
    if rng.below(16) == 0 {
        return generate_rare(rng, at, n);
    }
    match rng.below(100) {
        0..16 => Op::Map { at, n, frame, kind },
        16..18 => Op::MapMachine { at, frame, kind },
        18..32 => Op::Unmap { at, n },
        32..46 => {
            let change = rng.below(CHANGES.len() as u64) as u8;
            // At the start of a table many pages that are all mapped are likeliest.
            let at = if rng.below(2) == 0 { at & !511 } else { at };
            Op::Protect { at, n, change }
        }
        46..54 => {
            let to = start(rng);
            if rng.below(3) == 0 {
                // Whole tables.
                let n = 512 << rng.below(2);
                let (from, to) = (at & !511, to & !511);
                Op::Move { from, to, n }
            } else {
                Op::Move { from: at, to, n }
            }
        }
        54..60 => Op::SetPtes { at, n, frame, kind },
        60..64 => Op::SetPte { at, frame, kind },
        64..67 => Op::GetAndClear { at },
        67..70 => Op::WriteProtect { at },
        70..72 => Op::ClearYoung { at },
        72 => Op::Ensure { at },
        73..77 => Op::Touch { at },
        77..79 => Op::Alloc,
        79..81 => Op::Free { which: frame },
        81 if rng.below(50) == 0 => Op::Hog {
            leave: rng.below(5) as u8,
        },
        81..83 => Op::Unhog,
        83..87 => Op::Enter,
        87..91 => Op::Leave,
        91..93 => Op::Pause,
        93..96 => Op::Resume,
        96..98 => Op::Interrupt,
        _ => Op::Flush,
    }
}
