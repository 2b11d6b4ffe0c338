//! What a vCPU remembers of the tables that it used is forgotten when they have other machine numbers.

use crate::common::{BASE, MIB, World, small};
use model::Kind;
use pagetable::machine::Machine;
use pagetable::{Flags, MmError};

/// A table that is remembered is found although nothing leads to it any more; one that is not, is not.
#[test]
fn tables_are_looked_for_again() {
    let mut world = World::fast(&small(Kind::DomU, 24 * MIB)).populated();
    let frames = world.frames(1);
    world.map(BASE, &frames, Flags::DATA).unwrap();
    let entry = world.tables.ptep_get(BASE).unwrap();
    let machine = world.tables.machine();
    machine.set_reach(0);
    assert_eq!(world.tables.ptep_get(BASE).unwrap(), entry);
    world.tables.renumbered();
    let lost = world.tables.ptep_get(BASE);
    assert!(matches!(lost, Err(MmError::NoTable { .. })), "{lost:?}");
    machine.set_reach(u64::MAX);
    assert_eq!(world.tables.ptep_get(BASE).unwrap(), entry);
}
