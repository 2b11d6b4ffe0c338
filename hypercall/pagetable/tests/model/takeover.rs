//! The takeover on the host, for every kind of domain, order of machine frames and size.

use std::rc::Rc;

use crate::common::layout::{self, Fixed};
use crate::common::{BASE, MIB, Own, PAGE, World, Xen, expect, image, machine, small, start};
use hypercall::Pfn;
use model::{Kind, Layout, Model, Order};
use pagetable::fuzz::Probe;
use pagetable::state::Kind as Frame;
use pagetable::takeover::Initial;
use pagetable::{Flags, MmError};

const KINDS: [Kind; 3] = [Kind::DomU, Kind::Dom0, Kind::Shim];

/// What is left in the part of the address space where Xen put the kernel.
fn initial_window(world: &World) {
    let image = &world.image;
    let fixed = [Fixed::SharedInfo, Fixed::Console].map(Fixed::address);
    for leaf in expect::all_leaves(world) {
        if layout::FIXMAP.contains(&leaf.va) {
            assert!(fixed.contains(&leaf.va), "{leaf:x?}");
            continue;
        }
        if !layout::IMAGE.contains(&leaf.va) {
            assert!(!leaf.executable, "{leaf:x?}");
            continue;
        }
        let (text, data) = (image.text.contains(&leaf.va), image.data.contains(&leaf.va));
        assert!(
            image.range().contains(&leaf.va),
            "{leaf:x?} is not the image"
        );
        assert!(
            !image.guard.contains(&leaf.va),
            "{leaf:x?} is the guard page"
        );
        assert_eq!((leaf.executable, leaf.writable), (text, data), "{leaf:x?}");
        let pfn = Pfn::truncate((leaf.va - layout::IMAGE.start) / PAGE);
        assert_eq!(world.model.pfn(leaf.mfn), Some(pfn), "{leaf:x?}");
    }
    for va in image.range().step_by(PAGE as usize) {
        let guard = image.guard.contains(&va);
        assert_eq!(world.mapped(va).is_none(), guard, "{va:#x}");
    }
}

fn taken_over(layout: &Layout) -> World {
    let world = World::new(layout);
    expect::clean(&world);
    initial_window(&world);
    let counts = world.tables.frames().counts();
    assert_eq!(counts.mapped, world.report.initial_pages, "{layout:?}");
    // L2 and L1 of the fixmap, L3 and L2 of the direct map, whose L1 tables are Xen's, and the
    // image's own; and the empty L3 tables of the regions that are used at run time.
    let tables = 8 + image_tables(layout);
    assert_eq!(counts.free, world.report.reclaimed - tables, "{layout:?}");
    assert_eq!(world.model.counters().emulated_stores, 0, "{layout:?}");
    world
}

/// L1 tables of the image's own.
fn image_tables(layout: &Layout) -> u64 {
    let range = image(layout).range();
    (range.end - 1 - layout::IMAGE.start) / (512 * PAGE)
        - (range.start - layout::IMAGE.start) / (512 * PAGE)
        + 1
}

#[test]
fn every_domain_is_taken_over() {
    for kind in KINDS {
        for order in [Order::Linear, Order::Reversed, Order::Scattered] {
            for pages in [16 * MIB, 16 * MIB + 77, 64 * MIB] {
                taken_over(&Layout {
                    order,
                    ..small(kind, pages)
                });
            }
        }
        taken_over(&small(kind, 1024 * MIB));
    }
}

