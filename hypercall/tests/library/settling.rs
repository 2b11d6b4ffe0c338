//! What a flush does about the TLB when requests are refused, whom it blames, and what it counts.

use std::collections::HashSet;

use crate::common::{Request, rig::*};
use hypercall::{
    Errno, ExtOp, FlushReason, Level, Op, Scope, Update, VirtAddr,
    abi::mmu::*,
    batch::{EXT_CAPACITY, Failed, MAX_INVLPG, SIZE_CLASSES, Stats},
    mmu::VcpuMask,
};

/// A flush that rides with a lone write is not sent again, whether or not the write is tagged.
#[test]
fn a_lone_write_flushes_once() {
    let va = VirtAddr::new(0x7000);
    for tag in [0, 1] {
        let mut rig = Rig::<512>::new();
        let places = [(va.as_u64(), slot(5).as_u64())];
        rig.xen.by_va.borrow_mut().extend(places);
        rig.queue(update(5, 0x1063).va(va).tag(tag));
        rig.batch.flush_tlb(Scope::Local, Some(va));
        rig.flush().unwrap();
        assert_eq!(rig.xen.take_traps(), [Op::UpdateVaMapping]);
        assert_eq!(rig.xen.entry(slot(5).as_u64()), 0x1063);
        assert_eq!(rig.log.0.len(), tag as usize);
    }
}

/// A refusal in an earlier list keeps no flush from going out with the last, so it goes out once.
#[test]
fn flushes_behind_an_earlier_refusal_are_sent_once() {
    for refused in [0, 1] {
        let mut rig = Rig::<512>::new();
        rig.ext(ExtOp::Unpin(mfn(9)), 0);
        rig.queue(update(0, 1));
        rig.batch.flush_tlb(Scope::All, None);
        rig.xen.refuse.borrow_mut().insert(refused, Errno::EINVAL);
        let error = rig.flush().unwrap_err();
        assert_eq!((error.applied, error.refused, error.skipped), (1, 1, 0));
        assert!(!error.tlb_stale);
        let flush = ext(MMUEXT_TLB_FLUSH_ALL, 0);
        assert_eq!(
            rig.requests(),
            [ext(MMUEXT_UNPIN_TABLE, 9), sent(slot(0), 1), flush]
        );
        assert_eq!(rig.xen.take_traps(), [Op::Multicall]);
        assert_eq!(rig.batch.stats().hypercalls, 1);
    }
}

/// Behind as many operations as fit there is still room for all flushes that can wait: each address,
/// for two sets of processors.
#[test]
fn every_flush_that_waits_fits_behind_a_full_list() {
    for (ops, calls) in [(EXT_CAPACITY, 1), (EXT_CAPACITY + 1, 2)] {
        let mut rig = Rig::<512>::new();
        for n in 0..ops as u64 {
            rig.ext(ExtOp::Unpin(mfn(n)), 0);
        }
        let pages = 1..=MAX_INVLPG as u64;
        let other = Scope::Vcpus(VcpuMask::EMPTY.with(3));
        for page in pages.clone() {
            for scope in [Scope::Local, other] {
                rig.batch.flush_tlb(scope, Some(VirtAddr::new(page << 12)));
            }
        }
        rig.flush().unwrap();
        let flushes = [MMUEXT_INVLPG_MULTI, MMUEXT_INVLPG_LOCAL]
            .map(|cmd| pages.clone().map(move |page| ext(cmd, page << 12)));
        let flushes: Vec<_> = flushes.into_iter().flatten().collect();
        assert_eq!(rig.requests()[ops..], flushes);
        assert_eq!(rig.xen.take_traps(), vec![Op::MmuextOp; calls]);
    }
}

