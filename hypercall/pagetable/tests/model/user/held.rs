//! Memory that somebody holds besides the entries: pages of files.

use hypercall::Pfn;
use pagetable::user::{HeldFrame, OnWrite};

use super::*;

/// Memory that is held, full of a number.
fn hold(world: &mut World, number: u64) -> HeldFrame {
    let mut frame = world.tables.alloc_frame().unwrap();
    world.tables.frame_memory(&mut frame).fill(number);
    world.tables.hold_frame(frame).unwrap()
}

fn map_held(
    world: &mut World,
    space: &AddressSpace,
    va: u64,
    frames: &[Pfn],
    flags: Flags,
) -> Result<(), MmError> {
    world
        .tables
        .in_space(space, |tables| tables.map_held(va, frames, flags))
}

/// Each of two spaces, and the holder, is the last to have it in turn.
#[test]
fn it_is_free_when_neither_an_entry_nor_the_holder_has_it() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]] {
        let mut world = World::small().populated();
        let spaces = [(); 2].map(|()| world.tables.create_space().unwrap());
        for space in &spaces {
            map(&mut world, space, VA, 1, 0).unwrap();
        }
        let before = world.free();
        let mut held = Some(hold(&mut world, 7));
        let pfn = held.as_ref().unwrap().pfn();
        for space in &spaces {
            map_held(&mut world, space, VA + PAGE, &[pfn], Flags::CONST).unwrap();
            assert_eq!(read(&mut world, space, VA + PAGE), Some(7));
        }
        sound(&mut world);
        for who in order {
            assert_eq!(world.free(), before - 1);
            match spaces.get(who) {
                Some(space) => unmap(&mut world, space, VA + PAGE, 1).unwrap(),
                None => world.tables.let_go_of_frame(held.take().unwrap()).unwrap(),
            }
            sound(&mut world);
        }
        assert_eq!((world.free(), world.tables.frames().orphans()), (before, 0));
        for space in spaces {
            destroy(&mut world, space);
        }
    }
}

/// Private, a write gets a copy even where no other entry maps it; shared, all see it.
#[test]
fn a_write_is_the_writer_s_or_everybody_s() {
    let mut world = World::small().populated();
    let before = world.free();
    let held = [hold(&mut world, 7), hold(&mut world, 8)];
    let frames = held.each_ref().map(HeldFrame::pfn);
    let space = world.tables.create_space().unwrap();
    map_held(&mut world, &space, VA, &frames, Flags::CONST).unwrap();
    write(&mut world, &space, VA, 1).unwrap();
    assert_eq!(read(&mut world, &space, VA), Some(1));
    let share = |tables: &mut Tables<_>| tables.make_writable(VA + PAGE, OnWrite::Share);
    world.tables.in_space(&space, share).unwrap();
    assert!(store(&mut world, &space, VA + PAGE, 2));
    sound(&mut world);
    let other = world.tables.create_space().unwrap();
    map_held(&mut world, &other, VA, &frames, Flags::CONST).unwrap();
    assert_eq!(read(&mut world, &other, VA), Some(7));
    assert_eq!(read(&mut world, &other, VA + PAGE), Some(2));
    // What is held stays where it is when a page is taken; what is not is the taker's.
    let take = |tables: &mut Tables<_>| {
        let own = tables.take_user(VA)?;
        Ok((own, tables.take_user(VA + PAGE)?))
    };
    let (own, none) = world.tables.in_space(&space, take).unwrap();
    assert!(none.is_none());
    world.tables.free_frame(own.unwrap()).unwrap();
    for space in [space, other] {
        destroy(&mut world, space);
    }
    for held in held {
        world.tables.let_go_of_frame(held).unwrap();
    }
    sound(&mut world);
    assert_eq!(world.free(), before);
}

#[test]
fn what_is_not_held_is_not_mapped_so() {
    let mut world = World::small().populated();
    let before = world.free();
    let space = world.tables.create_space().unwrap();
    let held = hold(&mut world, 1);
    let frame = world.tables.alloc_frame().unwrap();
    let frames = [held.pfn(), frame.pfn()];
    let refused = map_held(&mut world, &space, VA, &frames, Flags::CONST);
    assert!(matches!(refused, Err(MmError::Frame(_))), "{refused:?}");
    let refused = map_held(
        &mut world,
        &space,
        VA,
        &frames[..1],
        Flags::DATA - Flags::NO_EXECUTE,
    );
    assert!(refused.is_err());
    sound(&mut world);
    world.tables.free_frame(frame).unwrap();
    world.tables.let_go_of_frame(held).unwrap();
    destroy(&mut world, space);
    sound(&mut world);
    assert_eq!(world.free(), before);
}
