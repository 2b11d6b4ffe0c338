//! Each operation on ranges, at the sizes where it changes its ways, in and out of lazy sections.
//!
//! The fuzzer's reference judges: after each step every page reads as it must, through the queue,
//! in the tables and through the processor.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use common::{BASE, MIB, ModelProbe, PAGE, World, expect, small};
use hypercall::{Hypervisor, Mfn, Op as Call, event};
use model::Kind;
use pagetable::fuzz::{Fuzzer, Mode, Op, Probe, in_table, mode, queued};
use pagetable::machine::Machine;
use pagetable::{Flags, MmError, Pte, Value};

type Run = Fuzzer<{ 24 * 512 }, 640>;

const SIZES: [u16; 9] = [1, 2, 43, 44, 45, 511, 512, 513, 4096];
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
    let hv = common::Xen(Rc::clone(&model));
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

#[test]
fn rights_that_no_page_may_have_are_refused_before_xen_is_asked() {
    let mut world = World::small();
    let frames = world.frames(3);
    let both = Flags::PRESENT | Flags::WRITABLE;
    world.map(BASE, &frames[..1], Flags::DATA).unwrap();
    let before = world.model.counters().traps;
    let mfn = world.tables.machine().mfn(frames[1]).unwrap();
    let errors = [
        world.map(BASE + PAGE, &frames[1..], both),
        world.set_ptes(BASE + PAGE, frames[1], 1, both),
        // SAFETY: the model's memory.
        unsafe { world.tables.map_machine(BASE + PAGE, mfn, both) },
        world.protect(BASE, 1, Flags::empty(), Flags::NO_EXECUTE),
    ];
    for e in errors {
        assert!(matches!(e, Err(MmError::WriteAndExecute { .. })), "{e:?}");
    }
    // An entry with a frame but without P would end the domain where there is L1TF.
    let errors = [
        world.map(BASE + PAGE, &frames[1..], Flags::NO_EXECUTE),
        world.set_ptes(BASE + PAGE, frames[1], 1, Flags::empty()),
        world.protect(BASE, 1, Flags::empty(), Flags::PRESENT),
    ];
    for e in errors {
        assert!(matches!(e, Err(MmError::NotMapped { .. })), "{e:?}");
    }
    let root = world.tables.root();
    let window = world.tables.machine().window(root);
    let table = world.protect(window, 1, Flags::WRITABLE, Flags::empty());
    assert!(
        matches!(table, Err(MmError::MustStayReadOnly { .. })),
        "{table:?}"
    );
    let image = world.protect(world.image.rodata.start, 1, Flags::WRITABLE, Flags::empty());
    assert!(
        matches!(image, Err(MmError::MustStayReadOnly { .. })),
        "{image:?}"
    );
    assert_eq!(world.model.counters().traps, before);
    assert_eq!(queued(&world.tables), (0, false));
}

#[test]
fn ranges_that_are_none_are_refused() {
    let mut world = World::small();
    let bad = |e: Result<(), MmError>| assert!(matches!(e, Err(MmError::BadRange { .. })), "{e:?}");
    bad(world.unmap(BASE, 0));
    bad(world.unmap(BASE + 1, 1));
    bad(world.unmap(0x8000_0000_0000, 1));
    bad(world.unmap(0x7fff_ffff_f000, 2));
    bad(world.unmap(BASE, 1 << 52));
    bad(world.unmap(0xffff_ffff_ffff_f000, 2));
    // The last page of either half is one.
    world.unmap(0x7fff_ffff_f000, 1).unwrap();
    world.unmap(0xffff_ffff_ffff_e000, 1).unwrap();
    bad(world.move_pages(BASE, BASE + PAGE, 2));
    bad(world.move_pages(BASE, BASE, 512));
    let p2m = world.model.boot().mfn_list;
    world.unmap(BASE, 1).unwrap();
    assert!(matches!(
        world.map(p2m, &[], Flags::DATA),
        Err(MmError::BadRange { .. })
    ));
}

/// Where whole tables change hands the place may have a table, which comes back, but no page in it.
#[test]
fn a_table_moves_only_to_where_nothing_is_mapped() {
    let (from, to) = (BASE, BASE + 5 * 512 * PAGE);
    for at in [0, 1, 300, 511] {
        let mut world = World::small().populated();
        let frames = world.frames(512);
        let free = |world: &World| world.tables.frames().counts().free;
        world.tables.ensure_pmd(from).unwrap();
        let before = free(&world);
        world.map(from, &frames, Flags::DATA).unwrap();
        let page = to + at * PAGE;
        world.map(page, &frames[..1], Flags::CONST).unwrap();
        let refused = world.move_pages(from, to, 512);
        assert!(
            matches!(refused, Err(MmError::Occupied { va }) if va == page),
            "{refused:?}"
        );
        for va in [from, page] {
            assert_eq!(world.mapped(va).map(|found| found.0), Some(frames[0]));
        }
        expect::clean(&world);
        // One page is unmapped by its entry, and the table stays.
        world.unmap(page, 1).unwrap();
        assert_eq!(free(&world), before - 2);
        world.move_pages(from, to, 512).unwrap();
        assert_eq!(free(&world), before - 1);
        assert_eq!(world.mapped(from), None);
        let last = world.mapped(to + 511 * PAGE);
        assert_eq!(last.map(|found| found.0), Some(frames[511]));
        world.unmap(to, 512).unwrap();
        assert_eq!(free(&world), before);
        expect::clean(&world);
    }
}

