//! Mappings that own their frames: what goes in comes out, once, after the flush, whatever is refused.

use crate::common::layout::{DIRECT, DYNAMIC, FIXMAP, HEAP, IMAGE};
use crate::common::{MIB, PAGE, World, expect, small};
use hypercall::{Errno, Op as Call, Pfn};
use model::{Injection, Kind};
use pagetable::frames::Frame;
use pagetable::fuzz::Probe;
use pagetable::mapping::StillMapped;
use pagetable::state::Kind as Record;
use pagetable::{Flags, MmError};

/// Not at the start of a table.
const VA: u64 = DYNAMIC.start + 300 * PAGE;

fn world() -> World {
    World::fast(&small(Kind::DomU, 24 * MIB)).populated()
}

fn take(world: &mut World, count: usize) -> Vec<Frame> {
    (0..count)
        .map(|_| world.tables.alloc_frame().unwrap())
        .collect()
}

/// Frames go in and the same come out, in order, when nothing leads to them any more: not even what
/// the processor has cached.
#[test]
fn what_goes_in_comes_out_after_the_flush() {
    for pages in [1, 2, 212, 213, 600, 1300] {
        let mut world = world();
        let frames = take(&mut world, pages);
        let numbers: Vec<_> = frames.iter().map(Frame::pfn).collect();
        let mapping = world.tables.map_frames(VA, frames, Flags::DATA).unwrap();
        assert_eq!((mapping.va(), mapping.pages()), (VA, pages as u64));
        let mut probe = world.probe();
        for page in 0..pages as u64 {
            assert!(probe.store(VA + page * PAGE, page), "{page} of {pages}");
        }
        expect::clean(&world);
        let mut out = Vec::new();
        let unmapped = world.tables.unmap_frames(mapping, |tables, mut frame| {
            // Memory like any other, by now.
            tables.frame_memory(&mut frame)[1] = 7;
            out.push(frame);
        });
        unmapped.unwrap();
        assert_eq!(out.iter().map(Frame::pfn).collect::<Vec<_>>(), numbers);
        for page in 0..pages as u64 {
            assert_eq!(probe.load(VA + page * PAGE), None, "{page} of {pages}");
        }
        for frame in out {
            world.tables.free_frame(frame).unwrap();
        }
        expect::clean(&world);
    }
}

/// What cannot be mapped is not, and its frames are free.
#[test]
fn frames_that_cannot_be_mapped_are_free() {
    let mut world = world();
    let page = world.frames(1);
    world.map(VA + 700 * PAGE, &page, Flags::CONST).unwrap();
    let before = world.free();
    let refuse = |world: &mut World, va, pages, flags| {
        let frames = take(world, pages);
        world.tables.map_frames(va, frames, flags).unwrap_err()
    };
    for va in [
        0x40_0000,
        DIRECT.start + 4096,
        IMAGE.start,
        FIXMAP.start,
        HEAP.start + 1,
    ] {
        let error = refuse(&mut world, va, 1, Flags::DATA);
        assert!(
            matches!(error, MmError::BadRange { .. }),
            "{va:#x}: {error}"
        );
    }
    let none = refuse(&mut world, VA, 0, Flags::DATA);
    assert!(matches!(none, MmError::BadRange { .. }), "{none}");
    let code = refuse(&mut world, VA, 1, Flags::CODE);
    assert!(matches!(code, MmError::WriteAndExecute { .. }), "{code}");
    let taken = refuse(&mut world, VA, 701, Flags::DATA);
    let at = VA + 700 * PAGE;
    assert!(
        matches!(taken, MmError::Occupied { va } if va == at),
        "{taken}"
    );
    assert_eq!(world.free(), before);
    expect::clean(&world);
}

/// Frames that are free or tables: none else comes and goes here.
fn free_or_tables(world: &mut World) -> u64 {
    let free = world.free();
    let frames = world.tables.frames();
    let is_table = |pfn: &u64| {
        let (state, _) = frames.states(Pfn::truncate(*pfn)).unwrap();
        state.kind == Record::Table
    };
    free + (0..frames.counts().mapped).filter(is_table).count() as u64
}

/// Whatever Xen refuses, of mapping or of unmapping, no frame is lost, and none is free that is mapped.
#[test]
fn nothing_is_lost_to_a_refusal() {
    let mut still_mapped = 0;
    for call in [Call::UpdateVaMapping, Call::MmuUpdate, Call::Multicall] {
        for (pages, nth) in [(1, 1), (20, 1), (600, 1), (600, 2), (1300, 3)] {
            for (index, while_mapping) in [(None, true), (None, false), (Some(0), true)]
                .into_iter()
                .chain([(Some(0), false), (Some(3), true), (Some(3), false)])
            {
                let mut world = world();
                let before = free_or_tables(&mut world);
                let refusal = Injection {
                    nth,
                    index,
                    ..Injection::call(call, Errno::ENOMEM)
                };
                let frames = take(&mut world, pages);
                if while_mapping {
                    world.model.inject(refusal);
                }
                let mapped = world.tables.map_frames(VA, frames, Flags::DATA);
                world.model.clear_injections();
                expect::clean(&world);
                let Ok(mut mapping) = mapped else {
                    assert_eq!(free_or_tables(&mut world), before, "{refusal:?}");
                    continue;
                };
                if !while_mapping {
                    world.model.inject(refusal);
                }
                if let Err(StillMapped { mapping: rest, .. }) = world.tables.unmap_and_free(mapping)
                {
                    world.model.clear_injections();
                    expect::clean(&world);
                    let end = rest.va() + rest.pages() * PAGE;
                    assert_eq!(end, VA + pages as u64 * PAGE, "no more than there was");
                    still_mapped += 1;
                    mapping = rest;
                    world.tables.unmap_and_free(mapping).unwrap();
                }
                world.model.clear_injections();
                for page in 0..pages as u64 {
                    assert_eq!(world.mapped(VA + page * PAGE), None, "{refusal:?}");
                }
                expect::clean(&world);
                assert_eq!(free_or_tables(&mut world), before, "{refusal:?}");
            }
        }
    }
    assert!(still_mapped > 5, "{still_mapped}");
}

/// What is next to another region is not of it.
#[test]
fn a_mapping_may_touch_other_regions() {
    let mut world = world();
    for (va, pages) in [(FIXMAP.end, 1), (IMAGE.start - 2 * PAGE, 2)] {
        let frames = take(&mut world, pages);
        let mapping = world.tables.map_frames(va, frames, Flags::DATA).unwrap();
        expect::clean(&world);
        world.tables.unmap_and_free(mapping).unwrap();
    }
    for (va, pages) in [(FIXMAP.end - PAGE, 2), (IMAGE.start - 2 * PAGE, 3)] {
        let frames = take(&mut world, pages);
        let error = world
            .tables
            .map_frames(va, frames, Flags::DATA)
            .unwrap_err();
        assert!(matches!(error, MmError::BadRange { .. }), "{error}");
    }
    expect::clean(&world);
}
