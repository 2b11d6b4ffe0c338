//! What a program, a memory map or a toolstack decides the amount of: none of it ends what works for
//! less, and none of it is lost.

use std::rc::Rc;

use crate::common::{BASE, MIB, Own, PAGE, World, Xen, expect, machine, small, start};
use hypercall::{Errno, Op as Call, Pfn};
use model::{Injection, Kind, Layout, Model};
use pagetable::fuzz::Probe;
use pagetable::machine::Machine;
use pagetable::state::Kind as Frame;
use pagetable::takeover::Initial;
use pagetable::{Flags, MmError};

/// Frames of the domain that are free.
fn free(world: &World) -> u64 {
    world.tables.frames().counts().free
}

/// Programs use any number of L4 slots: the space ends all the same, and nothing of it is left.
#[test]
fn a_space_of_any_spread_is_given_back() {
    for slots in [1, 14, 15, 16, 200, 255] {
        let mut world = World::fast(&small(Kind::DomU, 24 * MIB)).populated();
        let frames = world.frames(1);
        let before = free(&world);
        let boot = world.tables.boot_space();
        let space = world.tables.create_space().unwrap();
        // SAFETY: nothing runs on the model.
        unsafe { world.tables.switch_space(&space) }.unwrap();
        for slot in 1..=slots {
            world.map(slot << 39, &frames, Flags::DATA).unwrap();
        }
        // SAFETY: nothing runs on the model.
        unsafe { world.tables.switch_space(&boot) }.unwrap();
        world.tables.destroy_space(space).unwrap();
        assert_eq!(free(&world), before, "{slots} slots");
        expect::sound(&world);
        assert!(world.tables.audit().unwrap().is_clean());
    }
}

/// Spaces are as many as there is memory for; all are the same kernel, and all are given back,
/// in any order.
#[test]
fn spaces_are_as_many_as_memory_allows() {
    let mut world = World::fast(&small(Kind::DomU, 24 * MIB)).populated();
    let frames = world.frames(1);
    let before = free(&world);
    let mut spaces: Vec<_> = (0..400)
        .map(|_| world.tables.create_space().unwrap())
        .collect();
    // A slot of the kernel's half that nothing has used so far is every space's.
    world.map(BASE + (1 << 39), &frames, Flags::DATA).unwrap();
    assert!(world.tables.audit().unwrap().is_clean());
    for space in &spaces {
        // SAFETY: nothing runs on the model.
        unsafe { world.tables.switch_space(space) }.unwrap();
        assert_eq!(world.mapped(BASE + (1 << 39)).map(|m| m.0), Some(frames[0]));
    }
    let boot = world.tables.boot_space();
    // SAFETY: nothing runs on the model.
    unsafe { world.tables.switch_space(&boot) }.unwrap();
    world.unmap(BASE + (1 << 39), 1).unwrap();
    while !spaces.is_empty() {
        let space = spaces.swap_remove(spaces.len() * 7 / 9 % spaces.len());
        world.tables.destroy_space(space).unwrap();
    }
    // The kernel's half keeps the tables of the slot.
    assert_eq!(before - free(&world), 2);
    expect::sound(&world);
}

/// Memory in many pieces is all handed out.
#[test]
fn memory_in_many_pieces_is_all_there() {
    let layout = small(Kind::DomU, 64 * MIB);
    let before = World::fast(&layout).populated();
    // Sixty of them, three to four in a chunk of the direct map.
    let holes = (0..60).map(|i| 20 * MIB + i * 150..20 * MIB + i * 150 + 3);
    let mut world = World::with_holes(&layout, holes.collect()).populated();
    expect::sound(&world);
    let count = free(&world);
    assert_eq!(count + 180, free(&before));
    let mut frames: Vec<_> = (0..count)
        .map(|_| world.tables.alloc_frame().unwrap())
        .collect();
    assert!(world.tables.alloc_frame().is_err(), "all were handed out");
    frames.sort_by_key(|frame| frame.pfn().as_u64());
    frames.dedup_by_key(|frame| frame.pfn().as_u64());
    assert_eq!(frames.len() as u64, count, "each once");
    for frame in frames {
        world.tables.free_frame(frame).unwrap();
    }
    expect::sound(&world);
}

