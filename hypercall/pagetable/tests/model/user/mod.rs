//! The user half of spaces: memory that several map, tables that several share, and what becomes of
//! both when one of them writes, unmaps, moves or ends, or Xen refuses.

mod held;
mod one;
mod random;

use crate::common::{PAGE, World, expect};
use hypercall::{Errno, Op};
use model::{Access, Injection, Mode as Cpu};
use pagetable::spaces::AddressSpace;
use pagetable::user::OnWrite;
use pagetable::{Flags, MmError, Tables};

const VA: u64 = 0x40_0000;
/// Below an L4 entry of its own, as a stack is.
const STACK: u64 = 0x7fff_ffe0_0000;

fn sound(world: &mut World) {
    expect::records(world);
    let report = world.tables.audit().unwrap();
    assert!(report.is_clean(), "{report}");
}

/// Maps pages in a space, each full of its own number: `first` and those after it.
fn map(
    world: &mut World,
    space: &AddressSpace,
    va: u64,
    pages: u64,
    first: u64,
) -> Result<(), MmError> {
    world.tables.in_space(space, |tables| {
        tables.map_user(va, pages, Flags::DATA, |at, words| {
            words.fill(first + (at - va) / PAGE)
        })
    })
}

fn unmap(world: &mut World, space: &AddressSpace, va: u64, pages: u64) -> Result<(), MmError> {
    world
        .tables
        .in_space(space, |tables| tables.unmap_user(va, pages))
}

/// What user mode reads at an address of a space.
fn read(world: &mut World, space: &AddressSpace, va: u64) -> Option<u64> {
    world.switch(space);
    let found = world.model.access(va, Access::Read, Cpu::User).ok();
    world.leave_space();
    let (mfn, offset) = found?;
    // SAFETY: the model's memory, which this thread alone uses.
    Some(unsafe { (*world.model.frame_ptr(mfn))[offset as usize / 8] })
}

/// Has user mode write, and says whether it may.
fn store(world: &mut World, space: &AddressSpace, va: u64, value: u64) -> bool {
    world.switch(space);
    let found = world.model.access(va, Access::Write, Cpu::User);
    if let Ok((mfn, offset)) = found {
        // SAFETY: as in `read`.
        unsafe { (*world.model.frame_ptr(mfn))[offset as usize / 8] = value };
    }
    world.leave_space();
    found.is_ok()
}

/// Has user mode write, and resolves its fault.
fn write(world: &mut World, space: &AddressSpace, va: u64, value: u64) -> Result<(), MmError> {
    write_despite(world, space, va, value, None)
}

/// As [`write`], where Xen may refuse what resolves the fault.
fn write_despite(
    world: &mut World,
    space: &AddressSpace,
    va: u64,
    value: u64,
    refusal: Option<Injection>,
) -> Result<(), MmError> {
    if !store(world, space, va, value) {
        if let Some(refusal) = refusal {
            world.model.inject(refusal);
        }
        let resolve = |tables: &mut _| Tables::make_writable(tables, va, OnWrite::Copy);
        let resolved = world.tables.in_space(space, resolve);
        world.model.clear_injections();
        resolved?;
        assert!(store(world, space, va, value), "{va:#x} is writable now");
    }
    Ok(())
}

fn fork(world: &mut World, parent: &AddressSpace) -> Result<AddressSpace, MmError> {
    world.tables.fork_space(parent)
}

fn destroy(world: &mut World, space: AddressSpace) {
    world.tables.destroy_space(space).unwrap();
}

/// Ends a space whose tables the next may have.
fn spare(world: &mut World, space: AddressSpace) {
    world.tables.spare_space(space).unwrap();
}

