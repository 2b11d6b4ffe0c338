//! The batcher under random sequences: queueing must not show, failures must add up.

use crate::common::{Request, rig::*};
use hypercall::{Batch, Errno, ExtOp, FlushError, Scope, VirtAddr, abi::mmu::*, batch::Write};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Write {
        n: u64,
        value: u64,
        preserve: bool,
        tag: bool,
    },
    Run {
        n: u64,
        count: u64,
        value: u64,
        /// Entries that it has nothing for, by bits.
        holes: u8,
    },
    Ext,
    Tlb {
        page: u64,
        all: bool,
    },
    Flush,
    Now {
        n: u64,
        value: u64,
        flush: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..12u64, any::<u64>(), any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(n, value, preserve, tag)| Step::Write { n, value, preserve, tag }),
        4 => (0..8u64, 1..5u64, any::<u64>(), any::<u8>())
            .prop_map(|(n, count, value, holes)| Step::Run { n, count, value, holes }),
        2 => Just(Step::Ext),
        2 => (0..30u64, any::<bool>()).prop_map(|(page, all)| Step::Tlb { page, all }),
        1 => Just(Step::Flush),
        1 => (0..12u64, any::<u64>(), any::<bool>())
            .prop_map(|(n, value, flush)| Step::Now { n, value, flush }),
    ]
}

/// Memory, with every write applied at once and in order.
#[derive(Default)]
struct Eager(std::collections::HashMap<u64, u64>);

