//! Address spaces on the model: what each base register refers to, what is the same in all of them
//! and what is not, and the way back from whatever Xen refuses.

use crate::common::layout;
use crate::common::{BASE, MIB, PAGE, World, expect, small};
use hypercall::{Errno, Op};
use model::{Access, Injection, Kind, Mode as Cpu};
use pagetable::entry::Pgd;
use pagetable::fuzz::{Mode, Probe};
use pagetable::spaces::{AddressSpace, NotDestroyed};
use pagetable::{Flags, MmError};

/// Addresses of the user half below L4 entries of their own.
const USER: [u64; 2] = [0x40_0000, 0x7fff_ffe0_0000];
const PAGE_OF_USERS: Flags = Flags::DATA.union(Flags::USER);

/// [`expect::sound`], and the base registers.
fn sound(world: &World) {
    expect::bases(world);
    expect::sound(world);
}

fn is_user_page(world: &World, va: u64) -> bool {
    world.model.access(va, Access::Read, Cpu::User).is_ok()
}

#[test]
fn base_registers_are_counted_with_each_switch() {
    let mut world = World::small().populated();
    let before = world.free();
    let boot = world.tables.boot_space();
    let spaces = [(); 2].map(|()| world.tables.create_space().unwrap());
    sound(&world);
    let [one, two] = &spaces;
    for to in [one, two, two, &boot, one, &boot] {
        world.switch(to);
        assert_eq!(world.tables.root(), to.roots().kernel);
        sound(&world);
    }
    for space in spaces {
        world.tables.destroy_space(space).unwrap();
        sound(&world);
    }
    assert_eq!(world.free(), before);
    expect::clean(&world);
}

#[test]
fn the_user_half_is_each_spaces_own() {
    let mut world = World::small().populated();
    let frames = world.named_frames(4);
    let boot = world.tables.boot_space();
    let before = world.free();
    let spaces = [(); 2].map(|()| world.tables.create_space().unwrap());
    for (number, space) in spaces.iter().enumerate() {
        world.switch(space);
        for (place, va) in USER.into_iter().enumerate() {
            let frame = frames[2 * number + place];
            world.map(va, &[frame], PAGE_OF_USERS).unwrap();
            assert_eq!(world.probe().load(va), Some(frame.as_u64()));
            assert!(is_user_page(&world, va), "{va:#x}");
        }
        assert!(!is_user_page(&world, world.image.text.start));
        sound(&world);
    }
    // Back and forth: neither the walk nor a cached place of it may be the other space's.
    for (number, space) in [0, 1, 0].map(|number| (number, &spaces[number])) {
        world.switch(space);
        for (place, va) in USER.into_iter().enumerate() {
            let frame = frames[2 * number + place];
            let found = world.tables.ptep_get(va).unwrap();
            assert_eq!(world.tables.pte_val(found).unwrap().pfn, frame, "{va:#x}");
            assert_eq!(world.probe().load(va), Some(frame.as_u64()), "{va:#x}");
        }
    }
    world.switch(&boot);
    for va in USER {
        let found = world.tables.ptep_get(va);
        assert!(matches!(found, Err(MmError::NoTable { .. })), "{found:?}");
    }
    for space in spaces {
        world.tables.destroy_space(space).unwrap();
        sound(&world);
    }
    assert_eq!(world.free(), before);
}

