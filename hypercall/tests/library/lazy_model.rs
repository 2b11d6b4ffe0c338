//! Lazy mode, exhaustively: every sequence of events up to [`DEPTH`], against a specification.
//!
//! The specification knows no queue and no counters. It keeps the *history* of each context and
//! says, from that alone, whether writes may wait; and it keeps what software last wrote to each
//! entry. After each event of each sequence:
//!
//! 1. reading an entry gives what was last written to it, wherever that is;
//! 2. outside of interrupts, where writes may not wait, and after an explicit flush anywhere,
//!    nothing waits: the tables hold what was written, and TLB flushes asked for have happened;
//! 3. a write in an interrupt is in the table when it returns;
//! 4. what reaches the table is, for each entry, a selection of what was written, in that order;
//! 5. an event that calls for no flush makes no hypercall: entering, leaving an inner section,
//!    leaving an empty one, pausing or resuming within a pause;
//! 6. an event that fits no earlier one is refused and changes nothing.
//!
//! Sequences that lead to the same state are continued once. The batch holds two updates, so that
//! filling it is among what is explored.

use std::collections::HashSet;

use crate::common::{Double, Request};
use hypercall::{
    LazyError, LazyMmu, Level, MachAddr, Mmu, MmuError, Scope, SwitchOut, Update, VirtAddr,
    batch::FlushReason,
};

const DEPTH: usize = 12;
const SLOTS: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Enable,
    Disable,
    Pause,
    Resume,
    EnterIrq,
    LeaveIrq,
    Write(usize),
    Tlb,
    Flush,
    Switch(SwitchOut),
}

const EVENTS: [Event; 13] = [
    Event::Enable,
    Event::Disable,
    Event::Pause,
    Event::Resume,
    Event::EnterIrq,
    Event::LeaveIrq,
    Event::Write(0),
    Event::Write(1),
    Event::Write(2),
    Event::Tlb,
    Event::Flush,
    Event::Switch(SwitchOut::Flush),
    Event::Switch(SwitchOut::Carry),
];

/// What should happen, told from history.
#[derive(Default)]
struct Spec {
    /// What each of two contexts did, as far as it was accepted; interrupts belong to the context
    /// they interrupt, and what handlers do to lazy mode counts for nothing.
    histories: [Vec<Event>; 2],
    running: usize,
    /// Every value written to each entry, in order.
    written: [Vec<u64>; SLOTS],
    next_value: u64,
}

impl Spec {
    fn history(&self) -> &[Event] {
        &self.histories[self.running]
    }

    /// How many of `begin` are still without their `end`.
    fn open(&self, begin: Event, end: Event) -> usize {
        let count = |event| self.history().iter().filter(|&&e| e == event).count();
        count(begin) - count(end)
    }

    fn sections(&self) -> usize {
        self.open(Event::Enable, Event::Disable)
    }

    fn pauses(&self) -> usize {
        self.open(Event::Pause, Event::Resume)
    }

    fn in_interrupt(&self) -> bool {
        self.open(Event::EnterIrq, Event::LeaveIrq) > 0
    }

    fn may_wait(&self) -> bool {
        self.sections() > 0 && self.pauses() == 0 && !self.in_interrupt()
    }

    fn accepts(&self, event: Event) -> Result<(), LazyError> {
        match event {
            Event::LeaveIrq if !self.in_interrupt() => Err(LazyError::NotInInterrupt),
            Event::Switch(_) if self.in_interrupt() => Err(LazyError::InInterrupt),
            _ if self.in_interrupt() => Ok(()),
            Event::Disable if self.sections() == 0 => Err(LazyError::NotEnabled),
            Event::Resume if self.pauses() == 0 => Err(LazyError::NotPaused),
            _ => Ok(()),
        }
    }

    /// Whether `event`, about to happen, may make a hypercall when `waiting` says whether anything
    /// waits.
    fn may_call_xen(&self, event: Event, waiting: bool) -> bool {
        match event {
            Event::Enable | Event::Resume | Event::EnterIrq | Event::LeaveIrq => false,
            Event::Disable => waiting && self.may_wait() && self.sections() == 1,
            Event::Pause => waiting && self.may_wait(),
            Event::Flush | Event::Switch(_) => waiting,
            Event::Write(_) | Event::Tlb => true,
        }
    }

