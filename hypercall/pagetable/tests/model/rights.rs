//! Rights of pages, where every way to a frame counts: aliases, whole tables, the direct map.

use crate::common::{BASE, PAGE, World, expect};
use hypercall::Pfn;
use model::{Access, Mode as Cpu};
use pagetable::fuzz::{Probe, in_table};
use pagetable::machine::Machine;
use pagetable::{Flags, MmError};

const NONE: Flags = Flags::empty();
const WRITABLE: Flags = Flags::WRITABLE;
const NX: Flags = Flags::NO_EXECUTE;

fn window(world: &World, pfn: Pfn) -> u64 {
    world.tables.machine().window(pfn)
}

/// What each of the pages' frames allows, by the page and by the direct map: (write, execute).
fn allowed(world: &World, va: u64) -> [(bool, bool); 2] {
    let (pfn, _) = world.mapped(va).unwrap();
    [va, window(world, pfn)].map(|va| {
        let can = |access| world.model.access(va, access, Cpu::Kernel).is_ok();
        (can(Access::Write), can(Access::Execute))
    })
}

const DATA: (bool, bool) = (true, false);
const CONST: (bool, bool) = (false, false);
const CODE: (bool, bool) = (false, true);

/// Pages that are changed together: few, a part of a table, and more than a table.
const SIZES: [u64; 3] = [1, 45, 600];

type SetMemory = fn(&mut World, u64, u64) -> Result<(), MmError>;

macro_rules! set_memory {
    ($name:ident) => {{
        let change: SetMemory = |world, va, pages| {
            // SAFETY: the model's memory.
            unsafe { world.tables.$name(va, pages) }?.commit(&mut world.tables)
        };
        change
    }};
}

#[test]
fn what_becomes_executable_is_writable_nowhere_until_it_is_data_again() {
    for pages in SIZES {
        let mut world = World::small().populated();
        let frames = world.named_frames(pages as usize);
        world.map(BASE, &frames, Flags::CONST).unwrap();
        // What is cached must go as well.
        let all = |world: &World, expected: [(bool, bool); 2]| {
            for page in 0..pages {
                let va = BASE + page * PAGE;
                assert_eq!(allowed(world, va), expected, "page {page} of {pages}");
            }
        };
        all(&world, [CONST, DATA]);
        set_memory!(set_memory_x)(&mut world, BASE, pages).unwrap();
        all(&world, [CODE, CONST]);
        expect::rights(&world, |_| false);
        set_memory!(set_memory_nx)(&mut world, BASE, pages).unwrap();
        all(&world, [CONST, DATA]);
        world.unmap(BASE, pages).unwrap();
        expect::clean(&world);
    }
}

#[test]
fn what_is_writable_does_not_become_executable() {
    for pages in SIZES {
        let mut world = World::small().populated();
        let frames = world.named_frames(pages as usize);
        world.map(BASE, &frames, Flags::CONST).unwrap();
        let last = BASE + (pages - 1) * PAGE;
        world.protect(last, 1, WRITABLE, NONE).unwrap();
        let error = set_memory!(set_memory_x)(&mut world, BASE, pages);
        assert!(
            matches!(error, Err(MmError::WriteAndExecute { va }) if va == last),
            "{error:?}"
        );
        expect::clean(&world);
    }
}

#[test]
fn the_image_changes_in_both_places() {
    let mut world = World::small().populated();
    let (data, rodata) = (world.image.data.start, world.image.rodata.start);
    for pages in [1, 3] {
        assert_eq!(allowed(&world, data), [DATA, DATA]);
        set_memory!(set_memory_ro)(&mut world, data, pages).unwrap();
        for page in 0..pages {
            assert_eq!(allowed(&world, data + page * PAGE), [CONST, CONST]);
        }
        assert_eq!(allowed(&world, data + pages * PAGE), [DATA, DATA]);
        set_memory!(set_memory_rw)(&mut world, data, pages).unwrap();
        assert_eq!(allowed(&world, data), [DATA, DATA]);
        expect::clean(&world);
    }
    let error = set_memory!(set_memory_rw)(&mut world, rodata, 1);
    assert!(
        matches!(error, Err(MmError::MustStayReadOnly { va }) if va == rodata),
        "{error:?}"
    );
    expect::clean(&world);
}

