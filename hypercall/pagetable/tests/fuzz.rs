//! The fuzzer of the page tables on the model: by seed for volume, by list for short failures.
//!
//! `FUZZ_OPS` and `FUZZ_SEED` make the run by seed longer, or another one.

mod common;

use common::lists::{self, PAGES, POOL, Run};
use common::{MIB, WINDOW, World, expect, small};
use hypercall::{Errno, Op as Call};
use model::{Injection, Kind, Layout};
use pagetable::MmError;
use pagetable::fuzz::{CHANGES, KINDS, Op, Rng, What, generate};
use proptest::prelude::*;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        let text = text.replace('_', "");
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        parsed.unwrap_or_else(|e| panic!("{name}={text}: {e}"))
    })
}

/// A run of `ops` operations in a fresh domain.
fn run(layout: &Layout, seed: u64, ops: u64) {
    let mut world = World::fast(layout).populated();
    let mut probe = world.probe();
    let mut fuzzer = Box::new(Run::EMPTY);
    fuzzer.begin(&mut world.tables, WINDOW, seed).unwrap();
    fuzzer.spare_image(world.image.text.start);
    let tables = &mut world.tables;
    for step in 0..ops {
        fuzzer
            .step(tables, &mut probe)
            .unwrap_or_else(|e| panic!("{e}; {:?}", world.model.crashed()));
        if step % 4096 == 4095 {
            fuzzer.check(tables).unwrap_or_else(|e| panic!("{e}"));
            world.model.check_invariants().unwrap();
        }
    }
    fuzzer
        .end(tables, &mut probe)
        .unwrap_or_else(|e| panic!("{e}"));
    expect::clean(&world);
    println!("seed {seed:#x}: {:?}", fuzzer.counts());
}

#[test]
fn seeds_run_clean() {
    let ops = number("FUZZ_OPS", 20_000);
    let seed = number("FUZZ_SEED", 1);
    let began = std::time::Instant::now();
    // A new domain now and then: what a run leaves behind must not hide anything.
    let each = 1_000_000.min(ops);
    let mut done = 0;
    for turn in 0.. {
        if done >= ops {
            break;
        }
        let each = each.min(ops - done);
        // All that the run is follows from its own seed: that alone replays it.
        let seed = seed.wrapping_add(turn);
        let kind = [Kind::Shim, Kind::DomU, Kind::Dom0][(seed % 3) as usize];
        let layout = Layout {
            // A crash shows as an error of the operation that brought it about.
            survive_crash: true,
            ..small(kind, 24 * MIB)
        };
        run(&layout, seed, each);
        done += each;
    }
    let rate = done as f64 / began.elapsed().as_secs_f64();
    println!("{done} operations, {rate:.0} a second");
}

/// A failure somewhere in what comes next.
fn failure(rng: &mut Rng) -> Injection {
    let calls = [
        Call::MmuUpdate,
        Call::UpdateVaMapping,
        Call::MmuextOp,
        Call::Multicall,
    ];
    let op = calls[rng.below(4) as usize];
    Injection {
        nth: 1 + rng.below(3),
        times: 1 + rng.below(2),
        index: (rng.below(4) > 0).then(|| rng.below(8) as u32),
        ..Injection::call(op, Errno::ENOMEM)
    }
}

/// A move of a table that Xen refused in the middle leaves it at both ends: one of them is unmapped,
/// as its documentation says.
fn end_half_moves(world: &mut World, fuzzer: &Run) {
    let mut seen = Vec::new();
    for va in (0..PAGES).step_by(512).map(|at| fuzzer.va(at)) {
        let entry = world.tables.get(world.tables.pmd_slot(va).unwrap());
        let Some(table) = world.tables.pmd_val(entry) else {
            continue;
        };
        if seen.contains(&table.pfn) {
            world.unmap(va, 512).unwrap();
        }
        seen.push(table.pfn);
    }
}

