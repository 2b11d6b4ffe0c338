//! Guards and context switches over one shared `Mmu`.

use std::{cell::RefCell, panic::Location};

use crate::common::{Double, Request};
use hypercall::{
    Access, Errno, ExtOp, LazyGuard, LazyMmu, Level, MachAddr, Mfn, Mmu, MmuError, Op, PauseGuard,
    SwitchOut, Update, VirtAddr, abi::mmu::*, batch::EXT_CAPACITY,
};

struct Cpu<'x> {
    mmu: RefCell<Mmu<&'x Double>>,
    failures: RefCell<Vec<(MmuError, &'static Location<'static>)>>,
}

impl<'x> Cpu<'x> {
    fn new(xen: &'x Double) -> Self {
        Self {
            mmu: RefCell::new(Mmu::new(xen, ())),
            failures: RefCell::default(),
        }
    }

    /// As code deep inside of a section does it, without knowing of the section.
    fn write(&self, n: u64, value: u64) {
        let slot = MachAddr::truncate(0x1000 + 8 * n);
        // SAFETY: nothing here is a page table.
        self.with(|mmu| unsafe { mmu.set(Update::new(Level::L1, slot, value)) })
            .unwrap();
    }
}

impl<'x> Access for Cpu<'x> {
    type Hv = &'x Double;
    type Completion = ();

