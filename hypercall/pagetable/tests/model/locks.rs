//! Which tables a vCPU may work on, once others work beside it.

use std::rc::Rc;

use crate::common::{BASE, ModelMachine, World, Xen};
use hypercall::Pfn;
use pagetable::fuzz::{Mode, mode};
use pagetable::locks::Part;
use pagetable::spaces::{AddressSpace, NotDestroyed};
use pagetable::{Flags, MmError, Tables};

const USER: u64 = 0x1234_5000;

/// A world whose vCPU works beside others, and holds nothing.
fn shared() -> (World, Vec<Pfn>) {
    let mut world = World::small().populated();
    let frames = world.named_frames(1);
    world.tables.share().unwrap();
    world.tables.let_go();
    (world, frames)
}

/// Another vCPU of the world's domain, which holds nothing. It must go before the world does.
fn second(world: &World) -> Tables<ModelMachine> {
    let hv = Xen(Rc::clone(&world.model));
    // SAFETY: what each works on it holds.
    let mut tables = unsafe { Tables::new(hv, world.tables.domain()) };
    tables.join().unwrap();
    tables
}

fn map(tables: &mut Tables<ModelMachine>, va: u64, frames: &[Pfn]) -> Result<(), MmError> {
    // SAFETY: the model's memory.
    unsafe { tables.map(va, frames.iter().copied(), Flags::DATA) }?.commit(tables)
}

fn unmap(tables: &mut Tables<ModelMachine>, va: u64) -> Result<(), MmError> {
    // SAFETY: nothing runs on the model.
    unsafe { tables.unmap(va, 1) }?.commit(tables)
}

/// Makes a page read-only, and leaves it to the lazy section.
fn protect(tables: &mut Tables<ModelMachine>, va: u64) {
    // SAFETY: nobody looks at it before it is sent.
    unsafe {
        let change = tables.protect(va, 1, Flags::empty(), Flags::WRITABLE);
        change.unwrap().defer();
    }
}

fn in_space(
    tables: &mut Tables<ModelMachine>,
    space: &AddressSpace,
    f: impl FnOnce(&mut Tables<ModelMachine>) -> Result<(), MmError>,
) -> Result<(), MmError> {
    tables.hold(Part::Space(space))?;
    let result = tables.in_space(space, f);
    tables.let_go();
    result
}

/// Is refused, naming the address.
#[track_caller]
fn not_held(result: Result<(), MmError>, at: u64) {
    assert!(
        matches!(result, Err(MmError::NotHeld { va }) if va == at),
        "{result:?}"
    );
}

#[test]
fn a_domain_of_one_vcpu_needs_to_hold_nothing() {
    let mut world = World::small().populated();
    let frames = world.named_frames(1);
    map(&mut world.tables, BASE, &frames).unwrap();
    assert!(world.tables.audit().unwrap().is_clean());
    unmap(&mut world.tables, BASE).unwrap();
}

/// Each part is worked on by whoever holds it, and by nobody else; what looks at all tables takes all.
#[test]
fn only_what_is_held_is_worked_on() {
    let (mut world, frames) = shared();
    let tables = &mut world.tables;
    not_held(map(tables, BASE, &frames), BASE);
    assert!(tables.pgd_offset(BASE).is_none());
    not_held(tables.ensure_pte_table(BASE), BASE);
    assert!(matches!(tables.audit(), Err(MmError::NotAlone)));
    // SAFETY: the model's memory.
    let executable = unsafe { tables.set_memory_x(BASE, 1) };
    assert!(matches!(executable, Err(MmError::NotAlone)));

    tables.hold(Part::KernelHalf).unwrap();
    map(tables, BASE, &frames).unwrap();
    not_held(map(tables, USER, &frames), USER);
    assert!(matches!(tables.audit(), Err(MmError::NotAlone)));
    tables.let_go();
    not_held(unmap(tables, BASE), BASE);

    let space = tables.create_space().unwrap();
    let work = |tables: &mut Tables<ModelMachine>| {
        map(tables, USER, &frames)?;
        unmap(tables, USER)
    };
    not_held(tables.in_space(&space, work), 0);
    in_space(tables, &space, work).unwrap();
    tables.let_go();

    tables.hold(Part::All).unwrap();
    unmap(tables, BASE).unwrap();
    tables.in_space(&space, work).unwrap();
    assert!(tables.audit().unwrap().is_clean());
    tables.destroy_space(space).unwrap();
    tables.let_go();
}