/// A page that has no memory is named, in a new table as in one that is there, and leaves no entry.
#[test]
fn a_page_without_memory_is_not_mapped() {
    let hole = 20 * MIB + 5;
    let holes = std::iter::once(hole..hole + 1);
    let layout = small(Kind::DomU, 64 * MIB);
    let mut world = World::with_holes(&layout, holes.collect()).populated();
    let mut frames = world.frames(7);
    for at in [0, 1, 3, 6] {
        let frame = std::mem::replace(&mut frames[at], Pfn::truncate(hole));
        let page = BASE + at as u64 * PAGE;
        let refused = world.map(BASE, &frames, Flags::DATA);
        assert!(
            matches!(refused, Err(MmError::NoFrame { va }) if va == page),
            "{refused:?}"
        );
        assert_eq!(world.mapped(BASE), None);
        world.tables.ensure_pte_table(BASE).unwrap();
        let refused = world.map(BASE, &frames, Flags::DATA);
        assert!(
            matches!(refused, Err(MmError::NoFrame { va }) if va == page),
            "{refused:?}"
        );
        assert_eq!(world.mapped(page), None);
        world.unmap(BASE, 512).unwrap();
        expect::clean(&world);
        frames[at] = frame;
    }
}

/// The takeover of a domain of any size needs the same; what the direct map has no room for is said.
#[test]
fn domains_of_any_size_are_taken_over() {
    let base = 0xffff_ffff_8000_0000;
    for kernel_end in [0x20_0000, 0x30_0000, 0x37_6000] {
        let layout = Layout {
            kernel: (base + 0x10_0000, base + kernel_end),
            init_p2m: Some(crate::common::layout::P2M.start),
            ..small(Kind::DomU, 64 * MIB)
        };
        for gib in [1, 127, 128, 501, 512, 513, 4096, 16 << 10, 17 << 10] {
            let model = Rc::new(Model::build(&layout));
            let mut tables = Own::new(Xen(Rc::clone(&model)), machine(&model, false));
            let mut start = start(&model, &layout);
            start.nr_pages = gib << 18;
            let taken = Initial::survey(&mut tables, start).and_then(Initial::fixmap);
            let report = taken.and_then(|early| early.direct_map());
            let report = report.unwrap_or_else(|e| panic!("{gib} GiB: {e}"));
            let counts = tables.frames().counts();
            assert_eq!(counts.total + report.beyond, gib << 18);
            assert_eq!(report.beyond, (gib << 18).saturating_sub(1 << 32), "{gib}");
            // It grows where there is memory, records and all.
            let mapped = counts.mapped;
            while tables.frames().counts().mapped == mapped {
                let _ = tables.alloc_frame().unwrap();
            }
        }
    }
}

/// The direct map has the entries of the root that all of the domain's memory takes, from boot on: each
/// leads to 512 GiB.
#[test]
fn the_direct_map_has_its_entries_of_the_root_from_boot_on() {
    let layout = small(Kind::DomU, 64 * MIB);
    for gib in [1, 511, 512, 513, 1300, 16 << 10, 17 << 10] {
        let model = Rc::new(Model::build(&layout));
        let mut tables = Own::new(Xen(Rc::clone(&model)), machine(&model, false));
        let mut start = start(&model, &layout);
        start.nr_pages = gib << 18;
        let early = Initial::survey(&mut tables, start).and_then(Initial::fixmap);
        early.unwrap().direct_map().unwrap();
        let needed = u64::min(gib, 16 << 10).div_ceil(512);
        for slot in 0..33 {
            let va = crate::common::layout::DIRECT.start + (slot << 39);
            let entry = tables.get(tables.pgd_offset(va).unwrap());
            assert_eq!(entry.is_present(), slot < needed, "{gib} GiB, {slot}");
        }
    }
}

