//! What the audit claims to find it finds: each entry and each record is spoilt behind the back of
//! everybody who would refuse it.

use crate::common::layout::{DIRECT, FIXMAP, P2M};
use crate::common::{BASE, MIB, PAGE, World, expect, small};
use hypercall::{MachAddr, Mfn, Pfn};
use model::{Kind, Layout, entry};
use pagetable::Flags;
use pagetable::audit::{Finding, Report, What};
use pagetable::frames::Log;
use pagetable::state::{Kind as Frame, State, Transition};

/// A table's worth of pages.
const SPAN: u64 = 512 * PAGE;
const DATA: u64 = Flags::DATA.bits();
const CONST: u64 = Flags::CONST.bits();
const CODE: u64 = Flags::CODE.bits();
const TABLE: u64 = Flags::TABLE.bits();

fn world() -> World {
    World::fast(&small(Kind::DomU, 24 * MIB)).populated()
}

fn audit(world: &mut World) -> Report {
    world.tables.audit().unwrap()
}

/// An entry for a frame.
fn of(world: &World, pfn: Pfn, flags: u64) -> u64 {
    world.tables.mfn(pfn).unwrap().as_u64() << 12 | flags
}

/// Replaces an entry in the table it lies in, and returns what it was.
fn poke(world: &World, place: MachAddr, word: u64) -> u64 {
    let words = world.model.frame_ptr(place.frame());
    // SAFETY: the model's memory, which this thread alone uses.
    unsafe { std::mem::replace(&mut (*words)[place.entry_index()], word) }
}

/// What is found with another entry in a place: nothing is without it. All of it is said to be of
/// that entry, but for the counts.
fn with(world: &mut World, place: MachAddr, word: u64) -> Vec<(u64, What)> {
    let before = poke(world, place, word);
    let report = audit(world);
    poke(world, place, before);
    assert_eq!(report.findings, report.first.len() as u64, "{report}");
    let clean = audit(world);
    assert!(clean.is_clean(), "{clean}");
    let told = |finding: &Finding| {
        let of = if finding.what == What::References {
            0
        } else {
            word
        };
        assert_eq!(finding.entry, of, "{finding}");
        (finding.va, finding.what)
    };
    report.first.iter().map(told).collect()
}

fn pte(world: &World, va: u64) -> MachAddr {
    world.tables.pte_slot(va).unwrap().machine()
}

/// A page that may be spoilt, in a table of its own.
fn spoilt(world: &mut World) -> (u64, MachAddr) {
    let frames = world.frames(1);
    world.map(BASE, &frames, Flags::DATA).unwrap();
    (BASE, pte(world, BASE))
}

