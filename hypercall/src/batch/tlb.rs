//! TLB flushes waiting for the next flush of the batch, merged.
//!
//! Requests only ever grow into larger ones: addresses into everything, vCPUs into their union,
//! all vCPUs. Invariant: what is sent covers every request made.

use heapless::Vec;

use crate::{
    VirtAddr,
    addr::PAGE_SIZE,
    mmu::{ExtOp, Scope, VcpuMask},
};

/// Addresses flushed one by one, at most; beyond, everything is.
///
/// Counting instructions, one INVLPG in a list costs 145 and a full flush 152 (478 less the 326 of
/// an empty list): nothing would be flushed singly. But a full flush throws away the kernel's own
/// working set, whose hundreds of entries are each walked for again at tens of cycles, so it is
/// worth several thousand cycles to avoid. 16 is well below that, and bounds the list; with the feature
/// `small` it is half of that.
pub const MAX_INVLPG: usize = if cfg!(feature = "small") { 8 } else { 16 };

/// Operations that [`Pending`] can turn into: each address, for the mask and for this vCPU.
pub(super) const FLUSH_OPS: usize = 2 * MAX_INVLPG;

pub(super) struct Pending {
    /// Anything was asked for.
    waiting: bool,
    addresses: Vec<VirtAddr, MAX_INVLPG>,
    everything: bool,
    local: bool,
    vcpus: VcpuMask,
    all: bool,
}

impl Pending {
    pub(super) const fn new() -> Self {
        Self {
            waiting: false,
            addresses: Vec::new(),
            everything: false,
            local: false,
            vcpus: VcpuMask::EMPTY,
            all: false,
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        !self.waiting
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        if self.waiting {
            self.waiting = false;
            self.addresses.clear();
            self.everything = false;
            self.local = false;
            self.vcpus = VcpuMask::EMPTY;
            self.all = false;
        }
    }

    pub(super) fn add(&mut self, scope: Scope, address: Option<VirtAddr>) {
        match scope {
            Scope::Local => self.local = true,
            Scope::Vcpus(mask) if mask.is_empty() => return,
            Scope::Vcpus(mask) => self.vcpus = self.vcpus.union(mask),
            Scope::All => self.all = true,
        }
        self.waiting = true;
        let page = address.map(|va| va.align_down(PAGE_SIZE));
        match page {
            _ if self.everything => {}
            Some(page) if self.addresses.contains(&page) => {}
            Some(page) if self.addresses.push(page).is_ok() => {}
            _ => self.everything = true,
        }
    }

    /// Another vCPU will carry it out, for which the local one is not this.
    pub(super) fn widen(&mut self) {
        self.all |= self.local;
    }

    /// Whose TLBs: at most two scopes.
    fn scopes(&self) -> impl Iterator<Item = Scope> + use<> {
        let wide = match (self.all, self.vcpus.is_empty()) {
            (true, _) => Some(Scope::All),
            (false, false) => Some(Scope::Vcpus(self.vcpus)),
            (false, true) => None,
        };
        let local = (self.local && !self.all).then_some(Scope::Local);
        wide.into_iter().chain(local)
    }

    /// The operations that carry it out, at most [`FLUSH_OPS`].
    pub(super) fn ops(&self, mut each: impl FnMut(ExtOp)) {
        for scope in self.scopes() {
            if self.everything {
                each(ExtOp::TlbFlush(scope));
            } else {
                self.addresses
                    .iter()
                    .for_each(|&va| each(ExtOp::Invlpg(scope, va)));
            }
        }
    }

    /// Whose TLBs, if that is one scope.
    pub(super) fn only_scope(&self) -> Option<Scope> {
        let mut scopes = self.scopes();
        let only = scopes.next();
        only.filter(|_| scopes.next().is_none())
    }

    /// Whether all translations are to be flushed.
    #[inline]
    pub(super) fn is_everything(&self) -> bool {
        self.everything
    }

    /// Whether the translations to be flushed are those of these pages, in this order.
    pub(super) fn are(&self, pages: impl ExactSizeIterator<Item = Option<VirtAddr>>) -> bool {
        pages.len() == self.addresses.len()
            && pages
                .zip(&self.addresses)
                .all(|(va, page)| va.map(|va| va.align_down(PAGE_SIZE)) == Some(*page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ops(pending: &Pending) -> std::vec::Vec<ExtOp> {
        let mut ops = std::vec::Vec::new();
        pending.ops(|op| ops.push(op));
        ops
    }

    /// What was to be flushed here is flushed everywhere if another vCPU does it; the rest stays as it is.
    #[test]
    fn a_local_flush_is_everyones_on_another_vcpu() {
        let page = VirtAddr::new(0x1000);
        let three = Scope::Vcpus(VcpuMask::EMPTY.with(3));
        for (asked, widened) in [
            (Scope::Local, Scope::All),
            (three, three),
            (Scope::All, Scope::All),
        ] {
            let mut pending = Pending::new();
            pending.add(asked, Some(page));
            pending.widen();
            assert_eq!(ops(&pending), [ExtOp::Invlpg(widened, page)]);
        }
        let mut nothing = Pending::new();
        nothing.widen();
        assert!(nothing.is_empty() && ops(&nothing).is_empty());
    }

    #[test]
    fn requests_merge_into_their_union() {
        let va = |page: u64| VirtAddr::new(page << 12 | 0x123);
        let page = |page: u64| VirtAddr::new(page << 12);
        let mask = |vcpu| VcpuMask::EMPTY.with(vcpu);
        let mut pending = Pending::new();
        pending.add(Scope::Local, Some(va(1)));
        pending.add(Scope::Local, Some(va(1)));
        assert_eq!(ops(&pending), [ExtOp::Invlpg(Scope::Local, page(1))]);
        assert_eq!(pending.only_scope(), Some(Scope::Local));
        assert!(pending.are([Some(va(1))].into_iter()));
        for pages in [
            &[][..],
            &[None],
            &[Some(va(2))],
            &[Some(va(1)), Some(va(2))],
        ] {
            assert!(!pending.are(pages.iter().copied()), "{pages:?}");
        }
        pending.add(Scope::Vcpus(mask(3)), Some(va(2)));
        pending.add(Scope::Vcpus(mask(70)), Some(va(2)));
        let both = Scope::Vcpus(mask(3).with(70));
        assert_eq!(
            ops(&pending),
            [both, Scope::Local]
                .map(|s| [1, 2].map(|p| ExtOp::Invlpg(s, page(p))))
                .concat()
        );
        assert_eq!(pending.only_scope(), None);
        pending.add(Scope::All, Some(va(1)));
        assert_eq!(
            ops(&pending),
            [1, 2].map(|p| ExtOp::Invlpg(Scope::All, page(p)))
        );
        for n in 3..=MAX_INVLPG as u64 {
            pending.add(Scope::Local, Some(va(n)));
        }
        assert_eq!(ops(&pending).len(), MAX_INVLPG);
        pending.add(Scope::Local, Some(va(1000)));
        assert_eq!(ops(&pending), [ExtOp::TlbFlush(Scope::All)]);
        pending.clear();
        pending.add(Scope::Vcpus(VcpuMask::EMPTY), None);
        assert!(pending.is_empty() && ops(&pending).is_empty());
    }
}