/// More frames are given up at once than the list of them has room for: the records remember.
#[test]
fn whatever_number_of_orphans_comes_back() {
    let mut world = World::fast(&small(Kind::DomU, 24 * MIB)).populated();
    let before = free(&world);
    let tables = 700;
    let frames = world.frames(1);
    for table in 0..tables {
        let va = BASE + table * 512 * PAGE;
        world.map(va, &frames, Flags::DATA).unwrap();
    }
    // The tables go, but Xen does not let them become writable.
    for table in 0..tables {
        let refusal = Injection {
            times: 1,
            ..Injection::call(Call::UpdateVaMapping, Errno::ENOMEM)
        };
        let va = BASE + table * 512 * PAGE;
        let place = world.tables.pmd_slot(va).unwrap().place();
        // SAFETY: nothing runs on the model.
        let table = unsafe { world.tables.unlink_table(place) }
            .unwrap()
            .unwrap();
        world.tables.flush().unwrap();
        world.model.inject(refusal);
        table.release(&mut world.tables).unwrap_err();
        world.model.clear_injections();
    }
    assert_eq!(world.tables.frames().orphans() as u64, tables);
    let frame = world.tables.alloc_frame().unwrap();
    world.tables.free_frame(frame).unwrap();
    assert_eq!(world.tables.frames().orphans(), 0);
    // The pool's frame, and the L2 and L3 tables of the region.
    assert!(before - free(&world) <= 1 + 4, "{}", before - free(&world));
    expect::sound(&world);
}

/// Memory that was code is writable when it is free, by whatever way it ceased to be mapped.
#[test]
fn what_was_code_can_be_freed_and_written() {
    for thawed in [false, true] {
        let mut world = World::fast(&small(Kind::DomU, 24 * MIB)).populated();
        let frame = world.tables.alloc_frame().unwrap();
        let pfn = frame.pfn();
        world.map(BASE, &[pfn], Flags::CONST).unwrap();
        let before = free(&world);
        let tables = &mut world.tables;
        // SAFETY: nothing runs on the model.
        let change = unsafe { tables.set_memory_x(BASE, 1) }.unwrap();
        change.commit(tables).unwrap();
        let record = |world: &World| {
            let states = world.tables.frames().states(pfn);
            states.unwrap().0.kind
        };
        assert_eq!(record(&world), Frame::Code);
        expect::clean(&world);
        assert!(world.tables.audit().unwrap().is_clean());
        let window = world.tables.machine().window(pfn);
        assert!(!world.probe().store(window, 1), "code is not written");
        if thawed {
            let tables = &mut world.tables;
            // SAFETY: nothing runs on the model.
            let change = unsafe { tables.set_memory_nx(BASE, 1) }.unwrap();
            change.commit(tables).unwrap();
            assert_eq!(record(&world), Frame::Owned);
            assert!(world.probe().store(window, 1), "data is");
        }
        world.unmap(BASE, 1).unwrap();
        world.tables.free_frame(frame).unwrap();
        world.tables.flush().unwrap();
        assert_eq!(record(&world), Frame::Free);
        assert!(world.probe().store(window, 1));
        expect::clean(&world);
        assert_eq!(free(&world), before + 1);
    }
}

/// Code that is mapped is not freed.
#[test]
fn code_in_use_is_not_freed() {
    let mut world = World::fast(&small(Kind::DomU, 24 * MIB)).populated();
    let frame = world.tables.alloc_frame().unwrap();
    world.map(BASE, &[frame.pfn()], Flags::CONST).unwrap();
    // SAFETY: nothing runs on the model.
    let change = unsafe { world.tables.set_memory_x(BASE, 1) }.unwrap();
    change.commit(&mut world.tables).unwrap();
    let refused = world.tables.free_frame(frame);
    assert!(matches!(refused, Err(MmError::Frame(_))), "{refused:?}");
    expect::clean(&world);
}

