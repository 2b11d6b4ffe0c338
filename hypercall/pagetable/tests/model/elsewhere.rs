//! Operations on a space that the processor does not work with: what fork and exec do.

use crate::common::{MIB, PAGE, World, expect, small};
use hypercall::Pfn;
use model::Kind;
use pagetable::fuzz::{Mode, Probe, mode};
use pagetable::spaces::AddressSpace;
use pagetable::{Flags, MmError, Tables};

/// In the user half, not at the start of a table.
const USER: u64 = (7 << 39) + 100 * PAGE;
const PAGE_OF_USERS: Flags = Flags::DATA.union(Flags::USER);

type World2 = (World, AddressSpace, AddressSpace, Vec<Pfn>);

/// A domain in the first of two spaces that has a page mapped at [`USER`].
fn two_spaces() -> World2 {
    let mut world = World::new(&small(Kind::DomU, 24 * MIB)).populated();
    let frames = world.named_frames(600);
    let (here, there) = (
        world.tables.create_space().unwrap(),
        world.tables.create_space().unwrap(),
    );
    world.switch(&here);
    world.map(USER, &frames[..1], PAGE_OF_USERS).unwrap();
    (world, here, there, frames)
}

fn name(pfn: Pfn) -> Option<u64> {
    Some(pfn.as_u64())
}

/// Works on a space; the tables are about the one before afterwards.
fn in_space(
    world: &mut World,
    space: &AddressSpace,
    f: impl FnOnce(&mut Tables<crate::common::ModelMachine>) -> Result<(), MmError>,
) {
    let before = world.tables.root();
    world.tables.in_space(space, f).unwrap();
    assert_eq!(world.tables.root(), before);
}

/// Every operation, at sizes that change entries and sizes that change tables, at once and in a lazy
/// section, has its effect there and none here.
#[test]
fn what_is_done_to_another_space_is_done_there_and_only_there() {
    for pages in [1, 2, 50, 512] {
        for lazy in [false, true] {
            let (mut world, here, there, frames) = two_spaces();
            let pool = &frames[1..=pages as usize];
            assert_eq!(world.probe().load(USER), name(frames[0]), "cached, by now");
            if lazy {
                mode(&mut world.tables, Mode::Enter).unwrap();
            }
            let to = USER + (3 << 30);
            // SAFETY: nothing runs on the model.
            in_space(&mut world, &there, |tables| unsafe {
                tables
                    .map(USER, pool.iter().copied(), PAGE_OF_USERS)?
                    .defer();
                let (none, w) = (Flags::empty(), Flags::WRITABLE);
                tables.protect(USER, pages, none, w)?.defer();
                tables.move_pages(USER, to, pages)?.defer();
                tables
                    .map(USER, pool.iter().copied(), PAGE_OF_USERS)?
                    .defer();
                tables.ptep_set_wrprotect(USER)?;
                tables.unmap(USER + PAGE * (pages - 1), 1)?.defer();
                Ok(())
            });
            if lazy {
                mode(&mut world.tables, Mode::Leave).unwrap();
            }
            let mut probe = world.probe();
            assert_eq!(probe.load(USER), name(frames[0]), "{pages} pages, here");
            assert!(probe.store(USER, frames[0].as_u64()), "writable here still");
            assert_eq!(probe.load(to), None, "not here");
            assert!(world.tables.audit().unwrap().is_clean());
            world.switch(&there);
            let mut probe = world.probe();
            for (page, pfn) in (0..).zip(pool) {
                let va = to + page * PAGE;
                assert_eq!(probe.load(va), name(*pfn), "page {page} of {pages}, moved");
                assert!(!probe.store(va, 0), "read-only");
                let last = page == pages - 1;
                let at = USER + page * PAGE;
                assert_eq!(probe.load(at), if last { None } else { name(*pfn) });
                if !last {
                    assert_eq!(probe.store(at, pfn.as_u64()), page > 0, "{page} of {pages}");
                }
            }
            world.switch(&here);
            assert_eq!(world.probe().load(USER), name(frames[0]));
            expect::sound(&world);
            world.leave_space();
            for space in [here, there] {
                world.tables.destroy_space(space).unwrap();
            }
            expect::sound(&world);
        }
    }
}