#[test]
fn what_is_mapped_is_free_when_it_is_unmapped() {
    let mut world = World::small().populated();
    let before = world.free();
    let space = world.tables.create_space().unwrap();
    let with_space = world.free();
    for pages in [1, 3, 600, 1100] {
        map(&mut world, &space, VA + 5 * PAGE, pages, 7).unwrap();
        sound(&mut world);
        assert_eq!(read(&mut world, &space, VA + 5 * PAGE), Some(7));
        assert_eq!(
            read(&mut world, &space, VA + (4 + pages) * PAGE),
            Some(6 + pages)
        );
        let again = map(&mut world, &space, VA, 6, 0);
        assert!(
            matches!(again, Err(MmError::Occupied { va }) if va == VA + 5 * PAGE),
            "{again:?}"
        );
        unmap(&mut world, &space, 0x1000, (1 << 35) - 1).unwrap();
        assert_eq!(read(&mut world, &space, VA + 5 * PAGE), None);
        sound(&mut world);
    }
    map(&mut world, &space, STACK, 20, 1).unwrap();
    assert!(world.free() < with_space);
    destroy(&mut world, space);
    sound(&mut world);
    assert_eq!(world.free(), before);
}

/// Of the two roots that a space has Xen may refuse to let one refer to a table: who was told maps again, and
/// user mode finds it.
#[test]
fn a_refusal_for_one_root_is_made_up_for() {
    let mut refused = 0;
    for request in 0..8 {
        let mut world = World::small().populated();
        let space = world.tables.create_space().unwrap();
        let refusal = Injection::request(Op::MmuUpdate, request, Errno::ENOMEM);
        world.model.inject(refusal);
        let mapped = map(&mut world, &space, VA, 1, 7);
        world.model.clear_injections();
        if mapped.is_err() {
            refused += 1;
            map(&mut world, &space, VA, 1, 7).unwrap();
        }
        assert_eq!(read(&mut world, &space, VA), Some(7), "request {request}");
        destroy(&mut world, space);
        sound(&mut world);
    }
    assert!(refused > 3);
}

#[test]
fn only_user_modes_addresses_and_sensible_rights_are_taken() {
    let mut world = World::small().populated();
    let space = world.tables.create_space().unwrap();
    let refused = map(&mut world, &space, crate::common::BASE, 1, 0);
    assert!(
        matches!(refused, Err(MmError::BadRange { .. })),
        "{refused:?}"
    );
    let refused = unmap(&mut world, &space, VA, 1 << 40);
    assert!(
        matches!(refused, Err(MmError::BadRange { .. })),
        "{refused:?}"
    );
    let refused = world.tables.in_space(&space, |tables| {
        tables.map_user(VA, 1, Flags::DATA - Flags::NO_EXECUTE, |_, _| {})
    });
    assert!(
        matches!(refused, Err(MmError::WriteAndExecute { .. })),
        "{refused:?}"
    );
    let refused = world
        .tables
        .in_space(&space, |tables| tables.make_writable(VA, OnWrite::Copy));
    assert!(
        matches!(refused, Err(MmError::NoTable { .. })),
        "{refused:?}"
    );
    map(&mut world, &space, VA, 2, 1).unwrap();
    let text = world.tables.in_space(&space, |tables| {
        tables.protect_user(VA, 2, Flags::CODE)?;
        Ok((
            tables.user_page(VA).unwrap(),
            tables.user_page(VA + 2 * PAGE),
        ))
    });
    let (page, none) = text.unwrap();
    assert!(page.is_executable && !page.is_writable && none.is_none());
    sound(&mut world);
    destroy(&mut world, space);
}

/// Who writes first, who ends first, on both sides.
#[test]
fn after_a_fork_neither_sees_what_the_other_writes() {
    for parent_first in [true, false] {
        for child_ends_first in [true, false] {
            let mut world = World::small().populated();
            let before = world.free();
            let parent = world.tables.create_space().unwrap();
            map(&mut world, &parent, VA, 40, 100).unwrap();
            map(&mut world, &parent, STACK, 3, 200).unwrap();
            // Cached as writable before the fork.
            assert!(store(&mut world, &parent, VA, 1));
            let child = fork(&mut world, &parent).unwrap();
            sound(&mut world);
            let (first, second) = match parent_first {
                true => (&parent, &child),
                false => (&child, &parent),
            };
            assert!(!store(&mut world, first, VA, 0) && !store(&mut world, second, VA, 0));
            write(&mut world, first, VA, 2).unwrap();
            sound(&mut world);
            assert_eq!(read(&mut world, second, VA), Some(1));
            assert_eq!(read(&mut world, second, VA + PAGE), Some(101));
            write(&mut world, second, VA, 3).unwrap();
            write(&mut world, second, VA + PAGE, 4).unwrap();
            sound(&mut world);
            assert_eq!(read(&mut world, first, VA), Some(2));
            assert_eq!(read(&mut world, first, VA + PAGE), Some(101));
            write(&mut world, first, VA + PAGE, 5).unwrap();
            assert_eq!(read(&mut world, second, VA + PAGE), Some(4));
            assert_eq!(read(&mut world, second, STACK + PAGE), Some(201));
            let spaces = if child_ends_first {
                [child, parent]
            } else {
                [parent, child]
            };
            for space in spaces {
                destroy(&mut world, space);
                sound(&mut world);
            }
            assert_eq!(world.free(), before);
        }
    }
}