/// A flush that is refused behind operations is what the error names, by its own place, and it is
/// nobody's request; it is tried once more.
#[test]
fn a_refused_flush_is_named_and_tried_again() {
    for (refused_again, tlb_stale) in [(false, false), (true, true)] {
        let mut rig = Rig::<512>::new();
        rig.ext(ExtOp::Unpin(mfn(8)), 0);
        rig.queue(update(0, 1));
        rig.ext(ExtOp::Unpin(mfn(9)), 1);
        rig.batch
            .flush_tlb(Scope::Local, Some(VirtAddr::new(0x5000)));
        rig.batch
            .flush_tlb(Scope::Local, Some(VirtAddr::new(0x6000)));
        // The second of them, behind the first and three requests.
        let mut refuse = vec![(4, Errno::EPERM)];
        refuse.extend(refused_again.then_some((6, Errno::EPERM)));
        rig.xen.refuse.borrow_mut().extend(refuse);
        let error = rig.flush().unwrap_err();
        let va = VirtAddr::new(0x6000);
        assert!(
            matches!(error.failed, Failed::Ext { index: 3, op } if op == ExtOp::Invlpg(Scope::Local, va)),
            "{error}"
        );
        assert_eq!(
            error.error.to_string(),
            "mmuext_op(INVLPG_LOCAL): EPERM (not permitted)"
        );
        assert!(error.caller.is_none());
        assert_eq!((error.applied, error.refused, error.skipped), (3, 0, 0));
        assert_eq!((error.last_ops_undone, error.tlb_stale), (0, tlb_stale));
        assert_eq!(rig.log.0, [(1, true)]);
        let flushes = [0x5000, 0x6000].map(|va| ext(MMUEXT_INVLPG_LOCAL, va));
        assert_eq!(rig.requests()[3..], [flushes, flushes].concat());
        // The batch, and each flush by itself.
        assert_eq!(rig.batch.stats().hypercalls, 3);
        assert_eq!(rig.batch.stats().refused, 0);
    }
}

/// A call that fails although all of its list was carried out blames no request, and loses none.
#[test]
fn a_call_that_fails_after_its_list_blames_nobody() {
    // Updates alone, in a list of their own, and operations behind them.
    for (ops, fails_at) in [(0, 0), (1, 0), (1, 2), (EXT_CAPACITY, 2)] {
        let mut rig = Rig::<512>::new();
        rig.queue(update(0, 1).tag(1));
        rig.queue(update(1, 1).tag(1));
        for n in 0..ops as u64 {
            rig.ext(ExtOp::Unpin(mfn(n)), 1);
        }
        rig.xen
            .fail_after
            .borrow_mut()
            .insert(fails_at, Errno::EFAULT);
        let error = rig.flush().unwrap_err();
        let all = 2 + ops as u16;
        assert!(matches!(error.failed, Failed::Call), "{error}");
        assert!(error.caller.is_none());
        assert_eq!(error.error.errno, Errno::EFAULT);
        assert_eq!((error.applied, error.refused, error.skipped), (all, 0, 0));
        assert_eq!(rig.log.0, vec![(1, true); usize::from(all)]);
        assert_eq!(rig.requests().len(), usize::from(all));
    }
}

/// What a call did that failed before its list was read is nothing, whatever calls of an earlier
/// flush did.
#[test]
fn counts_of_an_earlier_flush_are_not_taken_for_a_later_ones() {
    // The third round's operations, the first's updates, and a list that goes without a multicall.
    for (rounds, fails_at, applied) in [(3, 10, 10), (3, 0, 10), (1, 0, 2)] {
        let mut rig = Rig::<512>::new();
        let queue = |rig: &mut Rig| {
            for round in 0..rounds {
                for n in 2 * round..2 * round + 2 {
                    rig.queue(update(n, n).tag(1));
                }
                for n in 2 * round..2 * round + 2 {
                    rig.ext(ExtOp::Unpin(mfn(n)), 2);
                }
            }
        };
        // A refusal of the last, so that Xen's counts are what matters.
        queue(&mut rig);
        let all = 4 * rounds as usize;
        rig.xen.refuse.borrow_mut().insert(all - 1, Errno::EINVAL);
        let error = rig.flush().unwrap_err();
        assert_eq!(usize::from(error.applied), all - 1);
        queue(&mut rig);
        rig.log.0.clear();
        let fails_at = all + fails_at;
        rig.xen
            .refuse_call
            .borrow_mut()
            .insert(fails_at, Errno::EFAULT);
        let error = rig.flush().unwrap_err();
        assert_eq!(
            (error.applied, error.refused, error.skipped),
            (applied, 1, 1)
        );
        let done = rig.log.0.iter().filter(|(_, applied)| *applied).count();
        assert_eq!(done, usize::from(applied));
    }
}

