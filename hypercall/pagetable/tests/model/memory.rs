//! Memory to its end: growth of the direct map, running out, and what is not the kernel's to change.

use crate::common::layout;
use crate::common::{BASE, MIB, PAGE, World, expect, small};
use hypercall::mmu::Scope;
use hypercall::{Errno, ExtOp, Op, Pfn};
use model::{Injection, Kind, entry};
use pagetable::frames::FrameError;
use pagetable::fuzz::Mode;
use pagetable::{Flags, MmError};

/// Frames that must lie below an address are those that were never handed out there, each once, and come
/// back as any frame does; what is asked for in vain takes nothing.
#[test]
fn frames_below_an_address_can_be_had_while_there_are_any() {
    let mut world = World::new(&small(Kind::DomU, 16 * MIB));
    let free = world.tables.frames().counts().free;
    assert!(
        world.tables.alloc_frame_below(1).is_err(),
        "the first frame"
    );
    let end = 4 * MIB;
    let mut frames = Vec::new();
    while let Ok(frame) = world.tables.alloc_frame_below(end) {
        assert!(frame.pfn().as_u64() < end, "{}", frame.pfn());
        frames.push(frame);
    }
    let mut seen: Vec<_> = frames.iter().map(|frame| frame.pfn()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert!(!seen.is_empty() && seen.len() == frames.len(), "each once");
    let left = world.tables.frames().counts().free;
    assert_eq!(left + frames.len() as u64, free);
    for frame in frames {
        world.tables.free_frame(frame).unwrap();
    }
    expect::clean(&world);
}

#[test]
fn all_memory_can_be_had_and_its_end_is_an_error() {
    for (kind, pages) in [
        (Kind::DomU, 16 * MIB + 77),
        (Kind::Dom0, 70 * MIB),
        (Kind::Shim, 40 * MIB),
    ] {
        let mut world = World::new(&small(kind, pages));
        let mut frames = Vec::new();
        let error = loop {
            match world.tables.alloc_frame() {
                Ok(frame) => frames.push(frame),
                Err(e) => break e,
            }
        };
        assert!(
            matches!(error, MmError::Frame(FrameError::OutOfMemory)),
            "{error}"
        );
        let counts = world.tables.frames().counts();
        assert_eq!(
            (counts.free, counts.mapped, counts.total),
            (0, pages, pages)
        );
        expect::clean(&world);
        let mut seen: Vec<_> = frames.iter().map(|frame| frame.pfn()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), frames.len(), "each frame is handed out once");
        // Mapping fails as a value, and works when there is a frame for the table again.
        let page = frames.pop().unwrap().pfn();
        let full = world.map(BASE, &[page], Flags::DATA);
        assert!(
            matches!(full, Err(MmError::Frame(FrameError::OutOfMemory))),
            "{full:?}"
        );
        expect::sound(&world);
        for frame in frames.drain(..6) {
            world.tables.free_frame(frame).unwrap();
        }
        world.map(BASE, &[page], Flags::DATA).unwrap();
        expect::sound(&world);
        assert!(frames.len() as u64 > pages / 4 * 3, "most of memory");
    }
}

#[test]
fn tables_alone_make_the_direct_map_grow() {
    let mut world = World::new(&small(Kind::DomU, 64 * MIB));
    for i in 0..3000 {
        let va = layout::DYNAMIC.start + i * (2 << 20);
        world
            .tables
            .ensure_pte_table(va)
            .unwrap_or_else(|e| panic!("table {i}: {e}"));
    }
    expect::clean(&world);
}

/// Tables are made of what is left above the frames that the direct map takes to grow.
#[test]
fn tables_leave_what_the_next_chunk_takes() {
    for above in 0..8 {
        let mut world = World::fast(&small(Kind::DomU, 64 * MIB));
        let frames = world.tables.frames();
        while frames.counts().free > frames.reserve() + above {
            let _ = world.tables.alloc_frame().unwrap();
        }
        // Two of them.
        let va = layout::HEAP.start + (5 << 30);
        world.tables.ensure_pte_table(va).unwrap();
        let left = frames.counts().free;
        assert!(left >= frames.reserve(), "{above}: {left}");
        expect::clean(&world);
    }
}

