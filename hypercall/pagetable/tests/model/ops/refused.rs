//! What is refused: rights that no page may have, ranges that are none, frames of nobody.

use hypercall::Mfn;
use pagetable::fuzz::{Probe, queued};
use pagetable::machine::Machine;
use pagetable::{Flags, MmError};

use crate::common::{BASE, PAGE, World, expect};

#[test]
fn rights_that_no_page_may_have_are_refused_before_xen_is_asked() {
    let mut world = World::small();
    let frames = world.frames(3);
    let both = Flags::PRESENT | Flags::WRITABLE;
    world.map(BASE, &frames[..1], Flags::DATA).unwrap();
    let before = world.model.counters().traps;
    let mfn = world.tables.machine().mfn(frames[1]).unwrap();
    let errors = [
        world.map(BASE + PAGE, &frames[1..], both),
        world.set_ptes(BASE + PAGE, frames[1], 1, both),
        // SAFETY: the model's memory.
        unsafe { world.tables.map_machine(BASE + PAGE, mfn, both) },
        world.protect(BASE, 1, Flags::empty(), Flags::NO_EXECUTE),
    ];
    for e in errors {
        assert!(matches!(e, Err(MmError::WriteAndExecute { .. })), "{e:?}");
    }
    // An entry with a frame but without P would end the domain where there is L1TF.
    let errors = [
        world.map(BASE + PAGE, &frames[1..], Flags::NO_EXECUTE),
        world.set_ptes(BASE + PAGE, frames[1], 1, Flags::empty()),
        world.protect(BASE, 1, Flags::empty(), Flags::PRESENT),
    ];
    for e in errors {
        assert!(matches!(e, Err(MmError::NotMapped { .. })), "{e:?}");
    }
    let root = world.tables.root();
    let window = world.tables.machine().window(root);
    let table = world.protect(window, 1, Flags::WRITABLE, Flags::empty());
    assert!(
        matches!(table, Err(MmError::MustStayReadOnly { .. })),
        "{table:?}"
    );
    let image = world.protect(world.image.rodata.start, 1, Flags::WRITABLE, Flags::empty());
    assert!(
        matches!(image, Err(MmError::MustStayReadOnly { .. })),
        "{image:?}"
    );
    assert_eq!(world.model.counters().traps, before);
    assert_eq!(queued(&world.tables), (0, false));
}

#[test]
fn ranges_that_are_none_are_refused() {
    let mut world = World::small();
    let bad = |e: Result<(), MmError>| assert!(matches!(e, Err(MmError::BadRange { .. })), "{e:?}");
    bad(world.unmap(BASE, 0));
    bad(world.unmap(BASE + 1, 1));
    bad(world.unmap(0x8000_0000_0000, 1));
    bad(world.unmap(0x7fff_ffff_f000, 2));
    bad(world.unmap(BASE, 1 << 52));
    bad(world.unmap(0xffff_ffff_ffff_f000, 2));
    // The last page of either half is one.
    world.unmap(0x7fff_ffff_f000, 1).unwrap();
    world.unmap(0xffff_ffff_ffff_e000, 1).unwrap();
    bad(world.move_pages(BASE, BASE + PAGE, 2));
    bad(world.move_pages(BASE, BASE, 512));
    let p2m = world.model.boot().mfn_list;
    world.unmap(BASE, 1).unwrap();
    assert!(matches!(
        world.map(p2m, &[], Flags::DATA),
        Err(MmError::BadRange { .. })
    ));
}

#[test]
fn a_frame_of_nobody_is_mapped_by_its_machine_number() {
    let mut world = World::small();
    // SAFETY: another domain's frame, and one that does not exist: Xen refuses both.
    unsafe {
        let foreign = world.model.foreign_mfn();
        let e = world.tables.map_machine(BASE, foreign, Flags::CONST);
        assert!(matches!(e, Err(MmError::Flush(_))), "{e:?}");
        let e = world
            .tables
            .map_machine(BASE, Mfn::truncate(1), Flags::CONST);
        assert!(matches!(e, Err(MmError::Flush(_))), "{e:?}");
        let shared = world.model.boot().shared_info;
        world.tables.map_machine(BASE, shared, Flags::DATA).unwrap();
        let e = world.tables.map_machine(BASE, shared, Flags::DATA);
        assert!(matches!(e, Err(MmError::Occupied { va: BASE })), "{e:?}");
    }
    assert!(world.probe().load(BASE).is_some());
    expect::sound(&world);
}
