//! Whole tables: replaced, moved, emptied; and which addresses a change says that it changes.

use pagetable::{Flags, MmError};

use crate::common::{BASE, PAGE, World, expect};

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
