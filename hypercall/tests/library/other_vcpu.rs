//! A queue that another vCPU sends: what is in it may not mean that vCPU's tables, nor its TLB.

use crate::common::{Double, Request};
use hypercall::abi::mmu::{
    MMUEXT_INVLPG_ALL, MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_MULTI, UVMF_INVLPG,
};
use hypercall::{Errno, LazyError, Level, MachAddr, Mmu, Scope, Update, VirtAddr, mmu::VcpuMask};

const SLOT: MachAddr = MachAddr::truncate(0x1000);
const VA: VirtAddr = VirtAddr::new_truncate(0x40_0000);

/// A vCPU with one write and its flush queued, in a lazy section.
fn queued(xen: &Double, scope: Scope) -> Mmu<&Double> {
    xen.by_va.borrow_mut().insert(VA.as_u64(), SLOT.as_u64());
    let mut mmu = Mmu::new(xen, ());
    mmu.enable().unwrap();
    let update = Update::new(Level::L1, SLOT, 0x5001).va(VA);
    // SAFETY: nothing here is a page table.
    unsafe { mmu.set_and_flush(update, scope, VA) }.unwrap();
    assert_eq!(xen.trap_count(), 0);
    mmu
}

fn requests(xen: &Double) -> Vec<Request> {
    let requests = xen.requests.borrow();
    requests.iter().map(|(request, _)| *request).collect()
}

/// By itself the vCPU writes by address, and flushes itself; another does neither.
#[test]
fn another_looks_nothing_up_and_flushes_all() {
    let xen = Double::default();
    queued(&xen, Scope::Local).flush().unwrap();
    let Request::Va { va, flags, .. } = requests(&xen)[0] else {
        panic!("{:?}", requests(&xen));
    };
    assert_eq!((va, flags), (VA.as_u64(), UVMF_INVLPG));

    let three = Scope::Vcpus(VcpuMask::EMPTY.with(3));
    for (scope, sent) in [
        (Scope::Local, MMUEXT_INVLPG_ALL),
        (Scope::All, MMUEXT_INVLPG_ALL),
        (three, MMUEXT_INVLPG_MULTI),
    ] {
        let xen = Double::default();
        let mut mmu = queued(&xen, scope);
        mmu.send_for_other().unwrap();
        let update = Request::Update {
            ptr: SLOT.as_u64(),
            val: 0x5001,
        };
        let flush = Request::Ext {
            cmd: sent,
            arg1: VA.as_u64(),
        };
        assert_eq!(requests(&xen), [update, flush]);
        // The section goes on as it was, with nothing left to send.
        assert!(mmu.lazy().is_lazy() && mmu.batch().is_empty());
        mmu.disable().unwrap();
        assert_eq!(requests(&xen).len(), 2);
    }
}

/// What is queued afterwards is the section's own again: local, as it was asked for.
#[test]
fn what_comes_later_is_local_again() {
    let xen = Double::default();
    let mut mmu = queued(&xen, Scope::Local);
    mmu.send_for_other().unwrap();
    mmu.flush_tlb(Scope::Local, Some(VA)).unwrap();
    mmu.disable().unwrap();
    let last = requests(&xen).last().copied();
    let arg1 = VA.as_u64();
    let cmd = MMUEXT_INVLPG_LOCAL;
    assert_eq!(last, Some(Request::Ext { cmd, arg1 }));
}

/// What Xen refuses is told to the section that queued it, not to the vCPU that sent it.
#[test]
fn a_refusal_is_the_sections() {
    let xen = Double::default();
    let mut mmu = queued(&xen, Scope::Local);
    xen.refuse.borrow_mut().insert(0, Errno::EBUSY);
    mmu.send_for_other().unwrap();
    assert_eq!(mmu.refused().map(|e| e.error.errno), Some(Errno::EBUSY));
    let told = mmu.flush().unwrap_err();
    assert_eq!(told.error.errno, Errno::EBUSY);
    assert!(mmu.refused().is_none());
    mmu.disable().unwrap();
}

/// With handlers nested as deep as can be counted nothing is sent, and nothing is lost.
#[test]
fn it_is_refused_where_nothing_more_can_nest() {
    let xen = Double::default();
    let mut mmu = queued(&xen, Scope::Local);
    for _ in 0..u8::MAX {
        mmu.enter_irq().unwrap();
    }
    assert_eq!(mmu.send_for_other(), Err(LazyError::TooDeep));
    assert_eq!(xen.trap_count(), 0);
    assert_eq!(mmu.read(SLOT, 0), 0x5001);
}
