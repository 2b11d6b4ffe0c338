//! A look at many frames: whether each may be mapped writable.

use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::Pfn;

use super::{CHUNK, Frames};
use crate::record::Record;

/// Looks at frames, most of which lie in the same chunk as the one before.
pub(crate) struct Kinds<'a> {
    frames: &'a Frames,
    /// The chunk of the last one, and its records, if it has any.
    chunk: u64,
    records: Option<&'a [AtomicU64; CHUNK as usize]>,
}

impl Kinds<'_> {
    /// As [`Frames::may_be_writable`].
    #[inline(always)]
    pub(crate) fn may_be_writable(&mut self, pfn: Pfn) -> bool {
        let (chunk, index) = (pfn.as_u64() / CHUNK, pfn.as_u64() % CHUNK);
        if chunk != self.chunk {
            self.chunk = chunk;
            self.records = self.frames.directory.records(chunk);
        }
        let record = |records: &[AtomicU64; CHUNK as usize]| {
            Record::from_bits(records[index as usize].load(Ordering::Relaxed))
        };
        let may_be = |record: Record| record.is_owned() || record.may_be_writable();
        self.records.map(record).is_none_or(may_be)
    }
}

impl Frames {
    /// A look at many frames, one after the other.
    #[inline]
    pub(crate) fn kinds(&self) -> Kinds<'_> {
        Kinds {
            frames: self,
            chunk: u64::MAX,
            records: None,
        }
    }
}