    fn happens(&mut self, event: Event) {
        let counts = match event {
            Event::Enable | Event::Disable | Event::Pause | Event::Resume => !self.in_interrupt(),
            Event::EnterIrq | Event::LeaveIrq => true,
            _ => false,
        };
        if counts {
            self.histories[self.running].push(event);
        }
        if let Event::Switch(_) = event {
            self.running ^= 1;
        }
        if let Event::Write(slot) = event {
            self.next_value += 1;
            self.written[slot].push(self.next_value << 12 | 1);
        }
    }
}

struct Rig<'x> {
    mmu: Mmu<&'x Double, (), 2>,
    /// The lazy mode of the context that does not run.
    other: LazyMmu,
}

fn slot(n: usize) -> MachAddr {
    MachAddr::truncate(0x1000 + 8 * n as u64)
}

impl Rig<'_> {
    /// Lets `event` happen; the error, if it was refused.
    fn happens(&mut self, event: Event, value: u64) -> Result<(), LazyError> {
        let refused = |error| match error {
            MmuError::Lazy(error) => error,
            MmuError::Flush(error) => panic!("{error}"),
        };
        match event {
            Event::Enable => self.mmu.enable(),
            Event::Disable => self.mmu.disable().map_err(refused),
            Event::Pause => self.mmu.pause().map_err(refused),
            Event::Resume => self.mmu.resume(),
            Event::EnterIrq => self.mmu.enter_irq(),
            Event::LeaveIrq => self.mmu.leave_irq(),
            Event::Write(n) => {
                // SAFETY: nothing here is a page table.
                unsafe { self.mmu.set(Update::new(Level::L1, slot(n), value)) }.unwrap();
                Ok(())
            }
            Event::Tlb => {
                self.mmu
                    .flush_tlb(Scope::Local, Some(VirtAddr::new(value)))
                    .unwrap();
                Ok(())
            }
            Event::Flush => {
                self.mmu.flush().unwrap();
                Ok(())
            }
            Event::Switch(queue) => {
                // SAFETY: no tables are changed.
                let left = unsafe { self.mmu.switch(self.other, queue, &[]) };
                self.other = left.map_err(|error| refused(error.error))?;
                Ok(())
            }
        }
    }

    /// All that the future depends on: counters, what waits and where.
    fn state(&self, running: usize) -> impl Eq + std::hash::Hash + use<> {
        let waits: Vec<_> = (0..SLOTS)
            .map(|n| self.mmu.batch().queued(slot(n)).is_some())
            .collect();
        let empty = self.mmu.batch().is_empty();
        (
            *self.mmu.lazy(),
            self.other,
            running,
            self.mmu.batch().len(),
            waits,
            empty,
        )
    }
}

/// Plays `events` on a fresh system and checks everything after the last. Earlier ones were
/// checked when they were last.
fn play(events: &[Event]) -> impl Eq + std::hash::Hash + use<> {
    let xen = Double::default();
    let mut rig = Rig {
        mmu: Mmu::new(&xen, ()),
        other: LazyMmu::new(),
    };
    let mut spec = Spec::default();
    let mut tlb_asked = None;
    let (last, before) = events.split_last().unwrap();
    for &event in before {
        let value = (spec.next_value + 1) << 12 | 1;
        if event == Event::Tlb {
            tlb_asked = Some(xen.requests.borrow().len());
        }
        if rig.happens(event, value).is_ok() {
            spec.happens(event);
        }
    }
    check(&xen, &mut rig, &mut spec, *last, tlb_asked, events);
    rig.state(spec.running)
}

