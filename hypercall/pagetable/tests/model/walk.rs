//! What people are shown of the tables, the walk to an address and the runs of pages in a range, held
//! against what the processor finds there.

use crate::common::layout::{self, DYNAMIC, IMAGE};
use crate::common::{BASE, MIB, PAGE, World, small};
use hypercall::Pfn;
use hypercall::mmu::Level;
use model::{Kind, Layout, Mode as Cpu, entry};
use pagetable::Flags;
use pagetable::fuzz::Mode;
use pagetable::machine::Machine;
use pagetable::walk::{End, MappedRange, Walk};

const LEVELS: [(usize, Level); 4] = [
    (4, Level::L4),
    (3, Level::L3),
    (2, Level::L2),
    (1, Level::L1),
];

/// The walk to an address, each entry of which is what the processor finds.
fn walk(world: &World, va: u64) -> Walk {
    let walk = world.tables.walk(va);
    assert_eq!(walk.va, va);
    let found = world.model.walk(world.model.l4(Cpu::Kernel).unwrap(), va);
    for (number, (level, known)) in LEVELS.into_iter().enumerate() {
        let Some(entry) = walk.entries.get(number) else {
            break;
        };
        let (place, word) = found.entry(known).unwrap();
        assert_eq!((entry.level, entry.index), (level, place.entry_index()));
        assert_eq!(entry.entry.bits(), word, "{va:#x}, level {level}");
        let frame = entry.entry.mfn().and_then(|mfn| world.model.pfn(mfn));
        assert_eq!(entry.pfn, frame, "{va:#x}, level {level}");
        let state = frame.and_then(|pfn| world.tables.frames().states(pfn).ok());
        assert_eq!(entry.state, state.map(|(applied, _)| applied));
    }
    walk
}

/// Where a walk ends, after how many entries.
fn end(world: &World, va: u64) -> (End, usize) {
    let walk = walk(world, va);
    (walk.end, walk.entries.len())
}

const READ: Flags = Flags::PRESENT;
const WRITE: Flags = READ.union(Flags::WRITABLE);
const NX: Flags = Flags::NO_EXECUTE;

fn page(flags: Flags) -> (End, usize) {
    (End::Page(PAGE, flags), 4)
}

#[test]
fn a_walk_shows_each_step_and_the_rights_that_remain() {
    let mut world = World::small().populated();
    let frames = world.frames(2);
    world.map(BASE, &frames[..1], Flags::DATA).unwrap();
    world.map(BASE + PAGE, &frames[1..], Flags::CONST).unwrap();
    assert_eq!(end(&world, BASE), page(WRITE | NX));
    assert_eq!(end(&world, BASE + PAGE - 1), page(WRITE | NX));
    assert_eq!(end(&world, BASE + PAGE), page(READ | NX));
    // By the level whose entry leads nowhere.
    assert_eq!(end(&world, BASE + 2 * PAGE), (End::NotPresent, 4));
    assert_eq!(end(&world, BASE + (1 << 21)), (End::NotPresent, 3));
    assert_eq!(end(&world, BASE + (1 << 30)), (End::NotPresent, 2));
    assert_eq!(end(&world, 5 << 39), (End::NotPresent, 1));
    assert_eq!(end(&world, 1 << 47), (End::NotCanonical, 0));
    assert_eq!(end(&world, !(1 << 47)), (End::NotCanonical, 0));
    // What one level takes no other gives: the direct map is no code by the entry of its root, the
    // p2m list is read-only by that of its own.
    let code = world.image.text.start;
    assert_eq!(end(&world, code), page(READ));
    let data = world.image.data.start;
    let alias = layout::DIRECT.start + (data - IMAGE.start);
    let constant = layout::DIRECT.start + (code - IMAGE.start);
    assert_eq!(
        end(&world, constant),
        (End::NotPresent, 4),
        "not in the direct map"
    );
    let shown = walk(&world, alias);
    assert!(!shown.entries[3].entry.flags().contains(NX));
    assert_eq!(shown.end, End::Page(PAGE, WRITE | NX));
    let list = walk(&world, world.model.boot().mfn_list);
    assert!(list.entries[3].entry.flags().contains(Flags::WRITABLE));
    assert_eq!(list.end, End::Page(PAGE, READ | NX));
    let regions = [alias, BASE].map(|va| walk(&world, va).region);
    assert_eq!(regions, [Some("direct map"), None]);
    // A page of user mode's is shown as one.
    let space = world.tables.create_space().unwrap();
    world.switch(&space);
    let user = Flags::DATA | Flags::USER;
    world.map(PAGE, &frames[..1], user).unwrap();
    assert_eq!(end(&world, PAGE), page(WRITE | NX | Flags::USER));
}

