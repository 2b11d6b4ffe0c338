//! What the record of frames says of memory, held against the memory that comes.

use std::rc::Rc;

use crate::common::{MIB, ModelMachine, Own, World, Xen, machine, small, start};
use hypercall::Pfn;
use model::{Kind as Domain, Layout, Model};
use pagetable::frames::{CHUNK, FrameError, Frames};
use pagetable::state::{Kind, State};
use pagetable::takeover::Initial;

/// Each frame that is handed out is one less to be had, whether the direct map grows for it or not,
/// until there is none.
#[test]
fn as_many_frames_come_as_are_promised() {
    for (pages, module) in [
        (24 * MIB, 0),
        (64 * MIB, 0),
        (64 * MIB + 200, 0),
        // The last chunk would take more frames than it brings, or as many.
        (64 * MIB + 1, 0),
        (64 * MIB + 2, 0),
        (64 * MIB + 3, 0),
        // Fills whole chunks, which take frames and bring none.
        (64 * MIB, 14 * MIB),
        (64 * MIB + 200, 21 * MIB + 77),
    ] {
        let layout = Layout {
            initrd_len: module * 4096,
            unmapped_initrd: true,
            ..small(Domain::DomU, pages)
        };
        let mut world = World::fast(&layout);
        let mut promised = world.tables.frames().obtainable();
        assert!(promised > pages / 2, "{promised} of {pages}");
        while world.tables.alloc_frame().is_ok() {
            promised -= 1;
            let frames = world.tables.frames();
            assert_eq!(frames.obtainable(), promised, "{pages}");
            assert!(frames.can_obtain(promised) && !frames.can_obtain(promised + 1));
        }
        assert_eq!(promised, 0, "{pages}");
    }
}

/// Growing the direct map takes the frames that are said, over every kind of boundary.
#[test]
fn a_chunk_takes_the_frames_that_are_said() {
    // At 512 GiB a table of each of three levels, and as many pages of records and what leads there.
    assert_eq!(Frames::frames_for_chunk(512 * 512), 6);
    let memory = 64 * MIB;
    let layout = Layout {
        init_p2m: Some(crate::common::layout::P2M.start),
        ..small(Domain::DomU, memory)
    };
    for chunks in [300, 512, 513, 1000, 1025, 1100] {
        let model = Rc::new(Model::build(&layout));
        let mut tables = Own::new(Xen(Rc::clone(&model)), machine(&model, false));
        let mut start = start(&model, &layout);
        start.nr_pages = chunks * CHUNK;
        let early = Initial::survey(&mut tables, start).and_then(Initial::fixmap);
        early.unwrap().direct_map().unwrap();
        let before = tables.frames().counts();
        // Beyond the memory that the model has there is none.
        let given = (before.mapped..memory)
            .filter(|&pfn| tables.frames().declared().kind(pfn) == Kind::Free)
            .count() as u64;
        tables.populate_all().unwrap();
        let taken: u64 = (before.mapped / CHUNK..chunks)
            .map(Frames::frames_for_chunk)
            .sum();
        let free = tables.frames().counts().free;
        assert_eq!(free + taken, before.free + given, "{chunks} chunks");
    }
}

/// The records take as many of the spare frames as they need, and no fewer will do.
#[test]
fn records_begin_in_as_many_frames_as_they_need() {
    let mut world = World::fast(&small(Domain::DomU, 16 * MIB)).populated();
    let first = world.consecutive(40);
    let machine: &ModelMachine = world.tables.machine();
    let begin = |count: u64| {
        let (frames, mut spare) = (Frames::new(), first..first + count);
        let begun = frames.init(machine, 16 * MIB, 16 * MIB, &mut spare);
        begun.map(|()| (frames, spare))
    };
    let need = (0..40).find(|count| begin(*count).is_ok()).unwrap();
    for count in 0..need {
        assert_eq!(begin(count).err(), Some(FrameError::OutOfMemory));
    }
    for count in need..40 {
        let (frames, spare) = begin(count).unwrap();
        assert_eq!(spare, first + need..first + count);
        for pfn in 0..16 * MIB {
            let taken = (first..first + need).contains(&pfn);
            let kind = if taken { Kind::Owned } else { Kind::Free };
            let state = State::of(kind);
            let states = frames.states(Pfn::truncate(pfn)).unwrap();
            assert_eq!(states, (state, state), "pfn {pfn}");
        }
    }
}