/// Each counter counts what it says, and nothing else counts: one sequence with everything in it.
#[test]
fn every_counter_counts_what_it_says() {
    let va = VirtAddr::new(0x7000);
    let mut rig = Rig::<8>::new();
    let places = [(va.as_u64(), slot(5).as_u64())];
    rig.xen.by_va.borrow_mut().extend(places);
    let mut expected = Stats {
        sizes: [0; SIZE_CLASSES],
        reasons: [0; FlushReason::ALL.len()],
        hypercalls: 0,
        applied: 0,
        ext_ops: 0,
        replaced: 0,
        tlb_requests: 0,
        refused: 0,
    };
    assert_eq!(*rig.batch.stats(), expected);

    // Nothing queued: nothing counted.
    rig.flush().unwrap();
    assert_eq!(*rig.batch.stats(), expected);

    // Nine writes where eight fit, one of them in vain: a flush by itself, and one asked for.
    rig.queue(update(0, 0));
    for n in 0..9 {
        rig.queue(update(n, n));
    }
    rig.flush().unwrap();
    expected.sizes[4] += 1;
    expected.sizes[1] += 1;
    expected.reasons[FlushReason::Full as usize] += 1;
    expected.reasons[FlushReason::Explicit as usize] += 1;
    expected.hypercalls += 2;
    expected.applied += 9;
    expected.replaced += 1;
    assert_eq!(*rig.batch.stats(), expected);

    // Three writes, two operations, three requests that two flushes answer: one multicall.
    rig.queue(update(0, 1));
    rig.ext(ExtOp::Unpin(mfn(1)), 0);
    rig.ext(ExtOp::Unpin(mfn(2)), 0);
    rig.queue(update(1, 1));
    rig.queue(update(2, 1));
    for page in [1, 2, 1] {
        rig.batch
            .flush_tlb(Scope::Local, Some(VirtAddr::new(page << 12)));
    }
    rig.flush().unwrap();
    expected.sizes[2] += 1;
    expected.reasons[FlushReason::Explicit as usize] += 1;
    expected.hypercalls += 1;
    expected.applied += 3;
    expected.ext_ops += 4;
    expected.tlb_requests += 3;
    assert_eq!(*rig.batch.stats(), expected);

    // A flush alone: a batch without updates.
    rig.batch.flush_tlb(Scope::All, None);
    rig.flush().unwrap();
    expected.sizes[0] += 1;
    expected.reasons[FlushReason::Explicit as usize] += 1;
    expected.hypercalls += 1;
    expected.ext_ops += 1;
    expected.tlb_requests += 1;
    assert_eq!(*rig.batch.stats(), expected);

    // A lone write with its flush, which is no operation.
    rig.queue(update(5, 1).va(va));
    rig.batch.flush_tlb(Scope::Local, Some(va));
    rig.flush().unwrap();
    expected.sizes[1] += 1;
    expected.reasons[FlushReason::Explicit as usize] += 1;
    expected.hypercalls += 1;
    expected.applied += 1;
    expected.tlb_requests += 1;
    assert_eq!(*rig.batch.stats(), expected);

    // An immediate write behind a queued one: two calls, of which one is a flush.
    rig.queue(update(6, 1));
    // SAFETY: nothing here is a page table.
    unsafe { rig.batch.write_now(&rig.xen, &mut rig.log, update(7, 1)) }.unwrap();
    rig.xen.unmasked_requests.set(0);
    expected.sizes[1] += 1;
    expected.reasons[FlushReason::Order as usize] += 1;
    expected.hypercalls += 2;
    expected.applied += 2;
    assert_eq!(*rig.batch.stats(), expected);

    // One that is refused.
    rig.xen.refuse_slots.borrow_mut().insert(slot(7).as_u64());
    // SAFETY: nothing here is a page table.
    let now = unsafe { rig.batch.write_now(&rig.xen, &mut rig.log, update(7, 2)) };
    now.unwrap_err();
    rig.xen.unmasked_requests.set(0);
    expected.hypercalls += 1;
    expected.refused += 1;
    assert_eq!(*rig.batch.stats(), expected);

    // Refused between two others: one is applied, one never tried, and neither is the operation
    // behind a refused one. Both flushes go out in a second attempt, a call each.
    rig.queue(update(6, 2));
    rig.queue(update(7, 2));
    rig.queue(update(8, 2));
    rig.ext(ExtOp::Unpin(mfn(1)), 0);
    rig.ext(ExtOp::Unpin(mfn(2)), 0);
    rig.ext(ExtOp::Unpin(mfn(3)), 0);
    rig.batch.flush_tlb(Scope::Local, Some(va));
    rig.batch.flush_tlb(Scope::Local, Some(va + 0x1000));
    // Two updates reach Xen, then the second operation.
    let requests = rig.requests().len();
    rig.xen
        .refuse
        .borrow_mut()
        .insert(requests + 3, Errno::EINVAL);
    rig.flush().unwrap_err();
    expected.sizes[2] += 1;
    expected.reasons[FlushReason::Explicit as usize] += 1;
    expected.hypercalls += 3;
    expected.applied += 1;
    expected.ext_ops += 3;
    expected.tlb_requests += 2;
    expected.refused += 2;
    assert_eq!(*rig.batch.stats(), expected);

    // In the end: what was sent for what.
    assert_eq!(expected.flushes(), 7);
    assert_eq!(rig.xen.trap_count() as u64, expected.hypercalls);
    let requests = rig.xen.requests.borrow();
    let applied = |is: fn(&Request) -> bool| {
        let requests = requests.iter().filter(|(request, ok)| *ok && is(request));
        requests.count() as u64
    };
    let is_ext = |request: &Request| matches!(request, Request::Ext { .. });
    assert_eq!(
        applied(|request| !matches!(request, Request::Ext { .. })),
        expected.applied
    );
    assert_eq!(applied(is_ext), expected.ext_ops);
}

