//! Xen refuses, at every place where it is asked: each operation is run once for each hypercall
//! and each request of a list that it makes, with that one failing.
//!
//! Afterwards the error names what was refused, the record of frames is that of Xen, nothing is
//! queued, no frame is lost, and the same operation succeeds when it is tried again.

use std::collections::HashSet;

use crate::common::layout;
use crate::common::{BASE, MIB, PAGE, World, expect, small};
use hypercall::batch::Failed;
use hypercall::{Errno, Op, Pfn};
use model::{Injection, Kind};
use pagetable::fuzz::{Mode, mode, queued};
use pagetable::spaces::{AddressSpace, NotDestroyed};
use pagetable::state::Kind as Frame;
use pagetable::{Flags, MmError};

/// Pages that the operations may touch from [`BASE`] on.
const WINDOW: u64 = 4096;
/// An address in the window with nothing near it.
const FAR: u64 = BASE + 2048 * PAGE;
/// An address of the user half, and pages that operations map behind it.
const USER: u64 = 0x40_0000;
const USER_PAGES: u64 = 8;
const ERRNO: Errno = Errno::ENOMEM;

type Frames = [Pfn];

/// An operation: what is there before, and what is asked for.
struct Case {
    name: &'static str,
    prepare: fn(&mut World, &Frames),
    act: fn(&mut World, &Frames) -> Result<(), MmError>,
}

fn nothing(_: &mut World, _: &Frames) {}

fn some(world: &mut World, frames: &Frames) {
    world.map(BASE, &frames[..10], Flags::DATA).unwrap();
}

/// A space in the world's care, with tables of its own in its user half.
fn space(world: &mut World, frames: &Frames) {
    if world.space.is_some() {
        return;
    }
    let (boot, space) = (
        world.tables.boot_space(),
        world.tables.create_space().unwrap(),
    );
    world.switch(&space);
    world.space = Some(space);
    for va in [USER, 1 << 39, 1 << 40] {
        world
            .map(va, &frames[..3], Flags::DATA | Flags::USER)
            .unwrap();
    }
    world.switch(&boot);
}

/// The same, and it is the current one.
fn in_space(world: &mut World, frames: &Frames) {
    space(world, frames);
    switch_to_its_space(world).unwrap();
    world.unmap(USER + PAGE, USER_PAGES).unwrap();
}

fn switch(world: &mut World, to: &AddressSpace) -> Result<(), MmError> {
    let before = world.tables.root();
    // SAFETY: nobody uses the user half of the model.
    let switched = unsafe { world.tables.switch_space(to) };
    let now = if switched.is_ok() {
        to.roots().kernel
    } else {
        before
    };
    assert_eq!(world.tables.root(), now, "{switched:?}");
    expect::bases(world);
    switched
}

/// To the space in the world's care.
fn switch_to_its_space(world: &mut World) -> Result<(), MmError> {
    let space = world.space.take().unwrap();
    let switched = switch(world, &space);
    world.space = Some(space);
    switched
}

fn constants(world: &mut World, frames: &Frames) {
    for i in 0..2 {
        let va = BASE + i * 512 * PAGE;
        world.map(va, &frames[..200], Flags::CONST).unwrap();
    }
}

fn many(world: &mut World, frames: &Frames) {
    for i in 0..3 {
        let va = BASE + i * 512 * PAGE;
        world.map(va, &frames[..512], Flags::DATA).unwrap();
    }
}

/// Xen does not pin a root that could not be made read-only: it refuses both.
const CREATE: &str = "create a space";
/// A space is in nobody's care once this succeeds.
const DESTROY: &str = "destroy a space";

