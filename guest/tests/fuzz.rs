//! The fuzzer of the page tables on the model: by seed for volume, by list for short failures.
//!
//! `FUZZ_OPS` and `FUZZ_SEED` make the run by seed longer, or another one.

mod common;

use common::{BASE, MIB, World, expect, small};
use guest::mm::fuzz::Fuzzer;
use model::{Kind, Layout};

/// 8 MiB: four tables.
const PAGES: usize = 2048;
const POOL: usize = 640;

type Run = Fuzzer<PAGES, POOL>;

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
    let mut eye = world.eye();
    let mut fuzzer = Box::new(Run::EMPTY);
    fuzzer.begin(&mut world.tables, BASE, seed).unwrap();
    let tables = &mut world.tables;
    for step in 0..ops {
        fuzzer
            .step(tables, &mut eye)
            .unwrap_or_else(|e| panic!("{e}; {:?}", world.model.crashed()));
        if step % 4096 == 4095 {
            fuzzer.check(tables).unwrap_or_else(|e| panic!("{e}"));
            world.model.check_invariants().unwrap();
        }
    }
    fuzzer
        .end(tables, &mut eye)
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
        let kind = [Kind::DomU, Kind::Dom0, Kind::Shim][turn as usize % 3];
        let each = each.min(ops - done);
        let layout = Layout {
            // A crash shows as an error of the operation that brought it about.
            survive_crash: true,
            ..small(kind, 24 * MIB)
        };
        run(&layout, seed + turn, each);
        done += each;
    }
    let rate = done as f64 / began.elapsed().as_secs_f64();
    println!("{done} operations, {rate:.0} a second");
}
