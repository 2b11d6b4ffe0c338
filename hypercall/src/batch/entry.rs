//! What is known about a queued write besides the write itself, and who learns what became of it.

use core::panic::Location;

use crate::{
    MachAddr, VirtAddr,
    abi::mmu::{mmu_update, mmuext_op, mmuext_op_arg1, mmuext_op_arg2},
    mmu::{ExtOp, Level, pt_update},
};

/// A write to a page-table entry, with what is needed to explain a refusal.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// The entry.
    pub slot: MachAddr,
    /// What to write.
    pub value: u64,
    /// What is there now, for messages.
    pub old: u64,
    /// The level of the table `slot` lies in.
    pub level: Level,
    /// The address that the current tables map through this entry, if there is one. Lets a lone L1
    /// write go the cheapest way.
    pub va: Option<VirtAddr>,
    /// Keep the accessed and dirty bits that the hardware sets meanwhile.
    pub preserve_ad: bool,
    /// If not zero, [`Completion`] is told of this write under this number, and no other write
    /// replaces it.
    pub tag: u32,
    /// Who asked.
    pub caller: &'static Location<'static>,
}

impl Update {
    /// A write of `value` to the entry at `slot`, asked for by the caller of the function that
    /// calls this.
    #[inline]
    #[track_caller]
    pub const fn new(level: Level, slot: MachAddr, value: u64) -> Self {
        let caller = Location::caller();
        Self {
            slot,
            value,
            old: 0,
            level,
            va: None,
            preserve_ad: false,
            tag: 0,
            caller,
        }
    }

    /// With the value that is there now.
    #[inline]
    #[must_use]
    pub const fn old(self, old: u64) -> Self {
        Self { old, ..self }
    }

    /// With the address that the current tables map through this entry.
    #[inline]
    #[must_use]
    pub const fn va(self, va: VirtAddr) -> Self {
        Self {
            va: Some(va),
            ..self
        }
    }

    /// Keeping accessed and dirty bits.
    #[inline]
    #[must_use]
    pub const fn preserve_ad(self) -> Self {
        Self {
            preserve_ad: true,
            ..self
        }
    }

    /// With a number for [`Completion`].
    #[inline]
    #[must_use]
    pub const fn tag(self, tag: u32) -> Self {
        Self { tag, ..self }
    }

    /// The address by which Xen finds the entry: that of an L1 entry, whose bits need not be preserved.
    #[inline]
    pub(super) fn by_address(&self) -> Option<VirtAddr> {
        match self.level {
            Level::L1 if !self.preserve_ad => self.va,
            _ => None,
        }
    }

    /// As Xen takes it.
    #[inline]
    pub(crate) const fn request(&self) -> mmu_update {
        pt_update(self.slot, self.value, self.preserve_ad)
    }
}

/// A write to one entry of a run.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// What is there now.
    pub old: u64,
    /// What to write.
    pub value: u64,
}

/// Who keeps a record of what page tables hold, and so has to know what Xen applied.
///
/// During a flush each tagged entry is reported once, in the order of the queue.
pub trait Completion {
    /// Xen has carried it out.
    fn applied(&mut self, tag: u32);
    /// Xen has not: it was refused, or followed one that was.
    fn dropped(&mut self, tag: u32);
}

/// Nobody.
impl Completion for () {
    #[inline]
    fn applied(&mut self, _: u32) {}
    #[inline]
    fn dropped(&mut self, _: u32) {}
}

/// The bucket of an update that is in none (the M2P has no slots): any, for the index frees all
/// buckets at once.
const NO_BUCKET: u16 = 0;

/// An update's companion: 32 bytes, in four words.
#[derive(Clone, Copy)]
pub(super) struct Info {
    pub(super) caller: Option<&'static Location<'static>>,
    va: u64,
    pub(super) old: u64,
    /// The tag in bits 0-31, the bucket in 32-47, the level (1 to 4; 0 for the M2P) in 48-55, flags.
    rest: u64,
}

/// What of an [`Info`] changes from one entry of a table to the next.
#[derive(Clone, Copy)]
pub(super) struct Parts(u64, u64);

impl Parts {
    /// Those of the next entry.
    #[inline(always)]
    pub(super) fn advanced(self, [address, tag]: [u64; 2]) -> Self {
        Self(self.0.wrapping_add(address), self.1 + tag)
    }
}

impl Info {
    const BUCKET: u32 = 32;
    const LEVEL: u32 = 48;
    /// `va` holds.
    const HAS_VA: u64 = 1 << 56;
    /// A read does not look at the table, although the write preserves bits: an earlier write in
    /// the queue does not.
    const HIDES_TABLE: u64 = 1 << 57;

