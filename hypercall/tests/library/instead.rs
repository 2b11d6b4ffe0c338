//! Page tables that no Xen looks at are told the same as Xen is, in the same order, and what they
//! refuse is told to the same requesters.

use crate::common::{Double, rig::*};
use hypercall::abi::{mmu::mmu_update, xen::DOMID_SELF};
use hypercall::instead::{PageTables, Refused};
use hypercall::mmu::{self, VaFlush};
use hypercall::{Batch, Errno, ExtOp, FlushReason, Hypervisor, Op, Scope, VirtAddr};
use proptest::prelude::*;

/// Carries typed requests out as the double does what it is called for by number.
#[derive(Default)]
struct Own(Double);

impl Hypervisor for Own {
    unsafe fn call(&self, op: Op, _: [u64; 5]) -> i64 {
        panic!("called by number: {op:?}");
    }

    fn mask_upcalls(&self) -> bool {
        self.0.mask_upcalls()
    }

    fn restore_upcalls(&self, was: bool) {
        self.0.restore_upcalls(was);
    }

    fn page_tables(&self) -> Option<&dyn PageTables> {
        Some(self)
    }
}

impl PageTables for Own {
    unsafe fn update(&self, requests: &[mmu_update]) -> Result<(), Refused> {
        // SAFETY: nothing here is a page table.
        unsafe { mmu::update(&self.0, requests, DOMID_SELF) }.map_err(|refused| Refused {
            errno: refused.error.errno,
            done: refused.done,
        })
    }

    unsafe fn ext(&self, op: ExtOp) -> Result<(), Errno> {
        // SAFETY: nothing here is a page table.
        unsafe { mmu::ext(&self.0, op) }.map_err(|error| error.errno)
    }

    unsafe fn update_va(&self, va: VirtAddr, value: u64, flush: VaFlush) -> Result<(), Errno> {
        // SAFETY: nothing here is a page table.
        unsafe { mmu::update_va_mapping(&self.0, va, value, flush) }.map_err(|error| error.errno)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write { n: u64, value: u64 },
    Ext,
    Tlb { page: u64 },
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..12_u64, any::<u64>()).prop_map(|(n, value)| Step::Write { n, value }),
        3 => Just(Step::Ext),
        2 => (0..9_u64).prop_map(|page| Step::Tlb { page }),
        1 => Just(Step::Flush),
    ]
}

/// What became of everything: results of the flushes in words, of the requests by tag, and what the
/// batch counted of it.
type Told = (Vec<String>, Log, u64);

/// Queues the steps, each request with a tag of its own.
fn run(hv: &impl Hypervisor, steps: &[Step]) -> Told {
    let mut batch = Box::new(Batch::<16>::new());
    let (mut log, mut results) = (Log::default(), Vec::new());
    let mut note = |result: Result<(), hypercall::FlushError>| {
        if let Err(e) = result {
            results.push(e.to_string());
        }
    };
    for (step, tag) in steps.iter().zip(1..) {
        match *step {
            Step::Write { n, value } => {
                let mut update = update(n, value);
                update.tag = tag;
                // SAFETY: nothing here is a page table.
                note(unsafe { batch.queue(hv, &mut log, update) });
            }
            // SAFETY: nothing here is a page table.
            Step::Ext => note(unsafe { batch.queue_ext(hv, &mut log, ExtOp::Unpin(mfn(1)), tag) }),
            Step::Tlb { page } => batch.flush_tlb(Scope::Local, Some(VirtAddr::new(page << 12))),
            Step::Flush => note(batch.flush(hv, FlushReason::Explicit, &mut log)),
        }
    }
    note(batch.flush(hv, FlushReason::Explicit, &mut log));
    assert!(batch.is_empty());
    (results, log, batch.stats().ext_ops)
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn who_answers_instead_of_xen_is_asked_and_believed_alike(
        steps in prop::collection::vec(step(), 1..80),
        refused in prop::collection::vec(0..60_usize, 0..4),
    ) {
        let (xen, own) = (Double::default(), Own::default());
        for double in [&xen, &own.0] {
            let refused = refused.iter().map(|at| (*at, Errno::ENOMEM));
            double.refuse.borrow_mut().extend(refused);
        }
        // By reference, as those hold it who share it.
        let told = [run(&xen, &steps), run(&&own, &steps)];
        prop_assert_eq!(&told[0], &told[1]);
        let requests = [&xen, &own.0].map(|double| double.requests.borrow().clone());
        prop_assert_eq!(&requests[0], &requests[1]);
        prop_assert_eq!(&*xen.memory.borrow(), &*own.0.memory.borrow());
        prop_assert_eq!(own.0.unmasked_requests.get(), xen.unmasked_requests.get());
        prop_assert_eq!(own.0.masked.get(), xen.masked.get());
    }
}
