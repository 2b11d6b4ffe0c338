//! Refusals, exhaustively: every sequence of events up to [`DEPTH`], with writes that Xen refuses.
//!
//! Each write carries its author in its value: a context or a handler. The stand-in for Xen records
//! what it carried out and what it refused. After each event of each sequence:
//!
//! 1. a handler is told of a refusal if, and only if, it has just made the request, and of no other
//!    request; what it writes otherwise is in the table when it returns;
//! 2. what contexts were told adds up: never more than was refused of their requests, and all of it
//!    as soon as nothing may wait;
//! 3. a switch says what Xen did with the new tables.
//!
//! Sequences that lead to the same state are continued once. The batch holds two updates, so that
//! filling it is among what is explored.

use std::collections::HashSet;

use crate::common::{Double, Request};
use hypercall::{
    ExtOp, FlushError, LazyMmu, Level, MachAddr, Mfn, Mmu, MmuError, Scope, SwitchOut, Update,
    VirtAddr,
    abi::mmu::{MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR},
    batch::Failed,
};

const DEPTH: usize = 9;
/// The entry to which every write is refused.
const BAD: usize = 2;
/// Added to the values that handlers write.
const BY_HANDLER: u64 = 1 << 40;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Enable,
    Disable,
    Pause,
    Resume,
    EnterIrq,
    LeaveIrq,
    Write(usize),
    WriteAndFlush(usize),
    Tlb,
    Flush,
    /// To the other context, with its queue.
    Carry,
    /// To the other context and to new tables, of whose operations Xen refuses this one.
    Tables(Option<usize>),
}

const EVENTS: [Event; 15] = [
    Event::Enable,
    Event::Disable,
    Event::Pause,
    Event::Resume,
    Event::EnterIrq,
    Event::LeaveIrq,
    Event::Write(0),
    Event::Write(BAD),
    Event::WriteAndFlush(1),
    Event::WriteAndFlush(BAD),
    Event::Tlb,
    Event::Flush,
    Event::Carry,
    Event::Tables(None),
    Event::Tables(Some(1)),
];

struct Rig<'x> {
    xen: &'x Double,
    mmu: Mmu<&'x Double, (), 2>,
    /// The lazy mode of the context that does not run.
    other: LazyMmu,
    /// Refusals that contexts were told of.
    told: usize,
    written: u64,
}

fn slot(n: usize) -> MachAddr {
    MachAddr::truncate(0x1000 + 8 * n as u64)
}

/// The requests of contexts, or of handlers, that Xen refused.
fn refused(xen: &Double, by_handler: bool) -> usize {
    let is_whose = |request: &Request| match *request {
        Request::Update { val, .. } => (val & BY_HANDLER != 0) == by_handler,
        _ => !by_handler,
    };
    let requests = xen.requests.borrow();
    let refused = requests.iter().filter(|(r, ok)| !ok && is_whose(r));
    refused.count()
}

fn bases_done(xen: &Double) -> usize {
    let is_base = |r: &Request| {
        matches!(r, Request::Ext { cmd, .. }
            if [MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR].contains(cmd))
    };
    let requests = xen.requests.borrow();
    requests.iter().filter(|(r, ok)| *ok && is_base(r)).count()
}

