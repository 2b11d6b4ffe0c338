//! Handlers that come between the writes of a lazy section: what they write is in force when it
//! returns, and each refusal is told to whoever made the request.

use crate::common::{Double, Request, rig::*};
use hypercall::{
    Errno, ExtOp, FlushError, Level, MachAddr, Mfn, Mmu, MmuError, Pfn, Scope, Update, VirtAddr,
    abi::mmu::*, batch::Failed,
};

/// Entries that fit the queue in these tests.
const ROOM: usize = 8;

type Cpu<'x> = Mmu<&'x Double, (), ROOM>;

fn requests(xen: &Double) -> Vec<Request> {
    let requests = xen.requests.borrow();
    requests.iter().map(|(request, _)| *request).collect()
}

/// Has a write to this entry refused, whenever it comes.
fn refuse(xen: &Double, n: u64) {
    xen.refuse_slots.borrow_mut().insert(slot(n).as_u64());
}

fn set(mmu: &mut Cpu<'_>, update: Update) -> Result<(), FlushError> {
    // SAFETY: nothing here is a page table.
    unsafe { mmu.set(update) }
}

fn set_and_flush(mmu: &mut Cpu<'_>, update: Update, va: VirtAddr) -> Result<(), FlushError> {
    // SAFETY: nothing here is a page table.
    unsafe { mmu.set_and_flush(update, Scope::Local, va) }
}

fn set_run(mmu: &mut Cpu<'_>, first: Update, values: Vec<u64>) -> Result<(), FlushError> {
    let count = values.len();
    // SAFETY: nothing here is a page table.
    unsafe { mmu.set_run(first, count, None, each_of(values)) }
}

/// In a lazy section that has queued writes to these entries, in a handler.
fn interrupted(xen: &Double, queued: impl IntoIterator<Item = u64>) -> Cpu<'_> {
    let mut mmu = Mmu::new(xen, ());
    mmu.enable().unwrap();
    for n in queued {
        set(&mut mmu, update(n, 0x61)).unwrap();
    }
    mmu.enter_irq().unwrap();
    mmu
}

/// What a flush was refused, as the slot and how many requests were carried out, refused, skipped.
fn told(error: &FlushError) -> (MachAddr, [u16; 3]) {
    let Failed::Update { slot, .. } = error.failed else {
        panic!("{error}")
    };
    (slot, [error.applied, error.refused, error.skipped])
}

