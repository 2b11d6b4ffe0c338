//! One page that a program touches where it runs: what is resolved by its entry alone, and what is left to
//! others with nothing changed.

use super::*;

/// Touches a page in the space where the vCPU runs, if that is at hand.
fn touch(world: &mut World, space: &AddressSpace, va: u64, writes: bool) -> Result<bool, MmError> {
    world.switch(space);
    assert!(world.tables.is_at_hand(space));
    let touched = world.tables.touch_user(va, Flags::DATA, writes);
    world.leave_space();
    touched
}

#[test]
fn a_page_is_there_once_it_was_touched_and_is_the_writers_own() {
    let mut world = World::small().populated();
    let before = world.free();
    let parent = world.tables.create_space().unwrap();
    assert!(!touch(&mut world, &parent, VA, true).unwrap(), "no table");
    map(&mut world, &parent, VA + 5 * PAGE, 1, 7).unwrap();
    for writes in [false, true] {
        let va = VA + u64::from(writes) * PAGE;
        assert!(touch(&mut world, &parent, va, writes).unwrap());
        assert!(!touch(&mut world, &parent, va, true).unwrap(), "it is");
        assert_eq!(read(&mut world, &parent, va), Some(0));
        assert!(store(&mut world, &parent, va, 3));
        sound(&mut world);
    }
    let child = fork(&mut world, &parent).unwrap();
    assert!(!touch(&mut world, &parent, VA, true).unwrap(), "it is lent");
    assert!(!touch(&mut world, &parent, VA + 2 * PAGE, true).unwrap());
    // The parent has a table of its own from here on, and so its child has.
    write(&mut world, &parent, VA + 5 * PAGE, 8).unwrap();
    write(&mut world, &child, VA + 5 * PAGE, 9).unwrap();
    assert!(!touch(&mut world, &parent, VA, false).unwrap(), "it reads");
    let free = world.free();
    assert!(touch(&mut world, &parent, VA, true).unwrap());
    assert_eq!(world.free(), free - 1, "a copy");
    assert!(store(&mut world, &parent, VA, 4));
    assert_eq!(read(&mut world, &child, VA), Some(3));
    sound(&mut world);
    assert!(touch(&mut world, &child, VA, true).unwrap());
    assert_eq!(world.free(), free - 1, "its own by now");
    assert!(store(&mut world, &child, VA, 5));
    assert_eq!(read(&mut world, &parent, VA), Some(4));
    sound(&mut world);
    destroy(&mut world, child);
    destroy(&mut world, parent);
    sound(&mut world);
    assert_eq!(world.free(), before);
}

#[test]
fn nothing_is_lost_when_xen_refuses() {
    let mut world = World::small().populated();
    let parent = world.tables.create_space().unwrap();
    map(&mut world, &parent, VA, 2, 7).unwrap();
    let child = fork(&mut world, &parent).unwrap();
    write(&mut world, &child, VA + PAGE, 9).unwrap();
    let free = world.free();
    for (va, there) in [(VA, Some(7)), (VA + 2 * PAGE, None)] {
        let refusal = Injection::call(Op::UpdateVaMapping, Errno::ENOMEM);
        world.model.inject(refusal);
        let touched = touch(&mut world, &child, va, true);
        world.model.clear_injections();
        assert!(touched.is_err(), "{touched:?}");
        assert_eq!(read(&mut world, &child, va), there);
        assert_eq!(world.free(), free);
        sound(&mut world);
    }
    destroy(&mut world, child);
    destroy(&mut world, parent);
}

#[test]
fn only_a_space_where_nothing_waits_is_at_hand() {
    let mut world = World::small().populated();
    let (one, other) = (
        world.tables.create_space().unwrap(),
        world.tables.create_space().unwrap(),
    );
    world.switch(&one);
    assert!(world.tables.is_at_hand(&one) && !world.tables.is_at_hand(&other));
    let inside = world.tables.in_space(&other, |tables| {
        Ok(tables.is_at_hand(&one) || tables.is_at_hand(&other))
    });
    assert!(!inside.unwrap());
    let lazy = world
        .tables
        .in_space(&one, |tables| Ok(tables.is_at_hand(&one)));
    assert!(!lazy.unwrap());
    let kernels = world
        .tables
        .touch_user(crate::common::BASE, Flags::DATA, true);
    assert!(!kernels.unwrap());
    world.leave_space();
    destroy(&mut world, one);
    destroy(&mut world, other);
}
