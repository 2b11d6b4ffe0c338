//! The page tables with several vCPUs, fuzzed on the model: by a seed, which alone says who does what
//! and when.
//!
//! `FUZZ_OPS` and `FUZZ_SEED` make the run longer, or another one: `FUZZ_SEED=N FUZZ_OPS=STEP + 1`
//! replays a run up to a step.

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod cpus;
mod look;
mod marks;
mod op;
mod programs;
mod refusal;
mod run;
mod spaces;

use common::{MIB, small};
use cpus::Plant;
use model::{Kind, Layout};
use programs::Programs;
use run::{Counts, Run};

/// Steps in one domain: what a run leaves behind must not hide anything.
const EACH: u64 = 20_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        let parsed = text.replace('_', "").parse();
        parsed.unwrap_or_else(|e| panic!("{name}={text}: {e}"))
    })
}

/// All that a run is follows from its seed: four vCPUs mostly, or fewer, the kind of domain and of processor, and
/// how vCPUs share the tables.
fn layout(seed: u64) -> Layout {
    Layout {
        vcpus: [4, 4, 3, 2][(seed / 4 % 4) as usize],
        pcid: seed.is_multiple_of(2),
        survive_crash: true,
        ..small(
            [Kind::DomU, Kind::Dom0, Kind::Shim][(seed / 3 % 3) as usize],
            16 * MIB,
        )
    }
}

/// Whether vCPUs work side by side, or by turns.
fn side_by_side(seed: u64) -> bool {
    seed / 2 % 2 == 1
}

/// Whether Xen says no at times.
fn refuses(seed: u64) -> bool {
    !seed.is_multiple_of(3)
}

/// A run of so many steps, to its end; its digest, and how vCPUs met.
fn run(seed: u64, steps: u64, plant: Option<Plant>) -> Result<(u64, Counts), String> {
    // Only by turns does one send what another has queued.
    let by_turns = matches!(plant, Some(Plant::WrongLog | Plant::QueueKept));
    let side_by_side = side_by_side(seed) && !by_turns;
    let mut run = Run::new(&layout(seed), seed, side_by_side, plant)?;
    run.refusals.wanted = refuses(seed);
    for _ in 0..steps {
        run.step()?;
    }
    run.end()?;
    run.counts.refused = run.refusals.count;
    Ok((run.digest, run.counts))
}

#[test]
fn seeds_run_clean() {
    let (ops, first) = (number("FUZZ_OPS", 60_000), number("FUZZ_SEED", 1));
    let began = std::time::Instant::now();
    let mut done = 0;
    for seed in first.. {
        if done >= ops {
            break;
        }
        let steps = EACH.min(ops - done);
        let ran = run(seed, steps, None);
        let (_, counts) = ran.unwrap_or_else(|found| panic!("seed {seed} {found}"));
        // By turns nobody works beside anybody; else often, and often somebody has to wait.
        if !side_by_side(seed) {
            assert_eq!((counts.beside, counts.waited), (0, 0));
        } else if steps == EACH {
            assert!(
                counts.beside > EACH / 50 && counts.waited > EACH / 50,
                "{counts:?}"
            );
        }
        // Where Xen refuses anything it does so in one step of a hundred.
        let expected = if refuses(seed) { steps / 100 } else { 0 };
        assert!(counts.refused >= expected, "{counts:?}");
        done += steps;
        if seed % 25 == 0 {
            println!("seed {seed} ran clean: {counts:?}");
        }
    }
    let rate = done as f64 / began.elapsed().as_secs_f64();
    println!("{done} operations from seed {first}, {rate:.0} a second");
}

/// Four vCPUs that run programs, for so many steps.
fn run_programs(seed: u64, steps: u64, plant: Option<Plant>) -> Result<u64, String> {
    let mut programs = Programs::new(seed, plant)?;
    for _ in 0..steps {
        programs.step()?;
    }
    programs.end()?;
    Ok(programs.refused)
}

#[test]
fn programs_run_clean() {
    let (ops, first) = (number("FUZZ_OPS", 60_000) / 10, number("FUZZ_SEED", 1));
    let began = std::time::Instant::now();
    let (mut done, mut refused) = (0, 0);
    for seed in first.. {
        if done >= ops {
            break;
        }
        let steps = (EACH / 10).min(ops - done);
        let ran = run_programs(seed, steps, None);
        refused += ran.unwrap_or_else(|found| panic!("seed {seed} {found}"));
        done += steps;
    }
    let rate = done as f64 / began.elapsed().as_secs_f64();
    println!(
        "{done} operations on programs from seed {first}, {refused} refused, {rate:.0} a second"
    );
    assert!(refused > ops / 100, "{refused} refused of {ops}");
}

/// So are those that programs meet, by every seed.
#[test]
fn faults_in_whole_spaces_are_found() {
    for plant in [Plant::LocalFlush, Plant::FreedBeforeFlush] {
        for seed in 1..=6 {
            let found = run_programs(seed, EACH / 10, Some(plant)).expect_err("a planted fault");
            println!("{plant:?}, seed {seed} {found}");
            assert!(found.starts_with("step "), "{plant:?}: {found}");
        }
    }
}

/// The same seed is the same run, step by step: a shorter one is the beginning of a longer one.
#[test]
fn a_run_is_replayed_from_its_seed() {
    let digests = |steps: u64| {
        let mut run = Run::new(&layout(6), 6, side_by_side(6), None).unwrap();
        let step = |run: &mut Run| run.step().map(|()| run.digest);
        (0..steps)
            .map(|_| step(&mut run).unwrap())
            .collect::<Vec<_>>()
    };
    let long = digests(2000);
    assert_eq!(digests(700), long[..700]);
    assert_eq!(digests(2000), long);
}

/// Each fault in how vCPUs work together is found by every seed, and named by some.
#[test]
fn faults_are_found() {
    for (plant, words) in [
        (Plant::LocalFlush, "remembers mfn"),
        (Plant::FreedBeforeFlush, "which is free"),
        (Plant::WrongLog, "is planned"),
        (Plant::QueueKept, "through its queue"),
    ] {
        let mut named = false;
        for seed in 1..=40 {
            if seed > 6 && named {
                break;
            }
            let found = run(seed, EACH, Some(plant)).expect_err("a planted fault");
            println!("{plant:?}, seed {seed} {found}");
            assert!(found.starts_with("step "), "{plant:?}: {found}");
            named |= found.contains(words);
            // The run that found it finds it again.
            assert_eq!(run(seed, EACH, Some(plant)).unwrap_err(), found);
        }
        assert!(named, "{plant:?}: nobody says {words}");
    }
}
