//! What the tables keep besides their entries: the places that were used last, what the processor
//! may have cached, and the record of frames. Each must follow the entries at once.

use crate::common::{BASE, MIB, ModelMachine, PAGE, World, expect, small};
use hypercall::{Errno, Op, Pfn};
use model::{Injection, Kind};
use pagetable::entry::{L3, TableLevel};
use pagetable::frames::{FrameError, Frames, Log};
use pagetable::fuzz::{Mode, Probe, in_table, queued};
use pagetable::machine::Machine;
use pagetable::state::{Kind as Frame, State, Transition};
use pagetable::{Flags, MmError, Value};

const SPAN: u64 = 512 * PAGE;

fn no_table(world: &World, va: u64) {
    let slot = world.tables.pte_slot(va).map(|slot| slot.machine());
    assert!(matches!(slot, Err(MmError::NoTable { .. })), "{slot:?}");
}

/// The slot that is found is the one that a walk from the root finds.
fn found(world: &World, va: u64) {
    let slot = world.tables.pte_slot(va).unwrap();
    let [entry, walked] = [Some(world.tables.get(slot)), in_table(&world.tables, va)];
    assert_eq!(entry, walked, "{va:#x}");
    let (l4, level) = (world.model.boot().l4, hypercall::mmu::Level::L1);
    let (place, _) = world.model.walk(l4, va).entry(level).unwrap();
    assert_eq!(slot.machine(), place, "{va:#x}");
    // Level by level it is the same.
    let tables = &world.tables;
    let by_level = tables
        .pgd_offset(va)
        .and_then(|pgd| tables.p4d_offset(pgd, va))
        .and_then(|p4d| tables.pud_offset(p4d, va))
        .and_then(|pud| tables.pmd_offset(pud, va))
        .and_then(|pmd| tables.pte_offset(pmd, va));
    assert_eq!(by_level.map(|slot| slot.machine()), Some(place), "{va:#x}");
}

/// The place that was used last is looked for anew after each change that leads elsewhere.
#[test]
fn a_table_that_was_used_last_is_forgotten_with_its_place() {
    let mut world = World::small().populated();
    let frames = world.named_frames(512);
    let far = BASE + 5 * SPAN;
    // Unmapped with its table.
    world.map(BASE, &frames, Flags::DATA).unwrap();
    found(&world, BASE);
    world.unmap(BASE, 512).unwrap();
    no_table(&world, BASE);
    // Another table in its place.
    world.map(BASE, &frames, Flags::DATA).unwrap();
    found(&world, BASE);
    found(&world, BASE + 7 * PAGE);
    world
        .protect(BASE, 400, Flags::empty(), Flags::WRITABLE)
        .unwrap();
    found(&world, BASE);
    found(&world, BASE + 401 * PAGE);
    // Moved with its table.
    world.move_pages(BASE, far, 512).unwrap();
    found(&world, far);
    world.tables.ensure_pte_table(BASE).unwrap();
    found(&world, BASE);
    world.unmap(BASE, 512).unwrap();
    world.move_pages(far, BASE, 512).unwrap();
    no_table(&world, far);
    found(&world, BASE);
    // Looked up while the change is queued.
    world.mode(Mode::Enter);
    found(&world, BASE);
    // SAFETY: nobody uses the pages.
    unsafe { world.tables.unmap(BASE, 512).unwrap().defer() };
    assert!(queued(&world.tables).1);
    no_table(&world, BASE);
    world.mode(Mode::Leave);
    no_table(&world, BASE);
    expect::clean(&world);
}

