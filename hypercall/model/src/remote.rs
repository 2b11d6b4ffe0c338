//! Which vCPUs a flush reaches (`flush_tlb_mask` and `tlbflush_filter` in `flushtlb`,
//! `vcpumask_to_pcpumask` in `mm.c`, `__context_switch` in `domain.c`).
//!
//! Xen flushes processors: those in the domain's dirty mask, whose TLBs may hold something of it. A
//! processor enters the mask when a vCPU of the domain comes to it, and loading that vCPU's tables
//! flushes it. One whose vCPU only sleeps stays in the mask; it leaves when another domain's vCPU
//! comes there, and is flushed by that. Here every vCPU has a processor of its own, so the mask is one
//! of vCPUs: what is remembered by one that only sleeps is the worst that can happen to a guest.
//!
//! | what flushes | whom it reaches |
//! |---|---|
//! | `TLB_FLUSH_LOCAL`, `INVLPG_LOCAL`, `UVMF_LOCAL`, a base pointer | the vCPU that asks |
//! | `*_MULTI`, `UVMF_*` with a bitmap | those of the bitmap that are in the mask |
//! | `*_ALL`, `UVMF_ALL`, an update above L1 | the mask |
//! | a frame gets another type | those in the mask, unless flushed since its last use as the old one |
//! | a frame comes from the host | those in the mask, unless flushed since it was given back |
//!
//! An `INVLPG` forgets the address in kernel and in user mode.

use crate::{Model, state::State, tlb::Tlb};

/// How flushes that one vCPU asks for reach the others. Those that Xen makes by itself always do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoteFlushes {
    /// Before the request is answered, as Xen does.
    InTime,
    /// Not before the next hypercall: as if the guest had asked after it went on.
    Late,
    /// Never: as if the guest had asked for a local flush.
    Lost,
}

impl State {
    /// Flushes what a guest asked to have flushed on a vCPU: an address, or all.
    pub(crate) fn flush_asked(&mut self, vcpu: usize, va: Option<u64>) {
        match self.remote_flushes {
            _ if vcpu == self.current => {}
            RemoteFlushes::InTime => {}
            RemoteFlushes::Late => return self.late_flushes.push((vcpu, va)),
            RemoteFlushes::Lost => return,
        }
        self.flush(vcpu, va);
    }

    fn flush(&mut self, vcpu: usize, va: Option<u64>) {
        match va {
            Some(va) => self.flush_page(vcpu, va),
            None => self.flush_vcpu(vcpu),
        }
    }

    /// The TLB of the vCPU that runs, which is in the mask by that.
    pub(crate) fn running_tlb(&mut self) -> &Tlb {
        if !self.vcpus[self.current].tlb.dirty {
            self.come_in();
        }
        &self.vcpus[self.current].tlb
    }

    /// The running vCPU makes a hypercall.
    pub(crate) fn enter(&mut self) {
        self.counters.traps += 1;
        self.running_tlb();
        for (vcpu, va) in std::mem::take(&mut self.late_flushes) {
            self.flush(vcpu, va);
        }
    }

    /// The current vCPU comes to its processor, and into the mask.
    #[cold]
    pub(crate) fn come_in(&mut self) {
        self.clock += 1;
        let now = self.clock;
        let tlb = &mut self.vcpu().tlb;
        (tlb.flushed, tlb.dirty) = (now, true);
    }

    /// Forgets everything vCPU `vcpu` remembers.
    pub(crate) fn flush_vcpu(&mut self, vcpu: usize) {
        self.clock += 1;
        self.counters.flushes += 1;
        let tlb = &mut self.vcpus[vcpu].tlb;
        tlb.flushed = self.clock;
        tlb.forget();
    }

    /// Forgets everything on all vCPUs of the mask.
    pub(crate) fn flush_all(&mut self) {
        for vcpu in 0..self.vcpus.len() {
            if self.vcpus[vcpu].tlb.dirty {
                self.flush_vcpu(vcpu);
            }
        }
    }

    /// Forgets `va` on `vcpu`.
    pub(crate) fn flush_page(&mut self, vcpu: usize, va: u64) {
        self.counters.invlpgs += 1;
        self.vcpus[vcpu].tlb.forget_page(va >> 12);
    }

    /// Flushes the vCPUs of the mask that have not been flushed since `stamp`: a frame is about to
    /// become something else, and nobody may go on reaching it as what it was.
    pub(crate) fn flush_older(&mut self, stamp: u64) {
        for vcpu in 0..self.vcpus.len() {
            let tlb = &self.vcpus[vcpu].tlb;
            if tlb.dirty && tlb.flushed <= stamp {
                self.counters.type_flushes += 1;
                self.flush_vcpu(vcpu);
            }
        }
    }

    /// The vCPUs of the mask.
    pub(crate) fn dirty_vcpus(&self) -> impl Iterator<Item = usize> {
        (0..self.vcpus.len()).filter(|&vcpu| self.vcpus[vcpu].tlb.dirty)
    }
}

impl Model {
    /// The vCPU that makes the calls and accesses.
    pub fn current_vcpu(&self) -> usize {
        self.state.borrow().current
    }

    /// From now on `vcpu` does.
    pub fn run_on(&self, vcpu: usize) {
        let mut state = self.state.borrow_mut();
        assert!(vcpu < state.vcpus.len(), "no vCPU {vcpu}");
        state.current = vcpu;
        state.running_tlb();
    }

    /// Xen gives the vCPU's processor to another domain: the vCPU forgets everything, and flushes do
    /// not reach it until it runs again.
    ///
    /// # Panics
    /// There is no such vCPU.
    pub fn sched_out(&self, vcpu: usize) {
        let tlb = &mut self.state.borrow_mut().vcpus[vcpu].tlb;
        tlb.forget();
        tlb.dirty = false;
    }

    /// Says how flushes reach other vCPUs from now on: for tests of tests, which must notice.
    pub fn remote_flushes(&self, reach: RemoteFlushes) {
        self.state.borrow_mut().remote_flushes = reach;
    }

    /// The domain's dirty mask: the vCPUs that a flush of all reaches, in order.
    pub fn dirty_vcpus(&self) -> Vec<usize> {
        self.state.borrow().dirty_vcpus().collect()
    }
}