const CASES: &[Case] = &[
    Case {
        name: "ensure_pte_table",
        prepare: nothing,
        act: |world, _| world.tables.ensure_pte_table(BASE),
    },
    Case {
        name: "map one page",
        prepare: nothing,
        act: |world, frames| world.map(BASE, &frames[..1], Flags::DATA),
    },
    Case {
        name: "map pages in three tables",
        prepare: nothing,
        act: |world, frames| world.map(BASE + 500 * PAGE, &frames[..600], Flags::DATA),
    },
    Case {
        name: "map pages in a table that is there",
        prepare: some,
        act: |world, frames| world.map(BASE + 20 * PAGE, &frames[..40], Flags::DATA),
    },
    Case {
        name: "protect in place",
        prepare: some,
        act: |world, _| world.protect(BASE, 10, Flags::empty(), Flags::WRITABLE),
    },
    Case {
        name: "protect by tables",
        prepare: many,
        act: |world, _| world.protect(BASE + 5 * PAGE, 1400, Flags::empty(), Flags::WRITABLE),
    },
    Case {
        name: "unmap in place",
        prepare: some,
        act: |world, _| world.unmap(BASE, 9),
    },
    Case {
        name: "unmap by tables",
        prepare: many,
        act: |world, _| world.unmap(BASE + 5 * PAGE, 1400),
    },
    Case {
        name: "unmap whole tables",
        prepare: many,
        act: |world, _| world.unmap(BASE, 1536),
    },
    Case {
        name: "move tables",
        prepare: many,
        act: |world, _| world.move_pages(BASE, FAR, 1536),
    },
    Case {
        name: "move tables to where empty ones are",
        prepare: |world, frames| {
            many(world, frames);
            world.map(FAR, &frames[..3], Flags::DATA).unwrap();
            world.unmap(FAR, 3).unwrap();
        },
        act: |world, _| world.move_pages(BASE, FAR, 1024),
    },
    Case {
        name: "move pages",
        prepare: many,
        act: |world, _| world.move_pages(BASE + PAGE, FAR + 3 * PAGE, 1000),
    },
    Case {
        name: "move few pages",
        prepare: some,
        act: |world, _| world.move_pages(BASE + PAGE, FAR, 5),
    },
    Case {
        name: "set_ptes",
        prepare: some,
        act: |world, frames| world.set_ptes(BASE + 5 * PAGE, frames[0], 30, Flags::CONST),
    },
    Case {
        name: "ptep_get_and_clear",
        prepare: some,
        // SAFETY: the model's memory.
        act: |world, _| unsafe { world.tables.ptep_get_and_clear(BASE) }.map(drop),
    },
    Case {
        name: "ptep_set_wrprotect",
        prepare: some,
        // SAFETY: the model's memory.
        act: |world, _| unsafe { world.tables.ptep_set_wrprotect(BASE) },
    },
    Case {
        name: "ptep_test_and_clear_young",
        prepare: some,
        act: |world, _| world.tables.ptep_test_and_clear_young(BASE).map(drop),
    },
    Case {
        name: "map_machine",
        prepare: nothing,
        act: |world, frames| {
            let mfn = world.tables.mfn(frames[0])?;
            // SAFETY: the model's memory.
            unsafe { world.tables.map_machine(BASE, mfn, Flags::DATA) }
        },
    },
    Case {
        name: "release of code",
        prepare: nothing,
        act: |world, _| world.release(world.image.text.start, 90),
    },
    Case {
        name: "release of variables",
        prepare: nothing,
        act: |world, _| world.release(world.image.data.start, 3),
    },
    Case {
        name: CREATE,
        prepare: nothing,
        act: |world, _| world.tables.create_space().map(drop),
    },
    Case {
        name: "switch to a space",
        prepare: |world, frames| {
            space(world, frames);
            world.leave_space();
        },
        act: |world, _| switch_to_its_space(world),
    },
    Case {
        name: "switch from one space to another",
        prepare: |world, frames| {
            if world.space.is_none() {
                let space = world.tables.create_space().unwrap();
                world.switch(&space);
                world.space = Some(world.tables.create_space().unwrap());
            }
            nothing(world, frames);
        },
        act: |world, _| switch_to_its_space(world),
    },
    Case {
        name: "switch back from a space",
        prepare: in_space,
        act: |world, _| {
            let boot = world.tables.boot_space();
            switch(world, &boot)
        },
    },
    Case {
        name: DESTROY,
        prepare: space,
        act: |world, _| {
            let Some(space) = world.space.take() else {
                // It is gone, and only its frames are not back yet.
                return Ok(());
            };
            world.tables.destroy_space(space).map_err(|refused| {
                let NotDestroyed { error, space } = refused;
                world.space = space;
                error
            })
        },
    },
    Case {
        name: "map in the user half",
        prepare: in_space,
        act: |world, frames| world.map(USER + PAGE, &frames[..2], Flags::CONST | Flags::USER),
    },
    Case {
        name: "map below a new L4 entry of the user half",
        prepare: |world, frames| {
            in_space(world, frames);
            world.unmap(5 << 39, 1).unwrap();
        },
        act: |world, frames| world.map(5 << 39, &frames[..1], Flags::CONST | Flags::USER),
    },
    Case {
        name: "map below an L4 entry of the kernel half, every space's",
        prepare: |world, frames| {
            space(world, frames);
            world.unmap(layout::HEAP.start, 1).unwrap();
        },
        act: |world, frames| world.map(layout::HEAP.start, &frames[..1], Flags::DATA),
    },
    Case {
        name: "set_memory_x",
        prepare: constants,
        act: |world, _| {
            // SAFETY: the model's memory.
            unsafe { world.tables.set_memory_x(BASE, 100) }?.commit(&mut world.tables)
        },
    },
    Case {
        name: "set_memory_ro of variables",
        prepare: nothing,
        act: |world, _| {
            let va = world.image.data.start;
            // SAFETY: the model's memory.
            unsafe { world.tables.set_memory_ro(va, 3) }?.commit(&mut world.tables)
        },
    },
    Case {
        name: "set_memory_rw of variables",
        prepare: |world, _| {
            let va = world.image.data.start;
            // SAFETY: the model's memory.
            unsafe { world.tables.set_memory_ro(va, 3) }
                .unwrap()
                .commit(&mut world.tables)
                .unwrap();
        },
        act: |world, _| {
            let va = world.image.data.start;
            // SAFETY: the model's memory.
            unsafe { world.tables.set_memory_rw(va, 3) }?.commit(&mut world.tables)
        },
    },
    Case {
        name: "set_memory_nx",
        prepare: |world, frames| {
            constants(world, frames);
            // SAFETY: the model's memory.
            unsafe { world.tables.set_memory_x(BASE, 100) }
                .unwrap()
                .commit(&mut world.tables)
                .unwrap();
        },
        act: |world, _| {
            // SAFETY: the model's memory.
            unsafe { world.tables.set_memory_nx(BASE, 100) }?.commit(&mut world.tables)
        },
    },
    Case {
        name: "growth of the direct map",
        prepare: nothing,
        act: |world, _| world.tables.populate_all(),
    },
];