#[test]
fn refusals_at_random_lose_nothing() {
    let seed = number("FUZZ_SEED", 1);
    let ops = number("FUZZ_OPS", 20_000) / 4;
    let mut world = World::fast(&small(Kind::DomU, 24 * MIB)).populated();
    let mut probe = world.probe();
    let mut fuzzer = Box::new(Run::EMPTY);
    fuzzer.begin(&mut world.tables, WINDOW, seed).unwrap();
    let mut rng = Rng::new(!seed);
    let mut ops_of_seed = Rng::new(seed);
    let mut refused = 0;
    for step in 0..ops {
        if step % 16 == 0 {
            world.model.inject(failure(&mut rng));
        }
        let op = generate(&mut ops_of_seed, PAGES as u16);
        if op.is_large() {
            continue;
        }
        if let Err(e) = fuzzer.apply(&mut world.tables, &mut probe, op) {
            let untold = world.tables.mmu().refused().copied();
            let error = match (e.what, untold) {
                (What::Error(MmError::Flush(error)), _) => error,
                // A handler sent what the section had queued that it interrupted: the section is
                // told of the refusal later, what the handler asked for is compared before.
                (_, Some(error)) => error,
                _ => panic!("{e}"),
            };
            refused += 1;
            world.model.clear_injections();
            let stale = match world.tables.flush() {
                Ok(()) => false,
                Err(MmError::Flush(told)) => told.tlb_stale,
                Err(e) => panic!("{e}"),
            };
            if error.tlb_stale || stale {
                // The error says so, and nobody else will see to it.
                world.tables.flush_tlb(None).unwrap();
                world.tables.flush().unwrap();
            }
            end_half_moves(&mut world, &fuzzer);
            fuzzer
                .resync(&mut world.tables)
                .unwrap_or_else(|e| panic!("{e}"));
            if refused % 16 == 0 {
                expect::sound(&world);
            }
        }
    }
    world.model.clear_injections();
    let end = fuzzer.end(&mut world.tables, &mut probe);
    end.unwrap_or_else(|e| panic!("{e}"));
    expect::clean(&world);
    println!("{refused} refusals in {ops} operations");
    assert!(refused > ops / 100);
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..PAGES as u16;
    let n = || prop_oneof![3 => 1..5_u16, 2 => 40..60_u16, 1 => 500..1100_u16];
    let whole = || (0..4_u16).prop_map(|table| table * 512);
    let frame = || 0..POOL as u16;
    let kind = || 0..KINDS.len() as u8;
    let modes = [
        Op::Enter,
        Op::Leave,
        Op::Pause,
        Op::Resume,
        Op::Interrupt,
        Op::EnterInterrupt,
        Op::LeaveInterrupt,
        Op::LeaveInterrupt,
        Op::Flush,
    ];
    prop_oneof![
        4 => (at(), n(), frame(), kind())
            .prop_map(|(at, n, frame, kind)| Op::Map { at, n, frame, kind }),
        1 => (at(), frame(), kind()).prop_map(|(at, frame, kind)| Op::MapMachine { at, frame, kind }),
        3 => (at(), n()).prop_map(|(at, n)| Op::Unmap { at, n }),
        3 => (at(), n(), 0..CHANGES.len() as u8)
            .prop_map(|(at, n, change)| Op::Protect { at, n, change }),
        3 => (at(), n(), 0..4_u8).prop_map(|(at, n, right)| Op::SetMemory { at, n, right }),
        1 => (at(), at(), n()).prop_map(|(from, to, n)| Op::Move { from, to, n }),
        1 => (whole(), whole(), 1..3_u16)
            .prop_map(|(from, to, n)| Op::Move { from, to, n: n * 512 }),
        1 => (at(), n(), frame(), kind())
            .prop_map(|(at, n, frame, kind)| Op::SetPtes { at, n, frame, kind }),
        2 => (at(), frame(), kind()).prop_map(|(at, frame, kind)| Op::SetPte { at, frame, kind }),
        1 => at().prop_map(|at| Op::GetAndClear { at }),
        1 => at().prop_map(|at| Op::WriteProtect { at }),
        1 => at().prop_map(|at| Op::ClearYoung { at }),
        1 => at().prop_map(|at| Op::Ensure { at }),
        1 => at().prop_map(|at| Op::Touch { at }),
        1 => Just(Op::Alloc),
        1 => (0..8_u16).prop_map(|which| Op::Free { which }),
        6 => prop::sample::select(modes.to_vec()),
        1 => Just(Op::NewSpace),
        2 => (0..4_u8).prop_map(|to| Op::Switch { to }),
        1 => (0..3_u8).prop_map(|which| Op::DropSpace { which }),
        1 => (at(), any::<bool>()).prop_map(|(at, upper)| Op::Shift { at, upper }),
        1 => (0..64_u8, 1..9_u8).prop_map(|(at, n)| Op::Release { at, n }),
        1 => (0..2_u8).prop_map(|way| Op::Code { way }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Any list of operations, shrunk to a short one if it fails.
    #[test]
    fn lists_run_clean(ops in prop::collection::vec(op(), 1..200), preempt in 0..4_u64) {
        let end = lists::run(ops, preempt);
        prop_assert!(end.is_ok(), "{}", end.unwrap_err());
    }
}