/// Whole tables of code stay Xen's, without the right to write and without a place in the direct map.
#[test]
fn code_that_fills_a_table_keeps_it() {
    for kind in KINDS {
        let at = |mib: u64| layout::IMAGE.start + (mib << 20);
        let kernel = (at(2), at(8));
        let mut world = World::new(&Layout {
            kernel,
            ..small(kind, 32 * MIB)
        });
        expect::clean(&world);
        initial_window(&world);
        let direct = |va: u64| layout::DIRECT.start + (va - layout::IMAGE.start);
        let (text, kept) = (world.image.text.clone(), world.image.kept_text.clone());
        assert!(kept.contains(&at(6)), "two tables, and a part of a third");
        for va in text.clone().step_by(PAGE as usize) {
            assert!(world.mapped(direct(va)).is_none(), "{va:#x}");
            let stores = world.probe().store(va, 0);
            assert!(!stores, "{va:#x}");
        }
        for chunk in [at(2), at(4)] {
            let slot = |va| world.tables.pmd_slot(va).map(|slot| world.tables.get(slot));
            let entry = slot(chunk).unwrap();
            assert!(!entry.flags().contains(Flags::WRITABLE), "{chunk:#x}");
            assert!(!slot(direct(chunk)).unwrap().is_present(), "{chunk:#x}");
        }
        // An entry that has the right to write, below one that has not, is no writable mapping.
        let frames = world.named_frames(1);
        world.map(BASE, &frames, Flags::CONST).unwrap();
        // SAFETY: the model's memory.
        let change = unsafe { world.tables.set_memory_x(BASE, 1) };
        change.unwrap().commit(&mut world.tables).unwrap();
        world.unmap(BASE, 1).unwrap();
        world
            .release(kept.end, (text.end - kept.end) / PAGE)
            .unwrap();
        assert!(world.probe().store(direct(kept.end), 0), "it is memory now");
        expect::sound(&world);
    }
}

#[test]
fn wherever_the_p2m_list_and_the_module_are() {
    for kind in KINDS {
        for init_p2m in [None, Some(layout::P2M.start)] {
            for (initrd_len, unmapped_initrd) in [
                (0, true),
                (3 << 20, true),
                (300_000, false),
                (6 << 20, false),
            ] {
                let layout = Layout {
                    init_p2m,
                    initrd_len,
                    unmapped_initrd,
                    ..small(kind, 40 * MIB + 3)
                };
                let world = taken_over(&layout).populated();
                expect::clean(&world);
                let frames = world.tables.frames();
                let module = (0..frames.counts().mapped)
                    .map(Pfn::truncate)
                    .filter(|&pfn| {
                        let state = frames.states(pfn).unwrap().0;
                        state.kind == Frame::Module
                    });
                assert_eq!(module.count() as u64, layout.initrd_len.div_ceil(PAGE));
            }
        }
    }
}

#[test]
fn a_release_xen_and_large_pages_of_its_own() {
    for kind in KINDS {
        taken_over(&Layout::new(kind, 32 * MIB));
    }
    let layout = Layout {
        large_p2m: true,
        ..small(Kind::Dom0, 1024 * MIB + 100)
    };
    expect::clean(&taken_over(&layout).populated());
}

#[test]
fn the_cost_does_not_depend_on_the_size() {
    let cost = |pages| {
        let world = World::new(&small(Kind::DomU, pages));
        let counters = world.model.counters();
        (counters.traps, counters.updates)
    };
    let (small, large) = (cost(64 * MIB), cost(1024 * MIB));
    assert!(
        large.0 <= small.0 + 2 && large.1 <= small.1 + 16,
        "{small:?} {large:?}"
    );
}

#[test]
fn parts_of_the_image_become_memory() {
    for kind in KINDS {
        let mut world = World::new(&small(kind, 16 * MIB));
        let image = world.image.clone();
        let parts = [
            (image.text.start, 0x50),
            (image.text.start + 0x60 * PAGE, 1),
            (image.rodata.start + PAGE, 2),
            (image.data.end - 2 * PAGE, 2),
            (image.data.start, 3),
        ];
        for (va, pages) in parts {
            let before = world.tables.frames().counts().free;
            world.release(va, pages).unwrap();
            assert_eq!(world.tables.frames().counts().free, before + pages);
            for page in 0..pages {
                assert_eq!(world.mapped(va + page * PAGE), None, "{va:#x}");
            }
            expect::clean(&world);
            // A second time there is nothing to do.
            world.release(va, pages).unwrap();
            assert_eq!(world.tables.frames().counts().free, before + pages);
        }
        // What lies between is as it was.
        assert!(world.mapped(image.text.start + 0x50 * PAGE).is_some());
        assert!(world.mapped(image.rodata.start).is_some());
        // All of it can be used like any memory.
        let free = world.tables.frames().counts().free as usize;
        let frames = world.named_frames(free - 8);
        assert_eq!(frames.len(), free - 8);
        expect::sound(&world);
        let outside = world.release(layout::DIRECT.start, 1);
        assert!(outside.is_err(), "only the image can be released");
    }
}

