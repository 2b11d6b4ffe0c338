//! What the model counts, so that a test can say how much something cost.

use hypercall::Op;

/// How often things happened since the model was built, or the counters were reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Hypercalls by number, those within a multicall included.
    pub(crate) calls: [u64; 64],
    /// Entries into Xen for a hypercall: a multicall is one, however much is in it.
    pub traps: u64,
    /// Requests of `mmu_update` that were carried out.
    pub updates: u64,
    /// Operations of `mmuext_op` that were carried out.
    pub ext_ops: u64,
    /// Entries of multicalls that were carried out.
    pub multicall_entries: u64,
    /// Tables validated.
    pub promotions: u64,
    /// Tables given up.
    pub demotions: u64,
    /// Flushes of a vCPU's whole TLB.
    pub flushes: u64,
    /// Flushes of one address from a vCPU's TLB.
    pub invlpgs: u64,
    /// Flushes that a change of a frame's type made necessary.
    pub type_flushes: u64,
    /// Stores to L1 tables that Xen emulated.
    pub emulated_stores: u64,
    /// Faults that accesses ended in.
    pub faults: u64,
    /// Times a list call was interrupted.
    pub preemptions: u64,
    /// Upcalls made.
    pub upcalls: u64,
    /// Events sent.
    pub events: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            calls: [0; 64],
            traps: 0,
            updates: 0,
            ext_ops: 0,
            multicall_entries: 0,
            promotions: 0,
            demotions: 0,
            flushes: 0,
            invlpgs: 0,
            type_flushes: 0,
            emulated_stores: 0,
            faults: 0,
            preemptions: 0,
            upcalls: 0,
            events: 0,
        }
    }
}

impl Counters {
    /// How often `op` was called.
    pub fn calls(&self, op: Op) -> u64 {
        self.calls[op as usize & 63]
    }

    /// How many hypercalls there were in all.
    pub fn all_calls(&self) -> u64 {
        self.calls.iter().sum()
    }
}