#[test]
fn a_walk_shows_what_is_queued_beside_what_stands() {
    let mut world = World::small().populated();
    let frames = world.frames(1);
    world.tables.ensure_pte_table(BASE).unwrap();
    world.mode(Mode::Enter);
    // SAFETY: the model's frames.
    let map = unsafe { world.tables.map(BASE, frames.iter().copied(), Flags::DATA) };
    // SAFETY: nothing runs on the model.
    unsafe { map.unwrap().defer() };
    let walk = walk(&world, BASE);
    assert_eq!(walk.end, End::NotPresent);
    let queued = walk.entries.iter().map(|entry| entry.queued);
    let entry = world.tables.ptep_get(BASE).unwrap().bits();
    assert!(queued.eq([None, None, None, Some(entry)]));
    world.mode(Mode::Leave);
}

/// Xen maps a long p2m list by large pages, with tables that only the direct map comes to.
#[test]
fn a_walk_ends_at_large_pages_and_where_it_can_read_no_further() {
    let layout = Layout {
        large_p2m: true,
        ..small(Kind::Dom0, 1024 * MIB + 100)
    };
    let world = World::fast(&layout);
    let list = world.model.boot().mfn_list;
    let (stop, entries) = end(&world, list);
    assert_eq!(stop, End::OutOfReach);
    assert!(entries < 3);
    let world = world.populated();
    let large = End::Page(1 << 21, READ | NX);
    assert_eq!(end(&world, list), (large, 3));
    assert_eq!(end(&world, list + (1 << 20)), (large, 3));
}

/// The runs of a range, page by page as the processor finds them.
fn runs(world: &World, range: &std::ops::Range<u64>) -> Vec<MappedRange> {
    let l4 = world.model.l4(Cpu::Kernel).unwrap();
    let mut runs: Vec<MappedRange> = Vec::new();
    for va in range.clone().step_by(PAGE as usize) {
        let Some((_, rights)) = world.model.walk(l4, va).page else {
            continue;
        };
        let mut flags = READ;
        flags.set(Flags::WRITABLE, rights & entry::RW != 0);
        flags.set(NX, rights & entry::NX != 0);
        match runs.last_mut() {
            Some(run) if run.va + run.bytes == va && run.flags == flags => run.bytes += PAGE,
            _ => runs.push(MappedRange {
                va,
                bytes: PAGE,
                flags,
            }),
        }
    }
    runs
}

fn shown(world: &World, range: std::ops::Range<u64>) -> Vec<MappedRange> {
    let mut shown = Vec::new();
    world.tables.for_each_mapped(range, |run| shown.push(run));
    shown
}

#[test]
fn the_runs_of_a_range_are_its_pages() {
    let mut world = World::small().populated();
    let frames = world.frames(700);
    let va = BASE + 1000 * PAGE;
    // Over the end of a table, next to pages with other rights, and with others that no run shows.
    world.map(va, &frames[..100], Flags::DATA).unwrap();
    let unread = Flags::CONST - Flags::ACCESSED;
    world.map(va + 100 * PAGE, &frames[..3], unread).unwrap();
    let after = va + 103 * PAGE;
    world.map(after, &frames[3..5], Flags::CONST).unwrap();
    world
        .map(BASE + (1 << 30), &frames[..1], Flags::DATA)
        .unwrap();
    let ranges = [
        // What is mapped begins and ends within, and beyond on either side.
        BASE..BASE + 2048 * PAGE,
        va + 7 * PAGE..va + 101 * PAGE,
        va - 5 * PAGE..va + PAGE,
        BASE + 600 * PAGE..BASE + (1 << 30) + 3 * PAGE,
        IMAGE.start..IMAGE.start + 2048 * PAGE,
        layout::DIRECT.start..layout::DIRECT.start + 4200 * PAGE,
    ];
    for range in ranges {
        let expected = runs(&world, &range);
        assert!(!expected.is_empty());
        assert_eq!(shown(&world, range.clone()), expected, "{range:x?}");
    }
    assert_eq!(shown(&world, va..va), []);
    // Where little is mapped little is looked at: this is too long to be walked page by page.
    let alone = MappedRange {
        va: BASE + (1 << 30),
        bytes: PAGE,
        flags: WRITE | NX,
    };
    assert_eq!(shown(&world, va + 200 * PAGE..DYNAMIC.end), [alone]);
}

/// Up to the last page that there is.
#[test]
fn a_range_may_end_with_the_addresses() {
    let mut world = World::small().populated();
    let frames: Vec<Pfn> = world.frames(1);
    let fixmap = layout::FIXMAP.start + 100 * PAGE;
    let mfn = world.tables.machine().mfn(frames[0]).unwrap();
    // SAFETY: the model's frames.
    unsafe { world.tables.map_machine(fixmap, mfn, Flags::DATA) }.unwrap();
    let run = MappedRange {
        va: fixmap,
        bytes: PAGE,
        flags: WRITE | NX,
    };
    assert_eq!(shown(&world, fixmap - PAGE..u64::MAX), [run]);
}