/// The initial mapping is whole chunks, and no more than the domain has.
#[test]
fn an_initial_mapping_that_cannot_be_is_refused() {
    let layout = small(Kind::DomU, 16 * MIB);
    let initial = World::new(&layout).report.initial_pages;
    // A page of the mapping's last table that is missing, and pages that the domain has.
    for (missing, nr_pages) in [
        (None, initial),
        (None, initial - 1),
        (Some(511), 16 * MIB),
        (Some(1), 16 * MIB),
    ] {
        let model = Rc::new(Model::build(&layout));
        if let Some(missing) = missing {
            let last = layout::IMAGE.start + (initial - 1) * PAGE;
            let walk = model.walk(model.boot().l4, last);
            let (place, _) = walk.entry(hypercall::mmu::Level::L1).unwrap();
            let table = model.frame_ptr(place.frame());
            // SAFETY: the model's memory, which this thread alone uses.
            unsafe { (&mut *table)[missing..].fill(0) };
        }
        let mut tables = Own::new(Xen(Rc::clone(&model)), machine(&model, false));
        let mut start = start(&model, &layout);
        start.nr_pages = nr_pages;
        let found = initial - missing.map_or(0, |missing| 512 - missing as u64);
        let whole = found == initial;
        match Initial::survey(&mut tables, start) {
            Ok(_) => assert!(whole && nr_pages >= found, "{missing:?}, {nr_pages}"),
            Err(MmError::BadRange { va, pages }) => {
                assert_eq!((va, pages), (layout::IMAGE.start, found));
                assert!(!whole || nr_pages < found, "{missing:?}, {nr_pages}");
            }
            Err(e) => panic!("{missing:?}, {nr_pages}: {e}"),
        }
    }
}

/// Before the direct map is there the image's frames can be asked for, and no others.
#[test]
fn the_image_tells_its_frames() {
    let layout = small(Kind::DomU, 16 * MIB);
    let model = Rc::new(Model::build(&layout));
    let mut tables = Own::new(Xen(Rc::clone(&model)), machine(&model, false));
    let early = Initial::survey(&mut tables, start(&model, &layout));
    let early = early.unwrap().fixmap().unwrap();
    let image = image(&layout).range();
    for va in image.clone().step_by(PAGE as usize) {
        let pfn = Pfn::truncate((va - layout::IMAGE.start) / PAGE);
        assert_eq!(early.image_frame(va + 8).ok(), model.mfn(pfn), "{va:#x}");
    }
    for va in [image.start - 1, image.end, layout::DIRECT.start] {
        let refused = early.image_frame(va);
        assert!(matches!(refused, Err(MmError::BadRange { .. })), "{va:#x}");
    }
}

/// What is said to lie in two places at once is not taken over: the error has where.
#[test]
fn ranges_that_overlap_are_refused() {
    let layout = small(Kind::DomU, 16 * MIB);
    let image = image(&layout);
    let frame = |va: u64| (va - layout::IMAGE.start) / PAGE;
    let (text, data) = (frame(image.text.start), frame(image.data.start));
    let shared = start(&Model::build(&layout), &layout).shared[0].unwrap();
    for (module, at) in [
        (text..text + 1, Some(text)),
        (text - 2..text, None),
        (text - 2..text + 1, Some(text)),
        (data + 3..data + 4, Some(data + 3)),
        (shared..shared + 1, Some(shared)),
        (0..0, None),
    ] {
        let model = Rc::new(Model::build(&layout));
        let mut tables = Own::new(Xen(Rc::clone(&model)), machine(&model, false));
        let mut start = start(&model, &layout);
        start.module = module.clone();
        let refused = Initial::survey(&mut tables, start).err();
        let va = match refused {
            Some(MmError::Occupied { va }) => Some(va),
            None => None,
            Some(e) => panic!("{module:?}: {e}"),
        };
        assert_eq!(va, at.map(|pfn| layout::IMAGE.start + pfn * PAGE));
    }
}