#[test]
fn an_entry_that_maps_a_page_is_judged() {
    let mut world = world();
    let (va, place) = spoilt(&mut world);
    let frame = world.frames(1)[0];
    let entry = world.tables.get(world.tables.pmd_slot(va).unwrap());
    let table = world.tables.pmd_val(entry).unwrap().pfn;
    let image = |va: u64| Pfn::truncate((va - crate::common::layout::IMAGE.start) / PAGE);
    let rodata = image(world.image.rodata.start);
    let text = image(world.image.text.start);
    let list = (0..).map(Pfn::truncate).find(|pfn| {
        let states = world.tables.frames().states(*pfn).unwrap();
        states.0.kind == Frame::P2m
    });
    let free = (0..).map(Pfn::truncate).find(|pfn| {
        let states = world.tables.frames().states(*pfn).unwrap();
        states.0.kind == Frame::Free
    });
    let (list, free) = (list.unwrap(), free.unwrap());
    let found = |what: &[What]| what.iter().map(|what| (va, *what)).collect::<Vec<_>>();
    let cases: [(Pfn, u64, &[What]); 16] = [
        (frame, DATA, &[]),
        (frame, CONST, &[]),
        (
            frame,
            DATA & !entry::NX,
            &[What::WriteAndExecute, What::Executable(Frame::Owned)],
        ),
        (frame, CODE, &[What::Executable(Frame::Owned)]),
        (frame, CONST | 1 << 10, &[What::Bits(1 << 10)]),
        // PAT, which stands where others have PSE.
        (frame, CONST | entry::PSE, &[What::Bits(entry::PSE)]),
        // What Xen and the processor add.
        (frame, CONST | 1 << 52 | 1 << 8 | 1 << 6 | 1 << 2, &[]),
        (table, CONST, &[]),
        (table, DATA, &[What::WritableAlias(Frame::Table)]),
        (rodata, CONST, &[]),
        (rodata, DATA, &[What::WritableAlias(Frame::ImageConst)]),
        (text, CODE, &[]),
        (list, CONST, &[]),
        (list, DATA, &[What::WritableAlias(Frame::P2m)]),
        (free, CONST, &[What::FreeFrame]),
        (free, DATA, &[What::FreeFrame]),
    ];
    for (pfn, flags, what) in cases {
        let word = of(&world, pfn, flags);
        assert_eq!(with(&mut world, place, word), found(what), "{word:#x}");
    }
    let foreign = world.model.foreign_mfn().as_u64() << 12 | CONST;
    assert_eq!(with(&mut world, place, foreign), found(&[What::Foreign]));
    // In the fixmap it may be whose it likes.
    let place = pte(&world, FIXMAP.start + 5 * PAGE);
    assert_eq!(with(&mut world, place, foreign), []);
    // An entry that is not present has nothing in it.
    for word in [2, of(&world, frame, 0)] {
        assert_eq!(with(&mut world, place, word).len(), 1);
        let place = pte(&world, va);
        assert_eq!(with(&mut world, place, word), found(&[What::Bits(word)]));
    }
}

#[test]
fn the_direct_map_has_each_frame_as_its_record_says() {
    let mut world = world();
    let frame = world.frames(1)[0];
    let root = world.tables.root();
    let window = |pfn: Pfn| DIRECT.start + pfn.as_u64() * PAGE;
    let place = pte(&world, window(frame));
    let read_only = of(&world, frame, CONST);
    let va = window(frame);
    assert_eq!(
        with(&mut world, place, read_only),
        [(va, What::Window(Frame::Owned))]
    );
    // Another frame in its place is an alias of that.
    let (place, va) = (pte(&world, window(root)), window(root));
    let writable = of(&world, root, DATA);
    assert_eq!(
        with(&mut world, place, writable),
        [
            (va, What::WritableAlias(Frame::Table)),
            (va, What::Window(Frame::Table))
        ]
    );
}

#[test]
fn an_entry_that_refers_to_a_table_is_judged() {
    let mut world = world();
    spoilt(&mut world);
    let frames = world.frames(1);
    world.map(BASE + SPAN, &frames, Flags::DATA).unwrap();
    let slot = |world: &World, va| world.tables.pmd_slot(va).unwrap().machine();
    let (place, va) = (slot(&world, BASE + 2 * SPAN), BASE + 2 * SPAN);
    let entry = world.tables.get(world.tables.pmd_slot(BASE).unwrap());
    let table = world.tables.pmd_val(entry).unwrap().pfn;
    // One more reference than the record has, and one less.
    let more = of(&world, table, TABLE);
    assert_eq!(with(&mut world, place, more), [(0, What::References)]);
    let twice = slot(&world, BASE + SPAN);
    assert_eq!(with(&mut world, twice, more), [(0, What::References)]);
    assert_eq!(with(&mut world, twice, 0), [(0, What::References)]);
    // No table, and one of another level.
    let owned = State::of(Frame::Owned);
    let word = of(&world, frames[0], TABLE);
    assert_eq!(
        with(&mut world, place, word),
        [(va, What::NotATable(owned))]
    );
    let root = world.tables.root();
    let (state, _) = world.tables.frames().states(root).unwrap();
    let word = of(&world, root, TABLE);
    assert_eq!(
        with(&mut world, place, word),
        [(va, What::NotATable(state))]
    );
    let foreign = world.model.foreign_mfn().as_u64() << 12 | TABLE;
    assert_eq!(with(&mut world, place, foreign), [(va, What::Foreign)]);
    let large = of(&world, frames[0], CONST | entry::PSE);
    assert_eq!(with(&mut world, place, large), [(va, What::Large)]);
    let first = slot(&world, BASE);
    let bits = of(&world, table, TABLE | 1 << 11);
    let found = with(&mut world, first, bits);
    assert_eq!(found, [(BASE, What::Bits(1 << 11))]);
    // What it lets through counts for the pages below: without NX a page below has none either.
    let constant = of(&world, table, Flags::PRESENT.bits());
    let found = with(&mut world, first, constant);
    assert_eq!(found, [], "data that cannot be written is no harm");
}