impl Rig<'_> {
    /// Lets `event` happen: what Xen refused, to whoever made it happen.
    fn happens(&mut self, event: Event) -> Result<(), FlushError> {
        let mmu = &mut self.mmu;
        let in_handler = mmu.lazy().irq_depth() != 0;
        let tables = [
            ExtOp::NewBaseptr(Mfn::truncate(7)),
            ExtOp::NewUserBaseptr(Some(Mfn::truncate(8))),
        ];
        // Events that fit no earlier one change nothing.
        let flushed = |error| match error {
            MmuError::Lazy(_) => Ok(()),
            MmuError::Flush(error) => Err(error),
        };
        match event {
            Event::Enable => mmu.enable().or_else(|error| flushed(error.into())),
            Event::Disable => mmu.disable().or_else(flushed),
            Event::Pause => mmu.pause().or_else(flushed),
            Event::Resume => mmu.resume().or_else(|error| flushed(error.into())),
            Event::EnterIrq => mmu.enter_irq().or_else(|error| flushed(error.into())),
            Event::LeaveIrq => mmu.leave_irq().or_else(|error| flushed(error.into())),
            Event::Write(n) | Event::WriteAndFlush(n) => {
                self.written += 1;
                let author = if in_handler { BY_HANDLER } else { 0 };
                let update = Update::new(Level::L1, slot(n), author | self.written << 12 | 1);
                if event == Event::Write(n) {
                    // SAFETY: nothing here is a page table.
                    unsafe { mmu.set(update) }
                } else {
                    // SAFETY: nothing here is a page table.
                    unsafe { mmu.set_and_flush(update, Scope::Local, VirtAddr::new(0x7000)) }
                }
            }
            Event::Tlb => mmu.flush_tlb(Scope::Local, None),
            Event::Flush => mmu.flush(),
            Event::Carry => {
                // SAFETY: no tables are changed.
                let left = unsafe { mmu.switch(self.other, SwitchOut::Carry, &[]) };
                self.switched(left.map_err(|e| (e.error, e.previous)))
            }
            Event::Tables(refused) => {
                let before = bases_done(self.xen);
                let base = [MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR];
                self.xen.refuse_cmd.set(refused.map(|n| base[n]));
                // SAFETY: nothing here is a page table.
                let left = unsafe { mmu.switch(self.other, SwitchOut::Carry, &tables) };
                self.xen.refuse_cmd.set(None);
                let done = bases_done(self.xen) - before;
                match &left {
                    Ok(_) => assert_eq!(done, 2),
                    Err(error) => {
                        assert_eq!(error.carried_out, done);
                        assert_eq!(error.previous.is_some(), done == 2);
                    }
                }
                self.switched(left.map_err(|e| (e.error, e.previous)))
            }
        }
    }

    fn switched(
        &mut self,
        left: Result<LazyMmu, (MmuError, Option<LazyMmu>)>,
    ) -> Result<(), FlushError> {
        let (previous, result) = match left {
            Ok(previous) => (Some(previous), Ok(())),
            Err((MmuError::Lazy(_), previous)) => (previous, Ok(())),
            Err((MmuError::Flush(error), previous)) => (previous, Err(error)),
        };
        self.other = previous.unwrap_or(self.other);
        result
    }
}

/// Plays `events` on a fresh system, and checks after each. Gives all that the future depends on.
fn play(events: &[Event]) -> impl Eq + std::hash::Hash + use<> {
    let xen = Double::default();
    xen.refuse_slots.borrow_mut().insert(slot(BAD).as_u64());
    let mut rig = Rig {
        xen: &xen,
        mmu: Mmu::new(&xen, ()),
        other: LazyMmu::new(),
        told: 0,
        written: 0,
    };
    for &event in events {
        let in_handler = rig.mmu.lazy().irq_depth() != 0;
        let by_handlers = refused(&xen, true);
        let result = rig.happens(event);
        let write = match event {
            Event::Write(n) | Event::WriteAndFlush(n) => Some(n),
            _ => None,
        };
        let own = refused(&xen, true) - by_handlers;
        if in_handler {
            assert_eq!(result.is_err(), write == Some(BAD), "{events:?}");
            assert_eq!(own, usize::from(write == Some(BAD)), "{events:?}");
            if let Err(error) = result {
                let counts = (error.applied, error.refused, error.skipped);
                assert_eq!(counts, (0, 1, 0), "{events:?}");
                assert!(
                    matches!(error.failed, Failed::Update { new, .. } if new & BY_HANDLER != 0),
                    "{events:?}"
                );
            }
            if let Some(n) = write.filter(|n| *n != BAD) {
                let value = xen.entry(slot(n).as_u64());
                assert_eq!(value, BY_HANDLER | rig.written << 12 | 1, "{events:?}");
            }
        } else {
            assert_eq!(own, 0, "{events:?}");
            if let Err(error) = result {
                rig.told += usize::from(error.refused);
                assert!(error.refused > 0);
            }
        }
        let owed = refused(&xen, false);
        assert!(rig.told <= owed, "told more than happened: {events:?}");
        let lazy = rig.mmu.lazy();
        if !lazy.is_lazy() && lazy.irq_depth() == 0 {
            assert_eq!(rig.told, owed, "a refusal was lost: {events:?}");
            assert!(rig.mmu.batch().is_empty());
        }
    }
    let waits: Vec<_> = (0..=BAD)
        .map(|n| rig.mmu.batch().queued(slot(n)).map(|v| v & BY_HANDLER))
        .collect();
    let kept = refused(&xen, false) - rig.told;
    let empty = rig.mmu.batch().is_empty();
    (*rig.mmu.lazy(), rig.other, waits, empty, kept.min(3))
}

#[test]
fn every_refusal_is_told_once_and_to_whoever_made_the_request() {
    let mut seen = HashSet::new();
    let mut frontier: Vec<Vec<Event>> = vec![Vec::new()];
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for path in &frontier {
            for event in EVENTS {
                let mut longer = path.clone();
                longer.push(event);
                if seen.insert(play(&longer)) {
                    next.push(longer);
                }
            }
        }
        frontier = next;
    }
    println!("{} states, depth {DEPTH}", seen.len());
    assert!(seen.len() > 1000, "wide: {}", seen.len());
}
