//! Coverage-guided fuzzing of the page tables on the model: bytes become a list of operations,
//! which runs as the lists of `pagetable/tests/fuzz.rs` do.
//!
//! The random run reaches what is likely; this one keeps whatever reached new code and goes on from
//! there. `cargo xtask fuzz --coverage` builds and runs it.
#![no_main]

#[path = "../../../hypercall/pagetable/tests/common/mod.rs"]
mod common;

use common::lists::{self, PAGES};
use libfuzzer_sys::fuzz_target;
use pagetable::fuzz::Op;

/// Longer lists find no more, and take longer.
const OPS: usize = 256;

/// Lengths on both sides of every limit; a byte selects one, or is the length itself.
const LENGTHS: [u16; 16] = [
    43, 44, 45, 100, 300, 511, 512, 513, 700, 1023, 1024, 1025, 1536, 2047, 2048, 640,
];

/// Takes numbers off the input.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    fn page(&mut self) -> Option<u16> {
        Some(self.word()? % PAGES as u16)
    }

    /// The first page of a table.
    fn table(&mut self) -> Option<u16> {
        Some(u16::from(self.byte()?) % (PAGES as u16 / 512) * 512)
    }

    fn length(&mut self) -> Option<u16> {
        let byte = self.byte()?;
        let short = u16::from(byte % 64) + 1;
        let large = byte.checked_sub(u8::MAX - LENGTHS.len() as u8 + 1);
        Some(large.map_or(short, |which| LENGTHS[usize::from(which)]))
    }

    /// The next operation; none if the input ends within it.
    fn op(&mut self) -> Option<Op> {
        Some(match self.byte()? % 33 {
            0 | 1 => Op::Map {
                at: self.page()?,
                n: self.length()?,
                frame: self.word()?,
                kind: self.byte()?,
            },
            2 => Op::MapMachine {
                at: self.page()?,
                frame: self.word()?,
                kind: self.byte()?,
            },
            3 => Op::Unmap {
                at: self.page()?,
                n: self.length()?,
            },
            4 => Op::Protect {
                at: self.page()?,
                n: self.length()?,
                change: self.byte()?,
            },
            5 => Op::Move {
                from: self.page()?,
                to: self.page()?,
                n: self.length()?,
            },
            6 => Op::Move {
                from: self.table()?,
                to: self.table()?,
                n: 512 << (self.byte()? % 2),
            },
            7 => Op::SetPtes {
                at: self.page()?,
                n: self.length()?,
                frame: self.word()?,
                kind: self.byte()?,
            },
            8 => Op::SetPte {
                at: self.page()?,
                frame: self.word()?,
                kind: self.byte()?,
            },
            9 => Op::GetAndClear { at: self.page()? },
            10 => Op::WriteProtect { at: self.page()? },
            11 => Op::ClearYoung { at: self.page()? },
            12 => Op::Ensure { at: self.page()? },
            13 => Op::Touch { at: self.page()? },
            14 => Op::Alloc,
            15 => Op::Free {
                which: self.byte()?.into(),
            },
            16 => Op::Hog {
                leave: self.byte()? % 8,
            },
            17 => Op::Unhog,
            18 => Op::Enter,
            19 => Op::Leave,
            20 => Op::Pause,
            21 => Op::Resume,
            22 => Op::Interrupt,
            23 => Op::EnterInterrupt,
            24 => Op::LeaveInterrupt,
            25 => Op::NewSpace,
            26 => Op::Switch { to: self.byte()? },
            27 => Op::DropSpace {
                which: self.byte()?,
            },
            28 => Op::Shift {
                at: self.page()?,
                upper: self.byte()? & 1 == 1,
            },
            29 => Op::Code { way: self.byte()? },
            30 => Op::Release {
                at: self.byte()?,
                n: self.byte()? % 16,
            },
            31 => Op::SetMemory {
                at: self.page()?,
                n: self.length()?,
                right: self.byte()?,
            },
            _ => Op::Flush,
        })
    }
}

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes(input);
    let Some(preempt) = bytes.byte() else {
        return;
    };
    let ops: Vec<Op> = std::iter::from_fn(|| bytes.op()).take(OPS).collect();
    if let Err(divergence) = lists::run(ops.iter().copied(), u64::from(preempt % 4)) {
        // In a form that can stand in a test.
        for op in &ops {
            println!("    Op::{op:?},");
        }
        panic!("{divergence}; preempt every {}", preempt % 4);
    }
});
