//! The batcher against a stand-in for Xen: what is sent, and in which shape.

use crate::common::{Request, rig::*};
use hypercall::{
    Errno, ExtOp, FlushReason, Level, MachAddr, Op, Pfn, Scope, Update, VirtAddr,
    abi::mmu::*,
    batch::{EXT_CAPACITY, Failed, MAX_INVLPG, Reason},
};

#[test]
fn nothing_queued_sends_nothing() {
    let mut rig = Rig::<512>::new();
    rig.flush().unwrap();
    assert_eq!(rig.xen.trap_count(), 0);
    assert_eq!(rig.batch.stats().flushes(), 0);
}

#[test]
fn one_kind_goes_without_a_multicall() {
    let mut rig = Rig::<512>::new();
    rig.queue(update(0, 1));
    rig.queue(update(1, 2));
    rig.flush().unwrap();
    rig.ext(ExtOp::Pin(Level::L3, mfn(7)), 0);
    rig.ext(ExtOp::Unpin(mfn(8)), 0);
    rig.flush().unwrap();
    assert_eq!(rig.xen.take_traps(), [Op::MmuUpdate, Op::MmuextOp]);
    assert_eq!(
        rig.requests(),
        [
            sent(slot(0), 1),
            sent(slot(1), 2),
            ext(MMUEXT_PIN_L3_TABLE, 7),
            ext(MMUEXT_UNPIN_TABLE, 8),
        ]
    );
}

#[test]
fn kinds_keep_their_order_in_one_multicall() {
    let mut rig = Rig::<512>::new();
    rig.queue(update(0, 1));
    rig.ext(ExtOp::Pin(Level::L1, mfn(7)), 0);
    rig.queue(update(1, 2));
    rig.queue(update(0, 3));
    rig.ext(ExtOp::NewBaseptr(mfn(9)), 0);
    rig.ext(ExtOp::NewUserBaseptr(None), 0);
    rig.batch.flush_tlb(Scope::Local, None);
    rig.flush().unwrap();
    assert_eq!(rig.xen.take_traps(), [Op::Multicall]);
    assert_eq!(
        rig.requests(),
        [
            sent(slot(0), 1),
            ext(MMUEXT_PIN_L1_TABLE, 7),
            sent(slot(1), 2),
            sent(slot(0), 3),
            ext(MMUEXT_NEW_BASEPTR, 9),
            ext(MMUEXT_NEW_USER_BASEPTR, 0),
            ext(MMUEXT_TLB_FLUSH_LOCAL, 0),
        ]
    );
    assert_eq!(rig.xen.entry(slot(0).as_u64()), 3);
}

#[test]
fn a_later_write_replaces_within_a_round_only() {
    let mut rig = Rig::<512>::new();
    rig.queue(update(0, 1).old(100));
    rig.queue(update(1, 1));
    rig.queue(update(0, 2));
    assert_eq!((rig.batch.len(), rig.batch.queued(slot(0))), (2, Some(2)));
    rig.ext(ExtOp::Unpin(mfn(1)), 0);
    rig.queue(update(0, 3));
    rig.queue(update(0, 4));
    assert_eq!((rig.batch.len(), rig.batch.queued(slot(0))), (3, Some(4)));
    assert_eq!(rig.batch.queued(slot(2)), None);
    rig.flush().unwrap();
    assert_eq!(rig.batch.queued(slot(0)), None);
    let updates: Vec<_> = rig
        .requests()
        .into_iter()
        .filter(|r| matches!(r, Request::Update { .. }))
        .collect();
    assert_eq!(
        updates,
        [sent(slot(0), 2), sent(slot(1), 1), sent(slot(0), 4)]
    );
    assert_eq!(rig.batch.stats().replaced, 2);
}

#[test]
fn slots_that_fall_together_in_the_index_are_told_apart() {
    // Tables and entries such that many of 512 meet in 1024 buckets.
    for stride in [8, 0x1000, 0x1008, 0x10_0000, 0x1234_5678] {
        let mut rig = Rig::<512>::new();
        let slot = |n: u64| MachAddr::truncate((n * stride) & !7);
        for n in 1..=512 {
            assert_eq!(rig.batch.queued(slot(n)), None);
            rig.queue(Update::new(Level::L1, slot(n), n));
        }
        assert_eq!(rig.batch.len(), 512);
        for n in 1..=512 {
            assert_eq!(rig.batch.queued(slot(n)), Some(n));
        }
        rig.flush().unwrap();
        assert!((1..=512).all(|n| rig.batch.queued(slot(n)).is_none()));
    }
}

