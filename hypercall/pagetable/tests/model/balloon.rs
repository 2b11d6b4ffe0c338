//! Memory that goes back to Xen and comes again: records, direct map, p2m list and Xen's counts in step,
//! whatever Xen refuses.

use crate::common::{MIB, World, expect, small};
use hypercall::{Errno, Op, Pfn, memory};
use model::{Injection, Kind, Layout};
use pagetable::MmError;
use pagetable::balloon::{BATCH, Moved};
use pagetable::machine::Machine;
use pagetable::state::Kind as Frame;

const KEPT: u64 = 300;
const ERRNO: Errno = Errno::EBUSY;

/// Everything that holds whenever nothing is under way: the counts agree with the records, with the list
/// and with Xen.
fn in_step(world: &World, what: &str) {
    expect::clean(world);
    let (frames, machine) = (world.tables.frames(), world.tables.machine());
    let counts = frames.counts();
    let mut given = 0;
    for pfn in (0..counts.mapped).map(Pfn::truncate) {
        let (state, _) = frames.states(pfn).unwrap();
        let is_given = state.kind == Frame::Given;
        given += u64::from(is_given);
        let mfn = machine.mfn(pfn);
        assert_eq!(mfn.is_none(), is_given, "{what}: pfn {pfn} is {state}");
        let back = mfn.map(|mfn| machine.pfn(mfn));
        assert_eq!(back, mfn.map(|_| Some(pfn)), "{what}: the M2P of pfn {pfn}");
    }
    assert_eq!(counts.given, given, "{what}");
    let xen = crate::common::Xen(world.model.clone());
    let has = memory::current_reservation(&xen).unwrap();
    assert_eq!(has, counts.total - given, "{what}: what Xen counts");
}

/// Gives back all that can be spared.
fn shrink(world: &mut World) -> usize {
    let mut gone = 0;
    loop {
        let moved = world.tables.give_back(usize::MAX, KEPT).unwrap();
        assert_eq!(moved.refused, None);
        gone += moved.frames;
        if moved.frames == 0 {
            return gone;
        }
    }
}

fn grow(world: &mut World) -> usize {
    let mut come = 0;
    loop {
        match world.tables.regain(usize::MAX).unwrap() {
            Moved { frames: 0, .. } => return come,
            moved => come += moved.frames,
        }
    }
}

#[test]
fn memory_goes_and_comes_again() {
    for kind in [Kind::DomU, Kind::Dom0, Kind::Shim] {
        for pages in [16 * MIB, 33 * MIB + 7] {
            let mut world = World::new(&small(kind, pages));
            let mut free = None;
            for round in 0..3 {
                let what = format!("{kind:?}, {pages} pages, round {round}");
                let gone = shrink(&mut world);
                assert!(gone as u64 > pages / 2, "{what}: {gone}");
                let left = world.tables.frames().obtainable();
                assert!((KEPT..KEPT + 4).contains(&left), "{what}: {left} are left");
                in_step(&world, &what);
                assert_eq!(grow(&mut world), gone, "{what}");
                in_step(&world, &what);
                let now = world.tables.frames().counts();
                assert_eq!(*free.get_or_insert(now), now, "{what}");
            }
            // What came is memory like any other.
            let frames = world.named_frames(600);
            world
                .map(crate::common::BASE, &frames, pagetable::Flags::DATA)
                .unwrap();
            in_step(&world, "in use");
        }
    }
}

/// As [`small`], on a host with more memory.
fn roomy(kind: Kind, pages: u64) -> Layout {
    Layout {
        spare_pages: 2 * pages,
        ..small(kind, pages)
    }
}

/// Numbers up to a count, and memory behind them.
fn lengthen(world: &mut World, to: u64) {
    world.model.limit_pages(to);
    while world.tables.frames().counts().total < to {
        let before = world.tables.frames().counts().total;
        let now = world.tables.lengthen(to).unwrap();
        assert!(now > before && now - before <= 512 && now <= to, "{now}");
        in_step(world, "longer");
        grow(world);
        in_step(world, "filled");
    }
    assert_eq!(world.tables.lengthen(to).unwrap(), to);
}

#[test]
fn a_domain_gets_more_memory_than_it_was_built_with() {
    for kind in [Kind::DomU, Kind::Shim] {
        for pages in [16 * MIB, 16 * MIB + 7, 33 * MIB + 511] {
            let mut world = World::new(&roomy(kind, pages));
            lengthen(&mut world, pages + 3);
            lengthen(&mut world, 2 * pages + 100);
            let counts = world.tables.frames().counts();
            assert_eq!((counts.total, counts.given), (2 * pages + 100, 0));
            assert_eq!(counts.mapped, counts.total);
            let gone = shrink(&mut world);
            assert!(gone as u64 > pages, "{gone}");
            in_step(&world, "less again");
            assert_eq!(grow(&mut world), gone);
            in_step(&world, "all of it");
            // It is memory like any other.
            let frames = world.named_frames(pages as usize);
            assert!(frames.iter().any(|pfn| pfn.as_u64() > pages + 10));
            world
                .map(crate::common::BASE, &frames, pagetable::Flags::DATA)
                .unwrap();
            in_step(&world, "in use");
        }
    }
}

