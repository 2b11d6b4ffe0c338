//! Batches of which Xen refuses something: who is named, what is counted, what still happens.

use crate::common::{Request, rig::*};
use hypercall::{
    Errno, ExtOp, Level, MachAddr, Pfn, Scope, Update, VirtAddr,
    abi::mmu::*,
    batch::{Failed, Reason},
};

#[test]
fn a_refused_update_is_named_and_the_rest_counted() {
    let mut rig = Rig::<512>::new();
    rig.queue(update(0, 0x1063).tag(1));
    let line = line!() + 1;
    rig.queue(update(1, 0x2063).old(0).va(VirtAddr::new(0x7000)).tag(2));
    rig.queue(update(2, 0x3063).tag(3));
    rig.ext(ExtOp::Pin(Level::L1, mfn(9)), 4);
    rig.queue(update(3, 0x4063).tag(5));
    rig.xen.refuse.borrow_mut().insert(1, Errno::EBUSY);
    let error = rig.flush().unwrap_err();
    assert!(
        matches!(
            error.failed,
            Failed::Update {
                index: 1,
                level: Level::L1,
                new: 0x2063,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!((error.applied, error.refused, error.skipped), (3, 1, 1));
    assert_eq!(error.why(), Reason::WritableMapOfTable);
    assert_eq!(error.caller.unwrap().line(), line);
    assert_eq!(error.last_ops_undone, 0);
    assert!(!error.tlb_stale);
    assert_eq!(
        rig.log.0,
        [(1, true), (2, false), (3, false), (4, true), (5, true)]
    );
    let text = error.to_string();
    for part in [
        "mmu_update: EBUSY",
        "type conflict",
        "update 1: L1 entry 1 at 0x100008 (va 0x7000) 0x0 -> 0x2063",
        "refused.rs:",
        "3 applied, 1 refused, 1 not tried",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn several_refusals_are_counted_and_the_first_is_named() {
    let mut rig = Rig::<512>::new();
    rig.queue(update(0, 1));
    rig.ext(ExtOp::Pin(Level::L4, mfn(9)), 0);
    rig.ext(ExtOp::Pin(Level::L4, mfn(10)), 0);
    rig.queue(update(1, 1));
    rig.queue(update(2, 1));
    rig.xen
        .refuse
        .borrow_mut()
        .extend([(1, Errno::EINVAL), (2, Errno::EBUSY)]);
    let error = rig.flush().unwrap_err();
    assert!(
        matches!(error.failed, Failed::Ext { index: 0, .. }),
        "{error}"
    );
    assert_eq!(
        error.error.to_string(),
        "mmuext_op(PIN_L4_TABLE): EINVAL (invalid argument)"
    );
    assert_eq!((error.applied, error.refused, error.skipped), (1, 2, 2));
    assert_eq!(error.last_ops_undone, 0);
    assert_eq!(rig.batch.stats().refused, 2);
}

#[test]
fn a_refused_operation_does_not_swallow_the_flushes_behind_it() {
    let mut rig = Rig::<512>::new();
    rig.queue(update(0, 1));
    rig.ext(ExtOp::Unpin(mfn(9)), 0);
    rig.batch.flush_tlb(Scope::All, None);
    rig.xen.refuse.borrow_mut().insert(1, Errno::EINVAL);
    let error = rig.flush().unwrap_err();
    assert!(!error.tlb_stale);
    assert_eq!((error.applied, error.refused, error.skipped), (1, 1, 0));
    assert_eq!(rig.requests().last(), Some(&ext(MMUEXT_TLB_FLUSH_ALL, 0)));
    // And where it is refused for good, the error says so.
    rig.queue(update(0, 1));
    rig.ext(ExtOp::Unpin(mfn(9)), 0);
    rig.batch.flush_tlb(Scope::All, None);
    rig.xen
        .refuse
        .borrow_mut()
        .extend([(4, Errno::EINVAL), (5, Errno::EINVAL)]);
    assert!(rig.flush().unwrap_err().tlb_stale);
}

#[test]
fn a_refused_lone_entry_does_not_swallow_its_flush() {
    let mut rig = Rig::<512>::new();
    let va = VirtAddr::new(0x7000);
    rig.queue(update(0, 1).va(va).tag(1));
    rig.batch.flush_tlb(Scope::Local, Some(va));
    let error = rig.flush().unwrap_err();
    assert_eq!(
        error.error.to_string(),
        "update_va_mapping: EINVAL (invalid argument)"
    );
    assert_eq!((error.applied, error.refused, error.skipped), (0, 1, 0));
    assert_eq!(
        rig.requests().last(),
        Some(&ext(MMUEXT_INVLPG_LOCAL, 0x7000))
    );
    assert_eq!(rig.log.0, [(1, false)]);
}

/// Updates that go by address, each with its flush or the last with one of everything: what comes behind
/// a refused one is not tried, and what was asked to be flushed is.
#[test]
fn a_refusal_among_those_that_go_by_address_is_counted_as_in_a_list() {
    for (count, pages) in [(3, 3), (20, 20)] {
        for refused in 0..count {
            let mut rig = Rig::<512>::new();
            for n in 0..count {
                let va = VirtAddr::new((n + 1) << 12);
                rig.xen
                    .by_va
                    .borrow_mut()
                    .insert(va.as_u64(), slot(n).as_u64());
                rig.queue(update(n, 0x1061).va(va).tag(n as u32 + 1));
                if n < pages {
                    rig.batch.flush_tlb(Scope::Local, Some(va));
                }
            }
            rig.xen
                .refuse_slots
                .borrow_mut()
                .insert(slot(refused).as_u64());
            let error = rig.flush().unwrap_err();
            let index = refused as u16;
            assert!(matches!(error.failed, Failed::Update { index: at, .. } if at == index));
            let counts = (error.applied, error.refused, error.skipped);
            assert_eq!(counts, (index, 1, count as u16 - index - 1), "{count}");
            let told = (0..count).map(|n| (n as u32 + 1, n < refused));
            assert!(rig.log.0.iter().copied().eq(told), "{:?}", rig.log.0);
            assert!(!error.tlb_stale && rig.batch.is_empty());
            let flushed = |request: &Request| {
                let Request::Ext { cmd, .. } = request else {
                    return false;
                };
                [MMUEXT_INVLPG_LOCAL, MMUEXT_TLB_FLUSH_LOCAL].contains(cmd)
            };
            assert!(rig.requests().iter().any(flushed), "{count} {refused}");
        }
    }
}

#[test]
fn an_unreadable_list_is_reported_exactly() {
    for after in 0..4 {
        let mut rig = Rig::<512>::new();
        for n in 0..2 {
            rig.queue(update(2 * n, 1).tag(1));
            rig.queue(update(2 * n + 1, 1).tag(1));
            rig.ext(ExtOp::Unpin(mfn(n)), 1);
        }
        rig.xen.unreadable_after.set(Some(after));
        let error = rig.flush().unwrap_err();
        let done = [0, 2, 3, 5][after];
        assert!(matches!(error.failed, Failed::Call));
        assert_eq!(
            error.error.to_string(),
            "multicall: EFAULT (bad guest address)"
        );
        assert_eq!(
            (error.applied, error.refused, error.skipped),
            (done, 0, 6 - done)
        );
        assert_eq!(error.why(), Reason::ListUnreadable);
        let applied: Vec<_> = (0..6).map(|n| (1, n < done)).collect();
        assert_eq!(rig.log.0, applied);
    }
}

#[test]
fn a_call_that_fails_before_its_list_refuses_its_first_request() {
    let mut rig = Rig::<512>::new();
    rig.queue(update(0, 1));
    rig.queue(update(1, 1));
    rig.xen.refuse_call.borrow_mut().insert(0, Errno::EFAULT);
    let error = rig.flush().unwrap_err();
    assert_eq!((error.applied, error.refused, error.skipped), (0, 1, 1));
    assert_eq!(error.why(), Reason::ListUnreadable);
}

/// Three rounds, each with two updates and two operations; every request in turn is refused, and
/// the blame is where it belongs.
#[test]
fn whoever_is_refused_in_whichever_round_is_named() {
    for refused in 0..12 {
        let mut rig = Rig::<512>::new();
        let mut lines = Vec::new();
        for round in 0..3u64 {
            for n in 2 * round..2 * round + 2 {
                lines.push(line!() + 1);
                rig.queue(update(n, 0x1000 * n).old(n).tag(n as u32 + 1));
            }
            for n in 2 * round..2 * round + 2 {
                rig.ext(ExtOp::Unpin(mfn(n)), 100 + n as u32);
                lines.push(0);
            }
        }
        rig.xen.refuse.borrow_mut().insert(refused, Errno::EINVAL);
        let error = rig.flush().unwrap_err();
        let n = (2 * (refused / 4) + refused % 2) as u16;
        // The second of a list was skipped if the first was refused.
        let skipped = (refused % 2 == 0) as u16;
        assert_eq!(
            (error.applied, error.refused, error.skipped),
            (11 - skipped, 1, skipped),
            "{refused}"
        );
        let stats = *rig.batch.stats();
        let is_update = refused % 4 < 2;
        match error.failed {
            Failed::Update {
                index,
                slot: at,
                old,
                new,
                ..
            } if is_update => {
                assert_eq!((index, at), (n, slot(n.into())), "{refused}");
                assert_eq!((old, new), (n.into(), 0x1000 * u64::from(n)));
                assert_eq!(error.caller.unwrap().line(), lines[refused]);
                assert_eq!((stats.applied, stats.ext_ops), (5 - skipped as u64, 6));
            }
            Failed::Ext { index, op } if !is_update => {
                assert_eq!((index, op), (n, ExtOp::Unpin(mfn(n.into()))), "{refused}");
                assert_eq!((stats.applied, stats.ext_ops), (6, 5 - skipped as u64));
            }
            other => panic!("{refused}: {other:?}"),
        }
        let undone = if refused >= 10 { 1 + skipped } else { 0 };
        assert_eq!(error.last_ops_undone, undone, "{refused}");
        let dropped: Vec<_> = rig.log.0.iter().filter(|(_, ok)| !ok).collect();
        let tag = |n: u16| u32::from(n) + if is_update { 1 } else { 100 };
        let expected: Vec<_> = (n..=n + skipped).map(|n| (tag(n), false)).collect();
        assert_eq!(dropped, expected.iter().collect::<Vec<_>>(), "{refused}");
        assert_eq!(rig.log.0.len(), 12);
    }
}

/// A refused update is explained by the rules of its own level, and the M2P by its own.
#[test]
fn a_refusal_is_explained_by_its_level() {
    let xens = MachAddr::of_entry(mfn(5), 256);
    for (level, reason) in [
        (Level::L1, Reason::NotATable),
        (Level::L2, Reason::TableOfOtherType),
        (Level::L3, Reason::TableOfOtherType),
        (Level::L4, Reason::XenSlot),
    ] {
        let mut rig = Rig::<512>::new();
        rig.xen.refuse.borrow_mut().insert(0, Errno::EINVAL);
        rig.queue(Update::new(level, xens, 0x1067));
        let error = rig.flush().unwrap_err();
        let Failed::Update { level: named, .. } = error.failed else {
            panic!("{error}")
        };
        assert_eq!((named, error.why()), (level, reason));
        assert!(error.to_string().contains(&format!("{level} entry 256")));
    }
    let mut rig = Rig::<512>::new();
    rig.xen.refuse.borrow_mut().insert(0, Errno::EPERM);
    let line = line!() + 4;
    // SAFETY: nothing here is a page table.
    unsafe {
        rig.batch
            .queue_machphys(&rig.xen, &mut rig.log, mfn(5), Pfn::truncate(9))
    }
    .unwrap();
    let error = rig.flush().unwrap_err();
    assert_eq!(error.caller.unwrap().line(), line);
    assert!(
        matches!(error.failed, Failed::Machphys { index: 0, frame, pfn: 9 } if frame == mfn(5).addr()),
        "{error}"
    );
    assert_eq!(error.why(), Reason::FrameNotOwned);
    assert!(
        error
            .to_string()
            .contains("update 0: M2P of 0x5000 -> pfn 0x9")
    );
}