fn check(
    xen: &Double,
    rig: &mut Rig<'_>,
    spec: &mut Spec,
    event: Event,
    mut tlb_asked: Option<usize>,
    events: &[Event],
) {
    let value = (spec.next_value + 1) << 12 | 1;
    let (traps, lazy_before) = (xen.trap_count(), *rig.mmu.lazy());
    let waiting = !rig.mmu.batch().is_empty();
    let may_call_xen = spec.may_call_xen(event, waiting);
    let expected = spec.accepts(event);
    if event == Event::Tlb {
        tlb_asked = Some(xen.requests.borrow().len());
    }

    assert_eq!(rig.happens(event, value), expected, "{events:?}");
    if expected.is_ok() {
        spec.happens(event);
    } else {
        assert_eq!(
            (*rig.mmu.lazy(), xen.trap_count()),
            (lazy_before, traps),
            "{events:?}"
        );
    }
    assert!(
        may_call_xen || xen.trap_count() == traps,
        "needless hypercall: {events:?}"
    );
    assert_eq!(rig.mmu.lazy().is_lazy(), spec.may_wait(), "{events:?}");

    // Asked for explicitly, whoever runs next.
    let in_force =
        expected.is_ok() && matches!(event, Event::Flush | Event::Switch(SwitchOut::Flush));
    for n in 0..SLOTS {
        let address = slot(n).as_u64();
        let written = spec.written[n].last().copied().unwrap_or(0);
        let in_table = xen.entry(address);
        assert_eq!(
            rig.mmu.read(slot(n), in_table),
            written,
            "stale read of {n}: {events:?}"
        );
        if in_force || !spec.may_wait() && !spec.in_interrupt() {
            assert_eq!(in_table, written, "a write to {n} waits: {events:?}");
        }
        if event == Event::Write(n) && spec.in_interrupt() {
            assert_eq!(
                in_table, written,
                "a write to {n} in an interrupt waits: {events:?}"
            );
        }
        let mut in_order = spec.written[n].iter();
        for (request, _) in xen.requests.borrow().iter() {
            if let Request::Update { ptr, val } = *request
                && ptr & !7 == address
            {
                assert!(
                    in_order.any(|&v| v == val),
                    "entry {n} out of order: {events:?}"
                );
            }
        }
    }
    if !spec.may_wait() && !spec.in_interrupt() {
        assert!(rig.mmu.batch().is_empty(), "something waits: {events:?}");
        if let Some(asked) = tlb_asked {
            let requests = xen.requests.borrow();
            let flushed = requests[asked..]
                .iter()
                .any(|(request, _)| matches!(request, Request::Ext { .. }));
            assert!(flushed, "a TLB flush was forgotten: {events:?}");
        }
    }
    assert_eq!(
        xen.unmasked_requests.get() > 0,
        immediate_only(rig),
        "unmasked: {events:?}"
    );
}

/// Single requests go unmasked; nothing else does.
fn immediate_only(rig: &Rig<'_>) -> bool {
    let stats = rig.mmu.batch().stats();
    stats.hypercalls > stats.flushes()
}

#[test]
fn every_interleaving_keeps_to_the_specification() {
    let mut seen = HashSet::new();
    let mut frontier: Vec<Vec<Event>> = vec![Vec::new()];
    let mut played = 0;
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for path in &frontier {
            for event in EVENTS {
                let mut longer = path.clone();
                longer.push(event);
                played += 1;
                if seen.insert(play(&longer)) {
                    next.push(longer);
                }
            }
        }
        frontier = next;
    }
    println!(
        "{played} sequences played, {} states, depth {DEPTH}",
        seen.len()
    );
    assert!(
        seen.len() > 1000,
        "the exploration has to be wide: {}",
        seen.len()
    );
}

#[test]
fn reasons_are_told_apart() {
    let xen = Double::default();
    let mut rig = Rig {
        mmu: Mmu::new(&xen, ()),
        other: LazyMmu::new(),
    };
    let write = |rig: &mut Rig<'_>, n| rig.happens(Event::Write(n), 1).unwrap();
    for (end, reason) in [
        (Event::Disable, FlushReason::LeaveLazy),
        (Event::Pause, FlushReason::Pause),
        (Event::Flush, FlushReason::Explicit),
        (Event::Switch(SwitchOut::Flush), FlushReason::Switch),
    ] {
        rig.mmu = Mmu::new(&xen, ());
        rig.mmu.enable().unwrap();
        write(&mut rig, 0);
        rig.happens(end, 0).unwrap();
        let stats = rig.mmu.batch().stats();
        assert_eq!(
            (stats.reasons[reason as usize], stats.flushes()),
            (1, 1),
            "{reason:?}"
        );
    }
}
