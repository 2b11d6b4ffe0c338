//! Two vCPUs' tables of one domain, by turns: each has its queue and what it remembers, the domain is
//! one.

use std::collections::HashMap;
use std::rc::Rc;

use crate::common::{BASE, MIB, ModelMachine, PAGE, World, Xen, small};
use hypercall::{Errno, Op as Call};
use model::{Injection, Kind};
use pagetable::fuzz::{Mode, Probe, is_lazy, mode};
use pagetable::{Flags, MmError, Tables};
use proptest::prelude::*;

/// A table's worth of pages.
const SPAN: u64 = 512 * PAGE;
const SPANS: u64 = 3;
/// Pages of a span that are used: below what is done with whole tables.
const PAGES: u64 = 5;

#[derive(Clone, Copy, Debug)]
enum Op {
    Map {
        span: u64,
        page: u64,
        frame: usize,
    },
    Unmap {
        span: u64,
        page: u64,
    },
    /// The pages of a span, and with them its table, to another.
    Move {
        from: u64,
        to: u64,
    },
    /// A space, worked on and ended.
    Space,
}

fn op() -> impl Strategy<Value = Op> {
    let span = 0..SPANS;
    prop_oneof![
        4 => (span.clone(), 0..PAGES, 0..8_usize)
            .prop_map(|(span, page, frame)| Op::Map { span, page, frame }),
        2 => (span.clone(), 0..PAGES).prop_map(|(span, page)| Op::Unmap { span, page }),
        3 => (span.clone(), span).prop_map(|(from, to)| Op::Move { from, to }),
        1 => Just(Op::Space),
    ]
}

/// A second vCPU of the world's domain. It must go before the world does.
fn second(world: &World) -> Tables<ModelMachine> {
    let hv = Xen(Rc::clone(&world.model));
    // SAFETY: both are used by turns, and flushed before the other's.
    let mut tables = unsafe { Tables::new(hv, world.tables.domain()) };
    tables.join().unwrap();
    tables
}

fn va(span: u64, page: u64) -> u64 {
    BASE + span * SPAN + page * PAGE
}

/// What is mapped where, by the test's own account.
type Mapped = HashMap<(u64, u64), hypercall::Pfn>;