/// The topmost entry, whatever level it is of, is written to both roots of a space.
#[test]
fn the_topmost_entry_leads_user_mode_as_well() {
    let mut world = World::small().populated();
    let frames = world.named_frames(1);
    let space = world.tables.create_space().unwrap();
    world.switch(&space);
    world.map(USER[0], &frames, PAGE_OF_USERS).unwrap();
    let place = world.tables.pgd_offset(USER[0]).unwrap().place();
    let entry = world.tables.get(world.tables.pgd_offset(USER[0]).unwrap());
    let again = world.tables.pgd_val(entry).unwrap();
    let again = world.tables.make_pgd(again).unwrap();
    for (entry, is_there) in [(Pgd::NONE, false), (again, true)] {
        // SAFETY: nobody uses the page.
        unsafe { world.tables.set_pgd(place, entry) }.unwrap();
        assert_eq!(world.mapped(USER[0]).is_some(), is_there);
        assert_eq!(is_user_page(&world, USER[0]), is_there);
    }
    sound(&world);
    // That of another space's root is none of this space's.
    let other = (255 << 39) + USER[0];
    world.leave_space();
    let place = world.tables.pgd_offset(other).unwrap().place();
    world.switch(&space);
    // SAFETY: nobody uses the page.
    unsafe { world.tables.set_pgd(place, again) }.unwrap();
    assert!(!is_user_page(&world, other) && world.mapped(other).is_none());
    world.leave_space();
    assert!(world.mapped(other).is_some());
    // SAFETY: nobody uses the page.
    unsafe { world.tables.set_pgd(place, Pgd::NONE) }.unwrap();
    world.tables.destroy_space(space).unwrap();
    sound(&world);
}

#[test]
fn the_kernel_half_is_the_same_in_all() {
    let mut world = World::small().populated();
    let frames = world.named_frames(2);
    let boot = world.tables.boot_space();
    let spaces = [(); 2].map(|()| world.tables.create_space().unwrap());
    // Below slots of the root that nothing was mapped below when the spaces were made: from the boot
    // space and from another.
    let new = [layout::HEAP.end - PAGE, layout::DYNAMIC.end - PAGE];
    for (n, (space, va)) in [(&boot, new[0]), (&spaces[1], new[1])]
        .into_iter()
        .enumerate()
    {
        world.switch(space);
        world.map(va, &frames[n..=n], Flags::DATA).unwrap();
        sound(&world);
        for seen in [&spaces[0], &boot, &spaces[1]] {
            world.switch(seen);
            assert_eq!(world.probe().load(va), Some(frames[n].as_u64()), "{va:#x}");
        }
        assert!(!is_user_page(&world, va));
    }
    world.switch(&boot);
    for va in new {
        world.unmap(va, 1).unwrap();
    }
    // No entry of the root that leads to it changes any more, not even to what it is.
    for va in [new[0], layout::DIRECT.start, layout::IMAGE.start] {
        let slot = world.tables.pgd_offset(va).unwrap();
        let (place, entry) = (slot.place(), world.tables.get(slot));
        // SAFETY: the entry stays as it is.
        let refused = unsafe { world.tables.set_pgd(place, entry) };
        let start = va & !((1 << 39) - 1);
        assert!(
            matches!(refused, Err(MmError::KernelHalf { va }) if va == start),
            "{refused:?}"
        );
    }
    // Where no region is nothing can be mapped, and nothing is lost with the attempt.
    let (nowhere, free) = (
        layout::P2M.end + (1 << 39),
        world.tables.frames().counts().free,
    );
    let refused = world.map(nowhere, &frames[..1], Flags::DATA).unwrap_err();
    assert!(
        matches!(refused, MmError::KernelHalf { va } if va == nowhere),
        "{refused}"
    );
    assert_eq!(world.tables.frames().counts().free, free);
    for space in spaces {
        world.tables.destroy_space(space).unwrap();
    }
    sound(&world);
}

#[test]
fn a_switch_takes_the_queue_along() {
    let mut world = World::small().populated();
    let frames = world.named_frames(2);
    let space = world.tables.create_space().unwrap();
    let boot = world.tables.boot_space();
    world.switch(&space);
    world.mode(Mode::Enter);
    // SAFETY: the model's frames.
    let map = unsafe {
        let frames = frames[..1].iter().copied();
        world.tables.map(USER[0], frames, PAGE_OF_USERS)
    };
    // SAFETY: nothing runs on the model.
    unsafe { map.unwrap().defer() };
    world.switch(&boot);
    world.mode(Mode::Leave);
    sound(&world);
    world.switch(&space);
    assert_eq!(world.probe().load(USER[0]), Some(frames[0].as_u64()));
    world.switch(&boot);
    world.tables.destroy_space(space).unwrap();
    sound(&world);
}