/// What fails: a hypercall, or a request of its list; the n-th time.
fn site(op: Op, index: Option<u32>, nth: u64) -> Injection {
    Injection {
        nth,
        index,
        ..Injection::call(op, ERRNO)
    }
}

/// Frames that somebody has, by their states: more than these are lost.
fn held(world: &World) -> HashSet<u64> {
    let frames = world.tables.frames();
    let states = (0..frames.counts().mapped).filter(|&pfn| {
        let states = frames.states(Pfn::truncate(pfn));
        states.is_ok_and(|(state, _)| matches!(state.kind, Frame::Owned | Frame::Code))
    });
    states.collect()
}

/// Chunks of the direct map.
fn chunks(world: &World) -> usize {
    let frames = world.tables.frames();
    let all = frames.counts().total.div_ceil(512);
    frames.next_chunk().unwrap_or(all) as usize
}

/// Tables that nothing refers to, but for a root that its space still has.
fn orphans(world: &World) -> u64 {
    let of_space = |pfn| {
        let roots = world.space.as_ref().map(|space| {
            let roots = space.roots();
            (Some(roots.kernel), roots.user)
        });
        roots.is_some_and(|(kernel, user)| kernel == Some(pfn) || user == Some(pfn))
    };
    let frames = world.tables.frames();
    let mut count = 0;
    for pfn in (0..frames.counts().mapped).map(Pfn::truncate) {
        let (state, _) = frames.states(pfn).unwrap();
        let unused = state.kind == Frame::Table && state.links == 0 && !state.pinned;
        count += u64::from(unused && !of_space(pfn));
    }
    count
}