/// Outside of the image a page's rights to write are its own.
#[test]
fn elsewhere_the_direct_map_keeps_its_rights() {
    let mut world = World::small().populated();
    let frames = world.named_frames(2);
    world.map(BASE, &frames, Flags::DATA).unwrap();
    set_memory!(set_memory_ro)(&mut world, BASE, 2).unwrap();
    assert_eq!(allowed(&world, BASE), [CONST, DATA]);
    set_memory!(set_memory_rw)(&mut world, BASE, 2).unwrap();
    assert_eq!(allowed(&world, BASE), [DATA, DATA]);
    let missing = set_memory!(set_memory_ro)(&mut world, BASE, 3);
    assert!(
        matches!(missing, Err(MmError::NotMapped { .. })),
        "{missing:?}"
    );
    expect::clean(&world);
}

/// Changes of so many pages that their table is replaced look at each page like those of one.
#[test]
fn whole_tables_get_no_rights_that_a_page_may_not_have() {
    for pages in [1, 2, 512, 1300] {
        let mut world = World::small().populated();
        let frames = world.frames(pages as usize);
        let mid = BASE + pages / 2 * PAGE;
        let refused = |world: &mut World, change: (Flags, Flags)| {
            let result = world.protect(BASE, pages, change.0, change.1);
            // Pages before the one that is refused may have been changed.
            expect::rights(world, |_| true);
            result.unwrap_err()
        };
        world.map(BASE, &frames, Flags::CONST).unwrap();
        world.protect(BASE, 1, WRITABLE, NONE).unwrap();
        let error = refused(&mut world, (NONE, NX));
        assert!(
            matches!(error, MmError::WriteAndExecute { va: BASE }),
            "{pages}: {error}"
        );
        world.protect(BASE, pages, NX, WRITABLE).unwrap();
        let error = refused(&mut world, (NONE, Flags::PRESENT));
        assert!(
            matches!(error, MmError::NotMapped { .. }),
            "{pages}: {error}"
        );
        // One of the pages is of a table, another of the kernel's constants.
        let table = world.tables.root();
        let constant =
            Pfn::truncate((world.image.rodata.start - crate::common::layout::IMAGE.start) / PAGE);
        for frame in [table, constant] {
            world.unmap(mid, 1).unwrap();
            world.map(mid, &[frame], Flags::CONST).unwrap();
            let error = refused(&mut world, (WRITABLE, NONE));
            assert!(
                matches!(error, MmError::MustStayReadOnly { va } if va == mid),
                "{pages}: {error}"
            );
            world.protect(BASE, pages, NX, WRITABLE).unwrap();
        }
        world.unmap(mid, 1).unwrap();
        for change in [(WRITABLE, NONE), (NONE, WRITABLE), (NONE, NX)] {
            if pages > 1 {
                let error = refused(&mut world, change);
                assert!(
                    matches!(error, MmError::NotMapped { va } if va == mid),
                    "{pages}: {error}"
                );
            }
        }
        world.unmap(BASE, pages).unwrap();
        expect::clean(&world);
    }
}

/// A table that is reached in two ways is changed in place, so that both ways show the change.
#[test]
fn a_table_that_is_shared_is_not_replaced() {
    let alias = BASE + 512 * PAGE;
    let mut world = World::small().populated();
    let frames = world.named_frames(512);
    world.map(BASE, &frames, Flags::DATA).unwrap();
    let entry = world.tables.get(world.tables.pmd_slot(BASE).unwrap());
    let place = world.tables.ensure_pmd(alias).unwrap().place();
    let value = world.tables.pmd_val(entry).unwrap();
    let entry = world.tables.make_pmd(value).unwrap();
    // SAFETY: nothing is mapped at the second place.
    unsafe { world.tables.set_pmd(place, entry) }.unwrap();
    let same = |world: &World, page: u64| {
        let [one, two] = [BASE, alias].map(|va| in_table(&world.tables, va + page * PAGE));
        let [one, two] = [one.unwrap(), two.unwrap()];
        assert!(one.same(two), "page {page}: {one:?} and {two:?}");
        one
    };
    world.protect(BASE, 512, NONE, WRITABLE).unwrap();
    for page in [0, 300, 511] {
        assert!(!same(&world, page).flags().contains(WRITABLE));
        assert!(!world.probe().store(alias + page * PAGE, 0));
    }
    world.unmap(alias + PAGE, 400).unwrap();
    assert!(!same(&world, 1).is_present() && same(&world, 401).is_present());
    expect::sound(&world);
    // Each way is given up for itself, and the table with the last.
    world.unmap(alias, 512).unwrap();
    assert_eq!(world.mapped(alias), None);
    assert!(world.mapped(BASE).is_some());
    expect::sound(&world);
    world.unmap(BASE, 512).unwrap();
    expect::clean(&world);
}