/// Tables are replaced by groups, of which the last may be full or not.
#[test]
fn a_range_of_any_number_of_tables_is_changed() {
    for tables in [15, 16, 17, 33] {
        let mut world = World::small().populated();
        let pages = tables * 512;
        let frame = world.frames(1)[0];
        let free = |world: &World| world.tables.frames().counts().free;
        world.tables.ensure_pmd(BASE).unwrap();
        let before = free(&world);
        let frames = vec![frame; pages as usize];
        world.map(BASE, &frames, Flags::DATA).unwrap();
        let none = Flags::empty();
        world.protect(BASE, pages, none, Flags::WRITABLE).unwrap();
        for page in 0..pages {
            let (found, rights) = world.mapped(BASE + page * PAGE).unwrap();
            let is_writable = rights & model::entry::RW != 0;
            assert_eq!((found, is_writable), (frame, false), "{page} of {pages}");
        }
        expect::clean(&world);
        world.unmap(BASE, pages).unwrap();
        assert!((0..pages).all(|page| world.mapped(BASE + page * PAGE).is_none()));
        assert_eq!(free(&world), before);
        expect::clean(&world);
    }
}

/// A change says which addresses must not be touched before it is in force.
#[test]
fn a_change_tells_the_addresses_that_change() {
    let none = Flags::empty();
    // The last by whole tables.
    for (pages, gap) in [(1, 70), (2, 70), (600, 70), (1024, 512)] {
        let mut world = World::small().populated();
        let frames = world.frames(pages);
        let pages = pages as u64;
        let far = BASE + gap * PAGE + pages * PAGE;
        let at = |va| va..va + pages * PAGE;
        let tables = &mut world.tables;
        // SAFETY: the model's memory.
        unsafe {
            let map = tables.map(BASE, frames.iter().copied(), Flags::DATA);
            let map = map.unwrap();
            assert_eq!(map.range(), at(BASE));
            map.commit(tables).unwrap();
            let protect = tables.protect(BASE, pages, none, Flags::WRITABLE).unwrap();
            assert_eq!(protect.range(), at(BASE));
            protect.commit(tables).unwrap();
            let moved = tables.move_pages(BASE, far, pages).unwrap();
            assert_eq!(moved.range(), at(far));
            moved.commit(tables).unwrap();
            let unmap = tables.unmap(far, pages).unwrap();
            assert_eq!(unmap.range(), at(far));
            unmap.commit(tables).unwrap();
        }
        expect::clean(&world);
    }
}

#[test]
fn a_frame_of_nobody_is_mapped_by_its_machine_number() {
    let mut world = World::small();
    // SAFETY: another domain's frame, and one that does not exist: Xen refuses both.
    unsafe {
        let foreign = world.model.foreign_mfn();
        let e = world.tables.map_machine(BASE, foreign, Flags::CONST);
        assert!(matches!(e, Err(MmError::Flush(_))), "{e:?}");
        let e = world
            .tables
            .map_machine(BASE, Mfn::truncate(1), Flags::CONST);
        assert!(matches!(e, Err(MmError::Flush(_))), "{e:?}");
        let shared = world.model.boot().shared_info;
        world.tables.map_machine(BASE, shared, Flags::DATA).unwrap();
        let e = world.tables.map_machine(BASE, shared, Flags::DATA);
        assert!(matches!(e, Err(MmError::Occupied { va: BASE })), "{e:?}");
    }
    assert!(world.probe().load(BASE).is_some());
    expect::sound(&world);
}

#[test]
fn a_lone_entry_goes_the_cheapest_way() {
    let mut world = World::small();
    let frames = world.frames(1);
    world.tables.ensure_pte_table(BASE).unwrap();
    world.model.reset_counters();
    let place = world.tables.pte_slot(BASE).unwrap().place();
    let new = world
        .tables
        .make_pte(Value::new(frames[0], Flags::DATA))
        .unwrap();
    for entry in [new, Pte::NONE, new] {
        // SAFETY: the model's memory.
        unsafe { world.tables.set_pte(place, BASE, entry) }.unwrap();
    }
    let counters = world.model.counters();
    assert_eq!(
        (counters.traps, counters.calls(Call::UpdateVaMapping)),
        (3, 3)
    );
    // An empty section asks Xen for nothing.
    for to in [Mode::Enter, Mode::Enter, Mode::Leave, Mode::Leave] {
        mode(&mut world.tables, to).unwrap();
    }
    assert_eq!(world.model.counters().traps, 3);
}

#[test]
fn dirty_bits_of_the_page_before_are_not_kept() {
    let mut world = World::small();
    let frames = world.frames(2);
    world.map(BASE, &frames[..1], Flags::DATA).unwrap();
    let clean = Flags::DATA - Flags::DIRTY - Flags::ACCESSED;
    let place = world.tables.pte_slot(BASE).unwrap().place();
    let entry = world.tables.make_pte(Value::new(frames[1], clean)).unwrap();
    world.mode(Mode::Enter);
    // SAFETY: the model's memory.
    unsafe { world.tables.set_pte(place, BASE, entry) }.unwrap();
    // Both writes go out as one, which must not preserve what the first one ended.
    // SAFETY: the model's memory.
    unsafe { world.tables.ptep_set_wrprotect(BASE) }.unwrap();
    assert_eq!(queued(&world.tables).0, 1);
    world.mode(Mode::Leave);
    let found = in_table(&world.tables, BASE).unwrap().flags();
    assert!(
        !found.intersects(Flags::DIRTY | Flags::ACCESSED),
        "{found:?}"
    );
}