    pub(super) const ZERO: Self = Self {
        caller: None,
        va: 0,
        old: 0,
        rest: (NO_BUCKET as u64) << Self::BUCKET,
    };

    #[inline]
    pub(super) fn new(update: &Update) -> Self {
        let (va, flags) = match update.va {
            Some(va) => (va.as_u64(), Self::HAS_VA),
            None => (0, 0),
        };
        let Update {
            old, tag, level, ..
        } = *update;
        Self {
            caller: Some(update.caller),
            va,
            old,
            rest: tag as u64 | (level as u64) << Self::LEVEL | flags | Self::ZERO.rest,
        }
    }

    /// What is added to go on to the next entry of the table: to its address, and to its tag if it has one.
    #[inline(always)]
    pub(super) fn step(&self) -> [u64; 2] {
        let span = 1 << (3 + 9 * (self.number() as u32 & 7));
        [span, (self.tag() != 0) as u64]
    }

    /// What of it changes from one entry of a table to the next, and what does not.
    #[inline(always)]
    pub(super) fn parts(&self) -> (Option<&'static Location<'static>>, Parts) {
        (self.caller, Parts(self.va, self.rest))
    }

    /// From its parts.
    #[inline(always)]
    pub(super) fn of_parts(
        caller: Option<&'static Location<'static>>,
        Parts(va, rest): Parts,
        old: u64,
    ) -> Self {
        Self {
            caller,
            va,
            old,
            rest,
        }
    }

    /// On to the next entry of the table. Where there is no address, that counts for nothing.
    #[inline(always)]
    pub(super) fn advance(&mut self, step: [u64; 2]) {
        Parts(self.va, self.rest) = Parts(self.va, self.rest).advanced(step);
    }

    #[inline]
    pub(super) fn machphys(caller: &'static Location<'static>) -> Self {
        Self {
            caller: Some(caller),
            ..Self::ZERO
        }
    }

    /// If not zero, the number by which the completion knows it.
    #[inline]
    pub(super) const fn tag(&self) -> u32 {
        self.rest as u32
    }

    /// The bucket of the index that it took.
    #[inline]
    pub(super) const fn bucket(&self) -> u16 {
        (self.rest >> Self::BUCKET) as u16
    }

    #[inline]
    pub(super) const fn set_bucket(&mut self, bucket: u16) {
        self.rest =
            self.rest & !((u16::MAX as u64) << Self::BUCKET) | (bucket as u64) << Self::BUCKET;
    }

    /// The number of the level: 0 for the M2P.
    #[inline]
    pub(super) const fn number(&self) -> u8 {
        (self.rest >> Self::LEVEL) as u8
    }

    #[inline]
    pub(super) fn va(&self) -> Option<VirtAddr> {
        (self.rest & Self::HAS_VA != 0).then(|| VirtAddr::new_truncate(self.va))
    }

    #[inline]
    pub(super) fn level(&self) -> Option<Level> {
        match self.number() {
            1 => Some(Level::L1),
            2 => Some(Level::L2),
            3 => Some(Level::L3),
            4 => Some(Level::L4),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn forget_address(&mut self) {
        self.rest &= !Self::HAS_VA;
    }

    #[inline]
    pub(super) fn hides_table(&self) -> bool {
        self.rest & Self::HIDES_TABLE != 0
    }

    #[inline]
    pub(super) fn hide_table(&mut self) {
        self.rest |= Self::HIDES_TABLE;
    }

    /// Becomes `later`, which the index finds in the same bucket, except for what the table holds.
    pub(super) fn replace(&mut self, later: &Self) {
        *self = Self {
            old: self.old,
            ..*later
        };
    }
}

/// A queued operation.
#[derive(Clone, Copy)]
pub(super) struct ExtEntry {
    pub(super) op: ExtOp,
    pub(super) caller: Option<&'static Location<'static>>,
    pub(super) tag: u32,
}

impl ExtEntry {
    /// All zeros, as the first variant of [`ExtOp`] is.
    pub(super) const ZERO: Self = Self {
        op: ExtOp::FlushCache,
        caller: None,
        tag: 0,
    };
    pub(super) const RAW_ZERO: mmuext_op = mmuext_op {
        cmd: 0,
        arg1: mmuext_op_arg1 { mfn: 0 },
        arg2: mmuext_op_arg2 { src_mfn: 0 },
    };
}