fn act(
    tables: &mut Tables<ModelMachine>,
    frames: &[hypercall::Pfn],
    mapped: &mut Mapped,
    op: Op,
) -> Result<(), MmError> {
    match op {
        Op::Map { span, page, frame } if !mapped.contains_key(&(span, page)) => {
            mapped.insert((span, page), frames[frame]);
            let frame = [frames[frame]].into_iter();
            // SAFETY: the model's memory.
            unsafe { tables.map(va(span, page), frame, Flags::DATA) }?.commit(tables)
        }
        Op::Unmap { span, page } if mapped.remove(&(span, page)).is_some() => {
            // SAFETY: nothing runs on the model.
            unsafe { tables.unmap(va(span, page), 1) }?.commit(tables)
        }
        Op::Move { from, to } if mapped.keys().all(|(span, _)| *span != to) => {
            let pages: Vec<_> = (0..PAGES)
                .filter_map(|page| Some((page, mapped.remove(&(from, page))?)))
                .collect();
            if pages.is_empty() {
                return Ok(());
            }
            mapped.extend(pages.into_iter().map(|(page, frame)| ((to, page), frame)));
            // SAFETY: nothing runs on the model.
            unsafe { tables.move_pages(va(from, 0), va(to, 0), 512) }?.commit(tables)
        }
        Op::Space => {
            let space = tables.create_space()?;
            tables.in_space(&space, |tables| {
                let frame = frames[..1].iter().copied();
                // SAFETY: nothing runs on the model.
                unsafe { tables.map(PAGE, frame, Flags::DATA) }?.commit(tables)
            })?;
            tables.destroy_space(space).map_err(|refused| refused.error)
        }
        _ => Ok(()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever one vCPU does, the other goes on from there: it writes to no table that it remembers
    /// and that is no longer where it was, and records, free frames and spaces are the same for both.
    #[test]
    fn what_one_vcpu_does_the_other_finds(
        ops in prop::collection::vec((any::<bool>(), any::<bool>(), op()), 1..60),
    ) {
        let mut world = World::fast(&small(Kind::DomU, 24 * MIB)).populated();
        let frames = world.named_frames(8);
        let mut other = second(&world);
        let free = world.tables.frames().counts().free;
        let mut mapped = Mapped::new();
        for (who, lazy, op) in ops {
            let tables = if who { &mut other } else { &mut *world.tables };
            if lazy {
                mode(tables, Mode::Enter).unwrap();
            }
            let done = act(tables, &frames, &mut mapped, op);
            if lazy {
                mode(tables, Mode::Leave).unwrap();
            }
            prop_assert!(done.is_ok(), "{op:?}: {done:?}");
            let mut probe = world.probe();
            for (span, page) in (0..SPANS).flat_map(|s| (0..PAGES).map(move |p| (s, p))) {
                let expected = mapped.get(&(span, page)).copied();
                prop_assert_eq!(probe.load(va(span, page)), expected.map(|f| f.as_u64()), "{:?}", op);
                for tables in [&*world.tables, &other] {
                    let found = tables.ptep_get(va(span, page)).ok();
                    let found = found.and_then(|entry| tables.pte_val(entry));
                    prop_assert_eq!(found.map(|value| value.pfn), expected, "{:?}", op);
                }
            }
        }
        for tables in [&mut *world.tables, &mut other] {
            prop_assert!(tables.audit().unwrap().is_clean());
        }
        // No more than the tables of the spans are in use.
        let used = free - world.tables.frames().counts().free;
        prop_assert!(used <= SPANS + 3, "{used}");
    }
}

/// A vCPU joins what was taken over, and not before.
#[test]
fn a_vcpu_joins_tables_that_were_taken_over() {
    let world = World::small();
    let model = Rc::clone(&world.model);
    let mut alone = crate::common::Own::new(
        Xen(Rc::clone(&model)),
        crate::common::machine(&model, false),
    );
    assert!(matches!(alone.join(), Err(MmError::NotTakenOver)));
    let other = second(&world);
    assert_eq!(other.root(), world.tables.root());
    assert_eq!(other.fold(), world.tables.fold());
}

/// What one vCPU's lazy section has queued is sent for the other, and stays the section's: that is told
/// what Xen refused, and it is lazy as before.
#[test]
fn what_is_queued_is_sent_for_the_other() {
    for refused in [false, true] {
        let mut world = World::small().populated();
        let frames = world.named_frames(1);
        world.map(BASE, &frames, Flags::DATA).unwrap();
        let other = second(&world);
        mode(&mut world.tables, Mode::Enter).unwrap();
        // SAFETY: the model's memory.
        let change = unsafe {
            world
                .tables
                .protect(BASE, 1, Flags::empty(), Flags::WRITABLE)
        };
        // SAFETY: nobody looks before it is sent.
        unsafe { change.unwrap().defer() };
        let writes = |tables: &Tables<ModelMachine>| {
            let entry = tables.ptep_get(BASE).unwrap();
            entry.flags().contains(Flags::WRITABLE)
        };
        assert!(!writes(&world.tables) && writes(&other), "queued");
        if refused {
            // Sent for another, an update is not looked up by its address.
            let call = Injection::call(Call::MmuUpdate, Errno::ENOMEM);
            world.model.inject(call);
        }
        world.tables.send_queued().unwrap();
        world.model.clear_injections();
        assert_eq!(writes(&other), refused);
        assert_eq!(writes(&world.tables), refused);
        assert!(is_lazy(&world.tables));
        // Nothing is left to be sent, nor is anything lost by sending it again.
        world.tables.send_queued().unwrap();
        let left = mode(&mut world.tables, Mode::Leave);
        let told = matches!(left, Err(MmError::Flush(error)) if error.error.errno == Errno::ENOMEM);
        assert_eq!(told, refused, "{left:?}");
        drop(other);
        world.unmap(BASE, 1).unwrap();
    }
}