/// The second of the two operations of a switch is refused: the first is undone.
#[test]
fn a_switch_that_fails_halfway_goes_back() {
    for from_space in [false, true] {
        let mut world = World::small().populated();
        let frames = world.named_frames(1);
        let spaces = [(); 2].map(|()| world.tables.create_space().unwrap());
        if from_space {
            world.switch(&spaces[0]);
            world.map(USER[0], &frames, PAGE_OF_USERS).unwrap();
        }
        let before = (world.tables.root(), world.tables.user_root());
        for index in [0, 1] {
            world
                .model
                .inject(Injection::request(Op::MmuextOp, index, Errno::ENOMEM));
            // SAFETY: nobody uses the user half.
            let switched = unsafe { world.tables.switch_space(&spaces[1]) };
            assert!(matches!(switched, Err(MmError::Flush(_))), "{switched:?}");
            assert_eq!(world.model.clear_injections(), 0);
            assert_eq!((world.tables.root(), world.tables.user_root()), before);
            sound(&world);
            if from_space {
                assert_eq!(world.probe().load(USER[0]), Some(frames[0].as_u64()));
            }
        }
        world.switch(&spaces[1]);
        sound(&world);
    }
}

#[test]
fn only_a_space_that_is_left_can_be_destroyed_and_comes_back_otherwise() {
    let mut world = World::small().populated();
    let boot = world.tables.boot_space();
    let space = world.tables.create_space().unwrap();
    let roots = space.roots();
    let kept = |result: Result<(), NotDestroyed>| {
        let refused = result.unwrap_err();
        assert!(matches!(refused.error, MmError::Frame(_)), "{refused:?}");
        refused.space.unwrap()
    };
    let boot = kept(world.tables.destroy_space(boot));
    world.switch(&space);
    let space = kept(world.tables.destroy_space(space));
    assert_eq!(space.roots(), roots);
    let boot = kept(world.tables.destroy_space(boot));
    sound(&world);
    world.switch(&boot);
    world.tables.destroy_space(space).unwrap();
    sound(&world);
}

/// Roots that are no space's here are refused by name.
fn refused_by_name(world: &mut World, space: &AddressSpace) {
    let root = space.roots().kernel.as_u64();
    let refused = world.tables.in_space(space, |_| Ok(()));
    assert!(matches!(refused, Err(MmError::NoSpace { root: of }) if of == root));
    // SAFETY: nothing runs on the model.
    let refused = unsafe { world.tables.switch_space(space) };
    assert!(matches!(refused, Err(MmError::NoSpace { root: of }) if of == root));
    sound(world);
}

/// A space belongs to the tables that made it: others refuse it, whatever they use its frames for.
#[test]
fn a_space_of_other_tables_is_refused() {
    let mut other = World::small().populated();
    let mut spaces: Vec<_> = (0..3)
        .map(|_| other.tables.create_space().unwrap())
        .collect();
    for strange in [spaces.pop().unwrap(), spaces.remove(0)] {
        let mut world = World::small().populated();
        // Takes the frames that were handed out first, for tables of two levels.
        world.tables.ensure_pte_table(BASE).unwrap();
        refused_by_name(&mut world, &strange);
        world.tables.destroy_space(strange).unwrap_err();
        sound(&world);
    }
}

/// A space of which Xen let go only half is there to be ended, and for nothing else.
#[test]
fn a_space_that_was_half_ended_is_refused() {
    let mut world = World::small().populated();
    let before = world.free();
    let space = world.tables.create_space().unwrap();
    let refusal = Injection::request(Op::MmuextOp, 1, Errno::ENOMEM);
    world.model.inject(refusal);
    let refused = world.tables.destroy_space(space).unwrap_err();
    assert_eq!(world.model.clear_injections(), 0);
    let space = refused.space.unwrap();
    refused_by_name(&mut world, &space);
    world.tables.destroy_space(space).unwrap();
    assert_eq!(world.free(), before);
    sound(&world);
}