/// What the processor has cached of a parent that runs is gone with the fork.
#[test]
fn a_parent_that_runs_loses_the_right_to_write_at_once() {
    let mut world = World::small().populated();
    let parent = world.tables.create_space().unwrap();
    map(&mut world, &parent, VA, 3, 0).unwrap();
    world.switch(&parent);
    let writes = |world: &World| world.model.access(VA, Access::Write, Cpu::User).is_ok();
    assert!(writes(&world));
    let child = fork(&mut world, &parent).unwrap();
    assert!(!writes(&world));
    world.tables.make_writable(VA, OnWrite::Copy).unwrap();
    assert!(writes(&world));
    sound(&mut world);
    destroy(&mut world, child);
    world.leave_space();
    destroy(&mut world, parent);
}

/// A fork costs two L2 entries for each table, however full it is.
#[test]
fn a_fork_costs_tables_and_no_pages() {
    let mut requests = Vec::new();
    for pages in [1, 512] {
        let mut world = World::small().populated();
        let parent = world.tables.create_space().unwrap();
        map(&mut world, &parent, VA, pages, 0).unwrap();
        world.model.reset_counters();
        let child = fork(&mut world, &parent).unwrap();
        requests.push(format!("{:?}", world.model.counters()));
        destroy(&mut world, child);
        destroy(&mut world, parent);
    }
    assert_eq!(requests[0], requests[1]);
}

/// Unmapping, moving and changing rights in one of two leaves the other as it was.
#[test]
fn the_other_of_two_keeps_what_one_changes() {
    let mut world = World::small().populated();
    let before = world.free();
    let parent = world.tables.create_space().unwrap();
    map(&mut world, &parent, VA, 1024, 0).unwrap();
    map(&mut world, &parent, STACK, 3, 5000).unwrap();
    let child = fork(&mut world, &parent).unwrap();
    unmap(&mut world, &child, VA + 10 * PAGE, 5).unwrap();
    sound(&mut world);
    unmap(&mut world, &child, VA + 512 * PAGE, 512).unwrap();
    sound(&mut world);
    world
        .tables
        .in_space(&child, |tables| {
            tables.move_user(VA, VA + (1 << 30) + PAGE, 512)
        })
        .unwrap();
    sound(&mut world);
    world
        .tables
        .in_space(&child, |tables| tables.protect_user(STACK, 3, Flags::CONST))
        .unwrap();
    assert_eq!(read(&mut world, &child, VA), None);
    assert_eq!(read(&mut world, &child, VA + (1 << 30) + PAGE), Some(0));
    assert_eq!(read(&mut world, &child, VA + (1 << 30) + 11 * PAGE), None);
    assert_eq!(
        read(&mut world, &child, VA + (1 << 30) + 16 * PAGE),
        Some(15)
    );
    for page in 0..1024 {
        assert_eq!(read(&mut world, &parent, VA + page * PAGE), Some(page));
    }
    write(&mut world, &parent, STACK, 1).unwrap();
    assert_eq!(read(&mut world, &child, STACK), Some(5000));
    // Whole tables go from place to place, shared or not.
    let again = fork(&mut world, &parent).unwrap();
    world
        .tables
        .in_space(&again, |tables| tables.move_user(VA, VA + (2 << 30), 1024))
        .unwrap();
    sound(&mut world);
    assert_eq!(
        read(&mut world, &again, VA + (2 << 30) + 700 * PAGE),
        Some(700)
    );
    write(&mut world, &again, VA + (2 << 30) + 700 * PAGE, 1).unwrap();
    assert_eq!(read(&mut world, &parent, VA + 700 * PAGE), Some(700));
    for space in [parent, again, child] {
        destroy(&mut world, space);
        sound(&mut world);
    }
    assert_eq!(world.free(), before);
}