/// The error of a section's end.
fn end(mmu: &mut Cpu<'_>) -> FlushError {
    match mmu.disable() {
        Err(MmuError::Flush(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flush_follows_its_write_however_full_the_queue_is() {
    let va = VirtAddr::new(0x7000);
    for queued in 0..=ROOM as u64 {
        for level in [Level::L1, Level::L2] {
            let xen = Double::default();
            let mut mmu = interrupted(&xen, 0..queued);
            let update = Update::new(level, slot(100), 0x7061);
            set_and_flush(&mut mmu, update, va).unwrap();
            let write = sent(slot(100), 0x7061);
            let flush = ext(MMUEXT_INVLPG_LOCAL, va.as_u64());
            let requests = requests(&xen);
            assert_eq!(requests[queued as usize..], [write, flush], "{queued}");
            // With an address that Xen knows, both are one request.
            let both = Update::new(Level::L1, slot(101), 0x7061).va(va);
            xen.by_va
                .borrow_mut()
                .insert(va.as_u64(), slot(101).as_u64());
            set_and_flush(&mut mmu, both, va).unwrap();
            let last = xen.requests.borrow().last().copied();
            let flags = UVMF_INVLPG | UVMF_LOCAL;
            let [va, val] = [va.as_u64(), 0x7061];
            assert_eq!(last, Some((Request::Va { va, val, flags }, true)));
        }
    }
}

#[test]
fn a_flush_follows_its_write_outside_of_interrupts_on_any_level() {
    let va = VirtAddr::new(0x7000);
    for level in [Level::L1, Level::L2, Level::L3, Level::L4] {
        let xen = Double::default();
        let mut mmu: Cpu<'_> = Mmu::new(&xen, ());
        set_and_flush(&mut mmu, Update::new(level, slot(0), 0x61), va).unwrap();
        let flush = ext(MMUEXT_INVLPG_LOCAL, va.as_u64());
        assert_eq!(requests(&xen), [sent(slot(0), 0x61), flush], "{level}");
    }
}

/// Whatever leads to the entry, or makes its table a table, goes before the write of a handler.
#[test]
fn what_is_queued_for_a_table_goes_before_a_handlers_write_into_it() {
    type Queue = fn(&mut Cpu<'_>);
    let link: Queue = |mmu| set(mmu, Update::new(Level::L2, slot(0), 0x0010_0067)).unwrap();
    let seal: Queue = |mmu| set(mmu, update(1, 0x0010_0061)).unwrap();
    // SAFETY: nothing here is a page table.
    let pin: Queue = |mmu| unsafe { mmu.ext(ExtOp::Pin(Level::L1, mfn(0x100)), 0) }.unwrap();
    // SAFETY: nothing here is a page table.
    let m2p: Queue = |mmu| unsafe { mmu.set_machphys(mfn(0x100), Pfn::truncate(1)) }.unwrap();
    let waits = [link, seal, pin, m2p];
    type Write = fn(&mut Cpu<'_>, Update);
    let plain: Write = |mmu, update| set(mmu, update).unwrap();
    let flushed: Write = |mmu, update| set_and_flush(mmu, update, VirtAddr::new(0x7000)).unwrap();
    let run: Write = |mmu, update| set_run(mmu, update, vec![update.value]).unwrap();
    for (n, wait) in waits.into_iter().enumerate() {
        for write in [plain, flushed, run] {
            let xen = Double::default();
            let mut mmu = Mmu::new(&xen, ());
            mmu.enable().unwrap();
            wait(&mut mmu);
            mmu.enter_irq().unwrap();
            write(&mut mmu, update(100, 0x5061));
            assert!(mmu.batch().is_empty(), "{n}");
            let requests = requests(&xen);
            let at = requests.iter().position(|r| *r == sent(slot(100), 0x5061));
            assert_eq!(at, Some(1), "{n}: {requests:x?}");
        }
    }
}

#[test]
fn a_sections_refusal_is_told_at_its_end_and_not_to_the_handler() {
    type Act = fn(&mut Cpu<'_>) -> Result<(), FlushError>;
    let acts: [Act; 8] = [
        |mmu| mmu.flush(),
        |mmu| mmu.flush_tlb(Scope::Local, None),
        |mmu| set(mmu, update(100, 0x61)),
        // The very entry that was refused before.
        |mmu| set(mmu, Update::new(Level::L2, slot(2), 0x61)),
        |mmu| set_and_flush(mmu, update(100, 0x61), VirtAddr::new(0x7000)),
        |mmu| set_run(mmu, update(100, 0), (0..20).collect()),
        // SAFETY: nothing here is a page table.
        |mmu| unsafe { mmu.ext(ExtOp::Unpin(mfn(1)), 0) },
        // SAFETY: nothing here is a page table.
        |mmu| unsafe { mmu.set_machphys(mfn(1), Pfn::truncate(1)) },
    ];
    for (n, act) in acts.into_iter().enumerate() {
        let xen = Double::default();
        let mut mmu = interrupted(&xen, [1, 2, 3]);
        xen.refuse.borrow_mut().insert(1, Errno::EBUSY);
        act(&mut mmu).unwrap_or_else(|error| panic!("{n}: {error}"));
        // A second one, inside of the first, and another after it.
        mmu.enter_irq().unwrap();
        act(&mut mmu).unwrap();
        mmu.leave_irq().unwrap();
        act(&mut mmu).unwrap();
        mmu.leave_irq().unwrap();
        assert_eq!(told(&end(&mut mmu)), (slot(2), [1, 1, 1]), "{n}");
        // Told once.
        mmu.enable().unwrap();
        mmu.disable().unwrap();
        mmu.flush().unwrap();
    }
}

#[test]
fn a_handler_is_told_of_its_own_refusals_and_of_nothing_else() {
    type Act = fn(&mut Cpu<'_>) -> Result<(), FlushError>;
    let acts: [Act; 3] = [
        |mmu| set(mmu, update(100, 0x61)),
        |mmu| set_and_flush(mmu, update(100, 0x61), VirtAddr::new(0x7000)),
        |mmu| set_run(mmu, update(100, 0), vec![1]),
    ];
    for section_is_refused in [false, true] {
        for (n, act) in acts.into_iter().enumerate() {
            let xen = Double::default();
            let mut mmu = interrupted(&xen, [1, 2]);
            refuse(&xen, 100);
            if section_is_refused {
                refuse(&xen, 1);
            }
            let error = act(&mut mmu).unwrap_err();
            assert_eq!(told(&error), (slot(100), [0, 1, 0]), "{n}");
            // Neither is a handler that interrupts the handler.
            mmu.enter_irq().unwrap();
            mmu.flush().unwrap();
            mmu.leave_irq().unwrap();
            mmu.leave_irq().unwrap();
            if section_is_refused {
                assert_eq!(told(&end(&mut mmu)), (slot(1), [0, 1, 1]), "{n}");
            } else {
                mmu.disable().unwrap();
            }
        }
    }
}

#[test]
fn several_refusals_of_a_section_are_told_together_the_first_by_name() {
    let xen = Double::default();
    let mut mmu = interrupted(&xen, [1, 2, 3]);
    for n in [2, 12, 21] {
        refuse(&xen, n);
    }
    mmu.flush().unwrap();
    mmu.leave_irq().unwrap();
    for n in [10, 11, 12] {
        set(&mut mmu, update(n, 0x61)).unwrap();
    }
    mmu.enter_irq().unwrap();
    mmu.flush_tlb(Scope::Local, None).unwrap();
    mmu.leave_irq().unwrap();
    for n in [20, 21, 22, 23] {
        set(&mut mmu, update(n, 0x61)).unwrap();
    }
    // 1 applied, 1 refused, 1 skipped; 2, 1, 0; 1, 1, 2.
    assert_eq!(told(&end(&mut mmu)), (slot(2), [4, 3, 3]));
    mmu.flush().unwrap();
}

/// Whatever sends a section's queue before its end tells what was refused before as well.
#[test]
fn a_kept_refusal_is_told_by_the_sections_next_flush() {
    type Act = fn(&mut Cpu<'_>) -> Result<(), MmuError>;
    let acts: [Act; 2] = [|mmu| mmu.flush().map_err(MmuError::from), |mmu| mmu.pause()];
    for act in acts {
        let xen = Double::default();
        let mut mmu = interrupted(&xen, [1]);
        refuse(&xen, 1);
        mmu.flush().unwrap();
        mmu.leave_irq().unwrap();
        // A section within it has ended in between: what was refused is the outer's.
        mmu.enable().unwrap();
        mmu.disable().unwrap();
        assert!(matches!(act(&mut mmu), Err(MmuError::Flush(_))));
        mmu.disable().unwrap();
    }
}

/// What was refused of a section can be looked at from when a handler had it sent until it is told.
#[test]
fn a_kept_refusal_can_be_looked_at_until_it_is_told() {
    let xen = Double::default();
    let mut mmu = interrupted(&xen, [1, 2]);
    assert!(mmu.refused().is_none());
    refuse(&xen, 2);
    mmu.flush().unwrap();
    assert_eq!(mmu.refused().map(told), Some((slot(2), [1, 1, 0])));
    mmu.leave_irq().unwrap();
    assert!(mmu.refused().is_some());
    end(&mut mmu);
    assert!(mmu.refused().is_none());
}

#[test]
fn a_stale_tlb_is_not_forgotten_between_refusals() {
    let xen = Double::default();
    let mut mmu = interrupted(&xen, [1]);
    mmu.leave_irq().unwrap();
    mmu.flush_tlb(Scope::All, None).unwrap();
    mmu.enter_irq().unwrap();
    // The write, the flush with it and the second attempt.
    let refused = (0..3).map(|n| (n, Errno::EINVAL));
    xen.refuse.borrow_mut().extend(refused);
    mmu.flush().unwrap();
    mmu.leave_irq().unwrap();
    set(&mut mmu, update(2, 0x61)).unwrap();
    refuse(&xen, 2);
    let error = end(&mut mmu);
    assert!(error.tlb_stale, "{error}");
    assert_eq!(told(&error), (slot(1), [0, 2, 0]));
}

/// The error that joins two flushes tells what is true after the second: entries are stale if either
/// left some, and the operations still to be done are the second's.
#[test]
fn what_two_flushes_left_is_told_as_it_stands_after_the_second() {
    for stale_at in [0, 1] {
        for undone in [[2, 0], [0, 2], [1, 2]] {
            let xen = Double::default();
            let mut mmu: Cpu<'_> = Mmu::new(&xen, ());
            mmu.enable().unwrap();
            for (flush, undone) in undone.into_iter().enumerate() {
                // A write that is refused, operations of which the last are not carried out, and a
                // TLB flush behind them that is refused as well, and again, or not.
                refuse(&xen, 1);
                set(&mut mmu, update(1, 0x61)).unwrap();
                let first = requests(&xen).len() + 1;
                for n in 0..3 {
                    // SAFETY: nothing here is a page table.
                    unsafe { mmu.ext(ExtOp::Unpin(mfn(n)), 0) }.unwrap();
                }
                let at = first + 3 - undone;
                if undone != 0 {
                    xen.refuse.borrow_mut().insert(at, Errno::EINVAL);
                }
                if stale_at == flush {
                    mmu.flush_tlb(Scope::All, None).unwrap();
                    let refused = [at, at + 1].map(|n| (n, Errno::EINVAL));
                    xen.refuse.borrow_mut().extend(refused);
                }
                if flush == 0 {
                    mmu.enter_irq().unwrap();
                    mmu.flush().unwrap();
                    mmu.leave_irq().unwrap();
                }
            }
            let error = end(&mut mmu);
            assert!(error.tlb_stale, "{error}");
            assert!(error.to_string().ends_with("TLB entries may be stale"));
            assert_eq!(error.last_ops_undone, undone[1] as u16, "{error}");
        }
    }
}

#[test]
fn a_handlers_tlb_flush_is_not_merged_into_a_sections_refused_list() {
    let xen = Double::default();
    let mut mmu = interrupted(&xen, [1]);
    mmu.leave_irq().unwrap();
    // SAFETY: nothing here is a page table.
    unsafe { mmu.ext(ExtOp::Unpin(Mfn::truncate(5)), 0) }.unwrap();
    mmu.enter_irq().unwrap();
    xen.refuse.borrow_mut().insert(1, Errno::EINVAL);
    mmu.flush_tlb(Scope::Local, None).unwrap();
    assert_eq!(
        requests(&xen)[2..],
        [ext(MMUEXT_TLB_FLUSH_LOCAL, 0)],
        "sent once"
    );
    mmu.leave_irq().unwrap();
    assert!(matches!(end(&mut mmu).failed, Failed::Ext { index: 0, .. }));
}