/// An update of any level is counted alike: what is left of a batch is what reached Xen.
#[test]
fn what_was_saved_is_writes_less_calls() {
    let mut rig = Rig::<512>::new();
    for n in 0..6 {
        rig.queue(Update::new(Level::L2, slot(n / 2), n));
    }
    rig.flush().unwrap();
    // Six writes in one call.
    assert_eq!(rig.batch.stats().saved(), 5);
}

/// An error says why its flush happened, each reason in words of its own, and counts under it.
#[test]
fn a_failed_flush_says_why_it_happened() {
    let mut seen = HashSet::new();
    for (place, reason) in FlushReason::ALL.into_iter().enumerate() {
        let mut rig = Rig::<512>::new();
        rig.xen.refuse.borrow_mut().insert(0, Errno::EBUSY);
        rig.queue(update(0, 1));
        let flushed = rig.batch.flush(&rig.xen, reason, &mut rig.log);
        let error = flushed.unwrap_err();
        assert_eq!(error.reason, reason);
        let words = reason.words();
        assert!(words.len() > 2 && seen.insert(words), "{reason:?}");
        assert!(
            error.to_string().contains(&format!("; {words}: ")),
            "{error}"
        );
        let mut expected = [0; FlushReason::ALL.len()];
        expected[place] = 1;
        assert_eq!(rig.batch.stats().reasons, expected);
    }
}
