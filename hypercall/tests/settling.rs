//! What a flush does about the TLB when requests are refused, whom it blames, and what it counts.

mod common;

use common::rig::*;
use hypercall::{Errno, ExtOp, Level, Op, Scope, Update, VirtAddr, abi::mmu::*, batch::Failed};

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
