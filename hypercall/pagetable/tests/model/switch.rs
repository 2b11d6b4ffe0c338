//! Switching spaces while Xen refuses: the root is the one that Xen has, and an error leaves the
//! space as it was.

use crate::common::{BASE, MIB, World, expect, small};
use hypercall::abi::mmu::{MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR};
use hypercall::{Errno, Op};
use model::{Injection, Kind, Mode as Cpu};
use pagetable::Flags;
use pagetable::fuzz::Mode;

/// The base registers are what the tables' roots say, and the records count them.
fn agree(world: &World) {
    let [kernel, user] = [Cpu::Kernel, Cpu::User].map(|mode| world.model.l4(mode));
    let mfn = |pfn| world.tables.mfn(pfn).unwrap();
    assert_eq!(kernel, Some(mfn(world.tables.root())));
    assert_eq!(user, world.tables.user_root().map(mfn));
    expect::sound(world);
}

/// A space to switch to, and an update that waits, in a lazy section.
fn prepared() -> (World, pagetable::spaces::AddressSpace) {
    let mut world = World::fast(&small(Kind::DomU, 24 * MIB)).populated();
    let frames = world.frames(1);
    world.map(BASE, &frames, Flags::DATA).unwrap();
    let space = world.tables.create_space().unwrap();
    agree(&world);
    world.mode(Mode::Enter);
    // SAFETY: the model's memory.
    unsafe { world.tables.unmap(BASE, 1).unwrap().defer() };
    (world, space)
}

/// The requests of a switch, each refused in turn: the update that rides with it, the base of the
/// kernel, the base of user mode.
#[test]
fn an_error_leaves_the_space_as_it_was() {
    for (op, index) in [(Op::MmuUpdate, 0), (Op::MmuextOp, 0), (Op::MmuextOp, 1)] {
        let (mut world, space) = prepared();
        let before = (world.tables.root(), world.tables.user_root());
        world.model.inject(Injection {
            index: Some(index),
            ..Injection::call(op, Errno::ENOMEM)
        });
        // SAFETY: nothing in use lies in the user half.
        let error = unsafe { world.tables.switch_space(&space) }.unwrap_err();
        assert!(error.to_string().contains("ENOMEM"), "{error}");
        assert_eq!((world.tables.root(), world.tables.user_root()), before);
        agree(&world);
        world.mode(Mode::Leave);
        // And it can be tried again.
        // SAFETY: nothing in use lies in the user half.
        unsafe { world.tables.switch_space(&space) }.unwrap();
        assert_eq!(world.tables.root(), space.roots().kernel);
        agree(&world);
    }
}

/// Xen refuses the way back as well: the roots are what it has.
#[test]
fn the_root_is_what_xen_has_even_if_there_is_no_way_back() {
    let (mut world, space) = prepared();
    let boot = world.tables.boot_space();
    let refused = |cmd, index, nth| Injection {
        cmd: Some(cmd),
        index: Some(index),
        nth,
        ..Injection::call(Op::MmuextOp, Errno::ENOMEM)
    };
    // The base of user mode is refused, then that of the kernel on the way back.
    world.model.inject(refused(MMUEXT_NEW_USER_BASEPTR, 1, 1));
    world.model.inject(refused(MMUEXT_NEW_BASEPTR, 0, 2));
    // SAFETY: nothing in use lies in the user half.
    unsafe { world.tables.switch_space(&space) }.unwrap_err();
    assert_eq!(world.tables.root(), space.roots().kernel);
    assert_eq!(world.tables.user_root(), None);
    agree(&world);
    world.mode(Mode::Leave);
    // SAFETY: nothing in use lies in the user half.
    unsafe { world.tables.switch_space(&boot) }.unwrap();
    agree(&world);
    world.tables.destroy_space(space).unwrap();
    agree(&world);
}