/// What was found in a part is not used again once the part was let go.
#[test]
fn what_was_found_is_forgotten_with_the_part() {
    let (mut world, frames) = shared();
    let tables = &mut world.tables;
    let boot = tables.boot_space();
    tables.hold(Part::All).unwrap();
    map(tables, USER, &frames).unwrap();
    tables.let_go();
    tables.hold(Part::KernelHalf).unwrap();
    not_held(unmap(tables, USER), USER);
    map(tables, BASE, &frames).unwrap();
    tables.let_go();
    tables.hold(Part::Space(&boot)).unwrap();
    not_held(unmap(tables, BASE), BASE);
    unmap(tables, USER).unwrap();
    tables.let_go();
}

/// Whoever has something queued keeps what it holds, until it is sent.
#[test]
fn what_is_queued_keeps_what_is_held() {
    let (mut world, frames) = shared();
    let mut other = second(&world);
    let tables = &mut world.tables;
    tables.hold(Part::KernelHalf).unwrap();
    map(tables, BASE, &frames).unwrap();
    mode(tables, Mode::Enter).unwrap();
    protect(tables, BASE);
    tables.let_go();
    assert!(tables.ptep_get(BASE).is_ok(), "kept");
    tables.send_and_let_go().unwrap();
    not_held(unmap(tables, BASE), BASE);
    other.hold(Part::KernelHalf).unwrap();
    let seen = other.ptep_get(BASE).unwrap();
    assert!(!seen.flags().contains(Flags::WRITABLE), "sent");
    unmap(&mut other, BASE).unwrap();
    other.let_go();
    mode(tables, Mode::Leave).unwrap();
}

/// A user half is asked for with nothing in hand: what was kept of the kernel's half is sent and let
/// go first, so that two vCPUs never wait for each other.
#[test]
fn user_halves_come_before_the_kernels() {
    let (mut world, frames) = shared();
    let mut other = second(&world);
    let tables = &mut world.tables;
    let space = tables.create_space().unwrap();
    tables.hold(Part::KernelHalf).unwrap();
    map(tables, BASE, &frames).unwrap();
    mode(tables, Mode::Enter).unwrap();
    protect(tables, BASE);
    tables.hold(Part::Space(&space)).unwrap();
    not_held(tables.ensure_pte_table(BASE + (1 << 30)), BASE + (1 << 30));
    other.hold(Part::KernelHalf).unwrap();
    let seen = other.ptep_get(BASE).unwrap();
    assert!(!seen.flags().contains(Flags::WRITABLE), "sent");
    other.let_go();
    // The kernel's half may be asked for on top.
    tables.hold(Part::KernelHalf).unwrap();
    unmap(tables, BASE).unwrap();
    mode(tables, Mode::Leave).unwrap();
    tables.let_go();
    tables.destroy_space(space).unwrap();
}

/// The direct map grows for whoever needs a frame, whatever that one works on.
#[test]
fn the_direct_map_grows_in_the_midst_of_a_space() {
    let mut world = World::small();
    world.tables.share().unwrap();
    world.tables.let_go();
    let tables = &mut world.tables;
    let space = tables.create_space().unwrap();
    let before = tables.frames().counts().mapped;
    let mut frames = Vec::new();
    in_space(tables, &space, |tables| {
        while tables.frames().counts().mapped == before {
            frames.push(tables.alloc_frame()?);
        }
        map(tables, USER, &[frames[0].pfn()])?;
        unmap(tables, USER)
    })
    .unwrap();
    for frame in frames {
        tables.free_frame(frame).unwrap();
    }
    tables.let_go();
    tables.hold(Part::All).unwrap();
    assert!(tables.audit().unwrap().is_clean());
    tables.destroy_space(space).unwrap();
    tables.let_go();
}

/// A space where another vCPU runs is not destroyed; nobody comes to one that he does not hold.
#[test]
fn a_space_lasts_until_the_last_has_left() {
    let (mut world, _) = shared();
    let mut other = second(&world);
    let tables = &mut world.tables;
    let space = tables.create_space().unwrap();
    // SAFETY: nothing runs on the model.
    not_held(unsafe { other.switch_space(&space) }, 0);
    other.hold(Part::Space(&space)).unwrap();
    // SAFETY: nothing runs on the model.
    unsafe { other.switch_space(&space) }.unwrap();
    other.let_go();
    let refused = tables.destroy_space(space).unwrap_err();
    let NotDestroyed {
        error: MmError::Frame(_),
        space: Some(space),
    } = refused
    else {
        panic!("{refused:?}");
    };
    let boot = other.boot_space();
    other.hold(Part::Space(&boot)).unwrap();
    // SAFETY: nothing runs on the model.
    unsafe { other.switch_space(&boot) }.unwrap();
    other.let_go();
    tables.destroy_space(space).unwrap();
}