/// The same for the L2 tables, which an L3 entry leads to.
#[test]
fn an_l2_table_that_was_used_last_is_forgotten_with_its_place() {
    let mut world = World::small().populated();
    let frames = world.named_frames(1);
    let (one, two) = (BASE, BASE + L3::SPAN);
    world.map(one, &frames, Flags::DATA).unwrap();
    let [from, to] = [one, two].map(|va| {
        let pgd = world.tables.pgd_offset(va).unwrap();
        let p4d = world.tables.p4d_offset(pgd, va).unwrap();
        world.tables.pud_offset(p4d, va).unwrap()
    });
    found(&world, one);
    let entry = world.tables.get(from);
    let value = world.tables.pud_val(entry).unwrap();
    let entry = world.tables.make_pud(value).unwrap();
    let [from, to] = [from, to].map(|slot| slot.place());
    // SAFETY: nothing is mapped at the second place, nothing in use at the first.
    unsafe {
        world.tables.set_pud(to, entry).unwrap();
        world
            .tables
            .set_pud(from, pagetable::entry::Pud::NONE)
            .unwrap();
    }
    let gone = world.tables.pmd_slot(one).map(|slot| slot.machine());
    assert!(matches!(gone, Err(MmError::NoTable { .. })), "{gone:?}");
    no_table(&world, one);
    found(&world, two);
    assert_eq!(world.probe().load(two), Some(frames[0].as_u64()));
    // Something else in the first place is found there.
    world.tables.ensure_pte_table(one).unwrap();
    found(&world, one);
    world.unmap(two, 1).unwrap();
    expect::clean(&world);
}

/// A table that was found through the queue is not there if Xen refuses to link it.
#[test]
fn a_table_that_was_refused_is_forgotten() {
    for (op, index) in [
        (Op::MmuUpdate, Some(0)),
        (Op::MmuUpdate, Some(1)),
        (Op::MmuUpdate, None),
    ] {
        let mut world = World::small().populated();
        let frames = world.named_frames(1);
        world.mode(Mode::Enter);
        // SAFETY: the model's frames.
        let map = unsafe { world.tables.map(BASE, frames.iter().copied(), Flags::DATA) };
        // SAFETY: nothing runs on the model.
        unsafe { map.unwrap().defer() };
        let slot = world.tables.pte_slot(BASE).unwrap();
        assert!(world.tables.get(slot).is_present());
        world.model.inject(Injection {
            index,
            ..Injection::call(op, Errno::ENOMEM)
        });
        let left = pagetable::fuzz::mode(&mut world.tables, Mode::Leave);
        assert!(matches!(left, Err(MmError::Flush(_))), "{left:?}");
        assert_eq!(in_table(&world.tables, BASE), None);
        no_table(&world, BASE);
        expect::sound(&world);
        world.map(BASE, &frames, Flags::DATA).unwrap();
        found(&world, BASE);
    }
}

/// A frame that was a table is ordinary memory for its next owner, whatever was cached of it while
/// it was read-only.
#[test]
fn a_frame_that_was_a_table_can_be_written() {
    let mut world = World::small().populated();
    let frames = world.named_frames(1);
    for lazy in [false, true] {
        world.map(BASE, &frames, Flags::DATA).unwrap();
        let entry = world.tables.get(world.tables.pmd_slot(BASE).unwrap());
        let table = world.tables.pmd_val(entry).unwrap().pfn;
        let window = world.tables.machine().window(table);
        assert!(world.probe().load(window).is_some());
        assert!(!world.probe().store(window, 0), "a table");
        assert!(world.probe().load(window).is_some());
        if lazy {
            world.mode(Mode::Enter);
        }
        // Entry by entry, so that no entry above changes: Xen would flush everything with that.
        let place = world.tables.pmd_slot(BASE).unwrap().place();
        // SAFETY: nobody uses the page.
        let sealed = unsafe { world.tables.unlink_table(place) }
            .unwrap()
            .unwrap();
        world.tables.flush().unwrap();
        assert!(world.probe().load(window).is_some());
        sealed.release(&mut world.tables).unwrap();
        world.tables.flush().unwrap();
        assert_eq!(states(&world, table).0, State::of(Frame::Free));
        if lazy {
            world.mode(Mode::Leave);
        }
        assert!(world.probe().store(window, 0), "free memory");
        expect::clean(&world);
    }
}

