//! Single entries: the way that each goes, and what becomes of its A and D bits.

use hypercall::Op as Call;
use pagetable::fuzz::{Mode, in_table, mode, queued};
use pagetable::{Flags, Pte, Value};

use crate::common::{BASE, World};

#[test]
fn a_lone_entry_goes_the_cheapest_way() {
    let mut world = World::small();
    let frames = world.frames(1);
    world.tables.ensure_pte_table(BASE).unwrap();
    world.model.reset_counters();
    let place = world.tables.pte_slot(BASE).unwrap().place();
    let new = world
        .tables
        .make_pte(Value::new(frames[0], Flags::DATA))
        .unwrap();
    for entry in [new, Pte::NONE, new] {
        // SAFETY: the model's memory.
        unsafe { world.tables.set_pte(place, BASE, entry) }.unwrap();
    }
    let counters = world.model.counters();
    assert_eq!(
        (counters.traps, counters.calls(Call::UpdateVaMapping)),
        (3, 3)
    );
    // An empty section asks Xen for nothing.
    for to in [Mode::Enter, Mode::Enter, Mode::Leave, Mode::Leave] {
        mode(&mut world.tables, to).unwrap();
    }
    assert_eq!(world.model.counters().traps, 3);
}

#[test]
fn dirty_bits_of_the_page_before_are_not_kept() {
    let mut world = World::small();
    let frames = world.frames(2);
    world.map(BASE, &frames[..1], Flags::DATA).unwrap();
    let clean = Flags::DATA - Flags::DIRTY - Flags::ACCESSED;
    let place = world.tables.pte_slot(BASE).unwrap().place();
    let entry = world.tables.make_pte(Value::new(frames[1], clean)).unwrap();
    world.mode(Mode::Enter);
    // SAFETY: the model's memory.
    unsafe { world.tables.set_pte(place, BASE, entry) }.unwrap();
    // Both writes go out as one, which must not preserve what the first one ended.
    // SAFETY: the model's memory.
    unsafe { world.tables.ptep_set_wrprotect(BASE) }.unwrap();
    assert_eq!(queued(&world.tables).0, 1);
    world.mode(Mode::Leave);
    let found = in_table(&world.tables, BASE).unwrap().flags();
    assert!(
        !found.intersects(Flags::DIRTY | Flags::ACCESSED),
        "{found:?}"
    );
}