/// Whatever is refused of it, the domain has as many numbers as before, and the next try succeeds.
#[test]
fn every_request_for_more_numbers_may_be_refused() {
    let mut places = 0;
    for pages in [10 * MIB, 10 * MIB + 7] {
        for op in [
            Op::MmuUpdate,
            Op::UpdateVaMapping,
            Op::MmuextOp,
            Op::Multicall,
        ] {
            for index in std::iter::once(None).chain((0..3).map(Some)) {
                for nth in 1.. {
                    let mut world = World::fast(&roomy(Kind::DomU, pages)).populated();
                    let before = world.tables.frames().counts();
                    world.model.inject(Injection {
                        nth,
                        index,
                        ..Injection::call(op, ERRNO)
                    });
                    let result = world.tables.lengthen(12 * MIB);
                    if world.model.clear_injections() > 0 {
                        break;
                    }
                    places += 1;
                    let what = format!("{pages} pages, {op:?} {index:?} {nth}");
                    if result.is_err() {
                        in_step(&world, &what);
                        assert_eq!(world.tables.frames().counts().total, before.total, "{what}");
                    }
                    lengthen(&mut world, 12 * MIB);
                }
            }
        }
    }
    assert!(places > 20, "{places} places");
}

#[test]
fn what_goes_tells_nothing() {
    let mut world = World::new(&small(Kind::DomU, 16 * MIB));
    for pfn in world.named_frames(200) {
        // SAFETY: the frame was handed out above.
        let frame = unsafe { pagetable::frames::Frame::from_pfn(pfn) };
        world.tables.free_frame(frame).unwrap();
    }
    let before: Vec<_> = (0..16 * MIB)
        .map(|pfn| world.model.mfn(Pfn::truncate(pfn)).unwrap())
        .collect();
    let gone = shrink(&mut world);
    let mut seen = 0;
    for (pfn, mfn) in before.iter().enumerate() {
        if world
            .tables
            .machine()
            .mfn(Pfn::truncate(pfn as u64))
            .is_none()
        {
            // SAFETY: the model's memory, which nobody uses meanwhile.
            let words = unsafe { *world.model.frame_ptr(*mfn) };
            assert_eq!(words, [0; 512], "pfn {pfn}");
            seen += 1;
        }
    }
    assert_eq!(seen, gone);
}

#[test]
fn only_what_can_be_spared_goes() {
    let mut world = World::new(&small(Kind::DomU, 16 * MIB));
    let all = world.tables.frames().obtainable();
    let moved = world.tables.give_back(BATCH, all).unwrap();
    assert_eq!(moved, Moved::default());
    let moved = world.tables.give_back(BATCH, all - 5).unwrap();
    assert!((4..=5).contains(&moved.frames), "{moved:?}");
    assert_eq!(world.tables.regain(2).unwrap().frames, 2);
    in_step(&world, "two of them came");
    assert_eq!(grow(&mut world), moved.frames - 2);
}

/// Xen does a part, or none.
#[test]
fn xen_may_do_less_than_it_is_asked_for() {
    let mut world = World::new(&small(Kind::DomU, 16 * MIB)).populated();
    let refusal = Injection::call(Op::MemoryOp, ERRNO);
    world.model.inject(refusal);
    let moved = world.tables.give_back(50, KEPT).unwrap();
    assert_eq!((moved.frames, moved.refused.unwrap().errno), (0, ERRNO));
    in_step(&world, "none went");
    assert_eq!(world.tables.give_back(50, KEPT).unwrap().frames, 50);
    world.model.inject(refusal);
    let moved = world.tables.regain(50).unwrap();
    assert_eq!((moved.frames, moved.refused.unwrap().errno), (0, ERRNO));
    in_step(&world, "none came");
    // Another domain has taken the rest.
    world.model.limit_pages(16 * MIB - 20);
    let moved = world.tables.regain(50).unwrap();
    assert_eq!((moved.frames, moved.refused), (30, None));
    in_step(&world, "a part came");
    assert_eq!(world.tables.regain(50).unwrap(), Moved::default());
    world.model.limit_pages(16 * MIB);
    assert_eq!(grow(&mut world), 20);
    in_step(&world, "all came");
}

/// Every request of either way is refused once: the error names it, everything is in step, no frame is
/// lost, and the same works again.
#[test]
fn every_request_may_be_refused() {
    let mut places = 0;
    for comes in [false, true] {
        for op in [
            Op::MmuUpdate,
            Op::UpdateVaMapping,
            Op::MmuextOp,
            Op::Multicall,
        ] {
            for index in std::iter::once(None).chain((0..30).map(Some)) {
                for nth in 1.. {
                    let failure = Injection {
                        nth,
                        index,
                        ..Injection::call(op, ERRNO)
                    };
                    if !refused(comes, failure) {
                        break;
                    }
                    places += 1;
                }
            }
        }
    }
    assert!(places > 60, "{places} places");
}

fn refused(comes: bool, failure: Injection) -> bool {
    let what = format!("{} {failure:?}", if comes { "comes" } else { "goes" });
    let mut world = World::fast(&small(Kind::DomU, 10 * MIB)).populated();
    if comes {
        assert_eq!(world.tables.give_back(40, KEPT).unwrap().frames, 40);
    }
    let before = world.tables.frames().counts();
    world.model.inject(failure);
    let act = |world: &mut World| match comes {
        false => world.tables.give_back(40, KEPT),
        true => world.tables.regain(40),
    };
    let result = act(&mut world);
    if world.model.clear_injections() > 0 {
        assert_eq!(result.unwrap().frames, 40, "{what}");
        return false;
    }
    match result {
        Err(MmError::Flush(error)) => {
            assert_eq!(error.error.errno, ERRNO, "{what}: {error}");
            assert!(!error.tlb_stale, "{what}: {error}");
        }
        // The list was made read-only at the second try.
        Ok(moved) => assert_eq!(moved.frames, 40, "{what}"),
        Err(e) => panic!("{what}: {e}"),
    }
    in_step(&world, &what);
    let after = world.tables.frames().counts();
    assert_eq!(
        after.free + after.given,
        before.free + before.given,
        "{what}: no frame is lost"
    );
    act(&mut world).unwrap_or_else(|e| panic!("{what}, again: {e}"));
    in_step(&world, &what);
    true
}