/// A frame whose record no chunk of the direct map has brought yet.
#[test]
fn a_table_without_a_record_is_out_of_reach() {
    let mut world = World::fast(&small(Kind::DomU, 64 * MIB));
    let frames = world.frames(1);
    world.map(BASE, &frames, Flags::DATA).unwrap();
    let mapped = world.tables.frames().counts().mapped;
    let far = Pfn::truncate(mapped + 700);
    let va = BASE + SPAN;
    let place = world.tables.pmd_slot(va).unwrap().machine();
    let word = of(&world, far, TABLE);
    assert_eq!(with(&mut world, place, word), [(va, What::OutOfReach)]);
    // A page of it is nothing to be said against.
    let place = pte(&world, BASE);
    let word = of(&world, far, DATA);
    assert_eq!(with(&mut world, place, word), []);
}

/// Xen maps the p2m list as it likes, read-only.
#[test]
fn large_pages_are_the_p2m_lists_and_read_only() {
    let layout = Layout {
        large_p2m: true,
        ..small(Kind::Dom0, 1024 * MIB + 100)
    };
    let mut world = World::fast(&layout).populated();
    let clean = audit(&mut world);
    assert!(clean.is_clean(), "{clean}");
    let pgd = world.tables.pgd_offset(P2M.start).unwrap();
    let p4d = world.tables.p4d_offset(pgd, P2M.start).unwrap();
    let (place, word) = (p4d.machine(), world.tables.get(p4d).bits());
    let found = with(&mut world, place, word | entry::RW);
    assert!(!found.is_empty());
    assert!(found.iter().all(|(va, _)| P2M.contains(va)), "{found:?}");
}

/// What user mode's tables lead to is user mode's half.
#[test]
fn user_mode_reaches_nothing_of_the_kernels() {
    let mut world = world();
    let space = world.tables.create_space().unwrap();
    let clean = audit(&mut world);
    assert!(clean.is_clean(), "{clean}");
    let user = world.tables.mfn(space.roots().user.unwrap()).unwrap();
    let kernel: Mfn = world.tables.mfn(world.tables.root()).unwrap();
    let index = (DIRECT.start >> 39 & 511) as usize;
    let [from, to] = [kernel, user].map(|root| MachAddr::of_entry(root, index));
    let word = poke(&world, from, 0);
    poke(&world, from, word);
    assert_eq!(poke(&world, to, 0), 0);
    let found = with(&mut world, to, word);
    assert_eq!(
        found,
        [
            (DIRECT.start, What::UserReachesKernel),
            (0, What::References)
        ]
    );
    // Nor by a table that the kernel's root does not have.
    let frames = world.frames(1);
    world.map(BASE, &frames, Flags::DATA).unwrap();
    let pgd = world.tables.pgd_offset(BASE).unwrap();
    let pud = world.tables.p4d_offset(pgd, BASE).unwrap();
    let word = world.tables.get(pud).bits();
    let place = MachAddr::of_entry(user, 300);
    poke(&world, place, word);
    let report = audit(&mut world);
    poke(&world, place, 0);
    let first = report.first[0];
    let va = 300 << 39 | 0xffff << 48;
    assert_eq!((first.va, first.what), (va, What::UserReachesKernel));
    world.tables.destroy_space(space).unwrap();
}