/// What lies within the records is written there, in any number of pieces; only what lies beyond is
/// remembered, and too much of that is said.
#[test]
fn what_has_a_record_is_declared_in_it() {
    let mut world = World::fast(&small(Domain::DomU, 16 * MIB)).populated();
    let first = world.consecutive(40);
    let machine: &ModelMachine = world.tables.machine();
    let frames = Frames::new();
    let mapped = 8 * MIB;
    frames
        .init(machine, 16 * MIB, mapped, &mut (first..first + 40))
        .unwrap();
    // Also, many times, one that ends where the records end.
    for i in (1..100).chain([1; 20]) {
        let pfn = mapped - i;
        frames.declare(pfn..pfn + 1, Kind::Module).unwrap();
        let module = State::of(Kind::Module);
        let states = frames.states(Pfn::truncate(pfn)).unwrap();
        assert_eq!(states, (module, module));
    }
    let mut beyond = (mapped..).step_by(3).map(|pfn| pfn..pfn + 2);
    let fit: Vec<_> = beyond
        .by_ref()
        .take_while(|range| frames.declare(range.clone(), Kind::P2m).is_ok())
        .collect();
    assert!(fit.len() >= 4, "{}", fit.len());
    let refused = frames.declare(beyond.next().unwrap(), Kind::P2m);
    assert_eq!(refused, Err(FrameError::Full));
    for pfn in mapped..mapped + 200 {
        let kind = if fit.iter().any(|range| range.contains(&pfn)) {
            Kind::P2m
        } else {
            Kind::Free
        };
        assert_eq!(frames.declared().kind(pfn), kind, "pfn {pfn}");
    }
}

/// Of a range those frames are handed out that are free, each once, and no others.
#[test]
fn what_is_free_of_a_range_is_given() {
    let mut world = World::fast(&small(Domain::DomU, 16 * MIB)).populated();
    let first = world.consecutive(40);
    let machine: &ModelMachine = world.tables.machine();
    let (frames, mapped) = (Frames::new(), 8 * MIB);
    frames
        .init(machine, mapped - 5, mapped, &mut (first..first + 40))
        .unwrap();
    let state = |pfn| frames.states(Pfn::truncate(pfn));
    assert!(state(mapped - 6).is_ok());
    for pfn in mapped - 5..mapped + 5 {
        let none = FrameError::NoRecord(Pfn::truncate(pfn));
        assert_eq!(state(pfn), Err(none), "beyond the domain");
    }
    let ranges = [1000..1010, 1200..1201, 1300..1320];
    let taken = [1000, 1003, 1004, 1009, 1319];
    for pfn in taken {
        frames.declare(pfn..pfn + 1, Kind::Module).unwrap();
    }
    let mut expected = Vec::new();
    for range in ranges {
        let free: Vec<_> = range.clone().filter(|pfn| !taken.contains(pfn)).collect();
        let given = frames.give_free(machine, range);
        assert_eq!(given, Ok(free.len() as u64));
        expected.extend(free);
        assert_eq!(frames.counts().free, expected.len() as u64);
    }
    // One that was given up comes back like any other.
    frames.orphan(Pfn::truncate(1301));
    let mut got = Vec::new();
    while let Ok(frame) = frames.alloc(machine) {
        got.push(frame.pfn().as_u64());
        let orphaned = !got.contains(&1301);
        assert_eq!(frames.orphans(), usize::from(orphaned), "{got:?}");
    }
    got.sort_unstable();
    assert_eq!(got, expected);
    assert_eq!(frames.next_orphan(), None);
}
