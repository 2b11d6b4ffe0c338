//! What vCPUs owe each other: a queue that another sends, a space that another is in.

use std::rc::Rc;

use crate::common::{BASE, MIB, ModelMachine, PAGE, World, Xen, small};
use hypercall::Pfn;
use hypercall::abi::mmu::MMUEXT_NEW_BASEPTR;
use hypercall::abi::mmu::{mmuext_op, mmuext_op_arg1, mmuext_op_arg2};
use hypercall::abi::xen::DOMID_SELF;
use hypercall::{Hypervisor, Op};
use model::{Access, Kind, Layout, Mode as Cpu};
use pagetable::frames::FrameError;
use pagetable::fuzz::{Mode, mode};
use pagetable::spaces::AddressSpace;
use pagetable::{Flags, MmError, Tables};

/// Where user mode's pages are.
const USER: u64 = 5 << 30;

/// A domain of two vCPUs, of which one has taken its tables over.
fn world() -> World {
    World::fast(&Layout {
        vcpus: 2,
        ..small(Kind::DomU, 16 * MIB)
    })
    .populated()
}

/// Has the second vCPU run on the boot's tables.
fn start(world: &World) {
    let op = [mmuext_op {
        cmd: MMUEXT_NEW_BASEPTR,
        arg1: mmuext_op_arg1 {
            mfn: world.model.boot().l4.as_u64(),
        },
        arg2: mmuext_op_arg2 { src_mfn: 0 },
    }];
    world.model.run_on(1);
    let args = [op.as_ptr() as u64, 1, 0, DOMID_SELF.into(), 0];
    // SAFETY: a list of one operation, which is there until the call returns.
    assert_eq!(unsafe { world.model.call(Op::MmuextOp, args) }, 0);
}

/// The second vCPU, which has joined. It goes before the world does.
fn second(world: &World) -> Tables<ModelMachine> {
    start(world);
    // SAFETY: both are used by turns, and what is queued is sent before.
    let mut tables = unsafe { Tables::new(Xen(Rc::clone(&world.model)), world.tables.domain()) };
    tables.join().unwrap();
    world.model.run_on(0);
    tables
}

fn map(tables: &mut Tables<ModelMachine>, va: u64, frames: &[Pfn]) -> Result<(), MmError> {
    // SAFETY: the model's memory.
    unsafe { tables.map(va, frames.iter().copied(), Flags::DATA) }?.commit(tables)
}

fn protect(tables: &mut Tables<ModelMachine>, va: u64) -> Result<pagetable::Change, MmError> {
    // SAFETY: the model's memory.
    unsafe { tables.protect(va, 1, Flags::empty(), Flags::WRITABLE) }
}

fn switch(tables: &mut Tables<ModelMachine>, to: &AddressSpace) {
    // SAFETY: nobody uses the user half of the model.
    unsafe { tables.switch_space(to) }.unwrap();
}

fn writes(world: &World, va: u64) -> bool {
    world.model.access(va, Access::Write, Cpu::Kernel).is_ok()
}

/// What was queued in one space is sent by a vCPU that is in another, where the same address leads to
/// a page of its own: that one stays as it is.
#[test]
fn what_is_queued_for_a_space_is_sent_from_another() {
    let mut world = world();
    let frames = world.named_frames(2);
    let mut other = second(&world);
    map(&mut world.tables, USER, &frames[..1]).unwrap();
    let space = world.tables.create_space().unwrap();
    world.switch(&space);
    map(&mut world.tables, USER, &frames[1..]).unwrap();
    mode(&mut world.tables, Mode::Enter).unwrap();
    // SAFETY: nobody looks before it is sent.
    unsafe { protect(&mut world.tables, USER).unwrap().defer() };
    world.model.run_on(1);
    world.tables.send_queued().unwrap();
    assert!(writes(&world, USER), "the boot's page");
    world.model.run_on(0);
    assert!(!writes(&world, USER), "the space's");
    mode(&mut world.tables, Mode::Leave).unwrap();
    assert!(world.model.stale().is_empty());
    assert!(other.audit().unwrap().is_clean());
}

/// A flush that a vCPU asked for while it was alone is that vCPU's, whoever sends it.
#[test]
fn what_was_queued_alone_is_flushed_where_it_was() {
    let mut world = world();
    let frames = world.named_frames(1);
    world.map(BASE, &frames, Flags::DATA).unwrap();
    assert!(writes(&world, BASE));
    mode(&mut world.tables, Mode::Enter).unwrap();
    // SAFETY: nobody looks before it is sent.
    unsafe { protect(&mut world.tables, BASE).unwrap().defer() };
    let other = second(&world);
    world.model.run_on(1);
    world.tables.send_queued().unwrap();
    assert_eq!(world.model.stale(), []);
    world.model.run_on(0);
    assert!(!writes(&world, BASE));
    mode(&mut world.tables, Mode::Leave).unwrap();
    drop(other);
}

/// What one vCPU changes in a space from outside of it, another that is there finds.
#[test]
fn a_change_from_outside_reaches_who_is_there() {
    let mut world = world();
    let frames = world.named_frames(1);
    let mut other = second(&world);
    let space = world.tables.create_space().unwrap();
    world.model.run_on(1);
    switch(&mut other, &space);
    map(&mut other, USER, &frames).unwrap();
    assert!(writes(&world, USER));
    world.model.run_on(0);
    let protected = world
        .tables
        .in_space(&space, |tables| protect(tables, USER));
    protected.unwrap().commit(&mut world.tables).unwrap();
    assert_eq!(world.model.stale(), []);
    world.model.run_on(1);
    assert!(!writes(&world, USER));
}

/// A space that another vCPU is in is not destroyed; when it has left, it is.
#[test]
fn a_space_that_another_vcpu_is_in_stays() {
    let mut world = world();
    let mut other = second(&world);
    let free = world.tables.frames().counts().free;
    let space = world.tables.create_space().unwrap();
    world.model.run_on(1);
    switch(&mut other, &space);
    world.model.run_on(0);
    let refused = world.tables.destroy_space(space).unwrap_err();
    assert!(matches!(
        refused.error,
        MmError::Frame(FrameError::Illegal(..))
    ));
    let space = refused.space.expect("it exists");
    world.model.run_on(1);
    map(&mut other, USER + PAGE, &[]).unwrap_err();
    let boot = other.boot_space();
    switch(&mut other, &boot);
    world.model.run_on(0);
    world.tables.destroy_space(space).unwrap();
    assert_eq!(world.tables.frames().counts().free, free);
    assert!(other.audit().unwrap().is_clean());
}

/// A vCPU uses memory before it joins: from when the domain is shared it is flushed as well.
#[test]
fn who_is_yet_to_join_is_flushed() {
    let mut world = world();
    let frames = world.named_frames(1);
    world.map(BASE, &frames, Flags::DATA).unwrap();
    world.tables.share().unwrap();
    start(&world);
    assert!(writes(&world, BASE));
    world.model.run_on(0);
    let protected = protect(&mut world.tables, BASE).unwrap();
    protected.commit(&mut world.tables).unwrap();
    assert_eq!(world.model.stale(), []);
}
