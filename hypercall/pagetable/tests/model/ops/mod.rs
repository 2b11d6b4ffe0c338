//! Operations on ranges, at the sizes where they change their ways, in and out of lazy sections.
//!
//! The fuzzer's reference judges: after each step every page reads as it must, through the queue,
//! in the tables and through the processor.

mod refused;
mod single;
mod whole;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::common::{BASE, MIB, ModelProbe, PAGE, World, expect, small};
use hypercall::{Hypervisor, event};
use model::Kind;
use pagetable::Flags;
use pagetable::fuzz::{Fuzzer, Mode, Op, Probe, in_table, queued};

type Run = Fuzzer<{ 24 * 512 }, 640>;

const SIZES: [u16; 13] = [1, 2, 5, 16, 17, 44, 45, 86, 87, 97, 511, 512, 4096];
const ALIGNMENTS: [u16; 5] = [0, 1, 467, 511, 512];

struct Bench {
    world: World,
    probe: ModelProbe,
    run: Box<Run>,
}

impl Bench {
    fn new() -> Bench {
        let mut world = World::new(&small(Kind::DomU, 32 * MIB)).populated();
        let mut run = Box::new(Run::EMPTY);
        run.begin(&mut world.tables, BASE, 0).unwrap();
        let probe = world.probe();
        Bench { world, probe, run }
    }

    /// Carries out operations that must succeed, and compares.
    fn ok(&mut self, ops: &[Op]) {
        for &op in ops {
            let before = self.run.counts().refused;
            let result = self.run.apply(&mut self.world.tables, &mut self.probe, op);
            result.unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(self.run.counts().refused, before, "{op:?} was refused");
        }
    }

    /// Compares everything, now that nothing is queued.
    fn all_is_applied(&mut self) {
        assert_eq!(queued(&self.world.tables), (0, false));
        self.run
            .check(&self.world.tables)
            .unwrap_or_else(|e| panic!("{e}"));
        expect::sound(&self.world);
    }

    fn end(mut self) {
        let end = self.run.end(&mut self.world.tables, &mut self.probe);
        end.unwrap_or_else(|e| panic!("{e}"));
        expect::clean(&self.world);
    }
}

const DATA: u8 = 0;
const CONST: u8 = 1;
const GROW: u8 = 0;
const SHRINK: u8 = 1;

/// A life of `n` pages from `at` on.
fn life(at: u16, n: u16) -> Vec<Op> {
    // Far from the source: the same place in its table, and another.
    let (even, odd) = (5120 + at % 512, 4700);
    let small = n.min(600);
    vec![
        Op::Map {
            at,
            n,
            frame: 3,
            kind: DATA,
        },
        Op::Touch { at },
        Op::Protect {
            at,
            n,
            change: SHRINK,
        },
        Op::Protect {
            at,
            n,
            change: GROW,
        },
        Op::WriteProtect { at },
        Op::ClearYoung { at },
        Op::Move {
            from: at,
            to: even,
            n,
        },
        Op::Move {
            from: even,
            to: at,
            n,
        },
        Op::SetPtes {
            at,
            n: small,
            frame: 1,
            kind: CONST,
        },
        Op::Move {
            from: at,
            to: odd,
            n,
        },
        Op::Unmap {
            at: odd + n / 2,
            n: n.div_ceil(2),
        },
        Op::Map {
            at,
            n,
            frame: 9,
            kind: CONST,
        },
        Op::GetAndClear { at },
        Op::MapMachine {
            at,
            frame: 2,
            kind: DATA,
        },
        Op::Unmap { at: odd, n },
        Op::Unmap { at, n },
    ]
}

fn lives(enter: &[Op], leave: &[Op], between: &[Op]) {
    let mut bench = Bench::new();
    for at in ALIGNMENTS {
        for n in SIZES {
            bench.ok(enter);
            for op in life(at, n) {
                bench.ok(&[op]);
                bench.ok(between);
            }
            bench.ok(leave);
            bench.all_is_applied();
        }
    }
    bench.end();
}

#[test]
fn outside_of_lazy_sections() {
    lives(&[], &[], &[]);
}