/// A frame that is executable anywhere is writable nowhere: the second of the two is refused.
#[test]
fn code_is_writable_by_no_alias() {
    let other = BASE + 64 * PAGE;
    let mut world = World::fast(&small(Kind::DomU, 24 * MIB)).populated();
    let frames = world.frames(2);
    world.map(BASE, &frames[..1], Flags::DATA).unwrap();
    world.map(other, &frames[..1], Flags::CONST).unwrap();
    // SAFETY: nothing runs on the model.
    let refused = unsafe { world.tables.set_memory_x(other, 1) };
    assert!(
        matches!(refused, Err(MmError::WriteAndExecute { va }) if va == BASE),
        "{refused:?}"
    );
    expect::clean(&world);
    world.unmap(BASE, 1).unwrap();
    // SAFETY: nothing runs on the model.
    let change = unsafe { world.tables.set_memory_x(other, 1) }.unwrap();
    change.commit(&mut world.tables).unwrap();
    let stays = |result: Result<(), MmError>, at: u64, what: &str| {
        let refused = matches!(result, Err(MmError::MustStayReadOnly { va }) if va == at);
        assert!(refused, "{what}: {result:?}");
    };
    stays(world.map(BASE, &frames[..1], Flags::DATA), BASE, "one page");
    let both = [frames[1], frames[0]];
    let (table, second) = (world.map(BASE, &both, Flags::DATA), BASE + PAGE);
    stays(table, second, "pages in a table");
    // What is before the page that is refused is mapped.
    world.unmap(BASE, 1).unwrap();
    let far = BASE + (8 << 21);
    let table = world.map(far, &both, Flags::DATA);
    stays(table, far + PAGE, "pages in a new table");
    let first = frames[0];
    let set = world.set_ptes(BASE, first, 1, Flags::DATA);
    stays(set, BASE, "set_ptes");
    let second = BASE + 8 * PAGE;
    world.map(second, &frames[..1], Flags::CONST).unwrap();
    let none = Flags::empty();
    let protected = world.protect(second, 1, Flags::WRITABLE, none);
    stays(protected, second, "protect");
    expect::clean(&world);
    // Two executable aliases: it stays code until the second is gone.
    let window = world.tables.machine().window(first);
    for (va, writable) in [(other, false), (second, true)] {
        // SAFETY: nothing runs on the model.
        unsafe { world.tables.set_memory_x(second, 1) }
            .unwrap()
            .commit(&mut world.tables)
            .unwrap();
        if writable {
            world.unmap(other, 1).unwrap();
        }
        // SAFETY: nothing runs on the model.
        unsafe { world.tables.set_memory_nx(va, 1) }
            .unwrap()
            .commit(&mut world.tables)
            .unwrap();
        assert_eq!(world.probe().store(window, 1), writable, "{va:#x}");
    }
    expect::clean(&world);
}

/// What an audit is for: each thing that it claims to find, it finds.
#[test]
fn the_audit_finds_what_breaks_the_claims_about_code() {
    let mut world = World::fast(&small(Kind::DomU, 24 * MIB)).populated();
    let frames = world.frames(1);
    world.map(BASE, &frames, Flags::CODE).unwrap();
    let report = world.tables.audit().unwrap();
    assert!(
        format!("{report}").contains("executable mapping of a frame"),
        "{report}"
    );
    world.unmap(BASE, 1).unwrap();
    let window = world.tables.machine().window(frames[0]);
    world
        .protect(window, 1, Flags::empty(), Flags::WRITABLE)
        .unwrap();
    let report = world.tables.audit().unwrap();
    assert!(
        format!("{report}").contains("read-only in the direct map"),
        "{report}"
    );
}
