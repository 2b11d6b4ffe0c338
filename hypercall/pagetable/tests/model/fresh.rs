//! Tables that are built before Xen sees them, their way back, and that of frames which refusals left
//! over.

use crate::common::{BASE, PAGE, World, expect};
use hypercall::Pfn;
use pagetable::entry::L1;
use pagetable::fresh::Fresh;
use pagetable::fuzz::Mode;
use pagetable::machine::Machine;
use pagetable::state::Kind;
use pagetable::{Flags, Value};

fn free(world: &World) -> u64 {
    world.tables.frames().counts().free
}

fn kind(world: &World, pfn: Pfn) -> Kind {
    world.tables.frames().states(pfn).unwrap().0.kind
}

/// What is written while the table is the holder's alone is what it maps once it is linked.
#[test]
fn a_table_maps_what_was_written_to_it() {
    let mut world = World::small().populated();
    let frames = world.named_frames(3);
    let place = world.tables.ensure_pmd(BASE).unwrap().place();
    let before = free(&world);
    let tables = &mut world.tables;
    let frame = tables.alloc_frame().unwrap();
    let mut table = Fresh::<L1>::empty(tables, frame);
    let pages = [0, 5, 511];
    for (index, pfn) in pages.into_iter().zip(&frames) {
        let entry = tables.make_pte(Value::new(*pfn, Flags::DATA)).unwrap();
        table.set(tables, index, entry);
    }
    let pfn = table.pfn();
    assert_eq!(kind(&world, pfn), Kind::Owned);
    let sealed = table.seal(&mut world.tables).unwrap();
    assert_eq!((sealed.pfn(), kind(&world, pfn)), (pfn, Kind::Table));
    // SAFETY: nothing is mapped there.
    unsafe { world.tables.link_table(place, sealed, Flags::TABLE) }.unwrap();
    for page in 0..512 {
        let at = pages.iter().position(|index| *index == page);
        let found = world.mapped(BASE + page as u64 * PAGE);
        assert_eq!(found.map(|(pfn, _)| pfn), at.map(|at| frames[at]), "{page}");
    }
    expect::clean(&world);
    world.unmap(BASE, 512).unwrap();
    assert_eq!(free(&world), before);
    // One that is given up gives its frame back.
    let frame = world.tables.alloc_frame().unwrap();
    let table = Fresh::<L1>::empty(&mut world.tables, frame);
    assert_eq!(free(&world), before - 1);
    table.discard(&mut world.tables).unwrap();
    assert_eq!(free(&world), before);
}

/// A table in use is looked at entry by entry, in parts as well.
#[test]
fn a_table_in_use_is_read_in_place() {
    let mut world = World::small().populated();
    let frames = world.frames(2);
    world.map(BASE + 7 * PAGE, &frames, Flags::DATA).unwrap();
    let entry = world.tables.get(world.tables.pmd_slot(BASE).unwrap());
    let table = world.tables.pmd_val(entry).unwrap().pfn;
    // SAFETY: a table, which nobody has to himself.
    let live = unsafe { world.tables.machine().live(table) }.unwrap();
    let entry = |page| world.tables.ptep_get(BASE + page * PAGE).unwrap().bits();
    let (before, rest) = live.split_at(8);
    assert_eq!((live.len(), before.len(), rest.len()), (512, 8, 504));
    assert_eq!((before.get(7), rest.get(0)), (entry(7), entry(8)));
    assert_eq!(
        (live.get(8), live.get(511), live.get(512)),
        (entry(8), 0, 0)
    );
    let present = live.iter().enumerate().filter(|(_, word)| *word != 0);
    assert!(present.eq([(7, entry(7)), (8, entry(8))]));
    assert!(!live.is_empty() && live.split_at(0).0.is_empty());
    assert!(live.split_at(512).1.is_empty());
}

/// What is queued may yet change what a frame is: it is not looked at before.
#[test]
fn what_refusals_left_over_waits_for_the_queue() {
    let mut world = World::small().populated();
    let frames = world.frames(1);
    world.map(BASE, &frames, Flags::DATA).unwrap();
    let before = free(&world);
    world.mode(Mode::Enter);
    let place = world.tables.pmd_slot(BASE).unwrap().place();
    // SAFETY: nobody uses the page.
    let table = unsafe { world.tables.unlink_table(place) }
        .unwrap()
        .unwrap();
    world.tables.frames().orphan(table.pfn());
    for orphaned in [1, 0] {
        let frame = world.tables.alloc_frame().unwrap();
        world.tables.free_frame(frame).unwrap();
        assert_eq!(world.tables.frames().orphans(), orphaned);
        world.tables.flush().unwrap();
    }
    world.mode(Mode::Leave);
    assert_eq!(free(&world), before + 1);
    expect::clean(&world);
}

/// A frame that its holder could not give back comes back when it can, whatever it is by then; a table
/// that is in use does not.
#[test]
fn what_refusals_left_over_comes_back_unless_it_is_in_use() {
    let mut world = World::small().populated();
    let [owned, code] = world.frames(2)[..] else {
        unreachable!()
    };
    world.map(BASE, &[code], Flags::CONST).unwrap();
    // SAFETY: nothing runs on the model.
    unsafe { world.tables.set_memory_x(BASE, 1) }
        .unwrap()
        .commit(&mut world.tables)
        .unwrap();
    let entry = world.tables.get(world.tables.pmd_slot(BASE).unwrap());
    let table = world.tables.pmd_val(entry).unwrap().pfn;
    assert_eq!(kind(&world, code), Kind::Code);
    world.unmap(BASE, 1).unwrap();
    let before = free(&world);
    for pfn in [owned, code, table] {
        world.tables.frames().orphan(pfn);
    }
    assert_eq!(world.tables.frames().orphans(), 3);
    let frame = world.tables.alloc_frame().unwrap();
    world.tables.free_frame(frame).unwrap();
    assert_eq!(world.tables.frames().orphans(), 0);
    assert_eq!(free(&world), before + 2);
    assert_eq!(kind(&world, table), Kind::Table);
    expect::clean(&world);
}