/// The same for a part of the image.
#[test]
fn a_frame_that_was_the_images_can_be_written() {
    let mut world = World::small().populated();
    let start = world.image.text.start;
    let window = |page| {
        let pfn = (start - crate::common::layout::IMAGE.start) / PAGE + page;
        world.tables.machine().window(Pfn::truncate(pfn))
    };
    let windows: Vec<_> = (0..80).map(window).collect();
    for &va in &windows {
        assert!(world.probe().load(va).is_none(), "{va:#x}");
    }
    // Few at a time: with more, a table is replaced, and Xen flushes everything for that.
    for page in (0..80).step_by(2) {
        world.release(start + page * PAGE, 2).unwrap();
    }
    for &va in &windows {
        assert!(world.probe().store(va, 0), "{va:#x}");
    }
    expect::sound(&world);
}

/// What an interrupt handler changes is in force when it returns, cached or not, whatever the
/// section that it interrupted has queued.
#[test]
fn a_right_that_a_handler_takes_is_gone_when_it_returns() {
    for fill in [0, 1, 300, 511] {
        let mut world = World::small().populated();
        let frames = world.named_frames(1);
        let other = BASE + 8 * SPAN;
        world.map(BASE, &frames, Flags::DATA).unwrap();
        for at in [other, other + SPAN] {
            world.tables.ensure_pte_table(at).unwrap();
        }
        assert!(world.probe().store(BASE, 1), "cached as writable");
        world.mode(Mode::Enter);
        for page in 0..fill {
            let va = other + page * PAGE;
            let place = world.tables.pte_slot(va).unwrap().place();
            let value = Value::new(frames[0], Flags::CONST);
            let entry = world.tables.make_pte(value).unwrap();
            // SAFETY: nothing is mapped there.
            unsafe { world.tables.set_pte(place, va, entry) }.unwrap();
        }
        assert_eq!(queued(&world.tables).0 as u64, fill);
        world.mode(Mode::EnterInterrupt);
        // SAFETY: nobody writes to the page.
        unsafe { world.tables.ptep_set_wrprotect(BASE) }.unwrap();
        assert_eq!(queued(&world.tables), (0, false));
        assert!(!world.probe().store(BASE, 2), "{fill} queued before");
        // SAFETY: nobody uses it.
        unsafe { world.tables.ptep_get_and_clear(BASE) }.unwrap();
        assert_eq!(world.probe().load(BASE), None);
        world.mode(Mode::LeaveInterrupt);
        world.mode(Mode::Leave);
        expect::clean(&world);
    }
}

/// The record of a frame.
fn states(world: &World, pfn: Pfn) -> (State, State) {
    let frames = world.tables.frames();
    frames.states(pfn).unwrap()
}

/// An error that is returned leaves no plan behind: neither of a request that went out alone, nor
/// of a section's.
#[test]
fn a_refusal_leaves_no_plan() {
    for lazy in [false, true] {
        let mut world = World::small().populated();
        let frames = world.named_frames(1);
        world.map(BASE, &frames, Flags::DATA).unwrap();
        let slot = world.tables.pmd_slot(BASE).unwrap();
        let entry = world.tables.get(slot);
        let table = world.tables.pmd_val(entry).unwrap().pfn;
        let place = slot.place();
        let before = states(&world, table);
        assert_eq!(before.0, State::table(1, 1, false));
        if lazy {
            world.mode(Mode::Enter);
        }
        world
            .model
            .inject(Injection::request(Op::MmuUpdate, 0, Errno::ENOMEM));
        // SAFETY: nobody uses what is mapped below.
        let mut result = unsafe { world.tables.set_pmd(place, pagetable::entry::Pmd::NONE) };
        if lazy {
            assert_eq!(states(&world, table).1.links, 0, "planned");
            result = result.and(world.tables.flush());
        }
        assert!(matches!(result, Err(MmError::Flush(_))), "{result:?}");
        assert_eq!(states(&world, table), before);
        if lazy {
            world.mode(Mode::Leave);
        }
        expect::sound(&world);
    }
}

