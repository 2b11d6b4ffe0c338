//! What a batch counts: how large its flushes are, why they happen, what they save.

/// Why a batch is flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FlushReason {
    /// It was full.
    Full,
    /// The outermost lazy section ended.
    LeaveLazy,
    /// Lazy mode was paused.
    Pause,
    /// Someone needed the result now.
    Explicit,
    /// Another context takes the CPU.
    Switch,
    /// An immediate write had to wait for a queued one.
    Order,
    /// Outside of lazy mode everything is flushed at once.
    Immediate,
}

impl FlushReason {
    /// Every reason, in the order of [`Stats::reasons`].
    pub const ALL: [Self; 7] = [
        Self::Full,
        Self::LeaveLazy,
        Self::Pause,
        Self::Explicit,
        Self::Switch,
        Self::Order,
        Self::Immediate,
    ];

    /// In a few words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Full => "batch full",
            Self::LeaveLazy => "lazy section left",
            Self::Pause => "lazy mode paused",
            Self::Explicit => "flush asked for",
            Self::Switch => "context switch",
            Self::Order => "order kept for an immediate write",
            Self::Immediate => "not lazy",
        }
    }
}

/// Classes of batch size: class *n* counts sizes from 2ⁿ⁻¹ to 2ⁿ−1, class 0 the empty ones (with
/// nothing but operations or TLB flushes).
pub const SIZE_CLASSES: usize = 16;

/// Counts since the batch was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Flushes, by number of updates; see [`SIZE_CLASSES`].
    pub sizes: [u32; SIZE_CLASSES],
    /// Flushes, by reason.
    pub reasons: [u32; FlushReason::ALL.len()],
    /// Hypercalls made, immediate ones included.
    pub hypercalls: u64,
    /// Updates that Xen applied.
    pub applied: u64,
    /// Operations that Xen carried out, TLB flushes included.
    pub ext_ops: u64,
    /// Updates that a later one replaced before Xen saw them.
    pub replaced: u64,
    /// TLB flushes asked for.
    pub tlb_requests: u64,
    /// Updates and operations that Xen refused.
    pub refused: u64,
}

impl Stats {
    pub(super) const fn new() -> Self {
        Self {
            sizes: [0; SIZE_CLASSES],
            reasons: [0; FlushReason::ALL.len()],
            hypercalls: 0,
            applied: 0,
            ext_ops: 0,
            replaced: 0,
            tlb_requests: 0,
            refused: 0,
        }
    }

    /// Flushes in all.
    pub fn flushes(&self) -> u64 {
        self.reasons.iter().map(|&n| n as u64).sum()
    }

    /// Hypercalls saved against one for each write.
    pub const fn saved(&self) -> u64 {
        (self.applied + self.replaced).saturating_sub(self.hypercalls)
    }

    #[inline]
    pub(super) fn flush(&mut self, updates: u16, reason: FlushReason) {
        self.sizes[(16 - updates.leading_zeros()) as usize & (SIZE_CLASSES - 1)] += 1;
        self.reasons[reason as usize] += 1;
    }
}