impl Eager {
    fn get(&self, n: u64) -> u64 {
        self.0.get(&n).copied().unwrap_or(0)
    }
    fn write(&mut self, n: u64, value: u64, preserve: bool) {
        let kept = if preserve { self.get(n) & 0x60 } else { 0 };
        self.0.insert(n, value | kept);
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    /// Whatever is queued and whenever it is flushed, software reads its last write, and in the
    /// end memory holds what writing at once would have left.
    #[test]
    fn queueing_changes_nothing_that_anyone_can_see(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut rig = Rig::<16>::new();
        let mut eager = Eager::default();
        let mut tags = Vec::new();
        let mut flushes = Vec::new();
        for step in steps {
            match step {
                Step::Write { n, value, preserve, tag } => {
                    let mut write = update(n, value);
                    write.preserve_ad = preserve;
                    if tag {
                        write.tag = tags.len() as u32 + 1;
                        tags.push((write.tag, true));
                    }
                    rig.queue(write);
                    eager.write(n, value, preserve);
                }
                Step::Run { n, count, value, holes } => {
                    let address = VirtAddr::new(n << 12);
                    let (xen, log) = (&rig.xen, &mut rig.log);
                    let mut stale = Vec::new();
                    let (first, flush) = (update(n, 0), Some((Scope::Local, address)));
                    // In one go, where nothing is queued for the entries and there is room.
                    let in_table = |at: usize| xen.entry(slot(n + at as u64).as_u64());
                    let fill = |requests: &mut [mmu_update]| -> Result<_, FlushError> {
                        for (at, request) in requests.iter_mut().enumerate() {
                            assert_eq!(in_table(at), eager.get(n + at as u64));
                            if in_table(at) & 1 == 1 {
                                stale.push((n + at as u64, xen.requests.borrow().len()));
                            }
                            request.val = value.wrapping_add(at as u64);
                        }
                        Ok(true)
                    };
                    let olds = (0..count as usize).map(in_table);
                    // SAFETY: nothing here is a page table.
                    let filled = holes.trailing_zeros() as u64 >= count
                        && unsafe {
                            rig.batch.queue_filled(xen, log, first, flush, olds, fill)
                        }.unwrap();
                    let each = |batch: &Batch<16>, at: usize| -> Result<_, FlushError> {
                        let slot = slot(n + at as u64);
                        let in_table = xen.entry(slot.as_u64());
                        let old = batch.read(slot, in_table);
                        assert_eq!(old, eager.get(n + at as u64));
                        if holes >> at & 1 == 1 {
                            return Ok(None);
                        }
                        if old & 1 == 1 {
                            stale.push((n + at as u64, xen.requests.borrow().len()));
                        }
                        Ok(Some(Write { old, value: value.wrapping_add(at as u64) }))
                    };
                    let rest = if filled { 0 } else { count as usize };
                    // SAFETY: nothing here is a page table.
                    unsafe {
                        rig.batch.queue_run(xen, log, first, rest, flush, each)
                    }.unwrap();
                    // Each that was present, behind its own write.
                    flushes.extend(stale.into_iter().map(|(n, from)| (n << 12, from, Some(slot(n)))));
                    for at in (0..count).filter(|at| holes >> at & 1 == 0) {
                        eager.write(n + at, value.wrapping_add(at), false);
                    }
                }
                Step::Ext => rig.ext(ExtOp::Unpin(mfn(1)), 0),
                Step::Tlb { page, all } => {
                    let scope = if all { Scope::All } else { Scope::Local };
                    rig.batch.flush_tlb(scope, Some(VirtAddr::new(page << 12)));
                    flushes.push((page << 12, rig.requests().len(), None));
                }
                Step::Flush => rig.flush().unwrap(),
                Step::Now { n, value, flush } => {
                    let (xen, log) = (&rig.xen, &mut rig.log);
                    let asked = xen.requests.borrow().len();
                    let address = VirtAddr::new(n << 12);
                    xen.by_va.borrow_mut().insert(address.as_u64(), slot(n).as_u64());
                    let update = update(n, value).va(address);
                    let batch = &mut rig.batch;
                    let done = if flush {
                        // SAFETY: nothing here is a page table.
                        unsafe { batch.write_and_flush_now(xen, log, update, Scope::All, address) }
                    } else {
                        // SAFETY: nothing here is a page table.
                        unsafe { batch.write_now(xen, log, update) }
                    };
                    done.unwrap();
                    if flush {
                        flushes.push((address.as_u64(), asked, Some(slot(n))));
                    }
                    eager.write(n, value, false);
                    // A single request cannot be interrupted, and is not masked.
                    rig.xen.unmasked_requests.set(0);
                }
            }
            for n in 0..12 {
                let seen = rig.batch.read(slot(n), rig.xen.entry(slot(n).as_u64()));
                prop_assert_eq!(seen, eager.get(n), "entry {}", n);
            }
        }
        rig.flush().unwrap();
        for n in 0..12 {
            prop_assert_eq!(rig.xen.entry(slot(n).as_u64()), eager.get(n));
        }
        prop_assert_eq!(&rig.log.0, &tags);
        // Every TLB flush asked for was covered by one that came after it was asked for.
        let requests = rig.requests();
        for (address, asked, written) in flushes {
            let is_write = |request: &Request| match (request, written) {
                (Request::Update { ptr, .. }, Some(slot)) => ptr & !7 == slot.as_u64(),
                (Request::Va { va, .. }, Some(_)) => *va == address,
                _ => false,
            };
            let from = asked + requests[asked..].iter().position(is_write).unwrap_or(0);
            let covered = requests[from..].iter().any(|request| match *request {
                Request::Ext { cmd, arg1 } => match cmd {
                    MMUEXT_INVLPG_LOCAL | MMUEXT_INVLPG_ALL => arg1 == address,
                    MMUEXT_TLB_FLUSH_LOCAL | MMUEXT_TLB_FLUSH_ALL => true,
                    _ => false,
                },
                Request::Va { va, flags, .. } => match flags & UVMF_FLUSHTYPE_MASK {
                    UVMF_INVLPG => va == address,
                    kind => kind == UVMF_TLB_FLUSH,
                },
                _ => false,
            });
            prop_assert!(covered, "{address:#x}");
        }
    }

    /// With any set of refusals, what is counted and reported is what was carried out.
    #[test]
    fn failures_are_reported_exactly(
        kinds in prop::collection::vec(prop::bool::weighted(0.7), 1..60),
        refused in prop::collection::hash_set(0..60usize, 0..6),
    ) {
        let mut rig = Rig::<64>::new();
        for (n, is_update) in kinds.iter().enumerate() {
            let tag = n as u32 + 1;
            match is_update {
                true => rig.queue(update(n as u64, 1).tag(tag)),
                false => rig.ext(ExtOp::Unpin(mfn(n as u64)), tag),
            }
            if rig.batch.stats().flushes() != 0 {
                // Flushed by itself before the test got to it: too many rounds.
                return Ok(());
            }
        }
        rig.xen.refuse.borrow_mut().extend(refused.iter().map(|&n| (n, Errno::EINVAL)));
        let result = rig.flush();
        let requests = rig.xen.requests.borrow();
        let carried_out = requests.iter().filter(|(_, ok)| *ok).count();
        let refusals = requests.iter().filter(|(_, ok)| !ok).count();
        let reached: std::collections::HashMap<u64, bool> = requests.iter().map(|(r, ok)| match *r {
            Request::Update { ptr, .. } => ((ptr - slot(0).as_u64()) / 8, *ok),
            Request::Ext { arg1, .. } => (arg1, *ok),
            _ => unreachable!(),
        }).collect();
        let expected: Vec<_> = (0..kinds.len() as u64)
            .map(|n| (n as u32 + 1, reached.get(&n).copied().unwrap_or(false)))
            .collect();
        prop_assert_eq!(&rig.log.0, &expected);
        match result {
            Ok(()) => prop_assert_eq!((refusals, carried_out), (0, kinds.len())),
            Err(error) => {
                prop_assert_eq!(error.applied as usize, carried_out);
                prop_assert_eq!(error.refused as usize, refusals);
                prop_assert_eq!(error.skipped as usize, kinds.len() - carried_out - refusals);
            }
        }
    }
}