/// Transitions that one request would make are planned together or not at all.
#[test]
fn a_plan_that_cannot_be_made_whole_is_not_made() {
    let mut world = World::fast(&small(Kind::DomU, 16 * MIB)).populated();
    let mut spare: Vec<u64> = world.frames(1500).iter().map(|pfn| pfn.as_u64()).collect();
    spare.sort_unstable();
    let first = spare
        .windows(40)
        .find(|run| run[39] - run[0] == 39)
        .unwrap()[0];
    let machine: &ModelMachine = world.tables.machine();
    let mut frames = Frames::new();
    frames
        .init(machine, 16 * MIB, 16 * MIB, &mut (first..first + 40))
        .unwrap();
    let (frames, log) = (&mut frames, &mut Log::new());
    let [a, b] = [700, 701].map(Pfn::truncate);
    let table = State::table(1, 3, false);
    frames.set(a, table).unwrap();
    frames.set(b, State::of(Frame::Owned)).unwrap();
    for transitions in [
        &[(a, Transition::Link(1)), (b, Transition::Link(1))][..],
        &[
            (a, Transition::Unlink),
            (a, Transition::Unlink),
            (a, Transition::Unlink),
            (a, Transition::Unlink),
        ],
        &[
            (a, Transition::Link(1)),
            (a, Transition::Pin(1)),
            (a, Transition::Pin(1)),
        ],
        &[
            (b, Transition::Seal(1)),
            (b, Transition::Link(1)),
            (a, Transition::Unseal),
        ],
    ] {
        let planned = log.plan(frames, transitions);
        assert!(
            matches!(planned, Err(FrameError::Illegal(..))),
            "{planned:?}"
        );
        assert_eq!(frames.states(a).unwrap(), (table, table));
        let owned = State::of(Frame::Owned);
        assert_eq!(frames.states(b).unwrap(), (owned, owned));
        assert!(!log.is_waiting());
    }
    // Two requests, one of which comes true.
    let one = log
        .plan(
            frames,
            &[(a, Transition::Link(1)), (b, Transition::Seal(2))],
        )
        .unwrap();
    let two = log.plan(frames, &[(a, Transition::Pin(1))]).unwrap();
    assert_ne!(one, two);
    log.applied(frames, two);
    assert_eq!(frames.states(a).unwrap().0, State::table(1, 3, true));
    log.apply(frames, machine);
    let pinned = State::table(1, 3, true);
    assert_eq!(frames.states(a).unwrap(), (pinned, pinned));
    assert_eq!(frames.states(b).unwrap().1, State::of(Frame::Owned));
}

/// What the processor has cached of an address, or of any, is gone when that was asked for.
#[test]
fn a_flush_makes_the_processor_look_again() {
    for one in [true, false] {
        for lazy in [true, false] {
            let mut world = World::small().populated();
            let frames = world.named_frames(1);
            world.map(BASE, &frames, Flags::DATA).unwrap();
            let place = world.tables.pte_slot(BASE).unwrap().machine();
            assert!(world.probe().load(BASE).is_some());
            let words = world.model.frame_ptr(place.frame());
            // Behind everybody's back, as another vCPU would.
            // SAFETY: the model's memory, which this thread alone uses.
            let entry = unsafe { std::mem::take(&mut (*words)[place.entry_index()]) };
            assert!(world.probe().load(BASE).is_some(), "cached");
            if lazy {
                world.mode(Mode::Enter);
            }
            let which = one.then_some(BASE + 5);
            world.tables.flush_tlb(which).unwrap();
            assert_eq!(world.probe().load(BASE).is_some(), lazy, "waits if lazy");
            if lazy {
                world.mode(Mode::Leave);
            }
            assert_eq!(world.probe().load(BASE), None);
            // SAFETY: the model's memory, which this thread alone uses.
            unsafe { (*words)[place.entry_index()] = entry };
            expect::clean(&world);
        }
    }
}