/// Shared memory is written in place, and a page that is taken keeps what it held.
#[test]
fn shared_memory_and_pages_that_are_taken() {
    let mut world = World::small().populated();
    let before = world.free();
    let parent = world.tables.create_space().unwrap();
    map(&mut world, &parent, VA, 4, 10).unwrap();
    let child = fork(&mut world, &parent).unwrap();
    for space in [&parent, &child] {
        let share = world
            .tables
            .in_space(space, |tables| tables.make_writable(VA, OnWrite::Share));
        share.unwrap();
        sound(&mut world);
    }
    assert!(store(&mut world, &child, VA, 77));
    assert_eq!(read(&mut world, &parent, VA), Some(77));
    for (space, number) in [(&child, 11), (&parent, 11)] {
        let taken = world
            .tables
            .in_space(space, |tables| tables.take_user(VA + PAGE));
        let mut frame = taken.unwrap().unwrap();
        assert_eq!(world.tables.frame_memory(&mut frame)[0], number);
        world.tables.free_frame(frame).unwrap();
        assert_eq!(read(&mut world, space, VA + PAGE), None);
        sound(&mut world);
    }
    let none = world
        .tables
        .in_space(&child, |tables| tables.take_user(VA + PAGE));
    assert!(none.unwrap().is_none());
    destroy(&mut world, parent);
    destroy(&mut world, child);
    assert_eq!(world.free(), before);
}

#[test]
fn a_table_that_xen_did_not_unpin_is_not_lost() {
    let mut world = World::small().populated();
    let before = world.free();
    let space = world.tables.create_space().unwrap();
    map(&mut world, &space, VA, 2, 0).unwrap();
    spare(&mut world, space);
    world
        .model
        .inject(Injection::call(Op::MmuextOp, Errno::ENOMEM));
    assert!(world.tables.release_spares().is_err());
    assert_eq!(world.model.clear_injections(), 0);
    world.tables.release_spares().unwrap();
    assert_eq!(world.free(), before);
    sound(&mut world);
}

/// A space that is made and one that is ended while Xen refuses one request after the other: the
/// parent keeps what it had, and nothing is lost.
#[test]
fn a_fork_that_fails_leaves_the_parent_as_it_was() {
    for op in [Op::MmuUpdate, Op::MmuextOp] {
        for nth in 1..12 {
            let mut world = World::small().populated();
            let before = world.free();
            let parent = world.tables.create_space().unwrap();
            map(&mut world, &parent, VA, 600, 0).unwrap();
            map(&mut world, &parent, STACK, 2, 700).unwrap();
            let refusal = Injection {
                nth,
                ..Injection::request(op, 0, Errno::ENOMEM)
            };
            world.model.inject(refusal);
            let forked = fork(&mut world, &parent);
            world.model.clear_injections();
            sound(&mut world);
            write(&mut world, &parent, VA, 9).unwrap();
            assert_eq!(read(&mut world, &parent, VA + 599 * PAGE), Some(599));
            if let Ok(child) = forked {
                destroy(&mut world, child);
            }
            destroy(&mut world, parent);
            sound(&mut world);
            assert_eq!(world.free(), before, "{op:?} {nth}");
        }
    }
}