/// What a space's root has of its own is looked at, also in the half that all have alike.
#[test]
fn a_root_that_differs_from_the_others_is_walked() {
    let mut world = world();
    let space = world.tables.create_space().unwrap();
    let [from, to] = [DIRECT.start, BASE].map(|va| (va >> 39 & 511) as usize);
    let roots = [world.tables.root(), space.roots().kernel];
    let [boot, kernel] = roots.map(|root| world.tables.mfn(root).unwrap());
    let from = MachAddr::of_entry(boot, from);
    let word = poke(&world, from, 0);
    poke(&world, from, word);
    let place = MachAddr::of_entry(kernel, to);
    let before = poke(&world, place, word);
    let report = audit(&mut world);
    poke(&world, place, before);
    let free = report.first.iter().find(|f| f.what == What::FreeFrame);
    assert!(free.is_some(), "{report}");
    assert!(audit(&mut world).is_clean());
    world.tables.destroy_space(space).unwrap();
}

/// Where there is no memory there is no machine frame; anywhere else both lists have to agree.
#[test]
fn frames_on_which_the_lists_disagree_are_found() {
    let hole = 20 * MIB + 5;
    let holes = std::iter::once(hole..hole + 1);
    let layout = small(Kind::DomU, 24 * MIB);
    let mut world = World::with_holes(&layout, holes.collect()).populated();
    let clean = audit(&mut world);
    assert!(clean.is_clean(), "{clean}");
    let record = State::of(Frame::Module);
    let frames = world.tables.frames();
    frames.set(Pfn::truncate(hole), record).unwrap();
    let report = audit(&mut world);
    let found: Vec<_> = report.first.iter().map(|f| (f.va, f.what)).collect();
    assert_eq!(found, [(DIRECT.start + hole * PAGE, What::FrameMaps)]);
}

#[test]
fn plans_that_are_not_applied_are_found() {
    let mut world = world();
    let frame = world.frames(1)[0];
    let va = DIRECT.start + frame.as_u64() * PAGE;
    let frames = world.tables.frames();
    let mut log = Log::new();
    log.plan(frames, &[(frame, Transition::Seal(1))]).unwrap();
    let report = audit(&mut world);
    let found: Vec<_> = report.first.iter().map(|f| (f.va, f.what)).collect();
    assert_eq!(found, [(va, What::Unapplied)], "{report}");
}

/// A record that counts a reference too many, or a table that none refers to.
#[test]
fn records_that_count_wrongly_are_found() {
    let mut world = world();
    spoilt(&mut world);
    let entry = world.tables.get(world.tables.pmd_slot(BASE).unwrap());
    let table = world.tables.pmd_val(entry).unwrap().pfn;
    for links in [0, 2, 3] {
        world
            .tables
            .frames()
            .set(table, State::table(1, links, false))
            .unwrap();
        let report = audit(&mut world);
        let found: Vec<_> = report.first.iter().map(|f| (f.va, f.what)).collect();
        assert_eq!(found, [(0, What::References)], "{links}: {report}");
    }
}

/// All findings are counted, and the first are told; so are tables and pages.
#[test]
fn an_audit_tells_how_much_it_saw() {
    let mut world = world();
    let frames = world.frames(20);
    let before = audit(&mut world);
    // Those of Xen's that map the p2m list are not followed.
    let pages = expect::all_leaves(&world)
        .iter()
        .filter(|leaf| !P2M.contains(&leaf.va))
        .count() as u64;
    assert_eq!(before.pages, pages);
    let tables = expect::census(&world);
    let tables: u64 = tables
        .iter()
        .filter(|(state, _)| state.contains("links"))
        .map(|(_, count)| count)
        .sum();
    assert_eq!(before.tables, tables);
    world.map(BASE, &frames, Flags::DATA).unwrap();
    let after = audit(&mut world);
    assert_eq!((after.pages, after.tables), (pages + 20, tables + 2));
    // The kernel's half is looked at once, however many spaces there are.
    let space = world.tables.create_space().unwrap();
    let with_space = audit(&mut world);
    assert_eq!(
        (with_space.pages, with_space.tables),
        (pages + 20, tables + 4)
    );
    world.tables.destroy_space(space).unwrap();
    for page in 0..20 {
        let word = of(&world, frames[page as usize], CODE);
        poke(&world, pte(&world, BASE + page * PAGE), word);
    }
    let report = audit(&mut world);
    assert_eq!((report.findings, report.is_clean()), (20, false));
    let told = report.first.iter().map(|finding| finding.va);
    assert!(told.eq((0..8).map(|page| BASE + page * PAGE)));
}
