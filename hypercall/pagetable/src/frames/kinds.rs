//! A glance at frames: whether each is in use and nothing else, as most are.

use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::Pfn;

use super::{CHUNK, Frames};
use crate::record::Record;

/// The records of a chunk.
#[derive(Clone, Copy)]
pub(crate) struct Near<'a> {
    chunk: u64,
    records: &'a [AtomicU64; CHUNK as usize],
}

impl Near<'_> {
    /// Whether a frame is in use and nothing else; unknown if its record is not among these.
    #[inline(always)]
    pub(crate) fn is_owned(self, pfn: Pfn) -> Option<bool> {
        let (chunk, index) = (pfn.as_u64() / CHUNK, pfn.as_u64() % CHUNK);
        let record = || self.records[index as usize].load(Ordering::Relaxed);
        (chunk == self.chunk).then(|| Record::from_bits(record()).is_owned())
    }
}

impl Frames {
    /// The records beside a frame's, if it has one.
    pub(crate) fn near(&self, pfn: Pfn) -> Option<Near<'_>> {
        let chunk = pfn.as_u64() / CHUNK;
        let records = self.directory.records(chunk)?;
        Some(Near { chunk, records })
    }

    /// Whether a frame is in use and nothing else.
    #[inline(always)]
    pub(crate) fn is_in_use(&self, pfn: Pfn) -> bool {
        self.load(pfn).is_ok_and(Record::is_owned)
    }
}