/// Runs a case with one failure, in `depth` lazy sections. False if there was none, as the
/// operation does not get that far.
fn fails(case: &Case, depth: usize, failure: Injection) -> bool {
    let mut world = World::fast(&small(Kind::DomU, 10 * MIB));
    let frames = world.frames(640);
    (case.prepare)(&mut world, &frames);
    let what = format!("{} at depth {depth}, {failure:?}", case.name);
    let (before, chunks) = (held(&world), chunks(&world));
    world.model.inject(failure);
    (0..depth).for_each(|_| world.mode(Mode::Enter));
    let mut result = (case.act)(&mut world, &frames);
    for _ in 0..depth {
        result = result.and(mode(&mut world.tables, Mode::Leave));
    }
    if world.model.clear_injections() > 0 {
        result.unwrap_or_else(|e| panic!("{what}: {e}"));
        return false;
    }
    let Err(MmError::Flush(error)) = result else {
        panic!("{what}: {result:?}");
    };
    assert_eq!(error.error.errno, ERRNO, "{what}: {error}");
    match (failure.op, failure.index) {
        (Op::MmuUpdate, Some(_)) | (Op::UpdateVaMapping, _) => {
            assert!(
                matches!(error.failed, Failed::Update { .. }),
                "{what}: {error}"
            );
            let caller = error.caller.unwrap().file();
            assert!(caller.contains("pagetable"), "{what}: {error}");
            let refused = if case.name == CREATE { 1..=2 } else { 1..=1 };
            assert!(refused.contains(&error.refused), "{what}: {error}");
        }
        _ => {}
    }
    assert!(!error.tlb_stale, "{what}: {error}");
    assert_eq!(queued(&world.tables), (0, false), "{what}");
    expect::no_plans(&world);
    expect::bases(&world);
    // What could be given back is by the time that somebody asks for a frame.
    let frame = world.tables.alloc_frame().unwrap();
    world.tables.free_frame(frame).unwrap();
    expect::sound(&world);
    let lost: Vec<_> = held(&world).difference(&before).copied().collect();
    // Each chunk of the direct map that could be added has a page of records.
    let records = self::chunks(&world) - chunks;
    assert_eq!(
        (lost.len(), orphans(&world)),
        (records, 0),
        "{what}: {error}"
    );
    // Whatever half of it was done, it can be undone and done again.
    world
        .unmap(BASE, WINDOW)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    (case.prepare)(&mut world, &frames);
    let again = (case.act)(&mut world, &frames);
    again.unwrap_or_else(|e| panic!("{what}, again: {e}"));
    if case.name == DESTROY {
        world.space = None;
    }
    assert_eq!(orphans(&world), 0, "{what}, again");
    expect::bases(&world);
    expect::sound(&world);
    true
}

/// Every place of a list matters up to here; of longer ones a sample is enough.
const DENSE: u32 = 10;

fn everywhere(depth: usize) {
    for case in CASES {
        let mut sites = 0;
        for op in [
            Op::MmuUpdate,
            Op::UpdateVaMapping,
            Op::MmuextOp,
            Op::Multicall,
        ] {
            let mut nth = 1;
            while fails(case, depth, site(op, None, nth)) {
                (nth, sites) = (nth + 1, sites + 1);
            }
            let mut index = 0;
            loop {
                let mut nth = 1;
                while fails(case, depth, site(op, Some(index), nth)) {
                    (nth, sites) = (nth + 1, sites + 1);
                }
                if nth == 1 {
                    break;
                }
                index += if index < DENSE { 1 } else { 89 };
            }
        }
        println!("{} at depth {depth}: {sites} places", case.name);
    }
}

#[test]
fn every_request_may_fail() {
    everywhere(0);
}

#[test]
fn every_request_may_fail_inside_a_lazy_section() {
    everywhere(2);
}