#[test]
fn inside_a_lazy_section() {
    lives(&[Op::Enter], &[Op::Leave], &[]);
}

#[test]
fn eight_sections_deep_with_more_inside() {
    lives(&[Op::Enter; 8], &[Op::Leave; 8], &[]);
    lives(&[Op::Enter; 4], &[Op::Leave; 4], &[Op::Enter, Op::Leave]);
}

#[test]
fn around_pauses() {
    let pauses = [
        Op::Pause,
        Op::Touch { at: 1 },
        Op::Pause,
        Op::Resume,
        Op::Resume,
    ];
    lives(&[Op::Enter; 3], &[Op::Leave; 3], &pauses);
    // Sections entered while paused count afterwards.
    let crossed = [Op::Pause, Op::Enter, Op::Resume, Op::Leave];
    lives(&[Op::Enter], &[Op::Leave], &crossed);
}

#[test]
fn every_second_one_in_an_interrupt() {
    lives(
        &[Op::Enter, Op::Enter],
        &[Op::Leave, Op::Leave],
        &[Op::Interrupt],
    );
}

#[test]
fn set_ptes_does_not_end_the_section_it_is_called_in() {
    let mut bench = Bench::new();
    bench.ok(&[Op::Ensure { at: 0 }, Op::Enter, Op::Enter]);
    bench.ok(&[Op::SetPtes {
        at: 1,
        n: 100,
        frame: 0,
        kind: DATA,
    }]);
    assert_eq!(queued(&bench.world.tables).0, 100);
    bench.ok(&[
        Op::SetPte {
            at: 200,
            frame: 0,
            kind: DATA,
        },
        Op::Leave,
    ]);
    assert_eq!(queued(&bench.world.tables).0, 101);
    bench.ok(&[Op::Leave]);
    bench.all_is_applied();
    bench.end();
}

#[test]
fn four_thousand_pages_take_few_hypercalls() {
    let mut bench = Bench::new();
    for (at, to) in [(0, 5120), (7, 5120), (460, 5100)] {
        let n = 4096;
        let model = Rc::clone(&bench.world.model);
        for (op, updates) in [
            (
                Op::Map {
                    at,
                    n,
                    frame: 0,
                    kind: DATA,
                },
                600,
            ),
            (
                Op::Protect {
                    at,
                    n,
                    change: SHRINK,
                },
                600,
            ),
            (Op::Move { from: at, to, n }, 600),
            (Op::Unmap { at: to, n }, 600),
        ] {
            model.reset_counters();
            bench.ok(&[op]);
            let counters = model.counters();
            assert!(
                counters.traps <= 16,
                "{op:?}: {} hypercalls",
                counters.traps
            );
            // Whole tables, but for the ends.
            assert!(
                counters.updates < updates,
                "{op:?}: {} updates",
                counters.updates
            );
        }
    }
    bench.end();
}

#[test]
fn stale_translations_end_with_the_commit() {
    let mut world = World::small();
    let frames = world.named_frames(2);
    world.map(BASE, &frames[..1], Flags::DATA).unwrap();
    let mut probe = world.probe();
    assert_eq!(probe.load(BASE), Some(frames[0].as_u64()));
    world.mode(Mode::Enter);
    // SAFETY: the model's memory.
    let change = unsafe { world.tables.unmap(BASE, 1) }.unwrap();
    assert!(!world.tables.ptep_get(BASE).unwrap().is_present());
    assert!(probe.load(BASE).is_some(), "not in force yet");
    change.commit(&mut world.tables).unwrap();
    assert_eq!(probe.load(BASE), None);
    // SAFETY: the model's memory.
    let map = unsafe {
        world
            .tables
            .map(BASE, [frames[1]].into_iter(), Flags::CONST)
    };
    // SAFETY: nothing runs on the model.
    unsafe { map.unwrap().defer() };
    world.mode(Mode::Leave);
    assert_eq!(probe.load(BASE), Some(frames[1].as_u64()));
    assert!(!probe.store(BASE, 0));
}

