//! Guards and context switches over one shared `Mmu`.

mod common;

use std::{cell::RefCell, panic::Location};

use common::{Double, Request};
use hypercall::{
    Access, Errno, ExtOp, LazyGuard, LazyMmu, Level, MachAddr, Mfn, Mmu, MmuError, Op, PauseGuard,
    SwitchOut, Update, abi::mmu::*,
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

#[test]
fn a_switch_says_whether_it_was_made() {
    let tables = [ExtOp::NewBaseptr(Mfn::truncate(7))];
    for (refused, made) in [(0, true), (1, false)] {
        let xen = Double::default();
        let cpu = Cpu::new(&xen);
        let section = LazyGuard::begin(&cpu).unwrap();
        cpu.write(0, 1);
        xen.refuse.borrow_mut().insert(refused, Errno::EINVAL);
        let mut mmu = cpu.mmu.borrow_mut();
        // SAFETY: nothing here is a page table.
        let error = unsafe { mmu.switch(LazyMmu::new(), SwitchOut::Carry, &tables) }.unwrap_err();
        assert_eq!(error.previous.is_some(), made);
        assert_eq!(mmu.lazy().is_lazy(), !made);
        // The section belongs to whichever context it was begun in.
        drop(mmu);
        std::mem::forget(section);
    }
}