/// Without a p2m list to say that all of the initial mapping is memory, the machine is asked: what is
/// none is recorded as none, and no record lies there.
#[test]
fn holes_in_the_initial_mapping_are_left_alone() {
    let layout = small(Kind::DomU, 16 * MIB);
    let boot_stack = start(&Model::build(&layout), &layout).boot_stack;
    let initial = World::new(&layout).report.initial_pages;
    for holes in [
        vec![0xa0..0xc0, 0xd0..0xd1],
        vec![0x20..0x21, boot_stack + 1..boot_stack + 2],
        vec![
            0x20..0x21,
            boot_stack + 20..boot_stack + 90,
            initial - 200..initial - 199,
        ],
        // Too little is left behind the stack: the records go to where there is most.
        vec![initial - 100..initial - 99, initial - 3..initial],
    ] {
        let model = Rc::new(Model::build(&layout));
        let machine = crate::common::with_holes(&model, holes.clone());
        let mut tables = Own::new(Xen(Rc::clone(&model)), machine);
        let mut start = start(&model, &layout);
        start.p2m_list = None;
        let early = Initial::survey(&mut tables, start).and_then(Initial::fixmap);
        early.unwrap().direct_map().unwrap();
        let frames = tables.frames();
        for hole in holes.iter().cloned().flatten().map(Pfn::truncate) {
            assert_eq!(frames.states(hole).unwrap().0.kind, Frame::Hole, "{hole}");
        }
        let is_free = |pfn: &u64| {
            let (state, _) = frames.states(Pfn::truncate(*pfn)).unwrap();
            state.kind == Frame::Free
        };
        let free: Vec<u64> = (0..initial).filter(is_free).collect();
        assert_eq!(frames.counts().free, free.len() as u64);
        // Those that are free are memory, of which nothing else has a part.
        let mut taken = Vec::new();
        while frames.counts().mapped == initial {
            taken.push(tables.alloc_frame().unwrap().pfn().as_u64());
        }
        assert!(
            taken
                .iter()
                .all(|pfn| free.contains(pfn) || *pfn >= initial)
        );
    }
}

/// Each table that the initial mapping reaches is recorded once, with how often it is referred to.
#[test]
fn the_initial_tables_are_counted() {
    let list = layout::P2M.start;
    for init_p2m in [
        None,
        Some(list),
        Some(list + (256 << 30)),
        Some(list + (271 << 30)),
    ] {
        let layout = Layout {
            init_p2m,
            ..small(Kind::DomU, 16 * MIB)
        };
        let model = Rc::new(Model::build(&layout));
        let start = start(&model, &layout);
        let root = Pfn::truncate((start.pt_base - layout::IMAGE.start) / PAGE);
        let kernel = model.boot().l4;
        // A second way to the image's L3 table, which Xen does not know of, counts like the first.
        let words = model.frame_ptr(kernel);
        // SAFETY: the model's memory, which this thread alone uses.
        let twice = unsafe {
            (&mut *words)[300] = (&*words)[511];
            model.pfn(model::entry::frame((&*words)[300]))
        };
        let machine = machine(&model, false);
        let mut tables = Own::new(Xen(Rc::clone(&model)), machine);
        Initial::survey(&mut tables, start).map(|_| ()).unwrap();
        let frames = tables.frames();
        for pfn in (0..frames.counts().mapped).map(Pfn::truncate) {
            let (state, _) = frames.states(pfn).unwrap();
            let frame = model.frame(model.mfn(pfn).unwrap()).unwrap();
            let level = match frame.kind {
                model::Type::Table(level) if frame.type_count > 0 => Some(level as u8),
                _ => None,
            };
            let recorded = (state.kind == Frame::Table).then_some(state.level);
            assert_eq!(recorded, level, "{init_p2m:x?}, pfn {pfn}: {state}");
            if recorded.is_some() {
                let uses = u32::from(state.links) + u32::from(state.pinned);
                let extra = u32::from(twice == Some(pfn));
                assert_eq!(uses, frame.type_count + extra, "pfn {pfn}: {state}");
            }
        }
        assert!(frames.states(root).unwrap().0.pinned);
        let tables = (0..frames.counts().mapped)
            .filter(|pfn| frames.states(Pfn::truncate(*pfn)).unwrap().0.kind == Frame::Table)
            .count() as u64;
        let again = World::new(&layout);
        assert_eq!(again.report.initial_tables, tables);
    }
}