/// The tables of the direct map change as frames become tables, the copy among them.
#[test]
fn the_tables_of_the_direct_map_stay_where_they_are() {
    let mut world = World::small().populated();
    // The frame that is handed out next, and so its chunk.
    let frame = world.tables.alloc_frame().unwrap();
    let first = frame.pfn().as_u64() & !511;
    world.tables.free_frame(frame).unwrap();
    let va = window(&world, Pfn::truncate(first));
    let table = |world: &World| world.tables.get(world.tables.pmd_slot(va).unwrap()).mfn();
    let before = (table(&world), world.tables.frames().counts().free);
    // Any change of the whole chunk that leaves what must be writable so.
    world.protect(va, 512, Flags::SOFTWARE0, NONE).unwrap();
    assert_eq!((table(&world), world.tables.frames().counts().free), before);
    expect::clean(&world);
    world.protect(va, 512, NONE, Flags::SOFTWARE0).unwrap();
    assert_eq!((table(&world), world.tables.frames().counts().free), before);
    expect::clean(&world);
}

/// A frame with two pages besides the direct map's: one that is writable keeps it from being code,
/// one that is executable keeps it from being data.
#[test]
fn aliases_decide_together() {
    let mut world = World::small().populated();
    let frames = world.named_frames(1);
    let (one, two) = (BASE, BASE + 700 * PAGE);
    world.map(one, &frames, Flags::CONST).unwrap();
    world.map(two, &frames, Flags::DATA).unwrap();
    let made = set_memory!(set_memory_x)(&mut world, one, 1);
    assert!(
        matches!(made, Err(MmError::WriteAndExecute { va }) if va == two),
        "{made:?}"
    );
    assert_eq!(allowed(&world, one), [CONST, DATA]);
    world.protect(two, 1, NONE, WRITABLE).unwrap();
    for va in [one, two] {
        set_memory!(set_memory_x)(&mut world, va, 1).unwrap();
    }
    set_memory!(set_memory_nx)(&mut world, one, 1).unwrap();
    assert_eq!(allowed(&world, one), [CONST, CONST]);
    assert_eq!(allowed(&world, two), [CODE, CONST]);
    set_memory!(set_memory_nx)(&mut world, two, 1).unwrap();
    assert_eq!(allowed(&world, two), [CONST, DATA]);
    expect::clean(&world);
}

/// Memory that its holder has both written and executed stays so when it may not become code: the
/// refusal leaves no frame read-only in the direct map that a page can write to.
#[test]
fn a_refusal_freezes_nothing_that_is_writable() {
    for pages in SIZES {
        let mut world = World::small().populated();
        let frames = world.named_frames(pages as usize);
        let (one, two) = (BASE, BASE + 700 * PAGE);
        world.map(one, &frames, Flags::CODE).unwrap();
        let last = pages - 1;
        world
            .map(two, &frames[last as usize..], Flags::DATA)
            .unwrap();
        let made = set_memory!(set_memory_x)(&mut world, one, pages);
        assert!(
            matches!(made, Err(MmError::WriteAndExecute { va }) if va == two),
            "{made:?}"
        );
        assert_eq!(allowed(&world, one + last * PAGE), [CODE, DATA]);
        assert_eq!(allowed(&world, two), [DATA, DATA]);
        // Once nothing writes to it, it may.
        world.unmap(two, 1).unwrap();
        set_memory!(set_memory_x)(&mut world, one, pages).unwrap();
        expect::rights(&world, |_| false);
        assert_eq!(allowed(&world, one + last * PAGE), [CODE, CONST]);
        set_memory!(set_memory_nx)(&mut world, one, pages).unwrap();
        world.unmap(one, pages).unwrap();
        expect::clean(&world);
    }
}

/// What was code before stays code when others of the pages may not become it.
#[test]
fn a_refusal_leaves_code_as_it_is() {
    let mut world = World::small().populated();
    let frames = world.named_frames(2);
    let (both, code, data) = (BASE, BASE + 600 * PAGE, BASE + 700 * PAGE);
    world.map(both, &frames, Flags::CONST).unwrap();
    world.map(code, &frames[..1], Flags::CONST).unwrap();
    world.map(data, &frames[1..], Flags::DATA).unwrap();
    set_memory!(set_memory_x)(&mut world, code, 1).unwrap();
    let made = set_memory!(set_memory_x)(&mut world, both, 2);
    assert!(
        matches!(made, Err(MmError::WriteAndExecute { va }) if va == data),
        "{made:?}"
    );
    assert_eq!(allowed(&world, code), [CODE, CONST]);
    assert_eq!(allowed(&world, both), [CONST, CONST]);
    assert_eq!(allowed(&world, data), [DATA, DATA]);
    expect::clean(&world);
}