#[test]
fn dirty_bits_that_are_set_while_a_write_waits_are_kept() {
    let mut world = World::small();
    let frames = world.frames(1);
    let clean = Flags::DATA - Flags::DIRTY - Flags::ACCESSED;
    world.map(BASE, &frames, clean).unwrap();
    world.mode(Mode::Enter);
    // SAFETY: the page goes on being used, through the right to write that it has until the flush.
    unsafe { world.tables.ptep_set_wrprotect(BASE) }.unwrap();
    assert!(world.probe().store(BASE, 1));
    let seen = world.tables.ptep_get(BASE).unwrap().flags();
    assert!(seen.contains(Flags::DIRTY) && !seen.contains(Flags::WRITABLE));
    world.mode(Mode::Leave);
    let found = in_table(&world.tables, BASE).unwrap().flags();
    assert!(found.contains(Flags::DIRTY | Flags::ACCESSED), "{found:?}");
    assert!(!world.probe().store(BASE, 1));
    assert!(world.tables.ptep_test_and_clear_young(BASE).unwrap());
    assert!(!world.tables.ptep_test_and_clear_young(BASE).unwrap());
}

#[test]
fn a_handler_runs_between_the_writes_of_a_section() {
    let mut world = World::small();
    let frames = world.frames(4);
    world.tables.ensure_pte_table(BASE).unwrap();
    let model = Rc::clone(&world.model);
    let hv = crate::common::Xen(Rc::clone(&model));
    event::bind_virq(&hv, 1, 0).unwrap();
    model.preempt_every(Some(2));
    let shared = Rc::new(RefCell::new(world));
    // As the kernel does: upcalls are masked for as long as the tables are borrowed.
    let with = |f: &mut dyn FnMut(&mut World)| {
        let was = hv.mask_upcalls();
        f(&mut shared.borrow_mut());
        hv.restore_upcalls(was);
    };
    let runs = Rc::new(Cell::new(0));
    let (seen, tables) = (Rc::clone(&runs), Rc::clone(&shared));
    let (mine, theirs) = (frames[0], frames[1]);
    model.set_upcall(Some(Rc::new(move |model: &model::Model| {
        seen.set(seen.get() + 1);
        // SAFETY: the page shared with Xen; the handler takes the event.
        unsafe { (*model.vcpu_info()).evtchn_upcall_pending = 0 };
        let mut world = tables.try_borrow_mut().expect("the tables are not in use");
        world.mode(Mode::EnterInterrupt);
        // What the section queued is seen, and goes first.
        assert_eq!(
            world
                .tables
                .pte_val(world.tables.ptep_get(BASE).unwrap())
                .unwrap()
                .pfn,
            mine
        );
        world.map(BASE + PAGE, &[theirs], Flags::DATA).unwrap();
        world.unmap(BASE, 1).unwrap();
        world.map(BASE, &[theirs], Flags::CONST).unwrap();
        assert_eq!(world.mapped(BASE).unwrap().0, theirs);
        world.mode(Mode::LeaveInterrupt);
    })));
    hv.restore_upcalls(false);
    with(&mut |world| {
        world.mode(Mode::Enter);
        // SAFETY: the model's memory.
        let map = unsafe { world.tables.map(BASE, [mine].into_iter(), Flags::DATA) };
        // SAFETY: nothing runs on the model.
        unsafe { map.unwrap().defer() };
        assert!(model.raise_virq(1, 0), "pending while masked");
        assert_eq!(runs.get(), 0);
    });
    assert_eq!(runs.get(), 1, "delivered once unmasked");
    with(&mut |world| {
        assert!(
            pagetable::fuzz::is_lazy(&world.tables),
            "the section goes on"
        );
        // SAFETY: nothing runs on the model.
        let map = unsafe {
            world
                .tables
                .map(BASE + 2 * PAGE, frames[2..].iter().copied(), Flags::DATA)
        };
        // SAFETY: nothing runs on the model.
        unsafe { map.unwrap().defer() };
        world.mode(Mode::Leave);
        assert_eq!(world.mapped(BASE).unwrap().0, theirs);
        assert_eq!(world.mapped(BASE + 3 * PAGE).unwrap().0, frames[3]);
        expect::clean(world);
    });
    model.set_upcall(None);
}
