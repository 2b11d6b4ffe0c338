//! A write of one entry by itself, in a straight line: what happens most, by callers who have seen that
//! nothing waits and nothing may wait, and look at a refusal only once there is one.

use crate::{
    Hypervisor, MachAddr, VirtAddr, XenError,
    batch::{Completion, FlushError, Write},
    mmu::Scope,
};

use super::Mmu;

impl<H: Hypervisor, C: Completion, const N: usize> Mmu<H, C, N> {
    /// Whether a write [goes to Xen by itself](Self::is_idle), and no interrupt or pause is why.
    #[inline(always)]
    pub fn is_at_rest(&self) -> bool {
        self.lazy.is_at_rest() && self.batch.is_empty()
    }

    /// Whether a [`flush`](Self::flush) has nothing to send, and nothing to tell of what was sent before.
    #[inline(always)]
    pub fn is_flushed(&self) -> bool {
        self.batch.is_empty() && self.kept.is_empty()
    }

    /// Writes the L1 entry for an address, where all [is at rest](Self::is_at_rest), and flushes what is
    /// cached for it, if asked to: for this vCPU or for all, which a list of vCPUs is taken for.
    ///
    /// # Errors
    /// Xen's refusal, of which [`explain_at_once`](Self::explain_at_once) makes more.
    ///
    /// # Safety
    /// As [`Batch::write_now`](crate::batch::Batch::write_now) for an update with the address.
    #[inline(always)]
    pub unsafe fn write_at_once(
        &mut self,
        address: VirtAddr,
        value: u64,
        flush: Option<Scope>,
    ) -> Result<(), XenError> {
        // SAFETY: the caller's promise covers it.
        unsafe { self.batch.write_at_once(&self.hv, address, value, flush) }
    }

    /// What there is to say of a refusal of [`write_at_once`](Self::write_at_once), to the entry at `slot`.
    #[cold]
    #[track_caller]
    pub fn explain_at_once(
        &mut self,
        error: XenError,
        slot: MachAddr,
        address: VirtAddr,
        write: Write,
    ) -> FlushError {
        self.batch.explain_at_once(error, slot, address, write)
    }
}