/// Tables of others that a space maps, for its programs to read, are not its own.
#[test]
fn a_table_that_a_space_maps_stays() {
    let mut world = World::small().populated();
    world.tables.ensure_pte_table(BASE).unwrap();
    let before = world.free();
    let entry = world.tables.get(world.tables.pmd_slot(BASE).unwrap());
    let table = world.tables.pmd_val(entry).unwrap().pfn;
    let space = world.tables.create_space().unwrap();
    world.switch(&space);
    world
        .map(USER[0], &[table], Flags::CONST | Flags::USER)
        .unwrap();
    world.leave_space();
    world.tables.destroy_space(space).unwrap();
    assert_eq!(world.tables.frames().states(table).unwrap().0.links, 1);
    assert_eq!(world.free(), before);
    sound(&world);
}

/// Whatever of the end of a space Xen refuses, the space is there and can be ended again, or it is
/// gone: with the error it comes back exactly in the first case.
#[test]
fn a_space_comes_back_with_the_error_as_long_as_it_exists() {
    for index in 0..3 {
        let mut world = World::small().populated();
        let frames = world.frames(1);
        let before = world.free();
        let space = world.tables.create_space().unwrap();
        world.switch(&space);
        world.map(USER[0], &frames, PAGE_OF_USERS).unwrap();
        world.leave_space();
        world
            .model
            .inject(Injection::request(Op::MmuextOp, index, Errno::ENOMEM));
        let ended = world.tables.destroy_space(space);
        let injected = world.model.clear_injections() == 0;
        assert_eq!(ended.is_err(), injected, "request {index}");
        if let Err(NotDestroyed { space, .. }) = ended {
            // The first two unpin its roots.
            assert_eq!(space.is_some(), index < 2, "request {index}");
            space
                .map_or(Ok(()), |space| world.tables.destroy_space(space))
                .unwrap();
        }
        assert_eq!(world.free(), before, "request {index}");
        sound(&world);
    }
}

#[test]
fn spaces_are_made_until_memory_ends() {
    let mut world = World::small().populated();
    let before = world.free();
    let mut spaces = Vec::<AddressSpace>::new();
    let refused = loop {
        match world.tables.create_space() {
            Ok(space) => spaces.push(space),
            Err(e) => break e,
        }
    };
    assert!(matches!(refused, MmError::Frame(_)), "{refused:?}");
    // Two roots each, and little besides.
    assert!(
        spaces.len() as u64 > before / 2 - before / 64 - 16,
        "{}",
        spaces.len()
    );
    sound(&world);
    for space in spaces {
        world.tables.destroy_space(space).unwrap();
    }
    sound(&world);
    assert_eq!(world.free(), before);
}

#[test]
fn a_space_that_cannot_be_made_costs_nothing() {
    let mut world = World::small().populated();
    let mut frames = Vec::new();
    while let Ok(frame) = world.tables.alloc_frame() {
        frames.push(frame);
    }
    for left in 0..2 {
        let made = world.tables.create_space();
        assert!(matches!(made, Err(MmError::Frame(_))), "{made:?}");
        assert_eq!(world.tables.frames().counts().free, left);
        sound(&world);
        world.tables.free_frame(frames.pop().unwrap()).unwrap();
    }
    let space = world.tables.create_space().unwrap();
    world.tables.destroy_space(space).unwrap();
    assert_eq!(world.tables.frames().counts().free, 2);
    sound(&world);
}

/// User tables by the dozen, shared between no two spaces: all come back, whatever shape they have.
#[test]
fn the_tables_of_a_user_half_come_back() {
    let mut world = World::new(&small(Kind::DomU, 32 * MIB)).populated();
    let frames = world.frames(1);
    let boot = world.tables.boot_space();
    let before = world.free();
    let space = world.tables.create_space().unwrap();
    world.switch(&space);
    let places = [
        1 << 12,
        1 << 21,
        3 << 21,
        1 << 30,
        5 << 30,
        1 << 39,
        7 << 39,
    ];
    for va in places {
        world.map(va, &frames, Flags::DATA).unwrap();
    }
    world
        .map(600 << 21, &[frames[0]; 1200], Flags::CONST)
        .unwrap();
    world.switch(&boot);
    sound(&world);
    world.tables.destroy_space(space).unwrap();
    sound(&world);
    assert_eq!(world.free(), before);
}
