//! A flush that did not go through: which request Xen refused, why, and what became of the rest.

use core::{fmt, panic::Location};

use super::{FlushReason, explain};
use crate::{
    MachAddr, VirtAddr, XenError,
    mmu::{ExtOp, Level},
};

/// The first request that was refused.
#[derive(Clone, Copy, Debug)]
pub enum Failed {
    /// A write to a page-table entry.
    Update {
        /// Its place among the batch's updates.
        index: u16,
        /// The entry.
        slot: MachAddr,
        /// The table's level.
        level: Level,
        /// The address mapped through it, if known.
        va: Option<VirtAddr>,
        /// What the entry held when the write was queued.
        old: u64,
        /// What was to be written.
        new: u64,
    },
    /// A change of the M2P.
    Machphys {
        /// Its place among the batch's updates.
        index: u16,
        /// The machine address of the frame.
        frame: MachAddr,
        /// The pseudo-physical frame number it was to get.
        pfn: u64,
    },
    /// An operation.
    Ext {
        /// Its place among the batch's operations.
        index: u16,
        /// Which.
        op: ExtOp,
    },
    /// No single one: the hypercall failed as a whole.
    Call,
}

/// What a failed flush left behind. The queue is empty; each request counts once in
/// `applied + refused + skipped`.
///
/// Where a section is told at its end what was refused earlier as well ([`queue`](crate::queue)),
/// the flushes that failed are counted together, and the first refusal is named.
#[derive(Clone, Copy, Debug)]
pub struct FlushError {
    /// The first refusal.
    pub failed: Failed,
    /// Who queued it.
    pub caller: Option<&'static Location<'static>>,
    /// The hypercall, the operation and the errno.
    pub error: XenError,
    /// Why the batch was flushed.
    pub reason: FlushReason,
    /// Requests carried out.
    pub applied: u16,
    /// Requests refused, the first included.
    pub refused: u16,
    /// Requests that Xen did not come to, because one before them in the same call was refused.
    pub skipped: u16,
    /// Operations not carried out among those queued after the last update: the last ones.
    pub last_ops_undone: u16,
    /// TLB flushes did not happen either, and a second attempt failed: stale entries may remain.
    pub tlb_stale: bool,
}

impl FlushError {
    /// Both, of two flushes of the same requester: the first refusal, and the counts together.
    pub(crate) fn and(self, later: &Self) -> Self {
        Self {
            applied: self.applied.saturating_add(later.applied),
            refused: self.refused.saturating_add(later.refused),
            skipped: self.skipped.saturating_add(later.skipped),
            last_ops_undone: later.last_ops_undone,
            tlb_stale: self.tlb_stale || later.tlb_stale,
            ..self
        }
    }

    /// Xen's likely reason.
    pub fn why(&self) -> explain::Reason {
        match self.failed {
            Failed::Update {
                slot,
                level,
                old,
                new,
                ..
            } => explain::explain(level, slot.entry_index(), old, new, self.error.errno),
            Failed::Machphys { .. } => explain::Reason::of_machphys(self.error.errno),
            Failed::Ext { op, .. } => explain::Reason::of_ext(&op, self.error.errno),
            Failed::Call => explain::Reason::of_call(self.error.errno),
        }
    }
}

impl fmt::Display for FlushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.error, self.why())?;
        match self.failed {
            Failed::Update {
                index,
                slot,
                level,
                va,
                old,
                new,
            } => {
                write!(
                    f,
                    "; update {index}: {level} entry {} at {slot}",
                    slot.entry_index()
                )?;
                if let Some(va) = va {
                    write!(f, " (va {:#x})", va.as_u64())?;
                }
                write!(f, " {old:#x} -> {new:#x}")?;
            }
            Failed::Machphys { index, frame, pfn } => {
                write!(f, "; update {index}: M2P of {frame} -> pfn {pfn:#x}")?;
            }
            Failed::Ext { index, op } => write!(f, "; operation {index}: {op:x?}")?,
            Failed::Call => {}
        }
        if let Some(caller) = self.caller {
            write!(f, ", from {caller}")?;
        }
        write!(
            f,
            "; {}: {} applied, {} refused, {} not tried",
            self.reason.words(),
            self.applied,
            self.refused,
            self.skipped
        )?;
        if self.tlb_stale {
            f.write_str("; TLB entries may be stale")?;
        }
        Ok(())
    }
}

impl core::error::Error for FlushError {}