/// The roots and upper tables of a space that ended serve the next, empty and pinned as they are.
#[test]
fn what_a_space_was_made_of_serves_the_next() {
    let mut world = World::small().populated();
    let before = world.free();
    let space = world.tables.create_space().unwrap();
    let roots = space.roots();
    map(&mut world, &space, VA, 600, 1).unwrap();
    map(&mut world, &space, STACK, 2, 1).unwrap();
    let child = fork(&mut world, &space).unwrap();
    spare(&mut world, space);
    sound(&mut world);
    assert_eq!(read(&mut world, &child, VA + PAGE), Some(2));
    spare(&mut world, child);
    sound(&mut world);
    let [other, again] = [(); 2].map(|()| world.tables.create_space().unwrap());
    destroy(&mut world, other);
    assert_eq!(again.roots(), roots);
    for va in [VA, STACK, VA + 599 * PAGE] {
        assert_eq!(read(&mut world, &again, va), None);
    }
    map(&mut world, &again, VA, 1, 5).unwrap();
    assert_eq!(read(&mut world, &again, VA), Some(5));
    // One that is in use comes back.
    world.switch(&again);
    let refused = world.tables.spare_space(again).unwrap_err();
    world.leave_space();
    spare(&mut world, refused.space.unwrap());
    // One with more tables than a process has is given back.
    let large = world.tables.create_space().unwrap();
    for slot in 0..20 {
        map(&mut world, &large, VA + (slot << 30), 1, slot).unwrap();
    }
    spare(&mut world, large);
    sound(&mut world);
    world.tables.release_spares().unwrap();
    sound(&mut world);
    assert_eq!(world.free(), before);
}

/// When memory runs out, the spaces that nobody has go first.
#[test]
fn spares_are_given_back_before_memory_runs_out() {
    let mut world = World::small().populated();
    let spaces = [(); 5].map(|()| {
        let space = world.tables.create_space().unwrap();
        map(&mut world, &space, VA, 1, 0).unwrap();
        space
    });
    let full = world.free();
    for space in spaces {
        spare(&mut world, space);
    }
    let mut taken = 0;
    while let Ok(frame) = world.tables.alloc_frame() {
        // Kept: what is in use stays so.
        let _ = frame.pfn();
        taken += 1;
    }
    assert!(taken >= full + 5 * 5, "{taken} of {full}");
    sound(&mut world);
}

/// Whatever Xen refuses of what resolves a fault, of taking or unmapping, both spaces find what they had.
#[test]
fn nothing_is_lost_when_a_fault_cannot_be_resolved() {
    type Work = fn(&mut Tables<crate::common::ModelMachine>) -> Result<(), MmError>;
    let work: [Work; 4] = [
        |tables| tables.make_writable(VA, OnWrite::Copy),
        |tables| tables.take_user(VA).map(drop),
        |tables| tables.unmap_user(VA + PAGE, 1),
        |tables| tables.protect_user(VA, 9, Flags::CONST),
    ];
    for (number, work) in work.iter().enumerate() {
        for copied in [false, true] {
            for (nth, op) in (1..6).flat_map(|nth| [(nth, Op::MmuUpdate), (nth, Op::MmuextOp)]) {
                let mut world = World::small().populated();
                let before = world.free();
                let parent = world.tables.create_space().unwrap();
                map(&mut world, &parent, VA, 9, 0).unwrap();
                let child = fork(&mut world, &parent).unwrap();
                if copied {
                    write(&mut world, &child, VA + 8 * PAGE, 1).unwrap();
                }
                let refusal = Injection {
                    nth,
                    ..Injection::request(op, 0, Errno::ENOMEM)
                };
                world.model.inject(refusal);
                let done = world.tables.in_space(&child, work);
                world.model.clear_injections();
                sound(&mut world);
                let page = if number == 2 { PAGE } else { 0 };
                assert_eq!(read(&mut world, &parent, VA + page), Some(page / PAGE));
                let there = read(&mut world, &child, VA + page);
                let gone = done.is_ok() && (number == 1 || number == 2);
                assert_eq!(
                    there,
                    (!gone).then_some(page / PAGE),
                    "{op:?} {nth}: {done:?}"
                );
                destroy(&mut world, child);
                destroy(&mut world, parent);
                sound(&mut world);
                // The page that was taken is the test's.
                let taken = u64::from(done.is_ok() && number == 1);
                assert_eq!(world.free(), before - taken, "{op:?} {nth}");
            }
        }
    }
}