    fn with<R>(&self, f: impl FnOnce(&mut Mmu<&'x Double>) -> R) -> R {
        f(&mut self.mmu.borrow_mut())
    }

    fn failed(&self, error: MmuError, at: &'static Location<'static>) {
        self.failures.borrow_mut().push((error, at));
    }
}

#[test]
fn sections_nest_across_functions() {
    let xen = Double::default();
    let cpu = Cpu::new(&xen);
    let outer = LazyGuard::begin(&cpu).unwrap();
    cpu.write(0, 1);
    for _ in 0..8 {
        let inner = LazyGuard::begin(&cpu).unwrap();
        cpu.write(1, 2);
        inner.end().unwrap();
    }
    assert_eq!(xen.trap_count(), 0);
    outer.end().unwrap();
    assert_eq!(xen.take_traps(), [Op::MmuUpdate]);
    assert_eq!((xen.entry(0x1000), xen.entry(0x1008)), (1, 2));
}

#[test]
fn a_pause_makes_writes_immediate_until_it_is_dropped() {
    let xen = Double::default();
    let cpu = Cpu::new(&xen);
    let _section = LazyGuard::begin(&cpu).unwrap();
    cpu.write(0, 1);
    {
        let _pause = PauseGuard::begin(&cpu).unwrap();
        assert_eq!(xen.entry(0x1000), 1);
        cpu.write(0, 2);
        assert_eq!(xen.entry(0x1000), 2);
    }
    cpu.write(0, 3);
    assert_eq!(xen.entry(0x1000), 2);
}

#[test]
fn a_failure_in_drop_is_not_lost() {
    let xen = Double::default();
    let cpu = Cpu::new(&xen);
    xen.refuse.borrow_mut().insert(0, Errno::EINVAL);
    let line = line!() + 2;
    {
        let _section = LazyGuard::begin(&cpu).unwrap();
        cpu.write(0, 1);
    }
    let failures = cpu.failures.borrow();
    assert!(matches!(failures[..], [(MmuError::Flush(_), at)] if at.line() == line));
    assert!(!cpu.mmu.borrow().lazy().is_lazy());
}

#[test]
fn a_pause_that_cannot_begin_is_undone() {
    let xen = Double::default();
    let cpu = Cpu::new(&xen);
    let _section = LazyGuard::begin(&cpu).unwrap();
    cpu.write(0, 1);
    xen.refuse.borrow_mut().insert(0, Errno::EINVAL);
    assert!(matches!(PauseGuard::begin(&cpu), Err(MmuError::Flush(_))));
    assert_eq!(cpu.mmu.borrow().lazy().pause_count(), 0);
    assert!(cpu.mmu.borrow().batch().is_empty());
}

#[test]
fn a_carried_queue_rides_with_the_new_tables() {
    let xen = Double::default();
    let cpu = Cpu::new(&xen);
    let section = LazyGuard::begin(&cpu).unwrap();
    cpu.write(0, 1);
    let tables = [
        ExtOp::NewBaseptr(Mfn::truncate(7)),
        ExtOp::NewUserBaseptr(Some(Mfn::truncate(8))),
    ];
    let mut mmu = cpu.mmu.borrow_mut();
    // SAFETY: nothing here is a page table.
    let first = unsafe { mmu.switch(LazyMmu::new(), SwitchOut::Carry, &tables) }.unwrap();
    assert_eq!(xen.take_traps(), [Op::Multicall]);
    let requests: Vec<_> = xen
        .requests
        .borrow()
        .iter()
        .map(|(request, _)| *request)
        .collect();
    assert_eq!(
        requests,
        [
            Request::Update {
                ptr: 0x1000,
                val: 1
            },
            Request::Ext {
                cmd: MMUEXT_NEW_BASEPTR,
                arg1: 7
            },
            Request::Ext {
                cmd: MMUEXT_NEW_USER_BASEPTR,
                arg1: 8
            },
        ]
    );
    // Back in the first context, the section goes on.
    // SAFETY: no tables are changed.
    unsafe { mmu.switch(first, SwitchOut::Carry, &[]) }.unwrap();
    assert!(mmu.lazy().is_lazy());
    drop(mmu);
    section.end().unwrap();
}

/// A write that is carried over a switch goes to its entry, and not by the address that it had in the
/// tables that were left.
#[test]
fn a_carried_write_goes_by_its_entry() {
    for carried in [false, true] {
        let xen = Double::default();
        xen.by_va.borrow_mut().insert(0x7000, 0x1000);
        let mut mmu: Mmu<&Double> = Mmu::new(&xen, ());
        mmu.enable().unwrap();
        let update = Update::new(Level::L1, MachAddr::truncate(0x1000), 1);
        // SAFETY: nothing here is a page table.
        unsafe { mmu.set(update.va(VirtAddr::new(0x7000))) }.unwrap();
        let by = if carried {
            let next = *mmu.lazy();
            // SAFETY: no tables are changed.
            unsafe { mmu.switch(next, SwitchOut::Carry, &[]) }.unwrap();
            Op::MmuUpdate
        } else {
            Op::UpdateVaMapping
        };
        assert_eq!(xen.trap_count(), 0);
        mmu.disable().unwrap();
        assert_eq!(xen.take_traps(), [by]);
        assert_eq!(xen.entry(0x1000), 1);
    }
}

/// Whether Xen has made this frame's table the kernel's.
fn base_is(xen: &Double, mfn: u64) -> bool {
    let request = Request::Ext {
        cmd: MMUEXT_NEW_BASEPTR,
        arg1: mfn,
    };
    xen.requests.borrow().contains(&(request, true))
}

/// What is queued before a switch: `(updates, operations)` in the order of queueing.
const QUEUES: &[&[(u64, u64)]] = &[
    &[(0, 0)],
    &[(1, 0)],
    &[(0, 1)],
    &[(2, 1)],
    &[(0, 1), (1, 0)],
    &[(1, 1), (1, 1)],
    // The list of operations has room for both of the tables', for one, for none.
    &[(1, 62)],
    &[(1, 63)],
    &[(0, 64)],
    &[(1, 1), (1, 63)],
];

/// Every request in turn is refused: the answer is what Xen did.
#[test]
fn a_switch_says_what_xen_did() {
    let tables = [
        ExtOp::NewBaseptr(Mfn::truncate(7)),
        ExtOp::NewUserBaseptr(Some(Mfn::truncate(8))),
    ];
    let mut answers = std::collections::HashSet::new();
    for queue in QUEUES {
        let total: u64 = queue.iter().map(|(updates, ops)| updates + ops).sum();
        for refused in 0..total as usize + 2 {
            let xen = Double::default();
            let mut mmu: Mmu<&Double> = Mmu::new(&xen, ());
            mmu.enable().unwrap();
            let mut n = 0;
            for &(updates, ops) in *queue {
                for _ in 0..updates {
                    let slot = MachAddr::truncate(0x1000 + 8 * n);
                    // SAFETY: nothing here is a page table.
                    unsafe { mmu.set(Update::new(Level::L1, slot, 1)) }.unwrap();
                    n += 1;
                }
                for _ in 0..ops {
                    // SAFETY: nothing here is a page table.
                    unsafe { mmu.ext(ExtOp::Unpin(Mfn::truncate(100 + n)), 0) }.unwrap();
                    n += 1;
                }
            }
            xen.refuse.borrow_mut().insert(refused, Errno::EINVAL);
            // SAFETY: nothing here is a page table.
            let switched = unsafe { mmu.switch(LazyMmu::new(), SwitchOut::Carry, &tables) };
            assert!(mmu.batch().is_empty());
            let done = xen.requests.borrow();
            let is_base = |r: &Request| {
                matches!(r, Request::Ext { cmd, .. }
                    if [MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR].contains(cmd))
            };
            let carried_out = done.iter().filter(|(r, ok)| *ok && is_base(r)).count();
            let error = match switched {
                Ok(_) => panic!("{queue:?}, {refused}: a refusal was lost"),
                Err(error) => error,
            };
            assert_eq!(error.carried_out, carried_out, "{queue:?}, {refused}");
            assert_eq!(error.carried_out > 0, base_is(&xen, 7));
            assert_eq!(error.previous.is_some(), carried_out == 2);
            assert_eq!(mmu.lazy().is_lazy(), carried_out < 2);
            let MmuError::Flush(flush) = error.error else {
                panic!("{error}")
            };
            assert_eq!(flush.refused, 1, "{queue:?}, {refused}");
            answers.insert(carried_out);
        }
    }
    assert_eq!(answers.len(), 3, "none, one and both of them were seen");
}

/// New tables go out in one hypercall with the operations before them as long as one list holds all
/// of them; only where it does not are those before sent first.
#[test]
fn new_tables_ride_with_the_operations_before_them_while_there_is_room() {
    let tables = [
        ExtOp::NewBaseptr(Mfn::truncate(7)),
        ExtOp::NewUserBaseptr(Some(Mfn::truncate(8))),
    ];
    let room = EXT_CAPACITY - tables.len();
    for (queued, calls) in [(1, 1), (room, 1), (room + 1, 2)] {
        let xen = Double::default();
        let mut mmu: Mmu<&Double> = Mmu::new(&xen, ());
        mmu.enable().unwrap();
        for n in 0..queued as u64 {
            // SAFETY: nothing here is a page table.
            unsafe { mmu.ext(ExtOp::Unpin(Mfn::truncate(100 + n)), 0) }.unwrap();
        }
        // SAFETY: nothing here is a page table.
        unsafe { mmu.switch(LazyMmu::new(), SwitchOut::Carry, &tables) }.unwrap();
        assert_eq!(xen.take_traps(), vec![Op::MmuextOp; calls], "{queued}");
        assert_eq!(xen.requests.borrow().len(), queued + tables.len());
    }
}

#[test]
fn a_switch_without_tables_is_made_whatever_was_refused_of_the_queue() {
    let xen = Double::default();
    let mut mmu: Mmu<&Double> = Mmu::new(&xen, ());
    mmu.enable().unwrap();
    // SAFETY: nothing here is a page table.
    unsafe { mmu.ext(ExtOp::Unpin(Mfn::truncate(1)), 0) }.unwrap();
    xen.refuse.borrow_mut().insert(0, Errno::EINVAL);
    // SAFETY: no tables are changed.
    let error = unsafe { mmu.switch(LazyMmu::new(), SwitchOut::Carry, &[]) }.unwrap_err();
    assert!(error.previous.is_some_and(|left| left.is_lazy()));
    assert!(!mmu.lazy().is_lazy());
    assert!(
        error
            .to_string()
            .starts_with("mmuext_op(UNPIN_TABLE): EINVAL")
    );
}

#[test]
fn a_flush_before_a_switch_that_is_refused_leaves_the_context() {
    let tables = [ExtOp::NewBaseptr(Mfn::truncate(7))];
    let xen = Double::default();
    let cpu = Cpu::new(&xen);
    let section = LazyGuard::begin(&cpu).unwrap();
    cpu.write(0, 1);
    xen.refuse.borrow_mut().insert(0, Errno::EINVAL);
    // SAFETY: nothing here is a page table.
    let switched = cpu.with(|mmu| unsafe { mmu.switch(LazyMmu::new(), SwitchOut::Flush, &tables) });
    let error = switched.unwrap_err();
    assert_eq!((error.carried_out, error.previous), (0, None));
    assert!(!base_is(&xen, 7));
    section.end().unwrap();
}

/// Handlers had the queue sent before the switch: what was refused is told by it, or by whoever
/// answers for the queue.
#[test]
fn a_switch_does_not_lose_what_was_refused_before() {
    let tables = [ExtOp::NewBaseptr(Mfn::truncate(7))];
    let begin = |xen| {
        let mut mmu: Mmu<&Double> = Mmu::new(xen, ());
        mmu.enable().unwrap();
        // SAFETY: nothing here is a page table.
        unsafe { mmu.set(Update::new(Level::L1, MachAddr::truncate(0x1000), 1)) }.unwrap();
        mmu.enter_irq().unwrap();
        xen.refuse.borrow_mut().insert(0, Errno::EINVAL);
        mmu.flush().unwrap();
        mmu.leave_irq().unwrap();
        mmu
    };
    let xen = Double::default();
    let mut mmu = begin(&xen);
    // SAFETY: nothing here is a page table.
    let error = unsafe { mmu.switch(LazyMmu::new(), SwitchOut::Carry, &tables) }.unwrap_err();
    assert_eq!(error.carried_out, 1);
    assert!(error.previous.is_some() && base_is(&xen, 7));
    mmu.flush().unwrap();
    let xen = Double::default();
    let mut mmu = begin(&xen);
    let next = *mmu.lazy();
    // SAFETY: no tables are changed.
    unsafe { mmu.switch(next, SwitchOut::Carry, &[]) }.unwrap();
    assert!(matches!(mmu.disable(), Err(MmuError::Flush(_))));
    mmu.enable().unwrap();
    mmu.disable().unwrap();
}