#[test]
fn a_replaced_write_is_reported_by_the_later_caller_with_the_first_old_value() {
    let mut rig = Rig::<512>::new();
    rig.xen.refuse.borrow_mut().insert(0, Errno::EBUSY);
    rig.queue(update(0, 1).old(0x7000));
    rig.queue(update(0, 0x5003).old(1));
    let line = line!() - 1;
    rig.queue(update(1, 9));
    let error = rig.flush().unwrap_err();
    assert!(
        matches!(
            error.failed,
            Failed::Update {
                index: 0,
                old: 0x7000,
                new: 0x5003,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(error.caller.unwrap().line(), line);
}

#[test]
fn a_lone_entry_with_an_address_goes_as_update_va_mapping() {
    let va = VirtAddr::new(0xffff_8800_0000_5000);
    for (flush, flags) in [
        (None, UVMF_NONE),
        (Some((Scope::Local, Some(va))), UVMF_INVLPG | UVMF_LOCAL),
        (Some((Scope::All, Some(va + 8))), UVMF_INVLPG | UVMF_ALL),
        (Some((Scope::All, None)), UVMF_TLB_FLUSH | UVMF_ALL),
    ] {
        let mut rig = Rig::<512>::new();
        rig.xen
            .by_va
            .borrow_mut()
            .insert(va.as_u64(), slot(5).as_u64());
        rig.queue(update(5, 0x1063).va(va));
        if let Some((scope, address)) = flush {
            rig.batch.flush_tlb(scope, address);
        }
        rig.flush().unwrap();
        assert_eq!(rig.xen.take_traps(), [Op::UpdateVaMapping]);
        assert_eq!(
            rig.requests(),
            [Request::Va {
                va: va.as_u64(),
                val: 0x1063,
                flags
            }]
        );
        assert_eq!(rig.xen.entry(slot(5).as_u64()), 0x1063);
    }
}

#[test]
fn a_lone_entry_that_update_va_mapping_cannot_express_goes_as_a_list() {
    let va = VirtAddr::new(0xffff_8800_0000_5000);
    let l2 = Update::new(Level::L2, slot(0), 1).va(va);
    for (update, flush) in [
        (update(0, 1), None),
        (update(0, 1).va(va).preserve_ad(), None),
        (l2, None),
        (update(0, 1).va(va), Some(va + 0x1000)),
    ] {
        let mut rig = Rig::<512>::new();
        rig.queue(update);
        if let Some(address) = flush {
            rig.batch.flush_tlb(Scope::Local, Some(address));
        }
        rig.flush().unwrap();
        assert!(matches!(rig.requests()[0], Request::Update { .. }));
    }
    let mut rig = Rig::<512>::new();
    rig.queue(update(0, 1).va(va));
    rig.batch.forget_addresses();
    rig.flush().unwrap();
    assert_eq!(rig.xen.take_traps(), [Op::MmuUpdate]);
}

#[test]
fn accessed_and_dirty_bits_survive_as_asked() {
    let mut rig = Rig::<512>::new();
    let address = slot(0).as_u64();
    rig.xen.memory.borrow_mut().insert(address, 0x1067);
    rig.queue(update(0, 0x1001).preserve_ad());
    // Read with what the hardware set in the table meanwhile.
    assert_eq!(rig.batch.read(slot(0), 0x1067), 0x1061);
    rig.flush().unwrap();
    assert_eq!(rig.xen.entry(address), 0x1061);
    // Cleared, then preserved: cleared.
    rig.queue(update(0, 0x1001));
    rig.queue(update(0, 0x2001).preserve_ad());
    assert_eq!(rig.batch.read(slot(0), 0x1061), 0x2001);
    rig.flush().unwrap();
    assert_eq!(rig.xen.entry(address), 0x2001);
    // The same across rounds.
    rig.xen.memory.borrow_mut().insert(address, 0x1067);
    rig.queue(update(0, 0x1021));
    rig.ext(ExtOp::Unpin(mfn(1)), 0);
    rig.queue(update(0, 0x2001).preserve_ad());
    assert_eq!(rig.batch.read(slot(0), 0x1067), 0x2021);
    rig.flush().unwrap();
    assert_eq!(rig.xen.entry(address), 0x2021);
}

#[test]
fn a_full_batch_is_flushed_and_goes_on() {
    let mut rig = Rig::<8>::new();
    for n in 0..20 {
        rig.queue(update(n, n + 1));
    }
    assert_eq!(rig.batch.len(), 4);
    rig.flush().unwrap();
    for n in 0..20 {
        assert_eq!(rig.xen.entry(slot(n).as_u64()), n + 1);
    }
    assert_eq!(rig.xen.trap_count(), 3);
    let stats = rig.batch.stats();
    assert_eq!(
        (stats.applied, stats.hypercalls, stats.saved()),
        (20, 3, 17)
    );
    assert_eq!(stats.sizes[4], 2);
    assert_eq!(stats.sizes[3], 1);
    assert_eq!(stats.reasons[FlushReason::Full as usize], 2);
}

#[test]
fn many_operations_and_many_rounds_flush_by_themselves() {
    let mut rig = Rig::<512>::new();
    for n in 0..2 * EXT_CAPACITY as u64 + 1 {
        rig.ext(ExtOp::Unpin(mfn(n)), 0);
    }
    rig.flush().unwrap();
    for n in 0..40 {
        rig.queue(update(n, n));
        rig.ext(ExtOp::Unpin(mfn(n)), 0);
    }
    rig.flush().unwrap();
    assert_eq!(rig.requests().len(), 2 * EXT_CAPACITY + 1 + 80);
}

#[test]
fn a_run_counts_up() {
    let mut rig = Rig::<512>::new();
    let va = VirtAddr::new(0x1000);
    let first = update(3, 0).va(va).tag(50);
    rig.queue_run(first, [7, 8, 9]);
    rig.xen.refuse.borrow_mut().insert(2, Errno::EBUSY);
    let error = rig.flush().unwrap_err();
    assert_eq!(
        rig.requests(),
        [sent(slot(3), 7), sent(slot(4), 8), sent(slot(5), 9)]
    );
    assert_eq!(rig.log.0, [(50, true), (51, true), (52, false)]);
    let Failed::Update { va: Some(va), .. } = error.failed else {
        panic!("{error}")
    };
    assert_eq!(va.as_u64(), 0x3000);
}

/// What an entry of a run maps is as far from what the one before it maps as its level says.
#[test]
fn a_run_names_the_address_of_each_entry_at_every_level() {
    for (level, page) in [
        (Level::L1, 1 << 12),
        (Level::L2, 1 << 21),
        (Level::L3, 1 << 30),
        (Level::L4, 1_u64 << 39),
    ] {
        let mut rig = Rig::<512>::new();
        let first = Update::new(level, slot(3), 0).va(VirtAddr::new(page));
        rig.queue_run(first, [7, 8, 9]);
        rig.xen.refuse.borrow_mut().insert(2, Errno::EBUSY);
        let error = rig.flush().unwrap_err();
        let Failed::Update { va: Some(va), .. } = error.failed else {
            panic!("{error}")
        };
        assert_eq!(va.as_u64(), 3 * page, "{level}");
    }
}

#[test]
fn the_m2p_is_changed_in_the_same_list_and_hides_no_entry() {
    let mut rig = Rig::<512>::new();
    let frame = slot(0).frame();
    // SAFETY: nothing here is a page table.
    unsafe {
        rig.batch
            .queue_machphys(&rig.xen, &mut rig.log, frame, Pfn::truncate(5))
    }
    .unwrap();
    assert_eq!(rig.batch.queued(frame.addr()), None);
    rig.queue(update(0, 1));
    rig.flush().unwrap();
    let machphys = frame.addr().add(MMU_MACHPHYS_UPDATE as u64);
    assert_eq!(rig.requests(), [sent(machphys, 5), sent(slot(0), 1)]);
}

#[test]
fn tlb_flushes_ride_last() {
    let mut rig = Rig::<512>::new();
    rig.batch
        .flush_tlb(Scope::Local, Some(VirtAddr::new(0x5123)));
    rig.batch
        .flush_tlb(Scope::Local, Some(VirtAddr::new(0x5fff)));
    rig.queue(update(0, 1));
    rig.flush().unwrap();
    assert_eq!(rig.xen.take_traps(), [Op::Multicall]);
    assert_eq!(
        rig.requests(),
        [sent(slot(0), 1), ext(MMUEXT_INVLPG_LOCAL, 0x5000)]
    );
    rig.xen.requests.take();
    for n in 0..=MAX_INVLPG as u64 {
        rig.batch
            .flush_tlb(Scope::Local, Some(VirtAddr::new(n << 12)));
    }
    rig.flush().unwrap();
    assert_eq!(rig.requests(), [ext(MMUEXT_TLB_FLUSH_LOCAL, 0)]);
}

#[test]
fn an_immediate_write_does_not_overtake_a_queued_one() {
    let mut rig = Rig::<512>::new();
    rig.queue(update(0, 1));
    rig.queue(update(1, 1));
    let now = |rig: &mut Rig, update| {
        // SAFETY: nothing here is a page table.
        unsafe { rig.batch.write_now(&rig.xen, &mut rig.log, update) }
    };
    now(&mut rig, update(1, 2).tag(7)).unwrap();
    assert_eq!(
        rig.requests(),
        [sent(slot(0), 1), sent(slot(1), 1), sent(slot(1), 2)]
    );
    assert!(rig.batch.is_empty());
    assert_eq!(rig.log.0, [(7, true)]);
    assert_eq!(rig.xen.take_traps(), [Op::MmuUpdate, Op::MmuUpdate]);
    let stats = rig.batch.stats();
    assert_eq!((stats.applied, stats.hypercalls), (3, 2));
    // TLB flushes that wait alone ride with it, in this order.
    rig.batch.flush_tlb(Scope::All, None);
    now(&mut rig, update(1, 3)).unwrap();
    assert_eq!(
        rig.requests()[3..],
        [sent(slot(1), 3), ext(MMUEXT_TLB_FLUSH_ALL, 0)]
    );
    // And a refusal is explained as well.
    rig.queue(update(0, 1));
    rig.xen.refuse_slots.borrow_mut().insert(slot(8).as_u64());
    let error = now(&mut rig, update(8, 0x3003).tag(8)).unwrap_err();
    assert_eq!((error.applied, error.refused, error.skipped), (0, 1, 0));
    assert_eq!(error.why(), Reason::WritableMapOfTable);
    assert_eq!(rig.log.0[1..], [(8, false)]);
    assert_eq!(rig.batch.stats().refused, 1);
    // What is queued is refused: the write is not made.
    rig.queue(update(8, 1));
    let error = now(&mut rig, update(9, 1)).unwrap_err();
    assert_eq!(error.reason, FlushReason::Order);
    assert_eq!(rig.xen.entry(slot(9).as_u64()), 0);
}

/// Whatever waits goes before an immediate write: updates, operations, or as many of either.
#[test]
fn an_immediate_write_overtakes_nothing_of_either_kind() {
    for (updates, ops) in [(1, 0), (0, 1), (1, 1), (2, 2), (2, 1)] {
        let mut rig = Rig::<512>::new();
        (0..updates).for_each(|n| rig.queue(update(n, 1)));
        (0..ops).for_each(|n| rig.ext(ExtOp::Unpin(mfn(n)), 0));
        // SAFETY: nothing here is a page table.
        unsafe { rig.batch.write_now(&rig.xen, &mut rig.log, update(100, 1)) }.unwrap();
        let requests = rig.requests();
        assert_eq!(requests.last(), Some(&sent(slot(100), 1)));
        assert_eq!(requests.len() as u64, updates + ops + 1);
        assert!(rig.batch.is_empty());
    }
}

/// Each tag is reported once, of an update or of an operation, whether or not the other kind has any.
#[test]
fn a_tag_is_reported_whatever_else_has_one() {
    for [of_update, of_op] in [[0, 0], [1, 0], [0, 2], [1, 2]] {
        let mut rig = Rig::<512>::new();
        rig.queue(update(0, 1).tag(of_update));
        rig.ext(ExtOp::Unpin(mfn(1)), of_op);
        rig.flush().unwrap();
        let tags = [of_update, of_op].into_iter().filter(|tag| *tag != 0);
        let expected: Vec<_> = tags.map(|tag| (tag, true)).collect();
        assert_eq!(rig.log.0, expected);
    }
}

#[test]
fn an_immediate_write_goes_the_cheapest_way() {
    let va = VirtAddr::new(0x7000);
    let slots = [(update(5, 0x61).va(va), Op::UpdateVaMapping)];
    let lists = [
        update(5, 0x61),
        update(5, 0x61).va(va).preserve_ad(),
        Update::new(Level::L2, slot(5), 0x61).va(va),
    ];
    for (update, op) in slots.into_iter().chain(lists.map(|u| (u, Op::MmuUpdate))) {
        let mut rig = Rig::<512>::new();
        rig.xen
            .by_va
            .borrow_mut()
            .insert(va.as_u64(), slot(5).as_u64());
        // SAFETY: nothing here is a page table.
        unsafe { rig.batch.write_now(&rig.xen, &mut rig.log, update) }.unwrap();
        assert_eq!(rig.xen.take_traps(), [op]);
        assert_eq!(rig.xen.entry(slot(5).as_u64()), 0x61);
    }
}