/// The kernel's half is the same wherever it is changed from.
#[test]
fn the_kernel_half_is_changed_for_all_from_anywhere() {
    let (mut world, here, there, frames) = two_spaces();
    let va = crate::common::BASE;
    // SAFETY: nothing runs on the model.
    in_space(&mut world, &there, |tables| unsafe {
        tables
            .map(va, [frames[5]].into_iter(), Flags::DATA)?
            .commit(tables)
    });
    for space in [&here, &there, &world.tables.boot_space()] {
        world.switch(space);
        assert_eq!(world.probe().load(va), name(frames[5]));
    }
    world.switch(&here);
    assert!(world.probe().store(va, 0), "cached as writable");
    // SAFETY: nothing runs on the model.
    in_space(&mut world, &there, |tables| unsafe {
        tables
            .protect(va, 1, Flags::empty(), Flags::WRITABLE)?
            .commit(tables)
    });
    assert!(!world.probe().store(va, 0), "its translation is flushed");
    assert!(world.tables.audit().unwrap().is_clean());
}

/// Switched to meanwhile, a space stays what operations are about.
#[test]
fn a_space_that_is_switched_to_stays() {
    let (mut world, here, there, _) = two_spaces();
    let roots = there.roots();
    // SAFETY: nothing runs on the model.
    let switched = world
        .tables
        .in_space(&there, |tables| unsafe { tables.switch_space(&there) });
    switched.unwrap();
    assert_eq!(world.tables.current_roots(), roots);
    assert_eq!(world.tables.root(), roots.kernel);
    world.switch(&here);
    world.tables.destroy_space(there).unwrap();
    expect::sound(&world);
}

/// What was done to another space is in force at the end, also within a lazy section.
#[test]
fn work_on_a_space_ends_with_a_flush() {
    let (mut world, _, there, frames) = two_spaces();
    mode(&mut world.tables, Mode::Enter).unwrap();
    // SAFETY: nothing runs on the model.
    in_space(&mut world, &there, |tables| unsafe {
        let pages = frames[1..4].iter().copied();
        tables.map(USER, pages, PAGE_OF_USERS)?.defer();
        assert!(!tables.mmu().batch().is_empty(), "queued while it lasts");
        Ok(())
    });
    assert!(world.tables.mmu().batch().is_empty(), "sent at its end");
    mode(&mut world.tables, Mode::Leave).unwrap();
    world.switch(&there);
    assert_eq!(world.probe().load(USER), name(frames[1]));
    expect::sound(&world);
}

/// A request that goes out alone, which Xen could carry out by its address, is about the space under
/// work, although the tables that the processor uses lead somewhere by the same address.
#[test]
fn a_lone_request_is_not_carried_out_by_its_address() {
    let (mut world, here, there, frames) = two_spaces();
    let (free, cached) = (USER + PAGE, USER + 2 * PAGE);
    world.map(cached, &frames[1..2], PAGE_OF_USERS).unwrap();
    let seen = |world: &World| [free, cached].map(|va| world.probe().load(va));
    assert_eq!(seen(&world), [None, name(frames[1])]);
    // SAFETY: nothing runs on the model.
    in_space(&mut world, &there, |tables| unsafe {
        let pages = frames[2..5].iter().copied();
        tables.map(USER, pages, PAGE_OF_USERS)?.commit(tables)?;
        tables.unmap(free, 1)?.commit(tables)?;
        tables
            .map(free, [frames[5]].into_iter(), PAGE_OF_USERS)?
            .commit(tables)?;
        tables.unmap(cached, 1)?.commit(tables)
    });
    assert_eq!(seen(&world), [None, name(frames[1])], "here");
    world.switch(&there);
    assert_eq!(seen(&world), [name(frames[5]), None], "there");
    world.switch(&here);
    assert_eq!(seen(&world), [None, name(frames[1])], "here again");
    expect::sound(&world);
}