/// The direct map grows, but what was queued before is refused with it: it is known to have grown the
/// next time.
#[test]
fn a_chunk_that_was_added_with_an_error_is_not_added_twice() {
    let mut world = World::fast(&small(Kind::DomU, 64 * MIB));
    let pages = world.frames(1);
    world.tables.ensure_pte_table(BASE).unwrap();
    let frames = world.tables.frames();
    let mapped = frames.counts().mapped;
    while frames.counts().free > frames.reserve() {
        let _ = world.tables.alloc_frame().unwrap();
    }
    assert_eq!(frames.counts().mapped, mapped);
    world.mode(Mode::Enter);
    // SAFETY: the model's frames.
    let map = unsafe { world.tables.map(BASE, pages.into_iter(), Flags::DATA) };
    // SAFETY: nothing runs on the model.
    unsafe { map.unwrap().defer() };
    // Behind it begins another list, with which Xen goes on whatever it refused of this one.
    let flush = ExtOp::TlbFlush(Scope::Local);
    // SAFETY: it changes no mapping.
    unsafe { world.tables.mmu().ext(flush, 0) }.unwrap();
    let refusal = Injection::request(Op::MmuUpdate, 0, Errno::ENOMEM);
    world.model.inject(refusal);
    let refused = world.tables.alloc_frame();
    assert!(matches!(refused, Err(MmError::Flush(_))), "{refused:?}");
    assert_eq!(world.model.clear_injections(), 0);
    world.mode(Mode::Leave);
    let window = layout::DIRECT.start + mapped * PAGE;
    assert!(world.mapped(window).is_some(), "the table is there");
    assert_eq!(frames.counts().mapped, mapped, "its frames are not");
    let _ = world.tables.alloc_frame().unwrap();
    assert_eq!(frames.counts().mapped, mapped + 512);
    let lost = expect::census(&world);
    let lost: Vec<_> = lost.keys().filter(|s| s.contains("0 links")).collect();
    assert_eq!(lost, Vec::<&String>::new());
    expect::clean(&world);
}

/// A frame is in the direct map once its chunk was added, and no frame is that the domain has not.
#[test]
fn what_the_direct_map_has_is_told() {
    let pages = 64 * MIB;
    let mut world = World::fast(&small(Kind::DomU, pages));
    let mapped = world.tables.frames().counts().mapped;
    let told = |world: &World, pfns: [u64; 4]| {
        pfns.map(|pfn| world.tables.is_populated(Pfn::truncate(pfn)))
    };
    let pfns = [0, mapped - 1, mapped, pages - 1];
    assert_eq!(told(&world, pfns), [true, true, false, false]);
    world.tables.populate_all().unwrap();
    assert_eq!(told(&world, pfns), [true; 4]);
    assert!(!world.tables.is_populated(Pfn::truncate(pages)));
}

#[test]
fn unmapping_works_when_memory_is_out() {
    let mut world = World::new(&small(Kind::DomU, 16 * MIB)).populated();
    let frames = world.frames(512);
    world.map(BASE, &frames, Flags::DATA).unwrap();
    while world.tables.alloc_frame().is_ok() {}
    world
        .protect(BASE + PAGE, 300, Flags::empty(), Flags::WRITABLE)
        .unwrap();
    world.unmap(BASE + PAGE, 400).unwrap();
    assert!(world.mapped(BASE).is_some() && world.mapped(BASE + PAGE).is_none());
    world.unmap(BASE, 512).unwrap();
    assert_eq!(world.tables.frames().counts().free, 1, "the table is back");
    expect::sound(&world);
}

#[test]
fn the_direct_map_is_protected_in_place() {
    let mut world = World::small().populated();
    let mut frames = world.frames(1500);
    frames.sort_unstable();
    let mut windows = frames.windows(300);
    let run = windows.find(|run| run[299].as_u64() - run[0].as_u64() == 299);
    let first = run.expect("consecutive frames")[0].as_u64();
    let va = layout::DIRECT.start + first * PAGE;
    world
        .protect(va, 300, Flags::empty(), Flags::WRITABLE)
        .unwrap();
    assert!((0..300).all(|i| world.mapped(va + i * PAGE).unwrap().1 & entry::RW == 0));
    world
        .protect(va, 300, Flags::WRITABLE, Flags::empty())
        .unwrap();
    expect::clean(&world);
}

#[test]
fn large_pages_of_xens_are_left_alone() {
    let layout = model::Layout {
        large_p2m: true,
        ..small(Kind::Dom0, 1024 * MIB + 100)
    };
    // The tables of the list lie where only the direct map reaches them.
    let mut world = World::new(&layout).populated();
    expect::clean(&world);
    let list = world.model.boot().mfn_list;
    let none = Flags::empty();
    let errors = [
        world.unmap(list, 1),
        world.unmap(list, 512),
        world.move_pages(list, BASE, 512),
        world.move_pages(list + PAGE, BASE, 20),
        world.protect(list, 600, none, none),
        world.map(list, &[Pfn::truncate(0)], Flags::DATA),
    ];
    for (n, e) in errors.into_iter().enumerate() {
        assert!(matches!(e, Err(MmError::Large { .. })), "{n}: {e:?}");
    }
    expect::clean(&world);
}
